//! The one error type of the crate.
//!
//! A message says what is wrong, where (file and line, key, tensor), what was expected and what to
//! do; the variant decides the exit status of the programs.

use thiserror::Error as ThisError;

/// What can go wrong, from the user's point of view.
#[derive(Debug, ThisError)]
pub enum Error {
    /// The command line, the config, the model or the data is wrong, or the plan cannot fit.
    #[error("{0}")]
    Input(String),
    /// The run itself failed: no such device, out of memory, device lost, non-finite loss, disk full.
    #[error("{0}")]
    Run(String),
    /// A kernel that this backend does not have, or a shape or dtype that it cannot take.
    #[error("{op} is not supported on {backend}: {why}")]
    Unsupported {
        /// The op that was asked for.
        op: &'static str,
        /// The backend it was asked of.
        backend: String,
        /// What is missing.
        why: String,
    },
    /// A tensor that needs a gradient did not receive one: the graph is severed.
    #[error("no gradient reached {tensor}: {why}")]
    MissingGradient {
        /// The tensor, by the path of its module.
        tensor: String,
        /// What broke the path.
        why: String,
    },
    /// A bug in this crate: shapes that do not fit, a launch that breaks its spec.
    #[error("internal error in {op}: {what} (please report this)")]
    Internal {
        /// The op or kernel.
        op: String,
        /// What does not fit.
        what: String,
    },
    /// The run was stopped by a signal after saving a checkpoint.
    #[error("stopped by signal {0}; a checkpoint was saved")]
    Interrupted(i32),
}

/// `Result` with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Input`] from anything printable.
    pub fn input(message: impl Into<String>) -> Self {
        Self::Input(message.into())
    }

    /// An [`Error::Run`] from anything printable.
    pub fn run(message: impl Into<String>) -> Self {
        Self::Run(message.into())
    }

    /// An [`Error::Internal`]: `op` is where, `what` is what does not fit.
    pub fn internal(op: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Internal { op: op.into(), what: what.into() }
    }

    /// The programs' exit status: 1 the run failed, 2 the input is wrong, 128 + signal.
    pub fn exit_status(&self) -> i32 {
        match self {
            Self::Input(_) => 2,
            Self::Interrupted(signal) => 128 + signal,
            _ => 1,
        }
    }
}
