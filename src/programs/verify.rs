//! Checks every kernel of a device.

use crate::cli::VerifyOptions;
use crate::error::{Error, Result};

/// Runs `verify`.
///
/// # Errors
/// What is wrong with the input, or with the run.
pub fn run(_options: VerifyOptions) -> Result<()> {
    Err(Error::run("verify is not built yet"))
}
