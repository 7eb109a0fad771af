//! Rotary position embedding (Su et al., 2021): which frequencies config.json asks for, and the
//! tables of cosines and sines that the kernels read.
//!
//! The tables repeat Transformers' arithmetic operation by operation (`modeling_rope_utils.py`):
//! what Python computes in double precision is f64 here, what PyTorch computes on float32 tensors
//! is rounded to f32 after each operation. PyTorch's own `pow`, `cos` and `sin` are within one unit
//! in the last place; here they are evaluated in f64 and rounded once.

use serde_json::Value;

use super::json::{Object, shorten};
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

/// The keys each RoPE type reads.
const TYPES: [(&str, &[&str]); 6] = [
    ("default", &[]),
    ("linear", &["factor"]),
    ("dynamic", &["factor"]),
    (
        "yarn",
        &[
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ],
    ),
    (
        "longrope",
        &[
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
            "short_factor",
            "long_factor",
        ],
    ),
    (
        "llama3",
        &["factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"],
    ),
];

/// How a family reads the keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RopeRules {
    /// Width of a head.
    pub head_dim: usize,
    /// The model's context.
    pub max_position_embeddings: usize,
    /// The base where it is missing.
    pub theta: f64,
    /// Whether `partial_rotary_factor` may let a part of each head turn.
    pub partial: bool,
    /// Other names of `longrope`.
    pub longrope_names: &'static [&'static str],
}

impl RopeRules {
    /// Those of most families.
    pub fn new(head_dim: usize, max_position_embeddings: usize) -> Self {
        let (theta, partial, longrope_names): (_, _, &[_]) = (10_000.0, false, &[]);
        Self { head_dim, max_position_embeddings, theta, partial, longrope_names }
    }
}

impl RopeConfig {
    /// Reads either form: `rope_parameters` (Transformers 5), or `rope_theta` + `rope_scaling`.
    pub(crate) fn read(config: &Object, rules: RopeRules) -> Result<Self> {
        let nested = match (config.object("rope_scaling")?, config.object("rope_parameters")?) {
            (Some(_), Some(_)) if config.get("rope_scaling") != config.get("rope_parameters") => {
                return Err(config.error(
                    "rope_scaling",
                    "and `rope_parameters` are both there and differ; remove one of them",
                ));
            }
            (scaling, parameters) => scaling.or(parameters),
        };
        let theta = config.number("rope_theta")?.unwrap_or(rules.theta);
        Self::of(nested.as_ref(), config, RopeRules { theta, ..rules })
    }

    /// Reads the parameters in `nested`, an object of `config`.
    pub(crate) fn of(nested: Option<&Object>, config: &Object, rules: RopeRules) -> Result<Self> {
        let place = nested.unwrap_or(config);
        let nested_theta = nested.map_or(Ok(None), |rope| rope.number("rope_theta"))?;
        let theta = nested_theta.unwrap_or(rules.theta);
        if theta <= 1.0 {
            return Err(place.error("rope_theta", "must be above 1"));
        }
        let width = Self::read_width(nested, config, &rules)?;
        let scaling = match nested {
            Some(rope) => RopeScaling::read(rope, config, &rules, width)?,
            None => RopeScaling::Default,
        };
        Ok(Self { width, theta, scaling })
    }

    /// The columns of a head that turn.
    fn read_width(nested: Option<&Object>, config: &Object, rules: &RopeRules) -> Result<usize> {
        const KEY: &str = "partial_rotary_factor";
        let place = nested.unwrap_or(config);
        let factor = match nested.map_or(Ok(None), |rope| rope.number(KEY))? {
            Some(factor) => factor,
            None => config.number(KEY)?.unwrap_or(1.0),
        };
        let width = (rules.head_dim as f64 * factor) as usize;
        match factor == 1.0 {
            true => Ok(rules.head_dim),
            false if !rules.partial => Err(place.error(KEY, "other than 1 is not supported")),
            false if width > 0 && width <= rules.head_dim && width % 2 == 0 => Ok(width),
            false => Err(place.error(
                KEY,
                format_args!(
                    "= {factor} lets {width} of the {} columns of a head turn; expected an even \
                     number of them",
                    rules.head_dim
                ),
            )),
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

impl RopeScaling {
    fn read(rope: &Object, config: &Object, rules: &RopeRules, width: usize) -> Result<Self> {
        let max_position_embeddings = rules.max_position_embeddings;
        let name = match rope.text("rope_type")? {
            Some(name) => name,
            None => rope.text("type")?.unwrap_or("default"),
        };
        let name = if rules.longrope_names.contains(&name) { "longrope" } else { name };
        let Some((_, known)) = TYPES.into_iter().find(|(known, _)| *known == name) else {
            let supported = TYPES.map(|(known, _)| known).join(", ");
            return Err(rope.error(
                "rope_type",
                format_args!("{name:?} is not supported; supported are {supported}"),
            ));
        };
        for key in rope.keys() {
            let harmless = match key {
                "rope_type" | "type" | "rope_theta" | "partial_rotary_factor" => true,
                // Written by YaRN's authors; `true` is how Transformers computes it.
                "finetuned" => rope.get(key) == Some(&Value::Bool(true)),
                // Changes nothing where the context is not a parameter of the type.
                "original_max_position_embeddings" => {
                    rope.count(key)? == Some(max_position_embeddings)
                }
                _ => false,
            };
            if !harmless && !known.contains(&key) {
                let value = rope.get(key).map(shorten).unwrap_or_default();
                return Err(rope.error(
                    key,
                    format_args!("= {value} is not known for rope_type {name:?}; remove it if it is not meant"),
                ));
            }
        }
        let positive = |key: &str| match rope.number(key)? {
            Some(x) if x > 0.0 => Ok(x),
            Some(x) => Err(rope.error(key, format_args!("must be above 0, found {x}"))),
            None => Err(rope.error(key, format_args!("is missing; rope_type {name:?} needs it"))),
        };
        // A key of config.json itself goes before the one beside the other parameters.
        let original_context = || {
            let key = "original_max_position_embeddings";
            let found = config.count(key)?.or(rope.count(key)?);
            match found.unwrap_or(max_position_embeddings) {
                0 => Err(rope.error(key, "must be above 0")),
                n => Ok(n),
            }
        };
        Ok(match name {
            "linear" => Self::Linear { factor: positive("factor")? },
            "dynamic" => {
                let factor = positive("factor")?;
                if factor < 1.0 {
                    return Err(
                        rope.error("factor", "must be at least 1 for rope_type \"dynamic\"")
                    );
                }
                Self::Dynamic { factor, max_position_embeddings }
            }
            "yarn" => {
                let original = original_context()?;
                let factor = match rope.get("factor") {
                    None if rope.has("factor") => max_position_embeddings as f64 / original as f64,
                    _ => positive("factor")?,
                };
                // Transformers reads these as Python does: 0 is the same as not being there.
                let or_default = |key: &str, default| {
                    rope.number(key).map(|x| x.filter(|x| *x != 0.0).unwrap_or(default))
                };
                let magnitude = |scale: f64, by: f64| match scale <= 1.0 {
                    true => 1.0,
                    false => 0.1 * by * scale.ln() + 1.0,
                };
                let (mscale, mscale_all) =
                    (or_default("mscale", 0.0)?, or_default("mscale_all_dim", 0.0)?);
                let attention_factor = match rope.number("attention_factor")? {
                    Some(x) if x >= 0.0 => x,
                    Some(_) => return Err(rope.error("attention_factor", "must not be negative")),
                    None if mscale != 0.0 && mscale_all != 0.0 => {
                        magnitude(factor, mscale) / magnitude(factor, mscale_all)
                    }
                    None => magnitude(factor, 1.0),
                };
                let (beta_fast, beta_slow) =
                    (or_default("beta_fast", 32.0)?, or_default("beta_slow", 1.0)?);
                if !(beta_slow > 0.0 && beta_fast >= beta_slow) {
                    return Err(
                        rope.error("beta_fast", "must be at least beta_slow, and both above 0")
                    );
                }
                Self::Yarn {
                    factor,
                    original_max_position_embeddings: original,
                    attention_factor,
                    beta_fast,
                    beta_slow,
                    truncate: rope.flag("truncate")?.unwrap_or(!rope.has("truncate")),
                }
            }
            "longrope" => {
                let original = original_context()?;
                let factors =
                    |key: &str| match rope.numbers(key)? {
                        Some(list) if list.len() == width / 2 && list.iter().all(|x| *x > 0.0) => {
                            Ok(list)
                        }
                        Some(list) => Err(rope.error(
                            key,
                            format_args!(
                                "has {} numbers; expected {}, all above 0",
                                list.len(),
                                width / 2
                            ),
                        )),
                        None => Err(rope
                            .error(key, format_args!("is missing; rope_type {name:?} needs it"))),
                    };
                let factor = match rope.get("factor") {
                    None => max_position_embeddings as f64 / original as f64,
                    Some(_) => positive("factor")?,
                };
                let attention_factor = match rope.number("attention_factor")? {
                    Some(x) if x >= 0.0 => x,
                    Some(_) => return Err(rope.error("attention_factor", "must not be negative")),
                    None if factor <= 1.0 => 1.0,
                    None => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
                };
                Self::LongRope {
                    short_factor: factors("short_factor")?,
                    long_factor: factors("long_factor")?,
                    original_max_position_embeddings: original,
                    attention_factor,
                }
            }
            "llama3" => {
                let (low, high) = (positive("low_freq_factor")?, positive("high_freq_factor")?);
                if high <= low {
                    return Err(rope.error("high_freq_factor", "must be above low_freq_factor"));
                }
                Self::Llama3 {
                    factor: positive("factor")?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: original_context()?,
                }
            }
            _ => Self::Default,
        })
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
    /// The frequencies of the `dynamic` type depend on the longest sequence of a batch: in
    /// Transformers they grow once a sequence exceeds the model's context. Here that length is
    /// `max_positions`: up to the context the tables are those of `default`, above it they are what
    /// Transformers uses for a batch whose longest sequence has `max_positions` tokens.
    ///
    /// Errors: an odd or zero width, or a base that gives frequencies that are not finite.
    pub fn new(config: &RopeConfig, max_positions: usize) -> Result<Self> {
        let frequencies = inverse_frequencies(config, max_positions)?;
        Ok(Self::at(config, &frequencies, 0..max_positions))
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
        Some(bad) => Err(Error::input(format!("RoPE of {config:?} has the frequency {bad}"))),
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
