//! The container: magic, version 3, counts, key-value pairs, tensor infos, then the tensors, each at
//! a multiple of [`ALIGNMENT`] bytes. All numbers are little-endian; a string is its length (u64) and
//! its bytes. Source: `docs/gguf.md` of ggml.

use std::io::{self, Write};
use std::path::Path;

use super::blocks::Kind;
use crate::error::{Error, Result};
use crate::files;

/// Every tensor starts at a multiple of this many bytes from the first.
pub const ALIGNMENT: usize = 32;

/// The longest tensor name that llama.cpp reads, in bytes.
const MAX_NAME: usize = 63;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    U32(u32),
    /// A number.
    F32(f32),
    /// True or false.
    Bool(bool),
    /// UTF-8.
    Text(String),
    /// A list of whole numbers that may be negative.
    I32s(Vec<i32>),
    /// A list of numbers.
    F32s(Vec<f32>),
    /// A list of strings.
    Texts(Vec<String>),
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Words joined by dots.
    pub key: String,
    /// What it is.
    pub value: Value,
}

impl Entry {
    /// A pair.
    pub fn new(key: impl Into<String>, value: Value) -> Self {
        Self { key: key.into(), value }
    }
}

/// A tensor, as the header describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// ggml's name.
    pub name: String,
    /// How its elements are stored.
    pub kind: Kind,
    /// Sizes, outermost first (the file has them innermost first).
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// How many bytes its elements take.
    pub fn size(&self) -> usize {
        self.kind.size(self.shape.iter().product())
    }
}

/// Writes a file, whole or not at all. `bytes` gives the elements of the tensor at an index,
/// little-endian; it is asked once for each, in order.
///
/// # Errors
/// `Error::Run` for a file that cannot be written; the errors of `bytes`; `Error::Internal` for
/// bytes that do not fit the info or a name that is too long.
pub fn write(
    path: &Path,
    entries: &[Entry],
    tensors: &[TensorInfo],
    mut bytes: impl FnMut(usize) -> Result<Vec<u8>>,
) -> Result<()> {
    if let Some(tensor) = tensors.iter().find(|tensor| tensor.name.len() > MAX_NAME) {
        return Err(Error::internal("gguf", format!("the name {} is too long", tensor.name)));
    }
    let mut header = header(entries, tensors);
    pad(&mut header);
    let mut failed = None;
    let written = files::write_with(path, |out| {
        out.write_all(&header)?;
        for (index, tensor) in tensors.iter().enumerate() {
            let checked = bytes(index).and_then(|data| match data.len() == tensor.size() {
                true => Ok(data),
                false => {
                    Err(Error::internal("gguf", format!("{} bytes for {tensor:?}", data.len())))
                }
            });
            match checked {
                Ok(mut data) => {
                    pad(&mut data);
                    out.write_all(&data)?;
                }
                Err(error) => {
                    failed = Some(error);
                    return Err(io::ErrorKind::Other.into());
                }
            }
        }
        Ok(())
    });
    failed.map_or(written, Err)
}

/// Everything before the tensors, without the padding at its end.
fn header(entries: &[Entry], tensors: &[TensorInfo]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    for Entry { key, value } in entries {
        put_text(&mut out, key);
        put_value(&mut out, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        put_text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        for &size in tensor.shape.iter().rev() {
            out.extend((size as u64).to_le_bytes());
        }
        out.extend((tensor.kind as u32).to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset += tensor.size().next_multiple_of(ALIGNMENT);
    }
    out
}

/// The number of the value's type, then the value; of a list, the number of its elements' type,
/// their count, and they.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    const U32: u32 = 4;
    const I32: u32 = 5;
    const F32: u32 = 6;
    const BOOL: u32 = 7;
    const TEXT: u32 = 8;
    const LIST: u32 = 9;
    let list = |out: &mut Vec<u8>, kind: u32, len: usize| {
        out.extend(LIST.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((len as u64).to_le_bytes());
    };
    match value {
        Value::U32(x) => {
            out.extend(U32.to_le_bytes());
            out.extend(x.to_le_bytes());
        }
        Value::F32(x) => {
            out.extend(F32.to_le_bytes());
            out.extend(x.to_le_bytes());
        }
        Value::Bool(x) => {
            out.extend(BOOL.to_le_bytes());
            out.push(u8::from(*x));
        }
        Value::Text(text) => {
            out.extend(TEXT.to_le_bytes());
            put_text(out, text);
        }
        Value::I32s(items) => {
            list(out, I32, items.len());
            items.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Value::F32s(items) => {
            list(out, F32, items.len());
            items.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Value::Texts(items) => {
            list(out, TEXT, items.len());
            items.iter().for_each(|text| put_text(out, text));
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}
