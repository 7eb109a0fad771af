//! Preference objectives: ten steps against TRL's own trainers, as tests/fixtures/preferences holds them,
//! and whole runs.

mod runs;

#[path = "../common/mod.rs"]
mod common;

use common::{cpu, fixture, json, options};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use tunesmith::adapter::trainable::{attach_saved, train_score};
use tunesmith::adapter::{PeftConfig, peft};
use tunesmith::config::{LrSchedulerType, Syntax, TrainConfig};
use tunesmith::data::{Batch, Group, Sequence};
use tunesmith::model::load::{Source, load};
use tunesmith::model::{ModelConfig, Weights, check as check_weights};
use tunesmith::objective::Chosen;
use tunesmith::ops::Implementation;
use tunesmith::optim::{Kind, Settings};
use tunesmith::train::reference::{Trained, make};
use tunesmith::train::schedule::Schedule;
use tunesmith::train::trainer::{StepOutcome, Trainer};
use tunesmith::{Device, Result};

/// Largest difference of a loss, and of a gradient norm as a share of it.
const LOSS: f64 = 5e-4;
const GRAD_NORM: f64 = 0.02;
/// Largest difference of rewards, margins and the like, which are beta times sums over tokens.
const REWARD: f64 = 2e-3;
/// Of a sum of log-probabilities itself, as a share.
const LOGPS: f64 = 1e-4;

/// Positions that the models are loaded for.
const MAX_LENGTH: usize = 64;

#[derive(Deserialize)]
struct Case {
    family: String,
    objective: String,
    settings: Map<String, Value>,
    mode: String,
    learning_rate: f64,
    max_steps: u64,
    per_device_train_batch_size: usize,
    gradient_accumulation_steps: usize,
    steps: BTreeMap<String, Vec<Option<f64>>>,
}

/// A row of token ids.
#[derive(Clone, Deserialize)]
struct Row {
    prompt: Vec<u32>,
    chosen: Vec<u32>,
    rejected: Vec<u32>,
    completion: Vec<u32>,
    label: bool,
    margin: f64,
}

impl Row {
    fn group(&self, objective: &str) -> Group {
        let sequence = |answer: &Vec<u32>| {
            let ids = [self.prompt.as_slice(), answer].concat();
            let given = self.prompt.len();
            Sequence::new(ids, (0..).map(move |t: usize| t >= given))
        };
        match objective {
            "kto" => {
                let mut group = Group::of(sequence(&self.completion));
                group.numbers.push(("label", f64::from(u8::from(self.label))));
                group
            }
            _ => {
                let sequences = vec![sequence(&self.chosen), sequence(&self.rejected)];
                let numbers = vec![("margin", self.margin)];
                Group { numbers, ..Group::sharing(sequences) }
            }
        }
    }
}

impl Case {
    /// The objective as a config asks for it.
    fn objective(&self) -> Result<Chosen> {
        let Self { objective, settings, .. } = self;
        let section: String =
            settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let text = format!(
            "model = \"m\"\noutput_dir = \"o\"\nobjective = \"{objective}\"\n\
             [data]\ntrain = \"d\"\n[{objective}]\n{section}"
        );
        let config = TrainConfig::parse(&text, Syntax::Toml, "config.toml", Path::new("."), &[])?;
        Ok(config.objective)
    }

    fn trainer(&self, device: &Device) -> Result<Trainer> {
        let dir = fixture("models").join(&self.family);
        let (lora, nf4) = (self.mode != "full", (self.mode == "qlora").then_some(true));
        let options = options(nf4, !lora, MAX_LENGTH);
        let objective = self.objective()?;
        let mut config = ModelConfig::open(&dir)?;
        let adapter = match objective.has_score() {
            true => fixture("preferences/adapter"),
            false => fixture("trajectories").join(&self.family).join("adapter"),
        };
        if objective.has_score() {
            config.classify(1);
        }
        let mut weights = Weights::open(&dir)?;
        check_weights(&mut weights, &mut config)?;
        let source = Source::Weights(&weights);
        let (mut model, mut parameters) = load(device, &config, &source, options)?;
        let mut peft = PeftConfig::open(&adapter)?;
        if lora {
            (peft, parameters) = attach_saved(&mut model, &adapter, 0.0, None)?;
        }
        match objective.has_score() {
            true if lora => parameters.push(train_score(&mut model, &peft, Some(&adapter))?),
            true => {
                let score = peft::score(&adapter, &peft, config.spec.hidden_size)?.unwrap();
                let bytes: Vec<u8> = score.iter().flat_map(|x| x.to_le_bytes()).collect();
                parameters
                    .iter()
                    .find(|p| p.name == "score.weight")
                    .unwrap()
                    .master
                    .set_bytes(&bytes)?;
            }
            false => {}
        }
        let trained = Trained { source: Some(&source), options, lora, adapter: None };
        let reference = match objective.reference() {
            Some(wanted) => make(wanted, &mut model, &trained)?,
            None => Default::default(),
        };
        let settings = Settings {
            optim: Kind::find("adamw_torch").unwrap(),
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
        };
        let flash = Implementation::Flash;
        let mut trainer = Trainer::new(model, parameters, objective, settings, flash, 1)?;
        trainer.reference = reference;
        Ok(trainer)
    }

    /// The micro-batches of a step, from 1: rows in order, again from the start when they run out.
    fn batches(&self, rows: &[Row], step: u64) -> Vec<Batch> {
        let size = self.per_device_train_batch_size;
        let of_step = size * self.gradient_accumulation_steps;
        let groups: Vec<Group> = (0..of_step)
            .map(|i| (step as usize - 1) * of_step + i)
            .map(|at| rows[at % rows.len()].group(&self.objective))
            .collect();
        let batches = groups.chunks(size).zip((0..).step_by(2 * size));
        batches.map(|(groups, ordinal)| Batch::of(groups, ordinal)).collect()
    }
}

/// Whether a metric is the same thing here as there, and how far it may be off.
fn tolerance(case: &Case, name: &str, expected: f64) -> Option<f64> {
    match name {
        // Means over the tokens of the step here, means of micro-batches' means there.
        "logits/chosen" | "logits/rejected" | "entropy" | "mean_token_accuracy"
            if case.gradient_accumulation_steps > 1 =>
        {
            None
        }
        // TRL's are means over prompts and padding too.
        "logits/chosen" | "logits/rejected"
            if ["orpo", "cpo"].contains(&case.objective.as_str()) =>
        {
            None
        }
        "loss" | "nll_loss" | "entropy" => Some(LOSS),
        "grad_norm" => Some(GRAD_NORM * expected),
        "logps/chosen" | "logps/rejected" => Some(REWARD + LOGPS * expected.abs()),
        _ => Some(REWARD),
    }
}

fn number(outcome: &StepOutcome, name: &str) -> Option<f64> {
    match name {
        "loss" => Some(outcome.loss),
        "grad_norm" => Some(outcome.grad_norm),
        _ => outcome.means.iter().find(|(known, _)| *known == name).map(|(_, value)| value),
    }
}

/// All steps of a case.
fn check(device: &Device, name: &str) -> Result<()> {
    let dir = fixture("preferences");
    let case: Case = json(&dir.join(format!("{name}.json")));
    let rows: Vec<Row> = json(&dir.join("rows.json"));
    let mut trainer = case.trainer(device)?;
    let kind = LrSchedulerType::Cosine;
    let schedule = Schedule::new(kind, case.learning_rate, 2.0, case.max_steps);
    let mut compared = 0;
    for step in 1..=case.max_steps {
        let batches = case.batches(&rows, step);
        let found = trainer.step(step, schedule.learning_rate(step), &batches)?;
        for (metric, values) in &case.steps {
            let Some(expected) = values[step as usize - 1] else { continue };
            let Some(allowed) = tolerance(&case, metric, expected) else { continue };
            let value = number(&found, metric);
            let fits = value.is_some_and(|value| (value - expected).abs() <= allowed);
            assert!(fits, "{name}, step {step}: {metric} {value:?}, expected {expected}");
            compared += 1;
        }
    }
    assert!(compared >= 6 * case.max_steps, "{name}: {compared} numbers");
    Ok(())
}

/// The cases whose names begin so.
fn check_all(prefix: &str) -> Result<()> {
    let entries = std::fs::read_dir(fixture("preferences")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no fixtures of {prefix}");
    names.iter().try_for_each(|name| check(&cpu(), name))
}

#[test]
fn dpo_follows_trl() -> Result<()> {
    check_all("dpo")
}

#[test]
fn orpo_follows_trl() -> Result<()> {
    check_all("orpo")
}

#[test]
fn cpo_follows_trl() -> Result<()> {
    check_all("cpo")
}

#[test]
fn kto_follows_trl() -> Result<()> {
    check_all("kto")
}

#[test]
fn reward_follows_trl() -> Result<()> {
    check_all("reward")
}

/// Another device than the CPU.
fn check_device(device: &Device) -> Result<()> {
    ["dpo-sigmoid", "kto-kto", "reward"].iter().try_for_each(|name| check(device, name))
}

#[cfg(feature = "wgpu")]
#[test]
fn wgpu_follows_trl() -> Result<()> {
    check_device(&common::wgpu())
}

#[cfg(feature = "cuda-emulated")]
#[test]
fn cuda_emulated_follows_trl() -> Result<()> {
    common::cuda_emulated(80).map_or(Ok(()), |device| check_device(&device))
}

/// However the pairs of a step are cut into micro-batches: terms that are means over tokens too.
#[test]
fn a_step_is_the_same_however_it_is_accumulated() -> Result<()> {
    let dir = fixture("preferences");
    let rows: Vec<Row> = json(&dir.join("rows.json"));
    for name in ["dpo-sft", "orpo", "cpo-simpo", "dpo-sigmoid"] {
        let step = |size: usize| -> Result<StepOutcome> {
            let mut case: Case = json(&dir.join(format!("{name}.json")));
            case.per_device_train_batch_size = size;
            case.gradient_accumulation_steps = 4 / size;
            case.trainer(&cpu())?.step(1, 1e-3, &case.batches(&rows, 1))
        };
        let (whole, parts) = (step(4)?, step(1)?);
        let off = (whole.loss - parts.loss).abs();
        assert!(off < 1e-5, "{name}: {} and {}", whole.loss, parts.loss);
        let off = (whole.grad_norm - parts.grad_norm).abs() / whole.grad_norm;
        assert!(off < 1e-4, "{name}: {} and {}", whole.grad_norm, parts.grad_norm);
    }
    Ok(())
}
