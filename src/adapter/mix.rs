//! Several adapters as one: the sum of their updates, each times its weight.

use super::config::PeftConfig;
use super::peft;
use super::weights::{AdapterWeights, LoraWeights};
use crate::model::{ModelConfig, Weights};
use crate::{Error, Result};
use std::path::Path;

/// Reads adapters of a model, and makes one of them whose update is the sum of theirs, each times its
/// weight. It holds exactly: the factors stand side by side, as in PEFT's `add_weighted_adapter` with
/// `combination_type="cat"`.
///
/// # Errors
/// As [`peft::load`]; `Error::Input` for an adapter that is more than low-rank updates.
pub fn load_mixed(
    adapters: &[(&Path, f64)],
    model: &ModelConfig,
    base: Option<&Weights>,
) -> Result<(PeftConfig, AdapterWeights)> {
    if let [(dir, weight)] = adapters
        && *weight == 1.0
    {
        return peft::load(dir, model, base);
    }
    let mut mixed: Option<(PeftConfig, AdapterWeights)> = None;
    for &(dir, weight) in adapters {
        let (config, adapter) = peft::load(dir, model, base)?;
        refuse_more(dir, &config, &adapter)?;
        let (_, sum) = mixed.get_or_insert_with(|| (config, AdapterWeights::default()));
        for lora in &adapter.loras {
            let lora = weighted(lora.flat(), weight);
            match sum.loras.iter_mut().find(|own| own.module.path == lora.module.path) {
                Some(own) => append(own, lora),
                None => sum.loras.push(lora),
            }
        }
    }
    mixed.ok_or_else(|| Error::internal("load_mixed", "no adapters"))
}

/// What is no sum of updates cannot be mixed.
fn refuse_more(dir: &Path, config: &PeftConfig, adapter: &AdapterWeights) -> Result<()> {
    let more = [
        (config.use_dora, "use_dora"),
        (!adapter.saved.is_empty(), "modules_to_save"),
        (!adapter.rows.is_empty(), "trainable_token_indices"),
        (!adapter.replaced.is_empty(), "an embedding of its own"),
        (adapter.score.is_some(), "a score"),
    ];
    match more.iter().find(|(has, _)| *has) {
        None => Ok(()),
        Some((_, what)) => Err(Error::input(format!(
            "--adapter {}: the adapter has {what}, which is not added up by weights; expected \
             adapters of low-rank updates alone",
            dir.display()
        ))),
    }
}

/// The update times `weight`, with a scale of 1.
fn weighted(mut lora: LoraWeights, weight: f64) -> LoraWeights {
    let factor = (weight * lora.module.scale) as f32;
    lora.lora_b.iter_mut().for_each(|b| *b *= factor);
    lora.bias.iter_mut().flatten().for_each(|bias| *bias *= factor);
    lora.module.scale = 1.0;
    lora
}

/// Adds an update of the same module.
fn append(own: &mut LoraWeights, other: LoraWeights) {
    let (r, more) = (own.module.r, other.module.r);
    own.lora_a.extend(other.lora_a);
    let rows = own.lora_b.chunks_exact(r).zip(other.lora_b.chunks_exact(more));
    own.lora_b = rows.flat_map(|(own, other)| own.iter().chain(other).copied()).collect();
    own.module.r = r + more;
    match (&mut own.bias, other.bias) {
        (Some(own), Some(other)) => own.iter_mut().zip(other).for_each(|(own, x)| *own += x),
        (own @ None, other) => *own = other,
        (Some(_), None) => {}
    }
}
