//! What tells one base model from another, without reading all of it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Weights;
use crate::files::checksum::{Checksum, checksum};

/// Keys of config.json that say nothing of what the model computes.
const WITHOUT_EFFECT: [&str; 5] =
    ["_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache"];

/// Of each tensor so many pieces of so many bytes are looked at, the first and the last among them.
const PIECES: usize = 32;
const PIECE: usize = 128;

/// Checksums of a base model, as hexadecimal digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Of config.json, but for keys without effect.
    pub config: String,
    /// Of the weights: names, dtypes, shapes and samples of every tensor. None where there are no
    /// files.
    pub weights: Option<String>,
}

impl Fingerprint {
    /// Of a config.json and weights.
    pub fn of(config: &Map<String, Value>, weights: Option<&Weights>) -> Self {
        let mut config = config.clone();
        WITHOUT_EFFECT.iter().for_each(|key| _ = config.remove(*key));
        config.sort_keys();
        let config = checksum(Value::Object(config).to_string().as_bytes());
        let weights = weights.map(sampled);
        let shown = |sum: u64| format!("{sum:016x}");
        Self { config: shown(config), weights: weights.map(shown) }
    }

    /// What differs from `other`, in words.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        match (self.config == other.config, self.weights == other.weights) {
            (true, true) => None,
            (false, true) => Some("config.json"),
            (true, false) => Some("weights"),
            (false, false) => Some("config.json and weights"),
        }
    }
}

fn sampled(weights: &Weights) -> u64 {
    let mut sum = Checksum::default();
    for name in weights.names() {
        let Some(tensor) = weights.get(name) else { continue };
        sum.add(format!("{name} {} {:?}\n", tensor.dtype, tensor.shape).as_bytes());
        let bytes = tensor.bytes;
        if bytes.len() <= PIECES * PIECE {
            sum.add(bytes);
            continue;
        }
        let last = bytes.len() - PIECE;
        for piece in 0..PIECES {
            let start = (last as u128 * piece as u128 / (PIECES - 1) as u128) as usize;
            sum.add(&bytes[start..start + PIECE]);
        }
    }
    sum.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    fn weights(values: &[u8]) -> Weights {
        let view = safetensors::tensor::TensorView::new(
            safetensors::Dtype::U8,
            vec![values.len()],
            values,
        );
        let bytes = safetensors::serialize([("a", view.unwrap())], None).unwrap();
        Weights::from_bytes(vec![("x".into(), bytes)]).unwrap()
    }

    #[test]
    fn what_changes_results_is_told_and_the_rest_is_not() {
        let of = |value| Fingerprint::of(&config(value), None);
        let base = of(json!({"rope_theta": 1e4, "hidden_size": 8, "use_cache": true}));
        assert_eq!(of(json!({"hidden_size": 8, "rope_theta": 1e4, "dtype": "float32"})), base);
        let other = of(json!({"hidden_size": 8, "rope_theta": 2e4}));
        assert_eq!(other.difference(&base), Some("config.json"));

        let of = |values: &[u8]| Fingerprint::of(&Map::new(), Some(&weights(values)));
        let mut values = vec![7; 100_000];
        let base = of(&values);
        assert_eq!(of(&values).difference(&base), None);
        for at in [0, 99_999] {
            values[at] = 8;
            assert_eq!(of(&values).difference(&base), Some("weights"));
            values[at] = 7;
        }
        assert_eq!(of(&values[1..]).difference(&base), Some("weights"));
    }
}
