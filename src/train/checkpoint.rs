//! What a run saves: the result, in the ecosystem's forms, and checkpoints, which hold the result so
//! far and everything needed to go on with the same bits.

use super::prepare::Prepared;
use super::trainer::{LossScaler, Trainer};
use super::trainer_state::TrainerState;
use crate::adapter::{PeftConfig, peft, trainable};
use crate::config::{Resume, TrainConfig};
use crate::dtype::f32_to_bytes;
use crate::error::{Error, Result};
use crate::files;
use crate::model::Weights;
use crate::model::float::to_safetensors;
use crate::model::json::parse_object;
use crate::model::save::{TensorPlan, save_model, save_tensors};
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

const OPTIMIZER: &str = "optimizer.safetensors";
const RUN_STATE: &str = "run_state.json";
const TRAINER_STATE: &str = "trainer_state.json";

/// What a run needs to go on, besides tensors and the trainer state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// The version that wrote it.
    pub version: String,
    /// Steps done.
    pub step: u64,
    /// Steps of the whole run: the schedule depends on it.
    pub total_steps: u64,
    /// Tokens without padding so far.
    pub num_input_tokens_seen: u64,
    /// A hash of the tokenized training data.
    pub data_fingerprint: u64,
    /// What templates that print the date have printed.
    pub date: String,
    /// The loss scale of the next step, and its counters.
    pub loss_scale: f32,
    /// Finite steps since the scale changed.
    pub finite_steps: u32,
    /// Non-finite steps in a row.
    pub skipped_steps: u32,
}

/// Writes the result so far into `dir`: a PEFT adapter, or a whole model.
pub fn save_result(
    dir: &Path,
    prepared: &Prepared,
    trainer: &Trainer,
    adapter: Option<&PeftConfig>,
    details: &str,
) -> Result<()> {
    match adapter {
        Some(config) => {
            let weights = trainable::weights(config, &trainer.model)?;
            refuse_non_finite(weights.iter().flat_map(|w| [&w.lora_a, &w.lora_b]))?;
            peft::save(dir, config, &weights, details)?;
            prepared.companions.save(dir)?;
        }
        None => {
            let dtype = trainer.model.embed_tokens.dtype();
            let plans: Vec<_> = trainer
                .parameters
                .iter()
                .map(|parameter| TensorPlan {
                    name: parameter.name.clone(),
                    dtype: to_safetensors(dtype),
                    shape: parameter.master.shape().to_vec(),
                })
                .collect();
            let config = prepared.model_config.to_json(dtype, None);
            save_model(dir, &config, &prepared.companions, &plans, |plan| {
                let parameter = trainer.parameters.iter().find(|p| p.name == plan.name);
                let parameter = parameter.ok_or_else(|| Error::internal("save", &plan.name))?;
                let values = parameter.master.read_f32()?;
                refuse_non_finite([&values])?;
                Ok(f32_to_bytes(&values, dtype))
            })?;
        }
    }
    if let Some(template) =
        prepared.config.data.chat_template.as_ref().and(prepared.text.template.as_ref())
    {
        files::write(&dir.join("chat_template.jinja"), template.source())?;
    }
    if let Some(text) = generation_config(prepared)? {
        files::write(&dir.join("generation_config.json"), text)?;
    }
    files::write(&dir.join("config.toml"), prepared.config.to_toml())
}

/// The model's `generation_config.json` with the token that ends a turn among those that end a
/// generation, where the run has taught that token and the model's own file lacks it: a base model
/// that is tuned to chat would not stop otherwise.
fn generation_config(prepared: &Prepared) -> Result<Option<String>> {
    let text = &prepared.text;
    let turn = text.template.as_ref().and_then(|_| text.end_of_turn().ids.first().copied());
    let is_taught = |id: u32| {
        let examples = &prepared.train.examples;
        let mut sequences = examples.iter().flat_map(|example| &example.sequences);
        sequences.any(|sequence| sequence.labels.contains(&(id as i32)))
    };
    let Some(turn) = turn.filter(|&turn| is_taught(turn)) else { return Ok(None) };
    let path = prepared.source.path.join("generation_config.json");
    let mut object = match prepared.companions.get("generation_config.json") {
        Some(content) => {
            parse_object(&String::from_utf8_lossy(content), &path.display().to_string())?
        }
        None => Map::new(),
    };
    let mut ids = match object.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.clone(),
        Some(Value::Null) | None => {
            prepared.model_config.eos_token_ids.iter().copied().map(Value::from).collect()
        }
        Some(one) => vec![one.clone()],
    };
    if ids.contains(&turn.into()) {
        return Ok(None);
    }
    ids.push(turn.into());
    object.insert("eos_token_id".into(), ids.into());
    Ok(Some(format!("{:#}\n", Value::Object(object))))
}

fn refuse_non_finite<'a>(tensors: impl IntoIterator<Item = &'a Vec<f32>>) -> Result<()> {
    match tensors.into_iter().flatten().all(|value| value.is_finite()) {
        true => Ok(()),
        false => Err(Error::run(
            "the trained weights are not finite, so nothing was saved; checkpoints saved before are \
             intact: lower learning_rate",
        )),
    }
}

/// Writes `output_dir/checkpoint-<step>` whole or not at all, then deletes the oldest ones beyond
/// `save_total_limit`, the best one excepted.
pub fn save(
    prepared: &Prepared,
    trainer: &Trainer,
    adapter: Option<&PeftConfig>,
    run: &RunState,
    trainer_state: &TrainerState,
) -> Result<PathBuf> {
    let output_dir = &prepared.config.output_dir;
    let path = output_dir.join(format!("checkpoint-{}", run.step));
    files::write_directory(&path, |dir| {
        save_result(dir, prepared, trainer, adapter, "A checkpoint of a run.")?;
        save_optimizer(&dir.join(OPTIMIZER), trainer)?;
        trainer_state.save(&dir.join(TRAINER_STATE))?;
        let text = serde_json::to_string_pretty(run)
            .map_err(|error| Error::internal("checkpoint", error.to_string()))?;
        files::write(&dir.join(RUN_STATE), text + "\n")
    })?;
    let limit = prepared.config.train.save_total_limit;
    let best = trainer_state.best_global_step;
    let mut steps = checkpoints(output_dir);
    steps.retain(|&(step, _)| Some(step) != best && step != run.step);
    let kept = 1 + usize::from(best.is_some_and(|best| best != run.step));
    if limit > 0 {
        let surplus = (steps.len() + kept).saturating_sub(limit);
        for (_, path) in steps.iter().take(surplus) {
            std::fs::remove_dir_all(path).map_err(|error| files::write_error(path, error))?;
        }
    }
    Ok(path)
}

/// Master values (f32) and the optimizer's state of every parameter.
fn save_optimizer(path: &Path, trainer: &Trainer) -> Result<()> {
    let tensors = optimizer_tensors(trainer);
    let plans: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| TensorPlan {
            name: name.clone(),
            dtype: to_safetensors(tensor.dtype()),
            shape: tensor.shape().to_vec(),
        })
        .collect();
    save_tensors(path, &plans, |plan| {
        let found = tensors.iter().find(|(name, _)| *name == plan.name);
        let (_, tensor) = found.ok_or_else(|| Error::internal("save", &plan.name))?;
        tensor.read_bytes()
    })
}

fn optimizer_tensors(trainer: &Trainer) -> Vec<(String, &Tensor)> {
    let mut tensors = Vec::new();
    for (index, parameter) in trainer.parameters.iter().enumerate() {
        tensors.push((format!("master.{}", parameter.name), &parameter.master));
        let state = trainer.optimizer.state(index).into_iter();
        tensors.extend(state.map(|s| (format!("{}.{}", s.name, parameter.name), s.tensor)));
    }
    tensors
}

/// The complete checkpoints in a directory, by step.
pub fn checkpoints(output_dir: &Path) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(output_dir).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let step = name.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            let path = entry.path();
            path.join(RUN_STATE).is_file().then_some((step, path))
        })
        .collect();
    found.sort_unstable();
    found
}

/// The checkpoint that the config asks to go on from, if it does.
///
/// # Errors
/// `Error::Input` where there is none.
pub fn to_resume(config: &TrainConfig) -> Result<Option<PathBuf>> {
    match &config.resume {
        Resume::No => Ok(None),
        Resume::From(dir) => Ok(Some(dir.clone())),
        Resume::Latest => match checkpoints(&config.output_dir).pop() {
            Some((_, path)) => Ok(Some(path)),
            None => Err(Error::input(format!(
                "--resume: there is no complete checkpoint in {}: give its directory with \
                 --resume=DIR, or start without --resume",
                config.output_dir.display()
            ))),
        },
    }
}

/// Brings a trainer to where the checkpoint in `dir` was saved.
///
/// # Errors
/// `Error::Input` where the checkpoint is not one of this run.
pub fn load(dir: &Path, trainer: &mut Trainer) -> Result<(RunState, TrainerState)> {
    let run = read_run_state(dir)?;
    let trainer_state = TrainerState::load(&dir.join(TRAINER_STATE))?;
    load_tensors(dir, trainer, true)?;
    trainer.scaler = LossScaler {
        scale: run.loss_scale,
        finite_steps: run.finite_steps,
        skipped_steps: run.skipped_steps,
        ..trainer.scaler
    };
    Ok((run, trainer_state))
}

/// What run_state.json of a checkpoint says.
pub fn read_run_state(dir: &Path) -> Result<RunState> {
    let path = dir.join(RUN_STATE);
    let shown = path.display();
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Error::input(format!("{} is no checkpoint: {shown}: {error}", dir.display()))
    })?;
    serde_json::from_str(&text).map_err(|error| Error::input(format!("{shown}: {error}")))
}

/// Overwrites the parameters, and the optimizer's state where `with_state`, with those of a checkpoint.
pub fn load_tensors(dir: &Path, trainer: &Trainer, with_state: bool) -> Result<()> {
    let path = dir.join(OPTIMIZER);
    let saved = Weights::open_file(&path)?;
    for (name, tensor) in optimizer_tensors(trainer) {
        if !with_state && !name.starts_with("master.") {
            continue;
        }
        let found = saved.expect(&name)?;
        if found.shape != tensor.shape() || found.dtype != to_safetensors(tensor.dtype()) {
            return Err(Error::input(format!(
                "{}: {name} is {:?} {:?}, but this run's is {} {:?}: resume with the config that the \
                 checkpoint was saved with",
                path.display(),
                found.dtype,
                found.shape,
                tensor.dtype().name(),
                tensor.shape()
            )));
        }
        tensor.set_bytes(found.bytes)?;
    }
    trainer.parameters.iter().try_for_each(crate::nn::Parameter::refresh)
}
