//! What the inputs are made from: small files of the repository, and some written here.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A path from the repository's root.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A file of the repository.
///
/// # Panics
/// Where it is not there.
pub fn file(path: &str) -> Vec<u8> {
    let path = repository(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of this name in the folders of a folder of the repository.
pub fn files(folder: &str, name: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(repository(folder)).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path().join(name)).collect();
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

/// A safetensors file of tensors of zeros: names, dtypes with their bytes, shapes.
pub fn safetensors(tensors: &[(&str, &str, usize, &[usize])]) -> Vec<u8> {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    for (name, dtype, size, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * size;
        header.insert(
            (*name).into(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}),
        );
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + end, 0);
    bytes
}

/// The strings of a list of objects under a key, in a JSON file of the repository.
///
/// # Panics
/// Where the file is not such a list.
pub fn strings(path: &str, key: &str) -> Vec<Vec<u8>> {
    let list: Vec<Value> = serde_json::from_slice(&file(path)).expect("a list");
    let found = list.iter().filter_map(|entry| entry[key].as_str());
    found.map(|text| text.as_bytes().to_vec()).collect()
}
