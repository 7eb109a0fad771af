//! One safetensors file: its header, checked in full before a byte of data is used.
//!
//! Layout: a little-endian u64 header length, that many bytes of JSON
//! (`{"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}`), then the data.
//! A model directory may come from anywhere, so the header's size and its count of tensors are
//! capped, a name may occur once only, and the tensors must fill the data exactly.

use std::collections::BTreeMap;
use std::fmt;
#[cfg(feature = "memmap2")]
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::files::enclosed;
use crate::gguf::Kind;
use crate::gguf::read;
use crate::{Error, Result};

/// The largest header that is read, in bytes.
pub const MAX_HEADER_BYTES: usize = 16 << 20;

/// The most tensors that a file, or an index of files, may name.
pub const MAX_TENSORS: usize = 100_000;

/// What a header says of one tensor.
#[derive(Clone, Debug)]
pub(super) struct TensorEntry {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Where its bytes are in the file.
    pub bytes: Range<usize>,
    /// How a GGUF file stores it, in whose stead `dtype` is then U8.
    pub ggml: Option<Ggml>,
}

/// How a GGUF file stores a tensor, and in what it differs from Hugging Face's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ggml {
    pub kind: Kind,
    /// Heads whose rows stand with rotary pairs beside each other.
    pub heads: Option<usize>,
    /// What is added to all elements.
    pub offset: f32,
}

/// A file's bytes: mapped, or held.
enum Bytes {
    #[cfg(feature = "memmap2")]
    Mapped(Mapped),
    Held(Vec<u8>),
}

/// An open safetensors file.
pub(super) struct TensorFile {
    name: String,
    bytes: Bytes,
    pub tensors: BTreeMap<String, TensorEntry>,
}

impl TensorFile {
    /// Opens and checks the file at `path`: mapped into memory with the feature `memmap2`, read
    /// whole without it.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let failed = |error: io::Error| Error::input(format!("{name}: {error}"));
        let (dir, file) = (path.parent(), path.file_name());
        let (Some(dir), Some(file)) = (dir, file) else {
            return Err(failed(io::ErrorKind::NotFound.into()));
        };
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let found = enclosed::find(dir, file).map_err(failed)?;
        let found = found.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        Self::new(open_bytes(&found).map_err(failed)?, &name)
    }

    /// Checks a file that was read by other means; `name` is what messages call it.
    pub fn from_bytes(bytes: Vec<u8>, name: &str) -> Result<Self> {
        Self::new(Bytes::Held(bytes), name)
    }

    fn new(bytes: Bytes, name: &str) -> Result<Self> {
        let mut file = Self { name: name.to_owned(), bytes, tensors: BTreeMap::new() };
        file.tensors =
            read_header(file.data()).map_err(|what| Error::input(format!("{name}: {what}")))?;
        Ok(file)
    }

    /// Opens and checks the GGUF file at `path`, whose tensors have ggml's names; what else it says.
    pub fn open_gguf(path: &Path) -> Result<(Self, read::Header)> {
        let name = path.display().to_string();
        let bytes = open_bytes(path).map_err(|error| Error::input(format!("{name}: {error}")))?;
        let mut file = Self { name: name.clone(), bytes, tensors: BTreeMap::new() };
        let header = read::Header::read(file.data(), file.data().len())
            .map_err(|what| Error::input(format!("{name}: {what}")))?;
        let entries = header.tensors.iter().map(|(name, tensor)| {
            let ggml = Some(Ggml { kind: tensor.kind, heads: None, offset: 0.0 });
            let (shape, bytes) = (tensor.shape.clone(), tensor.bytes.clone());
            (name.clone(), TensorEntry { dtype: Dtype::U8, shape, bytes, ggml })
        });
        file.tensors = entries.collect();
        Ok((file, header))
    }

    /// All bytes of the file; the ranges of the entries lie within.
    pub fn data(&self) -> &[u8] {
        match &self.bytes {
            #[cfg(feature = "memmap2")]
            Bytes::Mapped(mapped) => &mapped.map,
            Bytes::Held(bytes) => bytes,
        }
    }

    /// Whether the file is as it was when it was opened.
    pub fn unchanged(&self) -> Result<()> {
        match &self.bytes {
            #[cfg(feature = "memmap2")]
            Bytes::Mapped(mapped) if !mapped.is_unchanged() => Err(Error::run(format!(
                "{}: the file changed while it was read: leave the model as it is until it is \
                 loaded, and start again",
                self.name
            ))),
            _ => Ok(()),
        }
    }
}

/// A mapped file, and how it was then.
#[cfg(feature = "memmap2")]
struct Mapped {
    map: memmap2::Mmap,
    file: File,
    state: State,
}

/// Size and time of the last change, where the system knows it.
#[cfg(feature = "memmap2")]
type State = (u64, Option<std::time::SystemTime>);

#[cfg(feature = "memmap2")]
fn state(file: &File) -> io::Result<State> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), metadata.modified().ok()))
}

#[cfg(feature = "memmap2")]
impl Mapped {
    fn is_unchanged(&self) -> bool {
        state(&self.file).is_ok_and(|state| state == self.state)
    }
}

#[cfg(feature = "memmap2")]
fn open_bytes(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let state = state(&file)?;
    if state.0 == 0 {
        // An empty file cannot be mapped; the header check reports it.
        return Ok(Bytes::Held(Vec::new()));
    }
    // SAFETY: the map is only read, and every read is of plain bytes within its length. What remains
    // is a file that another process truncates or rewrites while it is mapped, which no reader of
    // mapped files can exclude; `unchanged` tells, and this crate itself replaces files by renaming,
    // never in place.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    Ok(Bytes::Mapped(Mapped { map, file, state }))
}

#[cfg(not(feature = "memmap2"))]
fn open_bytes(path: &Path) -> io::Result<Bytes> {
    std::fs::read(path).map(Bytes::Held)
}

/// The entries of a whole file, or what is wrong with it.
fn read_header(data: &[u8]) -> Result<BTreeMap<String, TensorEntry>, String> {
    if data.starts_with(b"version https://git-lfs") {
        return Err("this is a Git LFS pointer, not the weights; run `git lfs pull`".into());
    }
    let Some((length, rest)) = data.split_first_chunk::<8>() else {
        return Err(format!("only {} bytes long; not a safetensors file", data.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES as u64 {
        return Err(format!(
            "the header claims {length} bytes, more than the {MAX_HEADER_BYTES} that are allowed; \
             not a safetensors file, or a corrupt one"
        ));
    }
    let Some((header, body)) = rest.split_at_checked(length as usize) else {
        return Err(format!(
            "truncated: the header has {length} bytes, but only {} follow; download it again",
            rest.len()
        ));
    };
    let header: Header = serde_json::from_slice(header)
        .map_err(|error| format!("the safetensors header is not valid: {error}"))?;
    let start = 8 + length as usize;
    let tensors = header
        .0
        .into_iter()
        .map(|(name, raw)| {
            let entry = raw.check(start).map_err(|what| format!("tensor {name}: {what}"))?;
            Ok((name, entry))
        })
        .collect::<Result<BTreeMap<_, _>, String>>()?;
    check_layout(&tensors, start, body.len())?;
    Ok(tensors)
}

/// Tensors must lie one after the other and fill the data exactly.
fn check_layout(
    tensors: &BTreeMap<String, TensorEntry>,
    start: usize,
    available: usize,
) -> Result<(), String> {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, entry)| (entry.bytes.start, entry.bytes.end));
    let mut end = start;
    for (name, entry) in order {
        if entry.bytes.start != end {
            return Err(format!(
                "tensor {name} starts at byte {} of the data, where {} was expected; the file is \
                 corrupt",
                entry.bytes.start - start,
                end - start
            ));
        }
        end = entry.bytes.end;
    }
    let claimed = end - start;
    match available.cmp(&claimed) {
        std::cmp::Ordering::Less => Err(format!(
            "truncated: the tensors need {claimed} bytes of data, but only {available} are there; \
             download it again"
        )),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(format!(
            "{} bytes follow the last tensor; the file is corrupt",
            available - claimed
        )),
    }
}

/// One entry as JSON has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl RawEntry {
    fn check(self, start: usize) -> Result<TensorEntry, String> {
        let (from, to) = self.data_offsets;
        let bits = self
            .shape
            .iter()
            .try_fold(self.dtype.bitsize(), |bits, &size| bits.checked_mul(size))
            .ok_or_else(|| format!("shape {:?} is too large", self.shape))?;
        let too_far = || format!("data_offsets {:?} are out of range", (from, to));
        let range = Range {
            start: start.checked_add(from).ok_or_else(too_far)?,
            end: start.checked_add(to).ok_or_else(too_far)?,
        };
        if to < from || (to - from).checked_mul(8) != Some(bits) {
            return Err(format!(
                "data_offsets {:?} do not fit {} of shape {:?}",
                (from, to),
                self.dtype,
                self.shape
            ));
        }
        Ok(TensorEntry { dtype: self.dtype, shape: self.shape, bytes: range, ggml: None })
    }
}

/// A header: names in the order of the file, each once.
struct Header(Vec<(String, RawEntry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        UniqueMap { what: "tensor", skip: Some("__metadata__"), value: std::marker::PhantomData }
            .deserialize(deserializer)
            .map(Header)
    }
}

/// Reads a JSON object into pairs, refusing a repeated key and more than [`MAX_TENSORS`] keys;
/// plain maps would silently keep the last of two.
pub(super) struct UniqueMap<V> {
    /// What the keys name, for messages.
    pub what: &'static str,
    /// A key whose value is left out.
    pub skip: Option<&'static str>,
    /// The type of the values.
    pub value: std::marker::PhantomData<V>,
}

impl<'de, V: Deserialize<'de>> DeserializeSeed<'de> for UniqueMap<V> {
    type Value = Vec<(String, V)>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, V: Deserialize<'de>> Visitor<'de> for UniqueMap<V> {
    type Value = Vec<(String, V)>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "an object with one key per {}", self.what)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if self.skip == Some(key.as_str()) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("{} {key} occurs twice", self.what)));
            }
            if pairs.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} of {}", self.what)));
            }
            pairs.push((key, map.next_value()?));
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Result<TensorFile> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 7);
        TensorFile::from_bytes(bytes, "x.safetensors")
    }

    const A: &str = r#""a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}"#;
    const B: &str = r#""b": {"dtype": "BF16", "shape": [], "data_offsets": [8, 10]}"#;

    #[test]
    fn reads_entries_and_skips_metadata() {
        let good =
            file(&format!(r#"{{"__metadata__": {{"format": "pt"}}, {B}, {A}}}"#), 10).unwrap();
        let names: Vec<_> = good.tensors.keys().collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(good.data()[good.tensors["b"].bytes.clone()], [7, 7]);
    }

    #[test]
    fn every_inconsistency_is_an_error_that_says_what() {
        let cases = [
            (format!("{{{A}, {B}}}"), 9, "truncated: the tensors need 10 bytes"),
            (format!("{{{A}, {B}}}"), 11, "1 bytes follow the last tensor"),
            (format!("{{{A}, {A}}}"), 8, "tensor a occurs twice"),
            (format!("{{{B}}}"), 10, "tensor b starts at byte 8"),
            (A.replace("[2]", "[3]"), 8, "do not fit"),
            (A.replace("[2]", "[9223372036854775807, 9223372036854775807]"), 8, "too large"),
            (A.replace("[0, 8]", "[8, 0]"), 8, "do not fit"),
            (A.replace("F32", "F33"), 8, "not valid"),
            ("[".into(), 0, "not valid"),
        ];
        for (header, data, expected) in cases {
            let header = match header.starts_with('"') {
                true => format!("{{{header}}}"),
                false => header,
            };
            let Err(error) = file(&header, data) else { panic!("{header} was accepted") };
            let message = error.to_string();
            assert!(
                message.starts_with("x.safetensors: ") && message.contains(expected),
                "{message}"
            );
        }
        let open = |bytes: &[u8]| match TensorFile::from_bytes(bytes.to_vec(), "x") {
            Ok(_) => panic!("accepted"),
            Err(error) => error.to_string(),
        };
        assert!(open(b"abc").contains("only 3 bytes long"));
        assert!(open(&u64::MAX.to_le_bytes()).contains("claims"));
        assert!(open(&100u64.to_le_bytes()).contains("truncated"));
        assert!(open(b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
    }
}
