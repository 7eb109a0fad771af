//! GGUF, the file format of llama.cpp: one file with the model's shape, its tokenizer and its weights.
//!
//! [`crate::gguf`] is the format itself, [`shape`] says what llama.cpp has to know about the network,
//! [`vocabulary`] the same of the tokenizer. What llama.cpp computes in another way than
//! Transformers, and the file has no key for, is refused by name.

pub mod adapter;
pub mod mix;
pub mod shape;
pub mod vocabulary;

use std::path::Path;

use crate::gguf::Kind;
use crate::gguf::container::{self, Entry, TensorInfo, Value};

use mix::Mix;

use super::merge::Merge;
use crate::dtype::{DType, f32_to_bytes};
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::model::spec::{Role, TensorSpec};
use crate::tokenizer::TextProcessor;

/// Of the blocks' layout, as ggml counts.
const QUANTIZATION_VERSION: u32 = 2;

/// Writes the merged model as the file `path`, which `name` is the model's name in: matrices as
/// `mix` says, vectors (norms, biases) in f32. One tensor is in memory at a time.
///
/// # Errors
/// `Error::Input` for what the format cannot say of this model or tokenizer, or a tensor that cannot
/// be read; `Error::Run` for a file that cannot be written.
pub fn write_gguf(
    path: &Path,
    name: &str,
    config: &ModelConfig,
    text: &TextProcessor,
    merge: &Merge,
    mix: Mix,
) -> Result<()> {
    let mut entries = vec![
        Entry::new("general.architecture", Value::Text(config.spec.gguf.architecture.into())),
        Entry::new("general.type", Value::Text("model".into())),
        Entry::new("general.name", Value::Text(name.into())),
        Entry::new("general.file_type", Value::U32(mix.file_type())),
        Entry::new("general.alignment", Value::U32(container::ALIGNMENT as u32)),
    ];
    if !matches!(mix, Mix::Floats(_)) {
        entries.push(Entry::new("general.quantization_version", Value::U32(QUANTIZATION_VERSION)));
    }
    entries.extend(shape::metadata(config)?);
    entries.extend(vocabulary::metadata(text, config.spec.vocab_size)?);

    let frequencies = shape::frequency_factors(config)?;
    let sources = config.spec.tensors();
    let info = |tensor: &TensorSpec| TensorInfo {
        name: tensor.gguf.clone(),
        kind: mix.kind(&config.spec, tensor),
        shape: tensor.shape.clone(),
    };
    let mut tensors: Vec<_> = sources.iter().map(info).collect();
    tensors.extend(frequencies.iter().map(|(name, factors)| TensorInfo {
        name: (*name).into(),
        kind: Kind::F32,
        shape: vec![factors.len()],
    }));
    container::write(path, &entries, &tensors, |index| {
        let Some(source) = sources.get(index) else {
            let (_, factors) = &frequencies[index - sources.len()];
            return Ok(f32_to_bytes(factors, DType::F32));
        };
        let vector = source.shape.len() == 1;
        let values = if vector { merge.exact(source)? } else { merge.values(source)? };
        let values = match source.role {
            Role::Norm { offset } if offset != 0.0 => values.iter().map(|x| x + offset).collect(),
            _ => values,
        };
        let values = match config.spec.interleaved_heads(source) {
            Some(heads) => interleave_halves(&values, heads, source.shape[0]),
            None => values,
        };
        let kind = mix.kind(&config.spec, source);
        kind.encode(&values)
            .ok_or_else(|| Error::internal("gguf", format!("{} is only read", kind.name())))
    })
}

/// Rows of q or k [heads * HD, ...] in the order of llama.cpp's Llama: rotary pairs, which here are
/// rows `i` and `i + HD / 2` of a head, stand beside each other there.
fn interleave_halves(values: &[f32], heads: usize, rows: usize) -> Vec<f32> {
    let (columns, width) = (values.len() / rows.max(1), rows / heads.max(1));
    let source = |row: usize| {
        let (head, i) = (row / width, row % width);
        head * width + (i % 2) * (width / 2) + i / 2
    };
    (0..rows).flat_map(|row| &values[source(row) * columns..][..columns]).copied().collect()
}

/// The model's name in the file: the last part of its path or repository.
pub fn model_name(base_id: &str) -> String {
    let id = base_id.split('@').next().unwrap_or(base_id);
    let name = Path::new(id).file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "model".into())
}

/// An error about what GGUF, or llama.cpp, has no place for.
fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::input(format!("--to gguf: {what}; export --to merged keeps everything"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotary_pairs_come_to_stand_beside_each_other() {
        // Two heads of width 4, one column: pairs (0, 2) and (1, 3).
        let rows: Vec<f32> = (0..8).map(|x| x as f32).collect();
        assert_eq!(interleave_halves(&rows, 2, 8), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        let wide = interleave_halves(&[0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5], 1, 4);
        assert_eq!(wide, [0.0, 0.5, 2.0, 2.5, 1.0, 1.5, 3.0, 3.5]);
    }
}
