//! The one error type of the crate.
//!
//! A message says what is wrong, where (file and line, key, tensor), what was expected and what to
//! do; the variant decides the exit status of the programs.

use std::io;
use thiserror::Error as ThisError;

/// What can go wrong, from the user's point of view.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// The command line, the config, the model or the data is wrong, or the plan cannot fit.
    #[error("{0}")]
    Input(String),
    /// The run itself failed: a loss that is not finite, files that changed under it.
    #[error("{0}")]
    Run(String),
    /// There is no such device, it does not open, or it reports a fault.
    #[error("{0}")]
    Device(String),
    /// The device has no room for a buffer: smaller batches, or more recomputation, may fit.
    #[error("{message}")]
    OutOfMemory {
        /// What the user reads.
        message: String,
        /// Bytes of the buffer.
        bytes: u64,
    },
    /// Reading or writing failed while running: a full disk, a closed stream.
    #[error("{message}")]
    Io {
        /// What the user reads.
        message: String,
        /// What the system said.
        source: io::Error,
    },
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
    /// The run was stopped by a signal before there was anything to save.
    #[error(
        "stopped by signal {0} before the first step was done; there is no checkpoint: begin anew with --resume"
    )]
    Stopped(i32),
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

    /// An [`Error::Device`] from anything printable.
    pub fn device(message: impl Into<String>) -> Self {
        Self::Device(message.into())
    }

    /// An [`Error::Io`]: `what` failed, and why.
    pub fn io(what: impl std::fmt::Display, source: io::Error) -> Self {
        Self::Io { message: format!("{what}: {source}"), source }
    }

    /// An [`Error::Internal`]: `op` is where, `what` is what does not fit.
    pub fn internal(op: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Internal { op: op.into(), what: what.into() }
    }

    /// The programs' exit status: 1 the run failed, 2 the input is wrong, 128 + signal.
    pub fn exit_status(&self) -> i32 {
        match self {
            Self::Input(_) => 2,
            Self::Interrupted(signal) | Self::Stopped(signal) => 128 + signal,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Device};
    use std::error::Error as _;

    #[test]
    fn the_cause_of_a_failed_write_is_kept() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let error = Error::io("cannot write model.safetensors", full());
        assert_eq!(error.to_string(), format!("cannot write model.safetensors: {}", full()));
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::StorageFull));
        assert_eq!(error.exit_status(), 1);
    }

    #[test]
    fn a_buffer_that_does_not_fit_is_told_from_other_failures() {
        let error = Device::open("cpu").unwrap().alloc(DType::F32, 1 << 58).err().unwrap();
        assert!(matches!(error, Error::OutOfMemory { bytes, .. } if bytes >= 1 << 60), "{error}");
        assert_eq!(error.exit_status(), 1);
    }
}
