//! `metrics.jsonl`: one object per logged step and per evaluation.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files;

/// What the names of an evaluation's metrics begin with.
const HELD_OUT: &str = "eval_";

/// One object of `metrics.jsonl`: names and numbers in the order in which they are written. The step
/// and the epoch come first; a number that is not finite is written as null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metrics(Map<String, Value>);

impl Metrics {
    /// Those of a step (0: before the first), after so many passes over the examples.
    pub fn new(step: u64, epoch: f64) -> Self {
        Self::default().with("step", step).with("epoch", epoch)
    }

    /// With a metric more, at the end.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Names and values.
    pub fn object(&self) -> &Map<String, Value> {
        &self.0
    }

    /// With metrics of an evaluation more, by their names without `eval_`.
    pub fn with_held_out(self, found: impl IntoIterator<Item = (String, f64)>) -> Self {
        found
            .into_iter()
            .fold(self, |metrics, (name, value)| metrics.with(&format!("{HELD_OUT}{name}"), value))
    }

    /// The object on its line.
    fn line(&self) -> Result<String> {
        let line = serde_json::to_string(self);
        line.map(|line| line + "\n").map_err(|error| Error::internal("metrics", error.to_string()))
    }

    /// The step.
    pub fn step(&self) -> u64 {
        self.0.get("step").and_then(Value::as_u64).unwrap_or(0)
    }

    /// The metric of that name, NaN where there is none.
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_f64().unwrap_or(f64::NAN)))
    }

    /// Those of an evaluation, by their names without `eval_`.
    pub fn held_out(&self) -> impl Iterator<Item = (&str, f64)> {
        self.iter().filter_map(|(name, value)| Some((name.strip_prefix(HELD_OUT)?, value)))
    }
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

    /// Goes on with the file of a run that resumes, for which `history` was logged before: the file has
    /// that and no more, whatever it had.
    ///
    /// # Errors
    /// [`Error::Run`] where it cannot be written.
    pub fn resume(path: &Path, history: &[Metrics]) -> Result<Self> {
        let lines = history.iter().map(Metrics::line).collect::<Result<String>>()?;
        files::write(path, lines)?;
        Self::append(path)
    }

    fn append(path: &Path) -> Result<Self> {
        let file = File::options().append(true).open(path);
        let file = file.map_err(|error| files::write_error(path, error))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Appends one object.
    ///
    /// # Errors
    /// [`Error::Run`] where it cannot be written.
    pub fn write(&mut self, metrics: &Metrics) -> Result<()> {
        let line = metrics.line()?;
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.flush());
        written.map_err(|error| files::write_error(&self.path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn step(step: u64) -> Metrics {
        Metrics::new(step, 0.01)
            .with("loss", 2.3)
            .with("grad_norm", 0.8)
            .with("learning_rate", 0.0)
            .with("tokens_per_second", 1234.5)
            .with("num_input_tokens_seen", 512)
    }

    fn eval(step: u64, loss: f64) -> Metrics {
        let found = [("loss".to_owned(), loss), ("perplexity".to_owned(), 8.2)];
        Metrics::new(step, 0.5).with_held_out(found)
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
    fn a_resumed_file_has_what_the_checkpoint_knows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::create(&path).unwrap();
        let history = [step(1), step(2).with("loss", f64::NAN), eval(2, 1.0)];
        history.iter().for_each(|metrics| writer.write(metrics).unwrap());
        let expected = fs::read_to_string(&path).unwrap();
        writer.write(&step(3)).unwrap();
        writer.file.write_all(b"{\"step\":4").unwrap();
        // As it comes back from trainer_state.json.
        let saved = serde_json::to_string_pretty(&history).unwrap();
        let history: Vec<Metrics> = serde_json::from_str(&saved).unwrap();
        let mut writer = MetricsWriter::resume(&path, &history).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        writer.write(&step(3)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 4);
    }
}
