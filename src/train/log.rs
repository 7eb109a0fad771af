//! Where metrics go: `metrics.jsonl`, `trainer_state.json` and whoever watches, always all of them and
//! in this order.

use super::metrics::{Metrics, MetricsWriter};
use super::observer::Observer;
use super::trainer_state::TrainerState;
use crate::error::Result;
use std::path::Path;

/// The records of a run.
pub struct Log {
    /// What checkpoints take along.
    pub state: TrainerState,
    file: MetricsWriter,
}

impl Log {
    /// The log of a new run in `output_dir`.
    ///
    /// # Errors
    /// [`crate::Error::Run`] where the file cannot be written.
    pub fn create(output_dir: &Path, state: TrainerState) -> Result<Self> {
        Ok(Self { state, file: MetricsWriter::create(&output_dir.join("metrics.jsonl"))? })
    }

    /// The log of a run that goes on where it was in `state`.
    ///
    /// # Errors
    /// [`crate::Error::Run`] where the file cannot be written.
    pub fn resume(output_dir: &Path, state: TrainerState) -> Result<Self> {
        let path = output_dir.join("metrics.jsonl");
        let file = MetricsWriter::resume(&path, &state.log_history)?;
        Ok(Self { state, file })
    }

    /// Records a training step of `total`.
    ///
    /// # Errors
    /// [`crate::Error::Run`] where the file cannot be written.
    pub fn step(
        &mut self,
        metrics: &Metrics,
        total: u64,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        self.record(metrics)?;
        observer.logged(metrics, total);
        Ok(())
    }

    /// Records an evaluation.
    ///
    /// # Errors
    /// [`crate::Error::Run`] where the file cannot be written.
    pub fn evaluation(&mut self, metrics: &Metrics, observer: &mut dyn Observer) -> Result<()> {
        self.record(metrics)?;
        observer.evaluated(metrics);
        Ok(())
    }

    /// The evaluations, those of earlier starts included.
    pub fn evaluations(&self) -> impl DoubleEndedIterator<Item = &Metrics> {
        let history = self.state.log_history.iter();
        history.filter(|metrics| metrics.held_out().next().is_some())
    }

    fn record(&mut self, metrics: &Metrics) -> Result<()> {
        self.file.write(metrics)?;
        self.state.log_history.push(metrics.clone());
        Ok(())
    }
}
