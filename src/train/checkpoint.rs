//! What a run saves: the result, in the ecosystem's forms, and checkpoints, which hold the result so
//! far, everything needed to go on with the same bits, and a manifest that tells damage.

use super::prepare::Prepared;
use super::reference;
use super::run_state::{self, RunState};
use super::start::{checkpoints, directory};
use super::trainer::{LossScaler, Trainer};
use super::trainer_state::TrainerState;
use crate::adapter::{PeftConfig, peft, trainable};
use crate::dtype::f32_to_bytes;
use crate::error::{Error, Result};
use crate::files::{self, manifest};
use crate::model::Weights;
use crate::model::float::{first_non_finite, to_safetensors};
use crate::model::json::parse_object;
use crate::model::save::{TensorPlan, save_model, save_tensors};
use crate::tensor::Tensor;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

const OPTIMIZER: &str = "optimizer.safetensors";
const TRAINER_STATE: &str = "trainer_state.json";

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
            let mut weights = trainable::weights(config, &trainer.model, &trainer.parameters)?;
            weights.score =
                config.is_classifier.then(|| trainer.model.lm_head.read_f32()).transpose()?;
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
                Ok(f32_to_bytes(&parameter.master.read_f32()?, dtype))
            })?;
        }
    }
    if let Some(template) =
        prepared.config.data.chat_template.as_ref().and(prepared.text.template.as_ref())
    {
        files::write(&dir.join("chat_template.jinja"), template.source())?;
    }
    if prepared.model_config.spec.is_classifier {
        return save_classifier(dir, prepared);
    }
    if let Some(text) = generation_config(prepared)? {
        files::write(&dir.join("generation_config.json"), text)?;
    }
    files::write(&dir.join("config.toml"), prepared.config.to_toml())
}

/// The rest of a classifier's directory: it generates nothing, and its tokenizer pads with the token that
/// Transformers must pass over to find the last one.
fn save_classifier(dir: &Path, prepared: &Prepared) -> Result<()> {
    let _ = std::fs::remove_file(dir.join("generation_config.json"));
    let path = dir.join("tokenizer_config.json");
    let token = prepared.model_config.pad_token_id;
    let token = token.and_then(|id| prepared.text.tokenizer.id_to_token(id));
    if let (Some(token), Ok(content)) = (token, std::fs::read_to_string(&path)) {
        let mut object = parse_object(&content, &path.display().to_string())?;
        object.insert("pad_token".into(), token.into());
        files::write(&path, format!("{:#}\n", Value::Object(object)))?;
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

/// Writes `output_dir/checkpoint-<step>` whole or not at all, then deletes the oldest ones beyond
/// `save_total_limit`, the best one excepted. Returns where it is, and a warning for each old one that
/// cannot be deleted.
///
/// # Errors
/// [`Error::Run`] where it cannot be written; a full disk says how to go on.
pub fn save(
    prepared: &Prepared,
    trainer: &Trainer,
    adapter: Option<&PeftConfig>,
    run: &RunState,
    trainer_state: &TrainerState,
) -> Result<(PathBuf, Vec<String>)> {
    let output_dir = &prepared.config.output_dir;
    let path = directory(output_dir, run.step);
    let saved = files::write_directory(&path, |dir| {
        save_result(dir, prepared, trainer, adapter, "A checkpoint of a run.")?;
        save_optimizer(&dir.join(OPTIMIZER), trainer)?;
        reference::save(dir, &trainer.reference)?;
        trainer_state.save(&dir.join(TRAINER_STATE))?;
        files::write(&dir.join(run_state::NAME), run.to_json()?)?;
        manifest::write(dir)
    });
    saved.map_err(|error| how_to_go_on(error, output_dir))?;
    let limit = prepared.config.train.save_total_limit;
    let best = trainer_state.best_global_step;
    let mut steps = checkpoints(output_dir);
    steps.retain(|&(step, _)| Some(step) != best && step != run.step);
    let kept = 1 + usize::from(best.is_some_and(|best| best != run.step));
    let surplus = if limit > 0 { (steps.len() + kept).saturating_sub(limit) } else { 0 };
    let removed = steps.iter().take(surplus).map(|(_, path)| (path, files::remove(path)));
    let failed = removed.filter_map(|(path, removed)| Some((path, removed.err()?)));
    let warnings = failed.map(|(path, error)| {
        format!("cannot delete the old checkpoint {}: {error}", path.display())
    });
    let warnings = warnings.collect();
    Ok((path, warnings))
}

/// What to do where a checkpoint cannot be written.
fn how_to_go_on(error: Error, output_dir: &Path) -> Error {
    let Error::Io { message, source } = error else { return error };
    let go_on = match checkpoints(output_dir).last() {
        Some((_, path)) => format!("with --resume the run goes on from {}", path.display()),
        None => "no checkpoint was saved before, so --resume begins anew".to_owned(),
    };
    Error::Io { message: format!("{message}; {go_on}"), source }
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

/// Brings a trainer to where the checkpoint in `dir`, which `run` is the state of, was saved.
///
/// # Errors
/// `Error::Input` where the checkpoint is not one of this run.
pub fn load(dir: &Path, run: &RunState, trainer: &mut Trainer) -> Result<TrainerState> {
    let trainer_state = TrainerState::load(&dir.join(TRAINER_STATE))?;
    if trainer_state.global_step != run.step {
        return Err(Error::input(format!(
            "{}: {TRAINER_STATE} is of step {}, {} of step {}: give another checkpoint",
            dir.display(),
            trainer_state.global_step,
            run_state::NAME,
            run.step
        )));
    }
    load_tensors(dir, trainer, true)?;
    trainer.scaler = LossScaler {
        scale: run.loss_scale,
        finite_steps: run.finite_steps,
        skipped_steps: run.skipped_steps,
        ..trainer.scaler
    };
    Ok(trainer_state)
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
        if let Some(at) = first_non_finite(found.bytes, tensor.dtype()) {
            return Err(Error::input(format!(
                "{}: element {at} of {name} is not finite: give another checkpoint",
                path.display()
            )));
        }
        tensor.set_bytes(found.bytes)?;
    }
    trainer.parameters.iter().try_for_each(crate::nn::Parameter::refresh)
}
