//! From a prepared run to a trainer on a device.

use super::prepare::Prepared;
use super::reference::{self, Trained};
use super::trainer::Trainer;
use crate::adapter::{PeftConfig, trainable};
use crate::backend::Device;
use crate::config::TrainArgs;
use crate::error::Result;
use crate::model::load::{LoadOptions, Source, load};
use crate::model::transformer::{Model, Recompute};
use crate::objective::Reference;
use crate::optim::Settings;

/// The optimizer's settings.
fn settings(train: &TrainArgs) -> Settings {
    Settings {
        optim: train.optim,
        beta1: train.adam_beta1,
        beta2: train.adam_beta2,
        eps: train.adam_epsilon,
        weight_decay: train.weight_decay,
        max_grad_norm: train.max_grad_norm,
    }
}

/// The policy that the objective compares with, if it compares.
fn reference_of(
    prepared: &Prepared,
    model: &mut Model,
    source: &Source,
    options: LoadOptions,
) -> Result<Reference> {
    let config = &prepared.config;
    let Some(wanted) = config.objective.reference() else { return Ok(Reference::default()) };
    let (lora, adapter) = (config.lora.is_some(), prepared.starting_adapter());
    reference::make(wanted, model, &Trained { source: Some(source), options, lora, adapter })
}

/// Loads the model onto `device`, attaches what is trained, and makes the optimizer; with LoRA, the
/// adapter's config comes along.
///
/// With `shapes_only` no weight is read: the device only counts memory.
pub fn build(
    prepared: &Prepared,
    device: &Device,
    recompute: Recompute,
    shapes_only: bool,
) -> Result<(Trainer, Option<PeftConfig>)> {
    let config = &prepared.config;
    let source = match &prepared.weights {
        _ if shapes_only => Source::Shapes,
        Some(weights) => Source::Weights(weights),
        None => Source::Random(config.train.seed),
    };
    let options = LoadOptions {
        dtype: config.dtype.dtype_on(device.capabilities().fast_bf16),
        nf4: config.quantization.nf4(),
        train_all: config.lora.is_none(),
        max_positions: prepared.batching.max_length,
    };
    let (mut model, mut parameters) = load(device, &prepared.model_config, &source, options)?;
    model.recompute = recompute;
    let mut adapter = None;
    if let Some(lora) = &config.lora {
        let mut found = PeftConfig {
            base_model_name_or_path: Some(prepared.source.base_id.clone()),
            revision: prepared.source.revision.clone(),
            ..lora.peft(&prepared.model_config.spec)
        };
        match &lora.adapter {
            Some(path) => {
                let (saved, saved_parameters) = trainable::attach_saved(
                    &mut model,
                    path,
                    lora.lora_dropout,
                    prepared.weights.as_ref(),
                )?;
                found = PeftConfig {
                    base_model_name_or_path: found.base_model_name_or_path,
                    revision: found.revision,
                    ..saved
                };
                parameters = saved_parameters;
            }
            None => {
                parameters = trainable::attach_fresh(&mut model, &found, config.train.seed)?;
            }
        }
        if let Some(ratio) = lora.loraplus_lr_ratio {
            trainable::set_loraplus(&mut parameters, ratio, config.train.learning_rate);
        }
        if config.objective.has_score() {
            let dir = lora.adapter.as_deref();
            parameters.push(trainable::train_score(&mut model, &found, dir)?);
            found.is_classifier = true;
            found.modules_to_save = vec!["score".into()];
        }
        adapter = Some(found);
    }
    let reference = reference_of(prepared, &mut model, &source, options)?;
    let seed = config.train.seed;
    let objective = config.objective.clone();
    let settings = settings(&config.train);
    let mut trainer =
        Trainer::new(model, parameters, objective, settings, config.attn_implementation, seed)?;
    trainer.reference = reference;
    trainer.neftune_alpha = config.train.neftune_noise_alpha as f32;
    Ok((trainer, adapter))
}
