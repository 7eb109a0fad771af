//! Writes a merged model as a Hugging Face directory, in floats or in bitsandbytes' NF4.

use std::collections::HashMap;
use std::path::Path;

use super::merge::Merge;
use crate::dtype::{DType, f32_to_bytes};
use crate::error::{Error, Result};
use crate::model::bnb::{self, StoredTensor};
use crate::model::float::to_safetensors;
use crate::model::save::{Companions, TensorPlan, save_model};
use crate::model::spec::TensorSpec;
use crate::model::{BnbConfig, ModelConfig};
use crate::quant::Nf4Weight;

/// Writes the model to `dir` (which must exist) in the dtype of `merge`, with what goes
/// with it. One tensor is in memory at a time.
///
/// # Errors
/// A tensor that cannot be read, a file that cannot be written.
pub fn write_merged(
    dir: &Path,
    config: &ModelConfig,
    companions: &Companions,
    merge: &Merge,
) -> Result<()> {
    let dtype = merge.dtype();
    let tensors = config.spec.tensors();
    let plans: Vec<TensorPlan> = tensors.iter().map(|tensor| float_plan(tensor, dtype)).collect();
    let tensors = by_name(&tensors);
    save_model(dir, &config.to_json(dtype, None), companions, &plans, |plan| {
        Ok(f32_to_bytes(&merge.values(tensors[plan.name.as_str()])?, dtype))
    })
}

fn float_plan(tensor: &TensorSpec, dtype: DType) -> TensorPlan {
    TensorPlan {
        name: tensor.name.clone(),
        dtype: to_safetensors(dtype),
        shape: tensor.shape.clone(),
    }
}

fn by_name(tensors: &[TensorSpec]) -> HashMap<&str, &TensorSpec> {
    tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect()
}

/// The same with the linear layers of the blocks in NF4 with double quantization; embeddings, norms
/// and `lm_head` stay floats. The codes of one weight are in memory at a time.
///
/// # Errors
/// As [`write_merged`].
pub fn write_nf4(
    dir: &Path,
    config: &ModelConfig,
    companions: &Companions,
    merge: &Merge,
) -> Result<()> {
    let dtype = merge.dtype();
    let mut plans = Vec::new();
    // All but the codes, which are most of it and are computed again when they are written.
    let mut scales: HashMap<String, Vec<u8>> = HashMap::new();
    let tensors = config.spec.tensors();
    for tensor in &tensors {
        let Some((_, shape)) = tensor.linear() else {
            plans.push(float_plan(tensor, dtype));
            continue;
        };
        for StoredTensor { name: part, dtype, shape, bytes } in
            bnb::stored(&tensor.name, &quantized(merge, tensor, shape)?, dtype)
        {
            plans.push(TensorPlan { name: part.clone(), dtype, shape });
            if part != tensor.name {
                scales.insert(part, bytes);
            }
        }
    }
    let tensors = by_name(&tensors);
    let quantization = BnbConfig {
        double_quant: true,
        compute_dtype: dtype,
        skip_modules: vec!["lm_head".into()],
    };
    let json = config.to_json(dtype, Some(&quantization));
    save_model(dir, &json, companions, &plans, |plan| {
        if let Some(bytes) = scales.remove(&plan.name) {
            return Ok(bytes);
        }
        let tensor = tensors[plan.name.as_str()];
        match tensor.linear() {
            Some((_, shape)) => Ok(quantized(merge, tensor, shape)?.codes),
            None => Ok(f32_to_bytes(&merge.values(tensor)?, dtype)),
        }
    })
}

/// The weight in NF4; one that is in NF4 already, and has no adapter, keeps its codes.
fn quantized(merge: &Merge, tensor: &TensorSpec, shape: [usize; 2]) -> Result<Nf4Weight> {
    if let Some(weight) = merge.untouched_nf4(tensor)? {
        return Ok(weight.double_quantize());
    }
    let weight = Nf4Weight::quantize(&merge.values(tensor)?, shape)
        .map_err(|error| Error::input(format!("tensor {}: {error}", tensor.name)))?;
    Ok(weight.double_quantize())
}
