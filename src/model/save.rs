//! Writing a model directory in Hugging Face form.

use std::io::{self, Write};
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::float::{first_non_finite, from_safetensors, widen};
use crate::files::enclosed;
use crate::{Error, Result, files};

/// The most bytes of tensors in one file; a larger model is written as several with an index.
pub const MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// The names of [`Companions`].
const COMPANIONS: [&str; 10] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// The tokenizer, template and generation files that go with a model as they are: those that its directory
/// has. A run keeps them from its start, so that its result has them whatever becomes of the directory.
#[derive(Clone, Debug, Default)]
pub struct Companions(Vec<(&'static str, Vec<u8>)>);

impl Companions {
    /// Those of a model directory.
    ///
    /// # Errors
    /// [`Error::Input`] for one that cannot be read, or leads out of the directory.
    pub fn read(dir: &Path) -> Result<Self> {
        let mut found = Vec::new();
        for name in COMPANIONS {
            let content = enclosed::read(dir, name, enclosed::VOCABULARY)
                .map_err(|error| Error::input(format!("{}: {error}", dir.join(name).display())))?;
            found.extend(content.map(|content| (name, content)));
        }
        Ok(Self(found))
    }

    /// The content of one of them.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, content)| content.as_slice())
    }

    /// Writes them to another directory.
    ///
    /// # Errors
    /// One that cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.0.iter().try_for_each(|(name, content)| files::write(&dir.join(name), content))
    }
}

/// A tensor to be written: what the header says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorPlan {
    /// Its full name.
    pub name: String,
    /// How the elements are stored.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

impl TensorPlan {
    /// How many bytes its elements take.
    pub fn size(&self) -> usize {
        (self.shape.iter().product::<usize>() * self.dtype.bitsize()).div_ceil(8)
    }
}

/// Writes `dir` (which must exist): `config` as config.json, the tensors, and what goes with them. Every file appears whole or not at all, config.json last.
///
/// `bytes` gives the elements of one tensor at a time, little-endian, in any order of asking, so
/// that no more than one need be in memory.
///
/// Errors: a file that cannot be written; the errors of `bytes`; bytes that do not fit the plan.
pub fn save_model(
    dir: &Path,
    config: &str,
    companions: &Companions,
    tensors: &[TensorPlan],
    bytes: impl FnMut(&TensorPlan) -> Result<Vec<u8>>,
) -> Result<()> {
    save_weights(dir, tensors, MAX_SHARD_BYTES, bytes)?;
    companions.save(dir)?;
    files::write(&dir.join("config.json"), config)
}

/// Writes one safetensors file with the metadata `{"format": "pt"}`.
///
/// Errors: as [`save_model`].
pub fn save_tensors(
    path: &Path,
    tensors: &[TensorPlan],
    mut bytes: impl FnMut(&TensorPlan) -> Result<Vec<u8>>,
) -> Result<()> {
    // Wide types first keeps every tensor aligned, as the safetensors library lays them out.
    let mut order: Vec<&TensorPlan> = tensors.iter().collect();
    order.sort_by(|a, b| (b.dtype.bitsize(), &a.name).cmp(&(a.dtype.bitsize(), &b.name)));
    let header = header(&order);
    let mut failed = None;
    let written = files::write_with(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        for tensor in order {
            match bytes(tensor) {
                Ok(data) if data.len() == tensor.size() => {
                    if let Some(what) = not_finite(tensor, &data) {
                        failed = Some(Error::run(format!(
                            "{}: {what}, so it was not saved, and what was saved before is intact: lower \
                             learning_rate, or take a dtype with more range",
                            path.display()
                        )));
                        return Err(io::ErrorKind::Other.into());
                    }
                    out.write_all(&data)?;
                }
                Ok(data) => {
                    failed = Some(Error::internal(
                        "save_tensors",
                        format!("{} bytes for {tensor:?}", data.len()),
                    ));
                    return Err(io::ErrorKind::Other.into());
                }
                Err(error) => {
                    failed = Some(error);
                    return Err(io::ErrorKind::Other.into());
                }
            }
        }
        Ok(())
    });
    match failed {
        Some(error) => Err(error),
        None => written,
    }
}

/// The first number of a float tensor that is none, as it would be written.
fn not_finite(tensor: &TensorPlan, data: &[u8]) -> Option<String> {
    let dtype = from_safetensors(tensor.dtype)?;
    let at = first_non_finite(data, dtype)?;
    let value = widen(&data[at * dtype.size()..], dtype).next()?;
    Some(format!("tensor {} would hold {value} as {}", tensor.name, dtype.name()))
}

/// The JSON of a file, padded with spaces to a multiple of 8 bytes.
fn header(tensors: &[&TensorPlan]) -> String {
    let mut entries = Map::new();
    entries.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        end += tensor.size();
        entries.insert(
            tensor.name.clone(),
            json!({
                "dtype": tensor.dtype.to_string(),
                "shape": tensor.shape,
                "data_offsets": [start, end],
            }),
        );
    }
    let mut text = Value::Object(entries).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    text
}

/// The tensors as `model.safetensors`, or as shards of at most `max_bytes` with an index.
fn save_weights(
    dir: &Path,
    tensors: &[TensorPlan],
    max_bytes: u64,
    mut bytes: impl FnMut(&TensorPlan) -> Result<Vec<u8>>,
) -> Result<()> {
    let shards = shards(tensors, max_bytes);
    if let [_] | [] = shards[..] {
        return save_tensors(&dir.join("model.safetensors"), tensors, bytes);
    }
    let mut map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        save_tensors(&dir.join(&file), shard, &mut bytes)?;
        map.extend(shard.iter().map(|tensor| (tensor.name.clone(), Value::from(file.as_str()))));
    }
    map.sort_keys();
    let total: u64 = tensors.iter().map(|tensor| tensor.size() as u64).sum();
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    files::write(&dir.join("model.safetensors.index.json"), format!("{index:#}\n"))
}

/// The tensors in their order, cut where the next one would go above `max_bytes`.
fn shards(tensors: &[TensorPlan], max_bytes: u64) -> Vec<&[TensorPlan]> {
    let mut shards = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (i, tensor) in tensors.iter().enumerate() {
        let bytes = tensor.size() as u64;
        if i > start && size + bytes > max_bytes {
            shards.push(&tensors[start..i]);
            (start, size) = (i, 0);
        }
        size += bytes;
    }
    if start < tensors.len() {
        shards.push(&tensors[start..]);
    }
    shards
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::DType;
    use crate::model::Weights;

    fn plans() -> Vec<TensorPlan> {
        let plan = |name: &str, dtype, shape: &[usize]| TensorPlan {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
        };
        vec![
            plan("c", Dtype::U8, &[3]),
            plan("a", Dtype::BF16, &[2, 2]),
            plan("b", Dtype::F32, &[5]),
        ]
    }

    /// The first byte of a tensor's name, over and over.
    fn fill(tensor: &TensorPlan) -> Result<Vec<u8>> {
        Ok(vec![tensor.name.as_bytes()[0]; tensor.size()])
    }

    fn assert_saved(dir: &Path) {
        let weights = Weights::open(dir).unwrap();
        assert_eq!(weights.names().count(), 3);
        for plan in plans() {
            let tensor = weights.get(&plan.name).unwrap();
            assert_eq!((tensor.dtype, tensor.shape), (plan.dtype, &plan.shape[..]));
            assert_eq!(tensor.bytes, fill(&plan).unwrap());
        }
    }

    #[test]
    fn a_directory_is_complete_and_readable() {
        let (source, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(source.path().join("tokenizer.json"), "{}").unwrap();
        fs::write(source.path().join("pytorch_model.bin"), "x").unwrap();
        let companions = Companions::read(source.path()).unwrap();
        save_model(dir.path(), "{}\n", &companions, &plans(), fill).unwrap();
        assert_saved(dir.path());
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
        // The library itself reads the file, and its metadata says who may load it.
        let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        assert_eq!(metadata.offset_keys(), ["b", "a", "c"]);
    }

    #[test]
    fn a_large_model_is_cut_into_shards() {
        let dir = tempfile::tempdir().unwrap();
        save_weights(dir.path(), &plans(), 20, fill).unwrap();
        assert_saved(dir.path());
        assert!(dir.path().join("model-00002-of-00002.safetensors").exists());
        let index = fs::read_to_string(dir.path().join("model.safetensors.index.json")).unwrap();
        let index: Value = serde_json::from_str(&index).unwrap();
        assert_eq!(index["metadata"]["total_size"], 31);
        assert_eq!(index["weight_map"]["a"], "model-00001-of-00002.safetensors");
    }

    #[test]
    fn numbers_that_are_none_are_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let plan = |dtype| TensorPlan { name: "w".into(), dtype, shape: vec![2] };
        let path = dir.path().join("x.safetensors");
        // 70,000 is a number in f32 and in bf16.
        for (dtype, stored) in [(Dtype::F16, DType::F16), (Dtype::F32, DType::F32)] {
            let saved = save_tensors(&path, &[plan(dtype)], |_| {
                Ok(crate::dtype::f32_to_bytes(&[1.0, 70_000.0], stored))
            });
            match stored {
                DType::F32 => saved.unwrap(),
                _ => {
                    let error = saved.unwrap_err();
                    assert_eq!(error.exit_status(), 1);
                    assert!(
                        error.to_string().contains("tensor w would hold inf as float16"),
                        "{error}"
                    );
                    assert!(!path.exists());
                }
            }
        }
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let error = save_tensors(&path, &plans(), |_| Err(Error::run("device lost")));
        assert_eq!(error.unwrap_err().to_string(), "device lost");
        let short = save_tensors(&path, &plans(), |_| Ok(vec![0]));
        assert!(short.unwrap_err().to_string().contains("1 bytes for"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
