//! Typed access to the keys of a GGUF file.

use crate::gguf::Kind;
use crate::gguf::read::{Header, Tensor, Value};

/// Tensors that say how RoPE's frequencies are divided, and are no weights.
pub const OF_ROPE: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// The keys of a model.
pub struct Keys<'a> {
    header: &'a Header,
    /// `general.architecture`, which most keys begin with.
    pub architecture: &'a str,
}

impl<'a> Keys<'a> {
    pub fn new(header: &'a Header) -> Result<Self, String> {
        match header.metadata.get("general.architecture") {
            Some(Value::Text(architecture)) => Ok(Self { header, architecture }),
            _ => Err("general.architecture is missing; not a model of llama.cpp".into()),
        }
    }

    /// A key of the whole file.
    pub fn of_file(&self, key: &str) -> Option<&'a Value> {
        self.header.metadata.get(key)
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.of_file(&self.full(key))
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// What a message says of a key that does not hold what it must.
    fn bad(&self, key: &str, expected: &str, found: &Value) -> String {
        format!("{} must be {expected}, found {found:?}", self.full(key))
    }

    /// A whole number; one for each layer is one where they are equal.
    pub fn whole(&self, key: &str) -> Result<Option<usize>, String> {
        let number = match self.get(key) {
            None => return Ok(None),
            Some(Value::Whole(n)) => *n,
            Some(Value::Wholes(all)) => match &all[..] {
                [first, rest @ ..] if rest.iter().all(|n| n == first) => *first,
                _ => return Err(format!("{} differs between layers", self.full(key))),
            },
            Some(other) => return Err(self.bad(key, "a whole number", other)),
        };
        match usize::try_from(number).ok().filter(|n| *n <= i32::MAX as usize) {
            Some(n) => Ok(Some(n)),
            None => {
                Err(self.bad(key, "a whole number from 0 to 2147483647", &Value::Whole(number)))
            }
        }
    }

    /// A whole number that must be there.
    pub fn needed(&self, key: &str) -> Result<usize, String> {
        self.whole(key)?.ok_or_else(|| format!("{} is missing", self.full(key)))
    }

    /// A number, as the shortest decimal that is the same float.
    pub fn real(&self, key: &str) -> Result<Option<f64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Real(x)) if x.is_finite() => Ok(Some(shortest(*x as f32))),
            Some(Value::Whole(n)) => Ok(Some(*n as f64)),
            Some(other) => Err(self.bad(key, "a number", other)),
        }
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.bad(key, "a text", other)),
        }
    }

    /// Refuses keys that would change results and that nothing here reads.
    pub fn refuse(&self, keys: &[&str]) -> Result<(), String> {
        let set = |key: &&&str| match self.get(key) {
            None => false,
            Some(Value::Whole(n)) => *n != 0,
            Some(Value::Real(x)) => *x != 0.0,
            Some(Value::Flag(flag)) => *flag,
            Some(_) => true,
        };
        match keys.iter().find(set) {
            None => Ok(()),
            Some(key) => Err(format!("{} is set, which is not supported", self.full(key))),
        }
    }

    pub fn tensor(&self, name: &str) -> Option<&'a Tensor> {
        self.header.tensors.get(name)
    }

    /// How most weights are stored: the kind of the matrices that has most elements.
    pub fn kind(&self) -> Kind {
        let mut counts: Vec<(Kind, usize)> = Vec::new();
        for tensor in self.header.tensors.values().filter(|tensor| tensor.shape.len() > 1) {
            let elements = tensor.shape.iter().product::<usize>();
            match counts.iter_mut().find(|(kind, _)| *kind == tensor.kind) {
                Some((_, count)) => *count += elements,
                None => counts.push((tensor.kind, elements)),
            }
        }
        counts.iter().max_by_key(|(_, count)| *count).map_or(Kind::F32, |(kind, _)| *kind)
    }
}

/// The decimal of fewest digits that rounds to the same float, as config.json would have it.
pub fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}
