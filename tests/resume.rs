//! A run that was stopped and resumed, and one on another number of threads, end with the same bits
//! as one that went through.

#![cfg(feature = "tokenizers")]

mod common;

use common::{Tensors, write_model};
use jiff::civil::date;
use safetensors::SafeTensors;
use std::fs;
use std::path::Path;
use tunesmith::backend::cpu::Cpu;
use tunesmith::config::{Override, Syntax, TrainConfig};
use tunesmith::train::memory::choose;
use tunesmith::train::metrics::Metrics;
use tunesmith::train::prepare::Prepared;
use tunesmith::train::run::{Observer, Summary, run};
use tunesmith::{Device, Error, Result};

const STEPS: u64 = 7;

/// A model with a tokenizer, and 40 texts.
fn write_inputs(dir: &Path) {
    write_model(&dir.join("model"));
    let text = |i: u32| {
        let text = format!("example {i}: {} squared is {}.", i % 7, (i % 7) * (i % 7));
        format!("{}\n", serde_json::json!({ "text": text }))
    };
    fs::write(dir.join("data.jsonl"), (0..40).map(text).collect::<String>()).unwrap();
}

/// What all runs are told; `mode` is a section more.
fn config(dir: &Path, mode: &str, output: &str, resume: bool) -> Result<TrainConfig> {
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
    let overrides = match resume {
        true => vec![Override::set("resume_from_checkpoint=true")?],
        false => Vec::new(),
    };
    TrainConfig::parse(&text, Syntax::Toml, "config.toml", dir, &overrides)
}

/// Asks the run to stop after a step.
struct StopAfter(u64, bool);

impl Observer for StopAfter {
    fn logged(&mut self, metrics: &Metrics, _total: u64) {
        self.1 = metrics.step() == self.0;
    }

    fn interrupted(&self) -> Option<i32> {
        self.1.then_some(15)
    }
}

fn train(config: TrainConfig, stop_after: u64) -> Result<Summary> {
    let date = date(2026, 1, 1).at(0, 0, 0, 0);
    let prepared = Prepared::new(config, date)?;
    let device = Device::new(Cpu::poisoned());
    let plan = choose(&prepared, &device)?;
    let summary =
        run(&prepared, &device, &plan, &date.to_string(), &mut StopAfter(stop_after, false))?;
    assert_eq!(plan.optimizer, state_bytes(&summary.output_dir.join("checkpoint-5")));
    let (peak, planned) = (device.memory().peak as f64, plan.peak() as f64);
    assert!((peak / planned - 1.0).abs() <= 0.1, "{peak} bytes at the peak, {planned} planned");
    Ok(summary)
}

/// What a checkpoint has of the optimizer's state: all but the trained values themselves.
fn state_bytes(checkpoint: &Path) -> u64 {
    let bytes = fs::read(checkpoint.join("optimizer.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let state = file.iter().filter(|(name, _)| !name.starts_with("master."));
    state.map(|(_, tensor)| tensor.data().len() as u64).sum()
}

/// The log without the one value that depends on the clock.
fn metrics(output: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    let parse = |line: &str| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        value.as_object_mut().unwrap().shift_remove("tokens_per_second");
        value
    };
    text.lines().map(parse).collect()
}

fn assert_same_result(found: &Path, expected: &Path, weights: &str) {
    assert_eq!(metrics(found), metrics(expected), "{}", found.display());
    let read = |dir: &Path| fs::read(dir.join(weights)).unwrap();
    assert!(read(found) == read(expected), "{}: other bits in {weights}", found.display());
}

fn on_threads<T: Send>(count: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(work)
}

fn check(mode: &str, weights: &str) -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_inputs(dir);
    let straight = on_threads(2, || train(config(dir, mode, "straight", false)?, 0))?;
    assert_eq!(straight.steps, STEPS);
    let expected = dir.join("straight");
    // Every step, and evaluations before the first, after every third and after the last.
    assert_eq!(metrics(&expected).len(), STEPS as usize + 4);

    on_threads(1, || train(config(dir, mode, "one-thread", false)?, 0))?;
    assert_same_result(&dir.join("one-thread"), &expected, weights);

    let stopped = train(config(dir, mode, "resumed", false)?, 4);
    assert!(matches!(stopped, Err(Error::Interrupted(15))), "{stopped:?}");
    let resumed = dir.join("resumed");
    assert!(resumed.join("checkpoint-4").is_dir());
    assert!(!resumed.join(weights).exists(), "a stopped run has no result");
    train(config(dir, mode, "resumed", true)?, 0)?;
    assert_same_result(&resumed, &expected, weights);

    // The texts end with the token that ends a turn, which config.json does not have.
    let text = fs::read_to_string(expected.join("generation_config.json")).unwrap();
    let generation: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(generation["eos_token_id"], serde_json::json!([2, 402]));

    // Training has changed the weights: equal bits are not those of a run that did nothing.
    let first = Tensors::open(&expected.join("checkpoint-5").join(weights));
    let last = Tensors::open(&expected.join(weights));
    for name in last.names() {
        assert_ne!(first.get(&name), last.get(&name), "{name}");
    }
    Ok(())
}

#[test]
fn lora_with_dropout_repeats_its_bits() -> Result<()> {
    let mode = "[lora]\nr = 4\nlora_alpha = 8\nlora_dropout = 0.1";
    check(mode, "adapter_model.safetensors")
}

#[test]
fn lora_with_noise_on_the_embeddings_repeats_its_bits() -> Result<()> {
    check("neftune_noise_alpha = 5\n[lora]\nr = 4", "adapter_model.safetensors")
}

#[test]
fn qlora_with_dropout_repeats_its_bits() -> Result<()> {
    let mode =
        "[lora]\nr = 4\nlora_alpha = 8\nlora_dropout = 0.1\n[quantization]\nload_in_4bit = true";
    check(mode, "adapter_model.safetensors")
}

#[test]
fn full_training_repeats_its_bits() -> Result<()> {
    check("", "model.safetensors")
}

#[test]
fn qlora_with_8_bit_moments_repeats_its_bits() -> Result<()> {
    // Rank 128: factors of 4,096 elements and more, whose moments are codes.
    let mode = "optim = \"adamw_8bit\"\n[lora]\nr = 128\n[quantization]\nload_in_4bit = true";
    check(mode, "adapter_model.safetensors")
}

#[test]
fn full_training_with_8_bit_moments_repeats_its_bits() -> Result<()> {
    check("optim = \"paged_adamw_8bit\"", "model.safetensors")
}

#[test]
fn full_training_with_muon_repeats_its_bits() -> Result<()> {
    check("optim = \"muon\"", "model.safetensors")
}

#[test]
fn a_run_goes_on_with_its_own_optimizer_alone() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_inputs(dir);
    let stopped = train(config(dir, "", "out", false)?, 2);
    assert!(matches!(stopped, Err(Error::Interrupted(15))), "{stopped:?}");
    let error = train(config(dir, "optim = \"muon\"", "out", true)?, 0).unwrap_err();
    let message = error.to_string();
    for part in ["checkpoint-2", "optim", "muon", "adamw_torch"] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    Ok(())
}
