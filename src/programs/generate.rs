//! Completes a prompt or chats.

use crate::cli::GenerateOptions;
use crate::error::{Error, Result};

/// Runs `generate`.
///
/// # Errors
/// What is wrong with the input, or with the run.
pub fn run(_options: GenerateOptions) -> Result<()> {
    Err(Error::run("generate is not built yet"))
}
