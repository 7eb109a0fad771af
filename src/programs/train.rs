//! Trains a model.

use crate::cli::TrainOptions;
use crate::error::{Error, Result};

/// Runs `train`.
///
/// # Errors
/// What is wrong with the input, or with the run.
pub fn run(_options: TrainOptions) -> Result<()> {
    Err(Error::run("train is not built yet"))
}
