//! Adapters on a loaded model: attached, detached and exchanged without touching its weights.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use super::config::PeftConfig;
use super::peft;
use crate::backend::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::model::transformer::Model;
use crate::nn::{DEFAULT_ADAPTER, Lora};
use crate::tensor::Tensor;

/// A LoRA adapter on a device, ready to be attached.
pub struct PeftAdapter {
    /// What adapter_config.json says.
    pub config: PeftConfig,
    /// The update of each linear layer, by the layer's path.
    pub layers: BTreeMap<String, Lora>,
    /// f32 [1, C]: a classifier's head.
    pub score: Option<Tensor>,
}

impl PeftAdapter {
    /// Loads the adapter in `dir` for a model.
    ///
    /// # Errors
    /// `Error::Input` for an adapter that cannot be read or is not for this model;
    /// `Error::OutOfMemory`.
    pub fn load(dir: &Path, model: &ModelConfig, device: &Device) -> Result<Self> {
        let (config, weights) = peft::load(dir, model)?;
        let dropout = config.lora_dropout as f32;
        let factor = |shape: [usize; 2], values: &[f32]| {
            Tensor::from_f32(device, &shape, DType::F32, values)
        };
        let layers = weights
            .iter()
            .map(|weights| {
                let module = &weights.module;
                let lora_a = factor([module.r, module.inputs], &weights.lora_a)?;
                let lora_b = factor([module.outputs, module.r], &weights.lora_b)?;
                let scale = module.scale as f32;
                Ok((module.path.clone(), Lora { lora_a, lora_b, scale, dropout }))
            })
            .collect::<Result<_>>()?;
        let width = model.spec.hidden_size;
        let score = peft::score(dir, &config, width)?;
        let score = score.map(|values| factor([1, width], &values)).transpose()?;
        Ok(Self { config, layers, score })
    }
}

/// Puts an adapter on the model, in place of the one it has. A KV cache filled before is not valid
/// any more.
///
/// # Errors
/// `Error::Internal` when the adapter is for another model, or a layer is shared.
pub fn attach(model: &mut Model, adapter: &PeftAdapter) -> Result<()> {
    if let Some(score) = &adapter.score {
        model.lm_head = score.clone();
    }
    attach_as(model, DEFAULT_ADAPTER, adapter)
}

/// [`attach`] under a name, beside the adapters of other names: a pass asks for it by that name.
///
/// # Errors
/// As [`attach`].
pub fn attach_as(model: &mut Model, name: &'static str, adapter: &PeftAdapter) -> Result<()> {
    let mut found = 0;
    for_each_linear(model, |path, loras| match adapter.layers.get(path) {
        Some(lora) => {
            loras.insert(name, lora.clone());
            found += 1;
        }
        None => drop(loras.remove(name)),
    })?;
    match found == adapter.layers.len() {
        true => Ok(()),
        false => {
            let what = format!("{found} of {} layers are in the model", adapter.layers.len());
            Err(Error::internal("attach", what))
        }
    }
}

/// Takes all adapters off the model.
///
/// # Errors
/// `Error::Internal` when a layer is shared.
pub fn detach(model: &mut Model) -> Result<()> {
    for_each_linear(model, |_, loras| loras.clear())
}

fn for_each_linear(
    model: &mut Model,
    mut change: impl FnMut(&str, &mut BTreeMap<&'static str, Lora>),
) -> Result<()> {
    for layer in &mut model.layers {
        let Some(layer) = Rc::get_mut(layer) else {
            return Err(Error::internal("attach", "a layer is in use elsewhere"));
        };
        for linear in layer.linears_mut() {
            change(&linear.path, &mut linear.loras);
        }
    }
    Ok(())
}
