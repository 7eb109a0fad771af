//! Writes a merged model as a Hugging Face directory, in floats or in bitsandbytes' NF4.

use std::collections::HashMap;
use std::path::Path;

use super::merge::{Merge, is_linear};
use crate::dtype::f32_to_bytes;
use crate::error::{Error, Result};
use crate::model::bnb::{self, StoredTensor};
use crate::model::float::to_safetensors;
use crate::model::save::{TensorPlan, save_model};
use crate::model::{BnbConfig, ModelConfig, expected_tensors};
use crate::quant::Nf4Weight;

/// Writes the model to `dir` (which must exist) in the dtype of `merge`, with the tokenizer and
/// generation files of `source`. One tensor is in memory at a time.
///
/// # Errors
/// A tensor that cannot be read, a file that cannot be written.
pub fn write_merged(dir: &Path, config: &ModelConfig, source: &Path, merge: &Merge) -> Result<()> {
    let dtype = merge.dtype();
    let plans: Vec<TensorPlan> = expected_tensors(config)
        .into_iter()
        .map(|(name, shape)| TensorPlan { name, dtype: to_safetensors(dtype), shape })
        .collect();
    save_model(dir, &config.to_json(dtype, None), Some(source), &plans, |plan| {
        Ok(f32_to_bytes(&merge.values(&plan.name)?, dtype))
    })
}

/// The same with the linear layers of the blocks in NF4 with double quantization; embeddings, norms
/// and `lm_head` stay floats. The codes of one weight are in memory at a time.
///
/// # Errors
/// As [`write_merged`].
pub fn write_nf4(dir: &Path, config: &ModelConfig, source: &Path, merge: &Merge) -> Result<()> {
    let dtype = merge.dtype();
    let mut plans = Vec::new();
    // All but the codes, which are most of it and are computed again when they are written.
    let mut scales: HashMap<String, Vec<u8>> = HashMap::new();
    for (name, shape) in expected_tensors(config) {
        if !is_linear(&name) {
            plans.push(TensorPlan { name, dtype: to_safetensors(dtype), shape });
            continue;
        }
        for StoredTensor { name: part, dtype, shape, bytes } in
            bnb::stored(&name, &quantized(merge, &name, &shape)?, dtype)
        {
            plans.push(TensorPlan { name: part.clone(), dtype, shape });
            if part != name {
                scales.insert(part, bytes);
            }
        }
    }
    let shapes: HashMap<String, Vec<usize>> = expected_tensors(config).into_iter().collect();
    let quantization = BnbConfig {
        double_quant: true,
        compute_dtype: dtype,
        skip_modules: vec!["lm_head".into()],
    };
    let json = config.to_json(dtype, Some(&quantization));
    save_model(dir, &json, Some(source), &plans, |plan| {
        if let Some(bytes) = scales.remove(&plan.name) {
            return Ok(bytes);
        }
        match shapes.get(&plan.name) {
            Some(shape) if is_linear(&plan.name) => Ok(quantized(merge, &plan.name, shape)?.codes),
            _ => Ok(f32_to_bytes(&merge.values(&plan.name)?, dtype)),
        }
    })
}

/// The weight in NF4; one that is in NF4 already, and has no adapter, keeps its codes.
fn quantized(merge: &Merge, name: &str, shape: &[usize]) -> Result<Nf4Weight> {
    if let Some(weight) = merge.untouched_nf4(name)? {
        return Ok(weight.double_quantize());
    }
    let &[rows, columns] = shape else {
        return Err(Error::internal("write_nf4", format!("{name} has shape {shape:?}")));
    };
    let weight = Nf4Weight::quantize(&merge.values(name)?, [rows, columns])
        .map_err(|error| Error::input(format!("tensor {name}: {error}")))?;
    Ok(weight.double_quantize())
}
