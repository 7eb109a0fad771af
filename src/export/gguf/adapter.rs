//! A LoRA adapter as the file that llama.cpp loads beside a model (`--lora`): A and B of every module,
//! under the names of the weights. Layout: `convert_lora_to_gguf.py` of llama.cpp.

use std::path::Path;

use super::{interleave_halves, unsupported};
use crate::adapter::{LoraWeights, ModuleKind};
use crate::dtype::{DType, f32_to_bytes};
use crate::error::Result;
use crate::gguf::Kind;
use crate::gguf::container::{self, Entry, TensorInfo, Value};
use crate::model::ModelConfig;
use crate::model::spec::TensorSpec;

/// Writes the adapter of a model as the file `path`, its factors in `dtype`.
///
/// llama.cpp multiplies B A with one alpha over the rank; where modules have scales of their own, B is
/// multiplied instead.
///
/// # Errors
/// `Error::Input` for a module that llama.cpp has no place for; `Error::Run` for a file that cannot be
/// written.
pub fn write_lora(
    path: &Path,
    name: &str,
    config: &ModelConfig,
    adapter: &[LoraWeights],
    dtype: DType,
) -> Result<()> {
    let specs = config.spec.tensors();
    let alpha_of = |lora: &LoraWeights| lora.module.scale * lora.module.r as f64;
    let Some(first) = adapter.first() else {
        return Err(unsupported("an adapter without modules"));
    };
    let alpha = alpha_of(first);
    let entries = [
        Entry::new("general.architecture", Value::Text(config.spec.gguf.architecture.into())),
        Entry::new("general.type", Value::Text("adapter".into())),
        Entry::new("general.name", Value::Text(name.into())),
        Entry::new("general.alignment", Value::U32(container::ALIGNMENT as u32)),
        Entry::new("adapter.type", Value::Text("lora".into())),
        Entry::new("adapter.lora.alpha", Value::F32(alpha as f32)),
    ];
    let mut tensors = Vec::new();
    let mut sources = Vec::new();
    for lora in adapter {
        let weight = format!("{}.weight", lora.module.path);
        let Some(spec) = specs.iter().find(|spec| spec.name == weight) else {
            return Err(unsupported(format_args!(
                "{} has no weight of its own in llama.cpp, which an adapter could be for",
                lora.module.path
            )));
        };
        let [a, b] = shapes(lora);
        for (part, shape) in [("lora_a", a), ("lora_b", b)] {
            let name = format!("{}.{part}", spec.gguf);
            tensors.push(TensorInfo { name, kind: Kind::of(dtype), shape: shape.to_vec() });
        }
        sources.push((lora, spec, (alpha_of(lora) / alpha) as f32));
    }
    container::write(path, &entries, &tensors, |index| {
        let (lora, spec, factor) = sources[index / 2];
        let values = match index % 2 {
            0 => factor_a(lora),
            _ => factor_b(lora, spec, config, factor),
        };
        Ok(f32_to_bytes(&values, dtype))
    })
}

/// The shapes of both factors in the file: those of an embedding are looked up by row.
fn shapes(lora: &LoraWeights) -> [[usize; 2]; 2] {
    let module = &lora.module;
    let a = match module.kind {
        ModuleKind::Embedding => [module.inputs, module.r],
        _ => [module.r, module.inputs],
    };
    [a, [module.outputs, module.r]]
}

fn factor_a(lora: &LoraWeights) -> Vec<f32> {
    let (columns, rank) = (lora.module.inputs, lora.module.r);
    match lora.module.kind {
        ModuleKind::Embedding => (0..columns)
            .flat_map(|token| (0..rank).map(move |r| lora.lora_a[r * columns + token]))
            .collect(),
        _ => lora.lora_a.clone(),
    }
}

fn factor_b(lora: &LoraWeights, spec: &TensorSpec, config: &ModelConfig, factor: f32) -> Vec<f32> {
    let values: Vec<f32> = match factor == 1.0 {
        true => lora.lora_b.clone(),
        false => lora.lora_b.iter().map(|x| x * factor).collect(),
    };
    match config.spec.interleaved_heads(spec) {
        Some(heads) => interleave_halves(&values, heads, lora.module.outputs),
        None => values,
    }
}
