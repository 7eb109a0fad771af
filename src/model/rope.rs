//! Rotary position embedding (Su et al., 2021): which frequencies config.json asks for, and the
//! tables of cosines and sines that the kernels read.
//!
//! The tables repeat Transformers' arithmetic operation by operation (`modeling_rope_utils.py`):
//! what Python computes in double precision is f64 here, what PyTorch computes on float32 tensors
//! is rounded to f32 after each operation. PyTorch's own `pow`, `cos` and `sin` are within one unit
//! in the last place; here they are evaluated in f64 and rounded once.

mod read;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

pub(crate) use read::RopeRules;

use crate::{Error, Result};

/// What turns, and at which frequencies.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Columns of a head that turn, an even number.
    pub width: usize,
    /// The base of the frequencies, `rope_theta`.
    pub theta: f64,
    /// How the frequencies are changed for longer contexts.
    pub scaling: RopeScaling,
}

/// The RoPE types, by Transformers' `rope_type`.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// `default`: none.
    Default,
    /// `linear`: positions divided by `factor`.
    Linear {
        /// How much longer the context is made.
        factor: f64,
    },
    /// `dynamic`: the base grows with the sequence, once it is longer than the model's context.
    Dynamic {
        /// How much longer the context is made.
        factor: f64,
        /// The model's context.
        max_position_embeddings: usize,
    },
    /// `yarn` (Peng et al., 2023).
    Yarn {
        /// How much longer the context is made.
        factor: f64,
        /// The context before it was made longer.
        original_max_position_embeddings: usize,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
        /// Rotations within the original context above which a frequency stays as it is.
        beta_fast: f64,
        /// Rotations below which a frequency is divided by `factor`.
        beta_slow: f64,
        /// Whether the two bounds are rounded outwards to whole dimensions.
        truncate: bool,
    },
    /// `longrope` (Ding et al., 2024): one list of divisors for sequences within the original context,
    /// another for longer ones.
    LongRope {
        /// How much longer the context is made.
        factor: f64,
        /// What frequencies are divided by within the original context, [width / 2].
        short_factor: Vec<f64>,
        /// What they are divided by beyond it, [width / 2].
        long_factor: Vec<f64>,
        /// The context before it was made longer.
        original_max_position_embeddings: usize,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
    },
    /// `llama3` (Llama 3.1 and later).
    Llama3 {
        /// What low frequencies are divided by.
        factor: f64,
        /// Wavelengths longer than the original context over this are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths shorter than the original context over this are high frequencies.
        high_freq_factor: f64,
        /// The context before it was made longer.
        original_max_position_embeddings: usize,
    },
}

impl RopeConfig {
    /// The longest sequence that it is made for, in a model whose config.json gives the context
    /// `max_position_embeddings`, which may be that before stretching or after it.
    ///
    /// `linear` and `dynamic` stretch the context that is given, which is how Transformers has them, and
    /// YaRN its original one. Llama 3's factor is of frequencies and LongRoPE's of lengths, but both are
    /// written beside the longer context: the factor counts only where the context given is the original.
    pub fn context(&self, max_position_embeddings: usize) -> usize {
        let stretched = |context: usize, factor: f64| (context as f64 * factor) as usize;
        let given = max_position_embeddings;
        given.max(match self.scaling {
            RopeScaling::Default => given,
            RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor, .. } => {
                stretched(given, factor)
            }
            RopeScaling::Yarn { factor, original_max_position_embeddings, .. } => {
                stretched(original_max_position_embeddings, factor)
            }
            RopeScaling::LongRope {
                factor, original_max_position_embeddings: original, ..
            }
            | RopeScaling::Llama3 { factor, original_max_position_embeddings: original, .. } => {
                if given > original {
                    given
                } else {
                    stretched(original, factor)
                }
            }
        })
    }

    /// Whether sequences between these lengths turn at the same frequencies.
    pub fn turns_alike(&self, shortest: usize, longest: usize) -> bool {
        match self.scaling {
            RopeScaling::Dynamic { max_position_embeddings, .. } => {
                longest <= max_position_embeddings || shortest == longest
            }
            RopeScaling::LongRope { original_max_position_embeddings: original, .. } => {
                longest <= original || shortest > original
            }
            _ => true,
        }
    }

    /// The longest sequence for which the first of two sets of frequencies holds, where there are two.
    pub fn original_context(&self) -> Option<usize> {
        match self.scaling {
            RopeScaling::LongRope { original_max_position_embeddings: original, .. } => {
                Some(original)
            }
            _ => None,
        }
    }
}

/// Cosines and sines of every position and frequency.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTables {
    /// `cos(position * frequency)`, [positions, width / 2].
    pub cos: Vec<f32>,
    /// `sin(position * frequency)`, [positions, width / 2].
    pub sin: Vec<f32>,
}

impl RopeTables {
    /// The tables for positions `0..max_positions`, both already multiplied by the attention factor
    /// of YaRN and LongRoPE. Element `i` and element `i + width / 2` of a head share frequency `i`.
    ///
    /// LongRoPE has two sets of frequencies: those of a sequence of `max_positions` tokens.
    ///
    /// The frequencies of the `dynamic` type depend on the length of the sequence, once it exceeds the
    /// model's context: here they are those of a sequence of `max_positions` tokens. See
    /// [`RopeTables::by_length`].
    ///
    /// Errors: an odd or zero width, or a base that gives frequencies that are not finite.
    pub fn new(config: &RopeConfig, max_positions: usize) -> Result<Self> {
        let frequencies = inverse_frequencies(config, max_positions)?;
        Ok(Self::at(config, &frequencies, 0..max_positions))
    }

    /// A row for each token, given as its position and the length of its sequence, by the frequencies of
    /// that length.
    ///
    /// Errors: as [`RopeTables::new`].
    pub fn by_length(
        config: &RopeConfig,
        tokens: impl IntoIterator<Item = (usize, usize)>,
    ) -> Result<Self> {
        let mut of_length = BTreeMap::new();
        let mut tables = Self { cos: Vec::new(), sin: Vec::new() };
        for (position, length) in tokens {
            let frequencies = match of_length.entry(length) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(inverse_frequencies(config, length)?),
            };
            let row = Self::at(config, frequencies, [position]);
            tables.cos.extend(row.cos);
            tables.sin.extend(row.sin);
        }
        Ok(tables)
    }

    /// The rows of `positions` alone, from [`inverse_frequencies`].
    pub fn at(
        config: &RopeConfig,
        frequencies: &[f32],
        positions: impl IntoIterator<Item = usize>,
    ) -> Self {
        let scale = match config.scaling {
            RopeScaling::Yarn { attention_factor, .. }
            | RopeScaling::LongRope { attention_factor, .. } => attention_factor as f32,
            _ => 1.0,
        };
        let (cos, sin) = positions
            .into_iter()
            .flat_map(|position| frequencies.iter().map(move |f| f64::from(position as f32 * f)))
            .map(|angle| (angle.cos() as f32 * scale, angle.sin() as f32 * scale))
            .unzip();
        Self { cos, sin }
    }
}

/// `inv_freq` of Transformers for a batch whose longest sequence has `positions` tokens, in radians
/// per position, [width / 2].
///
/// Errors: an odd or zero width, or parameters that give frequencies that are not finite.
pub fn inverse_frequencies(config: &RopeConfig, positions: usize) -> Result<Vec<f32>> {
    let width = config.width;
    if width == 0 || !width.is_multiple_of(2) {
        return Err(Error::input(format!("RoPE needs heads of an even width, found {width}")));
    }
    let theta = config.theta as f32;
    let frequencies: Vec<f32> = match &config.scaling {
        RopeScaling::Default => unscaled(theta, width),
        RopeScaling::Linear { factor } => {
            unscaled(theta, width).iter().map(|f| f / *factor as f32).collect()
        }
        RopeScaling::Dynamic { factor, max_position_embeddings: context } => {
            unscaled(dynamic_base(config.theta, *factor, width, positions, *context), width)
        }
        RopeScaling::LongRope {
            short_factor,
            long_factor,
            original_max_position_embeddings: original,
            ..
        } => {
            let factors = if positions > *original { long_factor } else { short_factor };
            let scaled = factors.iter().zip(powers(theta, width));
            scaled.map(|(factor, power)| (*factor as f32 * power).recip()).collect()
        }
        RopeScaling::Yarn { .. } => yarn(config),
        RopeScaling::Llama3 { .. } => {
            unscaled(theta, width).into_iter().map(|f| llama3(&config.scaling, f)).collect()
        }
    };
    match frequencies.iter().find(|frequency| !frequency.is_finite()) {
        Some(bad) => Err(Error::input(format!(
            "with rope_theta {} and the factors beside it a frequency of RoPE is {bad}: correct them in \
             config.json",
            config.theta
        ))),
        None => Ok(frequencies),
    }
}

/// `base ** (0, 2, 4, ... / width)`.
fn powers(base: f32, width: usize) -> impl Iterator<Item = f32> {
    let power = move |i: usize| {
        let exponent = i as f32 / width as f32;
        f64::from(base).powf(f64::from(exponent)) as f32
    };
    (0..width).step_by(2).map(power)
}

/// `1 / powers`.
fn unscaled(base: f32, width: usize) -> Vec<f32> {
    powers(base, width).map(f32::recip).collect()
}

/// The base for `positions`: longer sequences turn more slowly (NTK-aware scaling). The length is a
/// tensor in Transformers, so every step is rounded to f32, with a double for an exponent.
fn dynamic_base(theta: f64, factor: f64, width: usize, positions: usize, context: usize) -> f32 {
    if positions <= context {
        return theta as f32;
    }
    let stretch = factor as f32 * positions as f32 / context as f32 - (factor - 1.0) as f32;
    let exponent = width as f64 / (width as f64 - 2.0);
    f64::from(stretch).powf(exponent) as f32 * theta as f32
}

/// Low frequencies divided by the factor, high ones kept, a smooth passage between.
fn llama3(scaling: &RopeScaling, frequency: f32) -> f32 {
    let RopeScaling::Llama3 {
        factor,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position_embeddings: context,
    } = *scaling
    else {
        return frequency;
    };
    let context = context as f64;
    // PyTorch divides a number by a tensor as (1 / tensor) * number.
    let wavelength = frequency.recip() * (2.0 * std::f64::consts::PI) as f32;
    if wavelength > (context / low) as f32 {
        return frequency / factor as f32;
    }
    if wavelength < (context / high) as f32 {
        return frequency;
    }
    let smooth = (wavelength.recip() * context as f32 - low as f32) / (high - low) as f32;
    (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
}

/// YaRN: a ramp over the dimensions from frequencies as they are to frequencies over `factor`.
fn yarn(config: &RopeConfig) -> Vec<f32> {
    let RopeScaling::Yarn {
        factor,
        original_max_position_embeddings: context,
        beta_fast,
        beta_slow,
        truncate,
        ..
    } = config.scaling
    else {
        return Vec::new();
    };
    let width = config.width as f64;
    // The dimension whose wave turns so many times within the original context.
    let dimension = |rotations: f64| {
        let turns = context as f64 / (rotations * 2.0 * std::f64::consts::PI);
        (width * turns.ln()) / (2.0 * config.theta.ln())
    };
    let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(width - 1.0));
    if low == high {
        high += 0.001;
    }
    let blend = |(i, power): (usize, f32)| {
        let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
        let kept = 1.0 - ramp;
        (factor as f32 * power).recip() * (1.0 - kept) + power.recip() * kept
    };
    powers(config.theta as f32, config.width).enumerate().map(blend).collect()
}

#[cfg(test)]
mod tests {
    use crate::model::ModelConfig;

    fn context(model: &str, given: usize, rope: &str) -> usize {
        let text = format!(
            r#"{{"model_type": "{model}", "head_dim": 4, "max_position_embeddings": {given},
            "rope_scaling": {rope}}}"#
        );
        ModelConfig::from_json(&text, "c").unwrap().context()
    }

    #[test]
    fn a_stretched_rope_gives_its_own_context() {
        let yarn = r#"{"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}"#;
        let llama3 = r#"{"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}"#;
        let long = r#"{"rope_type": "longrope", "short_factor": [1.0, 1.0], "factor": 32.0,
            "long_factor": [1.0, 1.0], "original_max_position_embeddings": 4096}"#;
        for (given, rope, expected) in [
            (100, "null", 100),
            (4096, r#"{"type": "linear", "factor": 2.5}"#, 10_240),
            (4096, r#"{"type": "dynamic", "factor": 2.0}"#, 8192),
            // As Qwen 2.5 says it, as Qwen 3 does, and after stretching.
            (32_768, yarn, 131_072),
            (40_960, yarn, 131_072),
            (131_072, yarn, 131_072),
            (32_768, r#"{"type": "yarn", "factor": 4.0}"#, 131_072),
            // Llama 3.2, and a file with the original context alone.
            (131_072, llama3, 131_072),
            (8192, llama3, 262_144),
            (131_072, long, 131_072),
            (4096, long, 131_072),
        ] {
            assert_eq!(context("llama", given, rope), expected, "{given} {rope}");
        }
        // The longer context already, for Gemma's layers with a RoPE of their own.
        let linear = r#"{"rope_type": "linear", "factor": 8.0}"#;
        assert_eq!(context("gemma3_text", 131_072, linear), 131_072);
    }
}
