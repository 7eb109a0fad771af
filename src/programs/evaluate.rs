//! Measures loss and perplexity.

use crate::cli::EvaluateOptions;
use crate::error::{Error, Result};

/// Runs `evaluate`.
///
/// # Errors
/// What is wrong with the input, or with the run.
pub fn run(_options: EvaluateOptions) -> Result<()> {
    Err(Error::run("evaluate is not built yet"))
}
