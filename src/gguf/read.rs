//! Reads the container: the keys, and where each tensor lies.
//!
//! A file may come from anywhere, so nothing is believed: a count is checked against the bytes that are
//! left before anything is allocated for it, and tensors must lie within the file.

use std::collections::BTreeMap;
use std::ops::Range;

use super::blocks::Kind;

/// The most tensors, and keys.
const MAX_ENTRIES: u64 = 100_000;

/// The most strings of all lists together: several of the largest vocabularies with their merges.
const MAX_STRINGS: usize = 4 << 20;

/// The most sizes that ggml's tensors have.
const MAX_DIMENSIONS: u32 = 4;

/// A value of the metadata; numbers of all widths are one kind.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    Whole(i64),
    Real(f64),
    Flag(bool),
    Text(String),
    Wholes(Vec<i64>),
    Reals(Vec<f32>),
    Flags(Vec<bool>),
    Texts(Vec<String>),
}

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// How its elements are stored.
    pub kind: Kind,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes are in the file.
    pub bytes: Range<usize>,
}

/// Everything before the tensors' bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    /// The keys.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors by ggml's names.
    pub tensors: BTreeMap<String, Tensor>,
    /// The elements of small tensors that are settings rather than weights: RoPE's divisors.
    pub reals: BTreeMap<String, Vec<f32>>,
}

impl Header {
    /// Reads the header from the beginning `data` of a file of `len` bytes. Its `reals` are not read.
    ///
    /// Errors: in words, what is wrong with the file, or that `data` ends too early.
    pub fn read(data: &[u8], len: usize) -> Result<Self, String> {
        if data.starts_with(b"version https://git-lfs") {
            return Err("this is a Git LFS pointer, not the model; run `git lfs pull`".into());
        }
        let mut reader = Reader { data, at: 0, strings: 0 };
        if reader.take(4)? != b"GGUF" {
            return Err("not a GGUF file".into());
        }
        match reader.u32()? {
            2 | 3 => {}
            version if version.swap_bytes() <= 3 => {
                return Err("the file is big-endian, which is not supported".into());
            }
            version => return Err(format!("is of version {version}; versions 2 and 3 are read")),
        }
        let (tensors, keys) = (reader.u64()?, reader.u64()?);
        if tensors > MAX_ENTRIES || keys > MAX_ENTRIES {
            return Err(format!("claims {tensors} tensors and {keys} keys; the file is corrupt"));
        }
        let mut header = Self::default();
        for _ in 0..keys {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = reader.value(kind).map_err(|what| format!("{key}: {what}"))?;
            if header.metadata.insert(key.clone(), value).is_some() {
                return Err(format!("the key {key} occurs twice"));
            }
        }
        header.read_tensors(&mut reader, tensors, len)?;
        Ok(header)
    }

    fn read_tensors(&mut self, reader: &mut Reader, count: u64, len: usize) -> Result<(), String> {
        let mut infos = Vec::new();
        for _ in 0..count {
            let name = reader.text()?;
            let info = reader.info().map_err(|what| format!("tensor {name} {what}"))?;
            infos.push((name, info));
        }
        let alignment = match self.metadata.get("general.alignment") {
            None => 32,
            Some(Value::Whole(n)) if (1..=1 << 20).contains(n) && (*n as u64).is_power_of_two() => {
                *n as usize
            }
            Some(other) => return Err(format!("general.alignment is {other:?}")),
        };
        let start = reader.at.next_multiple_of(alignment);
        for (name, (kind, shape, offset)) in infos {
            let size = kind.size(shape.iter().product());
            let from = usize::try_from(offset).ok().and_then(|offset| start.checked_add(offset));
            let range = from.and_then(|from| Some(from..from.checked_add(size)?));
            let range = range.filter(|range| range.end <= len).ok_or_else(|| {
                format!(
                    "truncated: tensor {name} goes beyond the end of the file; download it again"
                )
            })?;
            let tensor = Tensor { kind, shape, bytes: range };
            if self.tensors.insert(name.clone(), tensor).is_some() {
                return Err(format!("tensor {name} occurs twice"));
            }
        }
        Ok(())
    }
}

struct Reader<'a> {
    data: &'a [u8],
    at: usize,
    /// Strings of lists so far.
    strings: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.data.len());
        let end = end.ok_or("truncated, or not a GGUF file; download it again")?;
        let bytes = &self.data[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| "truncated".to_string())
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things that take at least `size` bytes each, all of which must be there.
    fn count(&mut self, size: usize) -> Result<usize, String> {
        let count = self.u64()?;
        let left = self.data.len() - self.at;
        match usize::try_from(count)
            .ok()
            .filter(|&n| n.checked_mul(size).is_some_and(|n| n <= left))
        {
            Some(count) => Ok(count),
            None => Err(format!("claims {count} elements, which the file has no room for")),
        }
    }

    fn text(&mut self) -> Result<String, String> {
        let count = self.count(1)?;
        // Tokens of some vocabularies are not UTF-8; what stands for them matches no text either.
        self.take(count).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// A number or flag of a type by its number, as bits of a whole or a real number.
    fn number(&mut self, kind: u32) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Whole(self.array::<1>()?[0].into()),
            1 => Value::Whole(i64::from(self.array::<1>()?[0] as i8)),
            2 => Value::Whole(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Whole(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Whole(self.u32()?.into()),
            5 => Value::Whole(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Real(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Flag(self.array::<1>()?[0] != 0),
            10 => Value::Whole(i64::try_from(self.u64()?).unwrap_or(i64::MAX)),
            11 => Value::Whole(i64::from_le_bytes(self.array()?)),
            12 => Value::Real(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("has the unknown type {other}")),
        })
    }

    fn value(&mut self, kind: u32) -> Result<Value, String> {
        match kind {
            8 => self.text().map(Value::Text),
            9 => {
                let kind = self.u32()?;
                self.list(kind)
            }
            kind => self.number(kind),
        }
    }

    fn list(&mut self, kind: u32) -> Result<Value, String> {
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err("is a list of lists, which no known key is".into()),
            other => return Err(format!("is a list of the unknown type {other}")),
        };
        let count = self.count(size)?;
        if kind == 8 {
            self.strings += count;
            if self.strings > MAX_STRINGS {
                return Err(format!("more than {MAX_STRINGS} strings"));
            }
            return (0..count).map(|_| self.text()).collect::<Result<_, _>>().map(Value::Texts);
        }
        let (mut wholes, mut reals, mut flags) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            match self.number(kind)? {
                Value::Whole(n) => wholes.push(n),
                Value::Real(x) => reals.push(x as f32),
                Value::Flag(flag) => flags.push(flag),
                _ => {}
            }
        }
        Ok(match kind {
            6 | 12 => Value::Reals(reals),
            7 => Value::Flags(flags),
            _ => Value::Wholes(wholes),
        })
    }

    /// What the header says of one tensor: its kind, sizes and offset.
    fn info(&mut self) -> Result<(Kind, Vec<usize>, u64), String> {
        let dimensions = self.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(format!(
                "has {dimensions} dimensions; at most {MAX_DIMENSIONS} are allowed"
            ));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = self.u64()?;
            shape.push(usize::try_from(size).map_err(|_| format!("has the size {size}"))?);
        }
        let kind = Kind::of_number(self.u32()?)?;
        let elements = shape.iter().try_fold(4usize, |n, &size| n.checked_mul(size));
        let innermost = shape.first().copied().unwrap_or(1);
        if elements.is_none() || !innermost.is_multiple_of(kind.block().0) {
            return Err(format!("of sizes {shape:?} cannot be stored as {}", kind.name()));
        }
        shape.reverse();
        Ok((kind, shape, self.u64()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::container::{Entry, TensorInfo, Value as Out, write};

    fn file() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        let entries = [
            Entry::new("a", Out::U32(7)),
            Entry::new("b", Out::Texts(vec!["x".into(), String::new()])),
            Entry::new("c", Out::F32s(vec![0.5])),
            Entry::new("d", Out::Bool(true)),
        ];
        let info = |name: &str, kind, shape: &[usize]| TensorInfo {
            name: name.into(),
            kind,
            shape: shape.to_vec(),
        };
        let tensors = [info("t", Kind::F32, &[3]), info("u", Kind::Q8_0, &[2, 32])];
        write(&path, &entries, &tensors, |i| Ok(vec![i as u8 + 1; tensors[i].size()])).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = file();
        let header = Header::read(&bytes, bytes.len()).unwrap();
        assert_eq!(header.metadata["a"], Value::Whole(7));
        assert_eq!(header.metadata["b"], Value::Texts(vec!["x".into(), String::new()]));
        assert_eq!(header.metadata["c"], Value::Reals(vec![0.5]));
        assert_eq!(header.metadata["d"], Value::Flag(true));
        let tensor = &header.tensors["u"];
        assert_eq!((tensor.kind, &tensor.shape[..]), (Kind::Q8_0, &[2, 32][..]));
        assert_eq!(bytes[tensor.bytes.clone()], [2; 68]);
    }

    #[test]
    fn no_cut_or_changed_file_panics_or_reads_beyond_its_end() {
        let good = file();
        for end in 0..good.len() - 40 {
            assert!(Header::read(&good[..end], end).is_err(), "cut at {end}");
        }
        for at in 0..good.len() - 128 {
            for value in [0, 1, 0x7F, 0xFF] {
                let mut bytes = good.clone();
                bytes[at] = value;
                if let Ok(header) = Header::read(&bytes, bytes.len()) {
                    assert!(header.tensors.values().all(|t| t.bytes.end <= bytes.len()));
                }
            }
        }
    }

    #[test]
    fn other_types_are_refused_by_name() {
        let mut bytes = file();
        // The kind of the tensor u, after its name and two sizes.
        let at = bytes.windows(9).position(|w| w == b"\x01\0\0\0\0\0\0\0u").unwrap() + 9 + 4 + 16;
        bytes[at] = 23;
        let message = Header::read(&bytes, bytes.len()).unwrap_err();
        assert!(message.contains("tensor u is stored as IQ4_XS"), "{message}");
        bytes[4] = 1;
        assert!(Header::read(&bytes, bytes.len()).unwrap_err().contains("version 1"));
    }
}
