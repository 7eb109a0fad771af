//! The rotary embedding that config.json asks for, in both its forms.

use serde_json::Value;

use super::{RopeConfig, RopeScaling};
use crate::Result;
use crate::model::json::{Object, shorten};

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
            false if width > 0 && width <= rules.head_dim && width.is_multiple_of(2) => Ok(width),
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
}

/// The parameters of one rotary embedding.
struct Parameters<'a> {
    /// Where they stand.
    rope: &'a Object<'a>,
    config: &'a Object<'a>,
    max_position_embeddings: usize,
    /// Columns of a head that turn.
    width: usize,
    name: &'a str,
}

impl RopeScaling {
    fn read(rope: &Object, config: &Object, rules: &RopeRules, width: usize) -> Result<Self> {
        let name = match rope.text("rope_type")? {
            Some(name) => name,
            None => rope.text("type")?.unwrap_or("default"),
        };
        let name = if rules.longrope_names.contains(&name) { "longrope" } else { name };
        let max_position_embeddings = rules.max_position_embeddings;
        let found = Parameters { rope, config, max_position_embeddings, width, name };
        found.check_keys()?;
        match name {
            "linear" => Ok(Self::Linear { factor: found.positive("factor")? }),
            "dynamic" => found.dynamic(),
            "yarn" => found.yarn(),
            "longrope" => found.longrope(),
            "llama3" => found.llama3(),
            _ => Ok(Self::Default),
        }
    }
}

impl Parameters<'_> {
    /// Refuses a type and keys that are not known.
    fn check_keys(&self) -> Result<()> {
        let Self { rope, name, .. } = self;
        let Some((_, known)) = TYPES.into_iter().find(|(known, _)| known == name) else {
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
                    rope.count(key)? == Some(self.max_position_embeddings)
                }
                _ => false,
            };
            if !harmless && !known.contains(&key) {
                let value = rope.get(key).map(shorten).unwrap_or_default();
                return Err(rope.error(
                    key,
                    format_args!(
                        "= {value} is not known for rope_type {name:?}; remove it if it is not meant"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn missing(&self, key: &str) -> crate::Error {
        self.rope.error(key, format_args!("is missing; rope_type {:?} needs it", self.name))
    }

    fn positive(&self, key: &str) -> Result<f64> {
        match self.rope.number(key)? {
            Some(x) if x > 0.0 => Ok(x),
            Some(x) => Err(self.rope.error(key, format_args!("must be above 0, found {x}"))),
            None => Err(self.missing(key)),
        }
    }

    /// The context before it was made longer. A key of config.json itself goes before the one beside
    /// the other parameters.
    fn original_context(&self) -> Result<usize> {
        let key = "original_max_position_embeddings";
        let found = self.config.count(key)?.or(self.rope.count(key)?);
        match found.unwrap_or(self.max_position_embeddings) {
            0 => Err(self.rope.error(key, "must be above 0")),
            n => Ok(n),
        }
    }

    /// How much longer the context is than it was.
    fn stretch(&self, original: usize) -> f64 {
        self.max_position_embeddings as f64 / original as f64
    }

    /// `attention_factor`, or what it is where it is missing.
    fn attention_factor(&self, default: f64) -> Result<f64> {
        match self.rope.number("attention_factor")? {
            Some(x) if x >= 0.0 => Ok(x),
            Some(_) => Err(self.rope.error("attention_factor", "must not be negative")),
            None => Ok(default),
        }
    }

    fn dynamic(&self) -> Result<RopeScaling> {
        let max_position_embeddings = self.max_position_embeddings;
        match self.positive("factor")? {
            factor if factor >= 1.0 => Ok(RopeScaling::Dynamic { factor, max_position_embeddings }),
            _ => Err(self.rope.error("factor", "must be at least 1 for rope_type \"dynamic\"")),
        }
    }

    fn yarn(&self) -> Result<RopeScaling> {
        let rope = self.rope;
        let original = self.original_context()?;
        let factor = match rope.get("factor") {
            None if rope.has("factor") => self.stretch(original),
            _ => self.positive("factor")?,
        };
        // Transformers reads these as Python does: 0 is the same as not being there.
        let or_default = |key: &str, default| {
            rope.number(key).map(|x| x.filter(|x| *x != 0.0).unwrap_or(default))
        };
        let magnitude = |scale: f64, by: f64| match scale <= 1.0 {
            true => 1.0,
            false => 0.1 * by * scale.ln() + 1.0,
        };
        let (mscale, mscale_all) = (or_default("mscale", 0.0)?, or_default("mscale_all_dim", 0.0)?);
        let attention_factor = match mscale != 0.0 && mscale_all != 0.0 {
            true => magnitude(factor, mscale) / magnitude(factor, mscale_all),
            false => magnitude(factor, 1.0),
        };
        let (beta_fast, beta_slow) =
            (or_default("beta_fast", 32.0)?, or_default("beta_slow", 1.0)?);
        if !(beta_slow > 0.0 && beta_fast >= beta_slow) {
            return Err(rope.error("beta_fast", "must be at least beta_slow, and both above 0"));
        }
        Ok(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            attention_factor: self.attention_factor(attention_factor)?,
            beta_fast,
            beta_slow,
            truncate: rope.flag("truncate")?.unwrap_or(!rope.has("truncate")),
        })
    }

    fn longrope(&self) -> Result<RopeScaling> {
        let original = self.original_context()?;
        let factor = match self.rope.get("factor") {
            None => self.stretch(original),
            Some(_) => self.positive("factor")?,
        };
        let attention_factor = match factor <= 1.0 {
            true => 1.0,
            false => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
        };
        Ok(RopeScaling::LongRope {
            factor,
            short_factor: self.divisors("short_factor")?,
            long_factor: self.divisors("long_factor")?,
            original_max_position_embeddings: original,
            attention_factor: self.attention_factor(attention_factor)?,
        })
    }

    /// A divisor for each frequency.
    fn divisors(&self, key: &str) -> Result<Vec<f64>> {
        let expected = self.width / 2;
        let list = self.rope.numbers(key)?.ok_or_else(|| self.missing(key))?;
        match list.len() == expected && list.iter().all(|x| *x > 0.0) {
            true => Ok(list),
            false => Err(self.rope.error(
                key,
                format_args!("has {} numbers; expected {expected}, all above 0", list.len()),
            )),
        }
    }

    fn llama3(&self) -> Result<RopeScaling> {
        let [low, high] = ["low_freq_factor", "high_freq_factor"].map(|key| self.positive(key));
        let (low, high) = (low?, high?);
        if high <= low {
            return Err(self.rope.error("high_freq_factor", "must be above low_freq_factor"));
        }
        Ok(RopeScaling::Llama3 {
            factor: self.positive("factor")?,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: self.original_context()?,
        })
    }
}
