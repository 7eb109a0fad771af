//! A run that was stopped and resumed, and one on another number of threads, end with the same bits
//! as one that went through.

#![cfg(feature = "tokenizers")]

mod common;

use common::Tensors;
use common::runs::{
    RESUME, STEPS, Watch, assert_same_result, config, metrics, prepare, state_bytes, write_inputs,
};
use std::fs;
use tunesmith::backend::cpu::Cpu;
use tunesmith::config::TrainConfig;
use tunesmith::train::memory::choose;
use tunesmith::train::run::{Summary, run};
use tunesmith::{Device, Error, Result};

/// Trains, and compares what it took with the plan.
fn train(config: TrainConfig, stop_after: u64) -> Result<Summary> {
    let prepared = prepare(config)?;
    let device = Device::new(Cpu::poisoned());
    let plan = choose(&prepared, &device)?;
    let mut watch = Watch::until(stop_after);
    let summary = run(&prepared, &device, &plan, "2026-01-01T00:00:00", &mut watch)?;
    assert_eq!(plan.optimizer, state_bytes(&summary.output_dir.join("checkpoint-5")));
    let (peak, planned) = (device.memory().peak as f64, plan.buffers() as f64);
    assert!((peak / planned - 1.0).abs() <= 0.1, "{peak} bytes at the peak, {planned} planned");
    Ok(summary)
}

fn on_threads<T: Send>(count: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(work)
}

fn check(mode: &str, weights: &str) -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_inputs(dir);
    let straight = on_threads(2, || train(config(dir, mode, "straight", &[])?, 0))?;
    assert_eq!(straight.steps, STEPS);
    let expected = dir.join("straight");
    // Every step, and evaluations before the first, after every third and after the last.
    assert_eq!(metrics(&expected).len(), STEPS as usize + 4);

    on_threads(1, || train(config(dir, mode, "one-thread", &[])?, 0))?;
    assert_same_result(&dir.join("one-thread"), &expected, weights);

    let stopped = train(config(dir, mode, "resumed", &[])?, 4);
    assert!(matches!(stopped, Err(Error::Interrupted(15))), "{stopped:?}");
    let resumed = dir.join("resumed");
    assert!(resumed.join("checkpoint-4").is_dir());
    assert!(!resumed.join(weights).exists(), "a stopped run has no result");
    train(config(dir, mode, "resumed", &[RESUME])?, 0)?;
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
    let stopped = train(config(dir, "", "out", &[])?, 2);
    assert!(matches!(stopped, Err(Error::Interrupted(15))), "{stopped:?}");
    let error = train(config(dir, "optim = \"muon\"", "out", &[RESUME])?, 0).unwrap_err();
    let message = error.to_string();
    for part in ["checkpoint-2", "optim", "muon", "adamw_torch"] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    Ok(())
}
