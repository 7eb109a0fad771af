//! Who watches a run: the terminal, or a test.

use super::metrics::Metrics;
use super::trainer::Trainer;
use crate::error::Result;
use std::path::Path;

/// What a run tells while it goes on.
pub trait Observer {
    /// The run begins at `step` of `total`.
    fn begin(&mut self, _step: u64, _total: u64) {}
    /// A step was logged.
    fn logged(&mut self, _metrics: &Metrics, _total: u64) {}
    /// The held-out examples were evaluated.
    fn evaluated(&mut self, _metrics: &Metrics) {}
    /// A checkpoint was saved.
    fn saved(&mut self, _path: &Path) {}
    /// The model is on the device and about to be trained from its first step.
    fn before_training(&mut self, _trainer: &Trainer) -> Result<()> {
        Ok(())
    }
    /// Training has ended and the result is in place.
    fn after_training(&mut self, _trainer: &Trainer) -> Result<()> {
        Ok(())
    }
    /// Something the user should know.
    fn warn(&mut self, _message: &str) {}
    /// Something the user may want to know.
    fn note(&mut self, _message: &str) {}
    /// The signal that asks the run to stop, if one has come.
    fn interrupted(&self) -> Option<i32> {
        None
    }
}
