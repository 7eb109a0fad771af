//! Writes a model in another form.

use crate::cli::ExportOptions;
use crate::error::{Error, Result};

/// Runs `export`.
///
/// # Errors
/// What is wrong with the input, or with the run.
pub fn run(_options: ExportOptions) -> Result<()> {
    Err(Error::run("export is not built yet"))
}
