//! An objective of one's own: the folder `focal` beside this file, and the line that registers it.

#![cfg(feature = "tokenizers")]

#[path = "../common/mod.rs"]
mod common;
mod focal;

use common::write_model;
use jiff::civil::date;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::Once;
use tunesmith::backend::cpu::Cpu;
use tunesmith::config::{Syntax, TrainConfig};
use tunesmith::objective;
use tunesmith::train::memory::choose;
use tunesmith::train::prepare::Prepared;
use tunesmith::train::run::{Observer, run};
use tunesmith::{Device, Result};

const STEPS: usize = 6;

struct Silent;

impl Observer for Silent {}

/// The one line.
fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| objective::register::<focal::Focal>().unwrap());
}

/// A run of an objective, with the lines of its section, on 24 texts of which every third counts
/// `weight` times.
fn config(dir: &Path, name: &str, objective: &str) -> Result<TrainConfig> {
    register();
    let text = format!(
        r#"
model = "./model"
output_dir = "./{name}"
device = "cpu"
dtype = "float32"
objective = {objective}

[lora]
r = 4

[data]
train = "data.jsonl"
eval_split = 0.25
max_length = 32

[train]
per_device_train_batch_size = 3
gradient_accumulation_steps = 2
max_steps = {STEPS}
eval_strategy = "no"
learning_rate = 0.02
seed = 3
"#
    );
    TrainConfig::parse(&text, Syntax::Toml, "config.toml", dir, &[])
}

fn write_inputs(dir: &Path, weight: f64) {
    write_model(&dir.join("model"));
    let row = |i: usize| {
        let text = format!("{} and {} is {}.", i % 4, i % 3, i % 4 + i % 3);
        let mut row = serde_json::json!({ "text": text });
        if i.is_multiple_of(3) {
            row["weight"] = weight.into();
        }
        format!("{row}\n")
    };
    fs::write(dir.join("data.jsonl"), (0..24).map(row).collect::<String>()).unwrap();
}

/// Runs it; the objects of metrics.jsonl.
fn train(config: TrainConfig) -> Result<Vec<Value>> {
    let output = config.output_dir.clone();
    let date = date(2026, 1, 1).at(0, 0, 0, 0);
    let device = Device::new(Cpu::poisoned());
    let prepared = Prepared::new(config, date)?;
    let plan = choose(&prepared, &device)?;
    run(&prepared, &device, &plan, &date.to_string(), &mut Silent)?;
    let text = fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    Ok(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn number(metrics: &Value, name: &str) -> f64 {
    metrics[name].as_f64().unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

#[test]
fn an_objective_of_ones_own_trains_and_is_logged() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    write_inputs(dir.path(), 1.0);
    let config = config(dir.path(), "focal", "\"focal\"\n[focal]\ngamma = 1.5")?;
    let metrics = train(config)?;
    // An evaluation before the first step, the steps, and one after the last.
    assert_eq!(metrics.len(), STEPS + 2);
    let keys: Vec<&String> = metrics[1].as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "step",
            "epoch",
            "loss",
            "grad_norm",
            "learning_rate",
            "tokens_per_second",
            "num_input_tokens_seen",
            "confidence",
            "gain"
        ]
    );
    let (first, last) = (&metrics[0], &metrics[STEPS + 1]);
    assert!(number(last, "eval_loss") < number(first, "eval_loss"), "{first} {last}");
    assert!(number(last, "eval_confidence") > number(first, "eval_confidence"), "{first} {last}");
    // A fresh adapter changes nothing: policy and base agree to the bit.
    assert_eq!((number(first, "eval_gain"), number(&metrics[1], "gain")), (0.0, 0.0));
    assert!(number(last, "eval_gain") > 0.0, "{last}");
    let saved = fs::read_to_string(dir.path().join("focal/config.toml")).unwrap();
    assert!(saved.contains("objective = \"focal\"") && saved.contains("[focal]"), "{saved}");
    assert!(saved.contains("gamma = 1.5"), "{saved}");
    Ok(())
}

/// With gamma 0 and weights of 1 it is cross-entropy: step for step the same losses and gradient norms
/// but for rounding.
#[test]
fn without_its_factor_it_is_supervised_fine_tuning() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    write_inputs(dir.path(), 1.0);
    let focal = train(config(dir.path(), "focal", "\"focal\"\n[focal]\ngamma = 0")?)?;
    let sft = train(config(dir.path(), "sft", "\"sft\"")?)?;
    assert_eq!(focal.len(), sft.len());
    for (focal, sft) in focal.iter().zip(&sft) {
        for name in ["loss", "grad_norm", "eval_loss"] {
            if let Some(expected) = sft[name].as_f64() {
                let off = (number(focal, name) - expected).abs() / expected;
                assert!(off < 1e-4, "{name}: {focal} and {sft}");
            }
        }
    }
    // A weight is not ignored.
    write_data_with_weight(dir.path());
    let weighted = train(config(dir.path(), "weighted", "\"focal\"\n[focal]\ngamma = 0")?)?;
    assert!(number(&weighted[1], "loss") > 1.2 * number(&sft[1], "loss"), "{}", weighted[1]);
    Ok(())
}

/// The same rows, of which every third counts twice.
fn write_data_with_weight(dir: &Path) {
    let text = fs::read_to_string(dir.join("data.jsonl")).unwrap();
    fs::write(dir.join("data.jsonl"), text.replace("1.0", "2.0")).unwrap();
}

#[test]
fn its_keys_are_its_own() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let message = |objective: &str| {
        config(dir.path(), "out", objective)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let misspelt = message("\"focal\"\n[focal]\ngama = 1");
    assert!(misspelt.contains("config.toml:8: unknown key focal.gama"), "{misspelt}");
    assert!(misspelt.contains("did you mean focal.gamma?"), "{misspelt}");
    let wrong = message("\"focal\"\n[focal]\ngamma = -1");
    assert!(wrong.contains("focal.gamma: expected a number of at least 0"), "{wrong}");
    let foreign = message("\"sft\"\n[focal]\ngamma = 1");
    assert!(foreign.contains("config.toml:7: focal is for objective = \"focal\""), "{foreign}");
    let unknown = message("\"focl\"");
    assert!(unknown.contains("expected one of \"sft\", \"dpo\""), "{unknown}");
    assert!(unknown.contains("did you mean \"focal\"?"), "{unknown}");
    // Outside sections a key has its name alone, as every other.
    let flat = config(dir.path(), "out", "\"focal\"\ngamma = 0.5")?;
    assert!(flat.to_toml().contains("gamma = 0.5"));
    let other = config(dir.path(), "out", "\"focal\"")?;
    let refused = |now: &TrainConfig, saved: &TrainConfig| -> Vec<String> {
        let changes = now.changes(saved).into_iter();
        changes.filter(|change| change.refused.is_some()).map(|change| change.text).collect()
    };
    assert_eq!(refused(&flat, &other), ["focal.gamma is 0.5, was 2.0"]);
    let sft = config(dir.path(), "out", "\"sft\"")?;
    assert_eq!(refused(&sft, &flat), ["objective is \"sft\", was \"focal\""]);
    Ok(())
}

#[test]
fn rows_that_it_cannot_use_are_refused_by_name() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    write_inputs(dir.path(), 1.0);
    for (row, expected) in [
        (
            r#"{"messages": [{"role": "assistant", "content": "a"}]}"#,
            "data.jsonl:1: rows of messages are of the format messages, which objective = \"focal\" \
             cannot use; it learns from text, prompt-completion",
        ),
        (
            r#"{"text": "a", "weight": "much"}"#,
            "data.jsonl:1: `weight` is \"much\", expected a number",
        ),
    ] {
        fs::write(dir.path().join("data.jsonl"), row).unwrap();
        let error = train(config(dir.path(), "out", "\"focal\"")?).err().unwrap();
        assert!(error.to_string().contains(expected), "{error}");
    }
    Ok(())
}
