//! Whole runs: resumed to the same bits, references of every kind, rows that are refused.

use crate::common::write_model;
use jiff::civil::date;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tunesmith::backend::cpu::Cpu;
use tunesmith::config::{Override, Syntax, TrainConfig};
use tunesmith::train::memory::choose;
use tunesmith::train::metrics::Metrics;
use tunesmith::train::prepare::Prepared;
use tunesmith::train::run::{Observer, run};
use tunesmith::{Device, Error, Result};

const STEPS: u64 = 6;

fn write_inputs(dir: &Path) {
    write_model(&dir.join("model"));
    let pair = |i: u32| {
        let (a, b) = (i % 5, i % 3);
        let row = json!({
            "prompt": format!("{a} and {b} is"),
            "chosen": format!(" {}.", a + b),
            "rejected": format!(" {} or so.", a + b + 1),
        });
        format!("{row}\n")
    };
    fs::write(dir.join("data.jsonl"), (0..24).map(pair).collect::<String>()).unwrap();
}

/// A run of dpo with the lines `more` in its section, trained by `mode`.
fn config(dir: &Path, output: &str, mode: &str, more: &str, resume: bool) -> Result<TrainConfig> {
    let text = format!(
        r#"
model = "./model"
output_dir = "./{output}"
device = "cpu"
dtype = "float32"
objective = "dpo"
[dpo]
{more}
[data]
train = "data.jsonl"
eval_split = 0.25
max_length = 48
[train]
per_device_train_batch_size = 2
gradient_accumulation_steps = 2
max_steps = {STEPS}
learning_rate = 0.003
save_steps = 2
seed = 3
{mode}"#
    );
    let overrides = match resume {
        true => vec![Override::set("resume_from_checkpoint=true")?],
        false => Vec::new(),
    };
    TrainConfig::parse(&text, Syntax::Toml, "config.toml", dir, &overrides)
}

/// Stops after a step, and hears warnings.
#[derive(Default)]
struct Watch {
    stop_after: u64,
    stop: bool,
    warnings: Vec<String>,
}

impl Observer for Watch {
    fn logged(&mut self, metrics: &Metrics, _total: u64) {
        self.stop = metrics.step() == self.stop_after;
    }

    fn interrupted(&self) -> Option<i32> {
        self.stop.then_some(15)
    }

    fn warn(&mut self, message: &str) {
        self.warnings.push(message.to_owned());
    }
}

fn train(config: TrainConfig, stop_after: u64) -> Result<Watch> {
    let date = date(2026, 1, 1).at(0, 0, 0, 0);
    let prepared = Prepared::new(config, date)?;
    let device = Device::new(Cpu::poisoned());
    let plan = choose(&prepared, &device)?;
    let mut watch = Watch { stop_after, ..Watch::default() };
    run(&prepared, &device, &plan, &date.to_string(), &mut watch)?;
    let (peak, planned) = (device.memory().peak as f64, plan.buffers() as f64);
    assert!((peak / planned - 1.0).abs() <= 0.1, "{peak} bytes at the peak, {planned} planned");
    Ok(watch)
}

/// The log without the one value that depends on the clock.
fn metrics(output: &Path) -> Vec<Value> {
    let text = fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    let parse = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        value.as_object_mut().unwrap().shift_remove("tokens_per_second");
        value
    };
    text.lines().map(parse).collect()
}

fn number(metrics: &Value, name: &str) -> f64 {
    metrics[name].as_f64().unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

const LORA: &str = "[lora]\nr = 4\nlora_dropout = 0.3\n";

/// What is trained, the settings of dpo, and the file of the result.
const RUNS: [(&str, &str, &str); 4] = [
    (LORA, "", "adapter_model.safetensors"),
    (LORA, "precompute_ref_log_probs = true", "adapter_model.safetensors"),
    ("", "loss_type = [\"ipo\", \"sft\"]", "model.safetensors"),
    ("", "precompute_ref_log_probs = true", "model.safetensors"),
];

#[test]
fn a_killed_run_resumes_to_the_same_bits() -> Result<()> {
    for (number, (mode, more, weights)) in RUNS.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        write_inputs(dir.path());
        train(config(dir.path(), "whole", mode, more, false)?, u64::MAX)?;
        let killed = train(config(dir.path(), "killed", mode, more, false)?, 3);
        assert!(matches!(killed, Err(Error::Interrupted(15))), "{number}");
        train(config(dir.path(), "killed", mode, more, true)?, u64::MAX)?;
        let [whole, killed] = ["whole", "killed"].map(|name| dir.path().join(name));
        assert_eq!(metrics(&whole), metrics(&killed), "{number}");
        let bytes = [&whole, &killed].map(|dir| fs::read(dir.join(weights)).unwrap());
        assert!(bytes[0] == bytes[1], "{number}: other bits in {weights}");
    }
    Ok(())
}

/// A reference computed once says what one says that is there all the time; so does a directory with the
/// same model. Dropout is off: before training, policy and reference are one.
#[test]
fn references_of_every_kind_agree() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    write_inputs(dir.path());
    for mode in [LORA, ""] {
        let of = |output: &str, more: &str| -> Result<Vec<Value>> {
            let _ = fs::remove_dir_all(dir.path().join(output));
            train(config(dir.path(), output, mode, more, false)?, u64::MAX)?;
            Ok(metrics(&dir.path().join(output)))
        };
        let plain = of("plain", "")?;
        let first = &plain[1];
        assert_eq!(number(first, "rewards/margins"), 0.0, "{first}");
        assert!((number(first, "loss") - std::f64::consts::LN_2).abs() < 1e-12, "{first}");
        let last = &plain[plain.len() - 1];
        assert!(number(last, "eval_rewards/margins") > 0.0, "{last}");
        for more in ["precompute_ref_log_probs = true", "reference = \"model\""] {
            let other = of("other", more)?;
            assert_eq!(plain.len(), other.len());
            for (plain, other) in plain.iter().zip(&other) {
                for (name, value) in plain.as_object().unwrap() {
                    let (value, other) = (value.as_f64().unwrap(), number(other, name));
                    let off = (value - other).abs();
                    assert!(off <= 1e-4 * (1.0 + value.abs()), "{more}: {name} {value}, {other}");
                }
            }
        }
    }
    Ok(())
}

/// On top of an adapter the reference is that adapter as it was, not the base.
#[test]
fn the_reference_is_the_policy_as_training_finds_it() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    write_inputs(dir.path());
    train(config(dir.path(), "first", LORA, "", false)?, u64::MAX)?;
    let on_top = "[lora]\nadapter = \"first\"\n";
    train(config(dir.path(), "second", on_top, "", false)?, u64::MAX)?;
    let found = metrics(&dir.path().join("second"));
    assert_eq!(number(&found[1], "rewards/margins"), 0.0, "{}", found[1]);
    // Against the base it starts with what the first run has learned.
    fs::remove_dir_all(dir.path().join("second")).unwrap();
    train(config(dir.path(), "second", on_top, "reference = \"model\"", false)?, u64::MAX)?;
    let found = metrics(&dir.path().join("second"));
    assert!(number(&found[1], "rewards/margins") > 0.0, "{}", found[1]);
    Ok(())
}

#[test]
fn full_training_plans_for_its_frozen_copy() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    write_inputs(dir.path());
    let plan = |mode: &str, more: &str| -> Result<_> {
        let config = config(dir.path(), "out", mode, more, false)?;
        let prepared = Prepared::for_plan(config, date(2026, 1, 1).at(0, 0, 0, 0))?;
        choose(&prepared, &Device::new(Cpu::new()))
    };
    let full = plan("", "")?;
    // The weights, and tables of positions.
    let weights = 4 * full.trained;
    assert!((weights..weights + weights / 10).contains(&full.reference), "{}", full.reference);
    assert!(tunesmith::train::memory::table(&full).contains("reference policy"));
    assert_eq!(plan("", "precompute_ref_log_probs = true")?.reference, 0);
    assert_eq!(plan(LORA, "")?.reference, 0);
    Ok(())
}

#[test]
fn rows_and_settings_that_are_wrong_are_named() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    write_inputs(dir.path());
    let message = |mode: &str, more: &str| {
        let found = config(dir.path(), "out", mode, more, false);
        let found = found.and_then(|config| train(config, 1).map(|_| ()));
        found.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let exo = message(LORA, "loss_type = \"exo_pair\"");
    assert!(exo.contains("label_smoothing") && exo.contains("above 0"), "{exo}");
    let divergence = message(LORA, "loss_type = \"apo_zero\"\nf_divergence_type = \"forward_kl\"");
    assert!(divergence.contains("f_divergence_type"), "{divergence}");
    let weights = message(LORA, "loss_type = [\"ipo\", \"sft\"]\nloss_weights = [1.0]");
    assert!(weights.contains("expected 2 numbers"), "{weights}");
    let unknown = message(LORA, "loss_type = \"sigmoyd\"");
    assert!(unknown.contains("did you mean \"sigmoid\"?"), "{unknown}");
    for (row, expected) in [
        (
            r#"{"prompt": "p", "chosen": "a", "rejected": "a"}"#,
            "data.jsonl:2: the chosen and the rejected",
        ),
        (r#"{"prompt": "p", "chosen": "a", "rejected": ""}"#, "data.jsonl:2: `rejected` is empty"),
        (r#"{"text": "a"}"#, "data.jsonl:2: the key `chosen`"),
    ] {
        let rows = format!("{}\n{row}\n", r#"{"prompt": "p", "chosen": "a", "rejected": "b"}"#);
        fs::write(dir.path().join("data.jsonl"), rows).unwrap();
        let found = message(LORA, "");
        assert!(found.contains(expected), "{found}");
    }
    Ok(())
}
