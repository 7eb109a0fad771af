//! The weights of a model: one safetensors file of a directory or several with an index, or a GGUF file.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use safetensors::Dtype;
use serde::de::DeserializeSeed;

use super::config::ModelConfig;
use super::float;
use super::gguf;
use super::tensor_file::{Ggml, TensorFile, UniqueMap};
use crate::files::enclosed;
use crate::{DType, Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Tensors by name, over one or several safetensors files.
pub struct Weights {
    /// What messages call them: a directory or a file.
    place: String,
    files: Vec<TensorFile>,
    /// Which file each tensor is in, and what it is called there.
    places: BTreeMap<String, (usize, String)>,
    /// Tensors that an index has in a file that does not have them.
    absent: BTreeMap<String, String>,
}

/// A tensor as it lies in its file.
#[derive(Clone, Copy, Debug)]
pub struct TensorSlice<'a> {
    /// How the elements are stored; U8 for those of a GGUF file, see [`TensorSlice::stored_as`].
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: &'a [usize],
    /// The elements, row-major, little-endian. Not aligned.
    pub bytes: &'a [u8],
    ggml: Option<Ggml>,
}

impl<'a> TensorSlice<'a> {
    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, where they are elements of `dtype`.
    pub fn bytes_of(&self, dtype: DType) -> Option<&'a [u8]> {
        let stored = match self.ggml {
            Some(Ggml { kind, heads: None, offset: 0.0 }) => kind.dtype(),
            Some(_) => None,
            None => float::from_safetensors(self.dtype),
        };
        (stored == Some(dtype)).then_some(self.bytes)
    }

    /// Whether the elements are numbers that weights may be: floats, or blocks of a GGUF file.
    pub fn is_float(&self) -> bool {
        self.ggml.is_some() || float::is_float(self.dtype)
    }

    /// The name of the type.
    pub fn stored_as(&self) -> String {
        self.ggml.map_or_else(|| self.dtype.to_string(), |ggml| ggml.kind.name().to_string())
    }

    /// The elements as f32, exactly but for F64, which is rounded; `None` where they are no floats. Those
    /// of a GGUF file come in Hugging Face's order.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let Some(Ggml { kind, heads, offset }) = self.ggml else {
            return float::decode(self.bytes, self.dtype);
        };
        let mut values = kind.decode(self.bytes);
        if offset != 0.0 {
            values.iter_mut().for_each(|x| *x -= offset);
        }
        match heads {
            Some(heads) => Some(halves(&values, heads, self.shape.first().copied()?)),
            None => Some(values),
        }
    }
}

/// Rows of q or k [heads * HD, ...] with rotary pairs beside each other, in the order of Hugging Face's
/// models: the pairs are rows `i` and `i + HD / 2` of a head.
fn halves(values: &[f32], heads: usize, rows: usize) -> Vec<f32> {
    let (columns, width) = (values.len() / rows.max(1), rows / heads.max(1));
    let source = |row: usize| {
        let (head, i) = (row / width, row % width);
        head * width + i % (width / 2) * 2 + i / (width / 2)
    };
    (0..rows).flat_map(|row| &values[source(row) * columns..][..columns]).copied().collect()
}

impl Weights {
    /// Whether `dir` has files of weights.
    pub fn are_in(dir: &Path) -> bool {
        // A link to nowhere is one too: opening it says so.
        gguf::is_gguf(dir)
            || [SINGLE, INDEX].iter().any(|name| dir.join(name).symlink_metadata().is_ok())
    }

    /// Opens a GGUF file, or `model.safetensors` or the files of `model.safetensors.index.json` in `dir`.
    ///
    /// Where a shard is is what counts, not what the index says is in it, as in Transformers.
    ///
    /// Errors: neither is there; a file is missing, truncated or malformed; an index that points
    /// out of the directory.
    pub fn open(dir: &Path) -> Result<Self> {
        if gguf::is_gguf(dir) {
            return Self::open_gguf(dir);
        }
        let find = |name: &str| {
            enclosed::find(dir, name)
                .map_err(|error| Error::input(format!("{}: {error}", dir.join(name).display())))
        };
        let weights = match (find(SINGLE)?, find(INDEX)?) {
            (Some(single), _) => Self::open_file(&single)?,
            (None, Some(index)) => Self::open_index(dir, &index)?,
            (None, None) => return Err(no_weights(dir)),
        };
        Ok(Self { place: dir.display().to_string(), ..weights })
    }

    /// Opens one safetensors file.
    pub fn open_file(path: &Path) -> Result<Self> {
        Self::from_files(vec![(TensorFile::open(path)?, path.display().to_string())])
    }

    /// The weights of a GGUF file, under the names of its model.
    fn open_gguf(path: &Path) -> Result<Self> {
        let (mut file, header) = TensorFile::open_gguf(path)?;
        let splits = header.metadata.get("split.count");
        if splits.is_some_and(|count| *count != crate::gguf::read::Value::Whole(1)) {
            return Err(Error::input(format!(
                "{}: is one of several files of a model; join them with `llama-gguf-split --merge`",
                path.display()
            )));
        }
        let spec = ModelConfig::open(path)?.spec;
        let mut names = BTreeMap::new();
        for tensor in spec.tensors() {
            if let Some(entry) = file.tensors.get_mut(&tensor.gguf)
                && let Some(Ggml { heads, offset, .. }) = &mut entry.ggml
            {
                *heads = spec.interleaved_heads(&tensor);
                *offset = tensor.norm_offset();
            }
            names.insert(tensor.gguf.clone(), tensor.name);
        }
        // What the config was made from.
        for name in gguf::keys::OF_ROPE {
            file.tensors.remove(name);
        }
        let mut weights = Self::of_file(file, path);
        weights.rename(|name| names.get(name).cloned().unwrap_or_else(|| name.to_string()))?;
        Ok(weights)
    }

    /// Those of one file that is open.
    fn of_file(file: TensorFile, path: &Path) -> Self {
        let place = |name: &String| (name.clone(), (0, name.clone()));
        let places = file.tensors.keys().map(place).collect();
        let (place, absent) = (path.display().to_string(), BTreeMap::new());
        Self { place, files: vec![file], places, absent }
    }

    /// Takes safetensors files that were read by other means, as (name, bytes).
    pub fn from_bytes(files: Vec<(String, Vec<u8>)>) -> Result<Self> {
        let open =
            |(name, bytes): (String, Vec<u8>)| Ok((TensorFile::from_bytes(bytes, &name)?, name));
        Self::from_files(files.into_iter().map(open).collect::<Result<Vec<_>>>()?)
    }

    fn open_index(dir: &Path, index: &Path) -> Result<Self> {
        let place = index.display();
        let listed = read_index(dir, index)?;
        let mut names: Vec<&str> = listed.iter().map(|(_, file)| file.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let mut files = Vec::with_capacity(names.len());
        for name in &names {
            let path = shard_path(dir, name).map_err(|what| {
                Error::input(format!("{place}: the file {name:?} of weight_map {what}"))
            })?;
            let file = TensorFile::open(&path).map_err(|error| {
                Error::input(format!("{place}: the file {name:?} of weight_map: {error}"))
            })?;
            files.push((file, path.display().to_string()));
        }
        let mut weights = Self::from_files(files)?;
        let absent = listed.iter().filter(|(tensor, _)| !weights.places.contains_key(tensor));
        weights.absent = absent.cloned().collect();
        Ok(weights)
    }

    fn from_files(files: Vec<(TensorFile, String)>) -> Result<Self> {
        let mut places = BTreeMap::new();
        for (i, (file, name)) in files.iter().enumerate() {
            for tensor in file.tensors.keys() {
                if let Some((first, _)) = places.insert(tensor.clone(), (i, tensor.clone())) {
                    return Err(Error::input(format!(
                        "{name}: tensor {tensor} is also in {}",
                        files[first].1
                    )));
                }
            }
        }
        let place = match &files[..] {
            [(_, name)] => name.clone(),
            _ => "the weights".to_owned(),
        };
        let files = files.into_iter().map(|(file, _)| file).collect();
        Ok(Self { place, files, places, absent: BTreeMap::new() })
    }

    /// Calls tensors by other names: by what `name` gives for the one in the file.
    ///
    /// Errors: two that get the same name.
    pub(super) fn rename(&mut self, name: impl Fn(&str) -> String) -> Result<()> {
        let mut places = BTreeMap::new();
        for (old, place) in std::mem::take(&mut self.places) {
            let new = name(&old);
            if let Some((_, other)) = places.insert(new.clone(), place) {
                return Err(Error::input(format!(
                    "{}: the tensors {other} and {old} are both {new}",
                    self.place
                )));
            }
        }
        self.places = places;
        Ok(())
    }

    /// Takes what is called `old` for `new` too.
    pub(super) fn alias(&mut self, old: &str, new: &str) {
        if let Some(place) = self.places.get(old).cloned() {
            self.places.insert(new.to_string(), place);
        }
    }

    /// The tensor `name`, if it is there.
    pub fn get(&self, name: &str) -> Option<TensorSlice<'_>> {
        let (file, name) = self.places.get(name)?;
        let file = &self.files[*file];
        let entry = &file.tensors[name];
        Some(TensorSlice {
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: &file.data()[entry.bytes.clone()],
            ggml: entry.ggml,
        })
    }

    /// The tensor `name`, or an error that it is missing.
    pub fn expect(&self, name: &str) -> Result<TensorSlice<'_>> {
        self.get(name).ok_or_else(|| {
            Error::input(format!(
                "{}: there is no tensor {name}{}",
                self.place,
                self.promised(name)
            ))
        })
    }

    /// What a message adds about a tensor that is not there.
    pub(super) fn promised(&self, name: &str) -> String {
        match self.absent.get(name) {
            Some(file) => format!(
                "; {INDEX} says that it is in {file}, which does not have it: download the files again"
            ),
            None => String::new(),
        }
    }

    /// What messages call the weights: the directory or file that they were opened from.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether the files are as they were when they were opened. They are mapped, not read: what is
    /// taken from one that changed in between is neither the old nor the new model.
    ///
    /// # Errors
    /// [`Error::Run`] with the file that changed.
    pub fn unchanged(&self) -> Result<()> {
        self.files.iter().try_for_each(TensorFile::unchanged)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }
}

/// The pairs (tensor, file) of an index.
fn read_index(dir: &Path, path: &Path) -> Result<Vec<(String, String)>> {
    #[derive(serde::Deserialize)]
    struct Index {
        #[serde(deserialize_with = "unique")]
        weight_map: Vec<(String, String)>,
    }
    fn unique<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<(String, String)>, D::Error> {
        UniqueMap { what: "tensor", skip: None, value: std::marker::PhantomData }.deserialize(d)
    }
    let text = enclosed::expected_text(dir, INDEX, enclosed::SETTINGS)
        .map_err(|error| Error::input(format!("{}: {error}", path.display())))?;
    let index: Index = serde_json::from_str(&text)
        .map_err(|error| Error::input(format!("{}: not a valid index: {error}", path.display())))?;
    Ok(index.weight_map)
}

/// Where a file named by an index is, which must be in the directory of the index: an index may
/// come from anywhere, and must not make this program read other files.
fn shard_path(dir: &Path, name: &str) -> Result<PathBuf, String> {
    let inside = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    if name.is_empty() || !Path::new(name).components().all(inside) {
        return Err("leads out of the directory; an index may only name files below it".into());
    }
    let path = enclosed::find(dir, name).map_err(|error| error.to_string())?;
    path.ok_or_else(|| "is missing: download the model again, whole".into())
}

/// Why a directory has no weights that can be read.
fn no_weights(dir: &Path) -> Error {
    let place = dir.display();
    if !dir.is_dir() {
        return Error::input(format!("{place}: no such directory"));
    }
    for pickle in ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"] {
        if dir.join(pickle).exists() {
            return Error::input(format!(
                "{place}: the weights are in {pickle}, a Python pickle, which can run any code and \
                 is not read; {}",
                conversion(dir, pickle)
            ));
        }
    }
    Error::input(format!(
        "{place}: no weights: neither {SINGLE} nor {INDEX} is there; download the whole model, or \
         save it with Transformers' `save_pretrained`"
    ))
}

/// How to make what is read here of a pickle.
fn conversion(dir: &Path, pickle: &str) -> String {
    if pickle.ends_with(".pth") {
        return "it is in Meta's own form: use the model's repository in Hugging Face form".into();
    }
    let from = dir.display().to_string();
    let from = from.trim_end_matches('/');
    format!(
        "if you trust it, convert it with\n  python -c \"from transformers import \
         AutoModelForCausalLM as M, AutoTokenizer as T; d = '{from}'; o = d + '-safetensors'; \
         M.from_pretrained(d, dtype='auto').save_pretrained(o); \
         T.from_pretrained(d).save_pretrained(o)\"\nand take {from}-safetensors"
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A safetensors file of F32 tensors that hold 0, 1, 2, ...
    fn file(tensors: &[(&str, &[usize])]) -> Vec<u8> {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, shape) in tensors {
            let from = data.len();
            let count: usize = shape.iter().product();
            data.extend((0..count).flat_map(|i| (i as f32).to_le_bytes()));
            let entry = serde_json::json!(
                {"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]}
            );
            header.insert(name.to_string(), entry);
        }
        let header = serde_json::Value::Object(header).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn message(result: Result<Weights>) -> String {
        match result {
            Ok(_) => panic!("was accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_single_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(SINGLE), file(&[("w", &[2, 3]), ("b", &[3])])).unwrap();
        let weights = Weights::open(dir.path()).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["b", "w"]);
        let w = weights.get("w").unwrap();
        assert_eq!((w.dtype, w.shape, w.len()), (Dtype::F32, &[2, 3][..], 6));
        assert_eq!(w.to_f32().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(w.bytes_of(DType::F32), Some(w.bytes));
        assert!(w.bytes_of(DType::BF16).is_none());
        assert!(weights.get("x").is_none());
    }

    #[test]
    fn shards_are_found_through_the_index() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("1.safetensors"), file(&[("a", &[1])])).unwrap();
        fs::write(dir.path().join("2.safetensors"), file(&[("b", &[4])])).unwrap();
        let index = |map: &str| {
            fs::write(
                dir.path().join(INDEX),
                format!(r#"{{"metadata": {{}}, "weight_map": {map}}}"#),
            )
            .unwrap();
            Weights::open(dir.path())
        };
        let weights = index(r#"{"a": "1.safetensors", "b": "2.safetensors"}"#).unwrap();
        assert_eq!(weights.get("b").unwrap().len(), 4);
        // As Transformers has it: the files that are named count, and everything in them.
        let swapped = index(r#"{"a": "2.safetensors", "b": "1.safetensors"}"#).unwrap();
        assert_eq!(swapped.get("a").unwrap().len(), 1);
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::copy(dir.path().join("1.safetensors"), dir.path().join("below/x")).unwrap();
        assert!(index(r#"{"a": "below/x"}"#).unwrap().get("a").is_some());
        let short = index(r#"{"a": "1.safetensors", "c": "1.safetensors"}"#).unwrap();
        let missing = short.expect("c").map(|_| ()).unwrap_err().to_string();
        assert!(missing.contains("says that it is in 1.safetensors"), "{missing}");
        for (map, expected) in [
            (r#"{"a": "3.safetensors"}"#, "\"3.safetensors\" of weight_map is missing"),
            (r#"{"a": "../1.safetensors"}"#, "leads out of the directory"),
            (r#"{"a": "below/../../x"}"#, "leads out of the directory"),
            (r#"{"a": "/etc/passwd"}"#, "leads out of the directory"),
            (r#"{"a": "1.safetensors", "a": "2.safetensors"}"#, "tensor a occurs twice"),
        ] {
            let message = message(index(map));
            assert!(message.contains(expected), "{message}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_may_lead_into_a_cache_but_not_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        let snapshot = root.path().join("snapshots/abc");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(root.path().join("blobs")).unwrap();
        fs::write(root.path().join("blobs/1"), file(&[("a", &[1])])).unwrap();
        fs::write(root.path().join("outside"), file(&[("a", &[1])])).unwrap();
        fs::write(snapshot.join(INDEX), r#"{"weight_map": {"a": "x.safetensors"}}"#).unwrap();
        let link = snapshot.join("x.safetensors");
        std::os::unix::fs::symlink("../../blobs/1", &link).unwrap();
        assert!(Weights::open(&snapshot).unwrap().get("a").is_some());
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("../../outside", &link).unwrap();
        assert!(message(Weights::open(&snapshot)).contains("link out of the directory"));
    }

    #[test]
    fn a_directory_without_safetensors_says_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        assert!(message(Weights::open(dir.path())).contains("no weights"));
        fs::write(dir.path().join("pytorch_model.bin"), b"x").unwrap();
        let pickle = message(Weights::open(dir.path()));
        assert!(pickle.contains("a Python pickle") && pickle.contains("save_pretrained(o)"));
        assert!(message(Weights::open(&dir.path().join("none"))).contains("no such directory"));
    }
}
