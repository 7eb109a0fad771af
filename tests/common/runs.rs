//! Small runs of training, stopped and resumed, for the tests of what they leave behind.

use super::write_model;
use jiff::civil::date;
use safetensors::SafeTensors;
use std::cell::Cell;
use std::fs;
use std::path::Path;
use tunesmith::backend::cpu::Cpu;
use tunesmith::config::{Override, Syntax, TrainConfig};
use tunesmith::train::memory::choose;
use tunesmith::train::metrics::Metrics;
use tunesmith::train::prepare::Prepared;
use tunesmith::train::run::{Observer, Summary, run};
use tunesmith::{Device, Result};

/// Steps of a run that nothing else is said of.
pub const STEPS: u64 = 7;

/// Resumes the run in its output directory.
pub const RESUME: &str = "resume_from_checkpoint=true";

/// A model with a tokenizer, and 40 texts.
pub fn write_inputs(dir: &Path) {
    write_model(&dir.join("model"));
    let text = |i: u32| {
        let text = format!("example {i}: {} squared is {}.", i % 7, (i % 7) * (i % 7));
        format!("{}\n", serde_json::json!({ "text": text }))
    };
    fs::write(dir.join("data.jsonl"), (0..40).map(text).collect::<String>()).unwrap();
}

/// What all runs are told, with `settings` of the command line; `mode` is the end of the config.
pub fn config(dir: &Path, mode: &str, output: &str, settings: &[&str]) -> Result<TrainConfig> {
    let text = format!(
        r#"
model = "./model"
output_dir = "./{output}"
device = "cpu"
dtype = "float32"

[data]
train = "data.jsonl"
eval_split = 0.2
max_length = 48

[train]
per_device_train_batch_size = 2
gradient_accumulation_steps = 2
max_steps = {STEPS}
learning_rate = 0.01
eval_steps = 3
save_steps = 5
seed = 3
{mode}"#
    );
    let overrides: Vec<_> =
        settings.iter().map(|text| Override::set(text)).collect::<Result<_>>()?;
    TrainConfig::parse(&text, Syntax::Toml, "config.toml", dir, &overrides)
}

/// Asks a run to stop, and keeps what it says.
#[derive(Default)]
pub struct Watch<'a> {
    /// After this step; 0 is never.
    pub stop_after: u64,
    /// When it has asked so often whether to stop; 0 is never.
    pub stop_at_question: u64,
    /// Called after each logged step.
    pub after: Option<&'a dyn Fn(u64)>,
    /// Notes and warnings.
    pub said: Vec<String>,
    /// How often it has asked.
    pub asked: Cell<u64>,
    /// The step has come.
    pub is_stopped: bool,
}

impl Watch<'_> {
    /// Stops after this step; 0 is never.
    pub fn until(stop_after: u64) -> Self {
        Self { stop_after, ..Self::default() }
    }
}

impl Observer for Watch<'_> {
    fn logged(&mut self, metrics: &Metrics, _total: u64) {
        self.is_stopped |= metrics.step() == self.stop_after;
        if let Some(after) = self.after {
            after(metrics.step());
        }
    }

    fn note(&mut self, message: &str) {
        self.said.push(message.to_owned());
    }

    fn warn(&mut self, message: &str) {
        self.said.push(message.to_owned());
    }

    fn interrupted(&self) -> Option<i32> {
        self.asked.set(self.asked.get() + 1);
        let is_asked = self.stop_at_question > 0 && self.asked.get() >= self.stop_at_question;
        (self.is_stopped || is_asked).then_some(15)
    }
}

/// Prepares a run as of a fixed date.
pub fn prepare(config: TrainConfig) -> Result<Prepared> {
    Prepared::new(config, date(2026, 1, 1).at(0, 0, 0, 0))
}

/// Runs what is prepared.
pub fn go(prepared: &Prepared, watch: &mut Watch) -> Result<Summary> {
    let device = Device::new(Cpu::poisoned());
    let plan = choose(prepared, &device)?;
    run(prepared, &device, &plan, "2026-01-01T00:00:00", watch)
}

/// Both.
pub fn train(config: TrainConfig, watch: &mut Watch) -> Result<Summary> {
    let prepared = prepare(config)?;
    watch.said.extend(prepared.warnings.iter().cloned());
    go(&prepared, watch)
}

/// What a checkpoint has of the optimizer's state: all but the trained values themselves.
pub fn state_bytes(checkpoint: &Path) -> u64 {
    let bytes = fs::read(checkpoint.join("optimizer.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let state = file.iter().filter(|(name, _)| !name.starts_with("master."));
    state.map(|(_, tensor)| tensor.data().len() as u64).sum()
}

/// The log without the one value that depends on the clock.
pub fn metrics(output: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    let parse = |line: &str| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        value.as_object_mut().unwrap().shift_remove("tokens_per_second");
        value
    };
    text.lines().map(parse).collect()
}

/// The same log, and the same bytes of the weights.
pub fn assert_same_result(found: &Path, expected: &Path, weights: &str) {
    assert_eq!(metrics(found), metrics(expected), "{}", found.display());
    let read = |dir: &Path| fs::read(dir.join(weights)).unwrap();
    assert!(read(found) == read(expected), "{}: other bits in {weights}", found.display());
}
