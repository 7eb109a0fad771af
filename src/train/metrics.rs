//! `metrics.jsonl`: one object per logged step and per evaluation.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;

/// A logged training step: means since the last one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepMetrics {
    /// The optimizer step, from 1.
    pub step: u64,
    /// Passes over the examples so far.
    pub epoch: f64,
    /// Cross-entropy per token that carries loss, in nats.
    pub loss: f64,
    /// The global norm before clipping.
    pub grad_norm: f64,
    /// The learning rate that the step used.
    pub learning_rate: f64,
    /// Tokens without padding over time without evaluation and saving.
    pub tokens_per_second: f64,
    /// Tokens without padding since the start of the run.
    pub num_input_tokens_seen: u64,
}

/// An evaluation of the held-out examples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct EvalMetrics {
    /// The optimizer step, from 0: before the first step.
    pub step: u64,
    /// Passes over the examples so far.
    pub epoch: f64,
    /// Cross-entropy per token that carries loss, in nats.
    pub eval_loss: f64,
    /// Its exponential.
    pub eval_perplexity: f64,
}

/// Appends to `metrics.jsonl`. Every line is handed to the system before the call returns.
#[derive(Debug)]
pub struct MetricsWriter {
    file: File,
    path: PathBuf,
}

impl MetricsWriter {
    /// Starts the file of a new run.
    ///
    /// # Errors
    /// [`Error::Run`] where it cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        files::write(path, "")?;
        Self::append(path)
    }

    /// Goes on with the file of a run that resumes after `step`: lines past that step, and a last
    /// line that was cut short, are taken out. An evaluation at `step` counts as done before the
    /// checkpoint was saved.
    ///
    /// # Errors
    /// [`Error::Run`] where the file cannot be read or written.
    pub fn resume(path: &Path, step: u64) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(Error::run(format!("cannot read {}: {error}", path.display())));
            }
        };
        let is_kept = |line: &&str| {
            let object = serde_json::from_str::<Value>(line).ok();
            let at = object.and_then(|object| object.get("step").and_then(Value::as_u64));
            line.ends_with('\n') && at.is_some_and(|at| at <= step)
        };
        let kept: String = text.split_inclusive('\n').filter(is_kept).collect();
        files::write(path, kept)?;
        Self::append(path)
    }

    fn append(path: &Path) -> Result<Self> {
        let file = File::options().append(true).open(path);
        let file = file.map_err(|error| files::write_error(path, &error))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Appends one object: [`StepMetrics`] or [`EvalMetrics`].
    ///
    /// # Errors
    /// [`Error::Run`] where it cannot be written.
    pub fn write(&mut self, metrics: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(metrics)
            .map_err(|error| Error::internal("metrics", error.to_string()))?;
        line.push('\n');
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.flush());
        written.map_err(|error| files::write_error(&self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> StepMetrics {
        StepMetrics {
            step,
            epoch: 0.01,
            loss: 2.3,
            grad_norm: 0.8,
            learning_rate: 0.0,
            tokens_per_second: 1234.5,
            num_input_tokens_seen: 512,
        }
    }

    fn eval(step: u64, eval_loss: f64) -> EvalMetrics {
        EvalMetrics { step, epoch: 0.5, eval_loss, eval_perplexity: 8.2 }
    }

    #[test]
    fn lines_have_the_documented_keys_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::create(&path).unwrap();
        writer.write(&step(1)).unwrap();
        writer.write(&eval(50, 2.1)).unwrap();
        let expected = concat!(
            r#"{"step":1,"epoch":0.01,"loss":2.3,"grad_norm":0.8,"learning_rate":0.0,"#,
            r#""tokens_per_second":1234.5,"num_input_tokens_seen":512}"#,
            "\n",
            r#"{"step":50,"epoch":0.5,"eval_loss":2.1,"eval_perplexity":8.2}"#,
            "\n",
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn resuming_drops_what_the_checkpoint_does_not_know() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::create(&path).unwrap();
        for index in 1..=4 {
            writer.write(&step(index)).unwrap();
        }
        writer.file.write_all(b"{\"step\":2").unwrap();
        let mut writer = MetricsWriter::resume(&path, 2).unwrap();
        writer.write(&eval(2, 1.0)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let steps: Vec<u64> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap())
            .collect();
        assert_eq!(steps, [1, 2, 2]);
        MetricsWriter::resume(&dir.path().join("absent.jsonl"), 2).unwrap();
    }
}
