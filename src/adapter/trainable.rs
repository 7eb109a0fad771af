//! Adapters that training changes: fresh ones, and saved ones to go on with.

use super::config::PeftConfig;
use super::peft::{self, LoraWeights};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::model::spec::SCORE;
use crate::model::transformer::Model;
use crate::nn::{DEFAULT_ADAPTER, Lora, Parameter};
use crate::random::Rng;
use crate::tensor::Tensor;
use std::path::Path;
use std::rc::Rc;

/// Attaches a new adapter: `lora_A` uniform within ±1/sqrt(in) (Kaiming, a = sqrt 5), `lora_B` zero,
/// so that the model starts unchanged.
pub fn attach_fresh(model: &mut Model, config: &PeftConfig, seed: u64) -> Result<Vec<Parameter>> {
    let modules = config.modules(&model.config)?;
    let fresh = modules.into_iter().map(|module| {
        let bound = 1.0 / (module.inputs as f32).sqrt();
        let mut rng = Rng::new(seed, &format!("{}.lora_A", module.path), 0);
        let draw = |_| bound * (2.0 * rng.next_f32() - 1.0);
        let lora_a = (0..module.r * module.inputs).map(draw).collect();
        let lora_b = vec![0.0; module.outputs * module.r];
        LoraWeights { module, lora_a, lora_b }
    });
    attach(model, config, &fresh.collect::<Vec<_>>())
}

/// Attaches the saved adapter in `dir` for further training, with a dropout of its own; returns its
/// config too.
///
/// # Errors
/// `Error::Input` for an adapter that is not one of this model.
pub fn attach_saved(
    model: &mut Model,
    dir: &Path,
    dropout: f64,
) -> Result<(PeftConfig, Vec<Parameter>)> {
    let (mut config, weights) = peft::load(dir, &model.config)?;
    config.lora_dropout = dropout;
    let parameters = attach(model, &config, &weights)?;
    Ok((config, parameters))
}

/// Puts the factors on the model's device, as parameters under PEFT's names.
fn attach(
    model: &mut Model,
    config: &PeftConfig,
    adapter: &[LoraWeights],
) -> Result<Vec<Parameter>> {
    let device = model.embed_tokens.device().clone();
    let parameter = |path: &str, factor: &str, shape: &[usize], values: &[f32]| {
        let master = Tensor::from_f32(&device, shape, DType::F32, values)?;
        Parameter::new(&format!("{path}.{factor}.weight"), master, DType::F32)
    };
    let mut parameters = Vec::new();
    for layer in &mut model.layers {
        let layer = Rc::get_mut(layer)
            .ok_or_else(|| Error::internal("attach", "a layer is still in use by a tape"))?;
        for linear in layer.linears_mut() {
            let Some(weights) = adapter.iter().find(|weights| weights.module.path == linear.path)
            else {
                continue;
            };
            let [rows, columns] = linear.shape();
            let path = &linear.path;
            let a = parameter(path, "lora_A", &[weights.module.r, columns], &weights.lora_a)?;
            let b = parameter(path, "lora_B", &[rows, weights.module.r], &weights.lora_b)?;
            let lora = Lora {
                lora_a: a.value.clone(),
                lora_b: b.value.clone(),
                scale: weights.module.scale as f32,
                dropout: config.lora_dropout as f32,
            };
            linear.loras.insert(DEFAULT_ADAPTER, lora);
            parameters.extend([a, b]);
        }
    }
    Ok(parameters)
}

/// Trains the head of a classifier beside the adapter: the saved one of the adapter in `dir`, else the
/// model's.
///
/// # Errors
/// `Error::Input` for an adapter that has none.
pub fn train_score(
    model: &mut Model,
    config: &PeftConfig,
    dir: Option<&Path>,
) -> Result<Parameter> {
    let width = model.config.spec.hidden_size;
    let saved = dir.map(|dir| peft::score(dir, config, width)).transpose()?.flatten();
    let master = match saved {
        Some(values) => {
            let device = model.embed_tokens.device();
            Tensor::from_f32(device, &[1, width], DType::F32, &values)?
        }
        None => model.lm_head.clone(),
    };
    let score = Parameter::new(SCORE, master, DType::F32)?;
    model.lm_head = score.value.clone();
    Ok(score)
}

/// The factors as they are now, for saving.
pub fn weights(config: &PeftConfig, model: &Model) -> Result<Vec<LoraWeights>> {
    let modules = config.modules(&model.config)?;
    let mut found = Vec::new();
    for module in modules {
        let linear = model.linears().find(|linear| linear.path == module.path);
        let Some(lora) = linear.and_then(|linear| linear.loras.get(DEFAULT_ADAPTER)) else {
            return Err(Error::internal("adapter", format!("{} has no adapter", module.path)));
        };
        let (lora_a, lora_b) = (lora.lora_a.read_f32()?, lora.lora_b.read_f32()?);
        found.push(LoraWeights { module, lora_a, lora_b });
    }
    Ok(found)
}
