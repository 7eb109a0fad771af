//! What a generation is told: the model's `generation_config.json`, and the caller on top of it.

use std::path::Path;

use super::Sampling;
use crate::error::{Error, Result};
use crate::files::enclosed;
use crate::model::{Object, parse_object};

const FILE: &str = "generation_config.json";

/// New tokens where neither the caller nor the model says how many.
const MAX_NEW_TOKENS: usize = 256;

/// Transformers' `top_k` where sampling is on and nothing else is said.
const TOP_K: usize = 50;

/// Settings that would change the output and are not there; with each, the value that is none.
const UNSUPPORTED: [(&str, f64); 14] = [
    ("bad_words_ids", 0.0),
    ("begin_suppress_tokens", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("guidance_scale", 1.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("no_repeat_ngram_size", 0.0),
    ("num_beams", 1.0),
    ("penalty_alpha", 0.0),
    ("stop_strings", 0.0),
    ("suppress_tokens", 0.0),
    ("typical_p", 1.0),
];

/// What the caller sets; the rest comes from the model, else from the defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overrides {
    /// The most tokens to generate.
    pub max_new_tokens: Option<usize>,
    /// 0: greedy. Above 0: sample.
    pub temperature: Option<f64>,
    /// Sample among so many; 0 is all.
    pub top_k: Option<usize>,
    /// Sample among the likeliest with this probability together.
    pub top_p: Option<f64>,
    /// Sample among those at least this probable, relative to the likeliest.
    pub min_p: Option<f64>,
    /// 1 is none.
    pub repetition_penalty: Option<f64>,
}

/// How to generate. Where to stop is not here: the tokenizer knows the end-of-sequence ids of
/// `generation_config.json` too.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationSettings {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens to generate.
    pub max_new_tokens: usize,
    /// Settings of the file that have no effect here, in words.
    pub warnings: Vec<String>,
}

impl GenerationSettings {
    /// The settings of the model directory `dir`, with `overrides`.
    ///
    /// Sampling is on where the file says `do_sample` or the caller sets anything about it, and off
    /// at temperature 0. A file that is missing says nothing.
    ///
    /// # Errors
    /// `Error::Input` for a file that cannot be read, and for values out of range.
    pub fn load(dir: &Path, overrides: &Overrides) -> Result<Self> {
        let path = dir.join(FILE);
        let text = enclosed::text(dir, FILE, enclosed::SETTINGS)
            .map_err(|error| Error::input(format!("{}: {error}", path.display())))?;
        let text = text.as_deref().unwrap_or("{}");
        Self::from_json(text, &path.display().to_string(), overrides)
    }

    /// The same, from the text of the file; `place` is what messages call it.
    ///
    /// # Errors
    /// As [`GenerationSettings::load`].
    pub fn from_json(text: &str, place: &str, overrides: &Overrides) -> Result<Self> {
        let map = parse_object(text, place)?;
        let file = Object::new(&map, place);
        let number = |key: &str, expected: &str, valid: fn(f64) -> bool| match file.number(key)? {
            Some(value) if !valid(value) => {
                Err(file.error(key, format_args!("must be {expected}, found {value}")))
            }
            value => Ok(value),
        };
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let of_file = Sampling {
            temperature: number("temperature", "at least 0", |x| x >= 0.0)?.unwrap_or(1.0),
            top_k: file.count("top_k")?.unwrap_or(TOP_K),
            top_p: number("top_p", "from 0 to 1", share)?.unwrap_or(1.0),
            min_p: number("min_p", "from 0 to 1", share)?.unwrap_or(0.0),
            repetition_penalty: number("repetition_penalty", "above 0", |x| x > 0.0)?
                .unwrap_or(1.0),
        };
        let asked = overrides.temperature.is_some()
            || overrides.top_k.is_some()
            || overrides.top_p.is_some()
            || overrides.min_p.is_some();
        let sampled = Sampling {
            temperature: overrides.temperature.unwrap_or(of_file.temperature),
            top_k: overrides.top_k.unwrap_or(of_file.top_k),
            top_p: overrides.top_p.unwrap_or(of_file.top_p),
            min_p: overrides.min_p.unwrap_or(of_file.min_p),
            repetition_penalty: overrides.repetition_penalty.unwrap_or(of_file.repetition_penalty),
        };
        let samples = asked || file.flag("do_sample")?.unwrap_or(false);
        let sampling = match samples && !sampled.is_greedy() {
            true => sampled,
            false => {
                Sampling { repetition_penalty: sampled.repetition_penalty, ..Sampling::GREEDY }
            }
        };
        let max_new_tokens = match file.count("max_new_tokens")? {
            Some(0) => return Err(file.error("max_new_tokens", "must be above 0")),
            count => overrides.max_new_tokens.or(count).unwrap_or(MAX_NEW_TOKENS),
        };
        Ok(Self { sampling, max_new_tokens, warnings: warnings(&file) })
    }

    /// How tokens are chosen, in words.
    pub fn describe(&self) -> String {
        let Sampling { temperature, top_k, top_p, min_p, repetition_penalty } = self.sampling;
        let mut words = match self.sampling.is_greedy() {
            true => vec!["greedy".to_owned()],
            false => vec![format!("temperature {temperature}")],
        };
        let mut add = |differs: bool, text: String| words.extend(differs.then_some(text));
        add(top_k > 0, format!("top-k {top_k}"));
        add(top_p < 1.0, format!("top-p {top_p}"));
        add(min_p > 0.0, format!("min-p {min_p}"));
        add(repetition_penalty != 1.0, format!("repetition penalty {repetition_penalty}"));
        words.join(", ")
    }
}

fn warnings(file: &Object) -> Vec<String> {
    let matters = |key: &str, none: f64| match file.get(key) {
        None | Some(serde_json::Value::Bool(false)) => false,
        Some(serde_json::Value::Array(items)) => !items.is_empty(),
        Some(value) => value.as_f64() != Some(none),
    };
    let without_effect = |(key, none): (&str, f64)| {
        matters(key, none)
            .then(|| file.error(key, "is not supported and has no effect").to_string())
    };
    UNSUPPORTED.into_iter().filter_map(without_effect).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str, overrides: Overrides) -> GenerationSettings {
        GenerationSettings::from_json(text, "generation_config.json", &overrides).unwrap()
    }

    const LLAMA: &str = r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9}"#;

    #[test]
    fn without_a_file_or_options_it_is_greedy() {
        let dir = tempfile::tempdir().unwrap();
        let found = GenerationSettings::load(dir.path(), &Overrides::default()).unwrap();
        let (sampling, max_new_tokens) = (Sampling::GREEDY, 256);
        assert_eq!(found, GenerationSettings { sampling, max_new_tokens, warnings: vec![] });
        let off = settings(r#"{"temperature": 0.6, "max_new_tokens": 9}"#, Overrides::default());
        assert_eq!((off.sampling, off.max_new_tokens), (Sampling::GREEDY, 9));
    }

    #[test]
    fn the_file_says_how_and_the_options_win() {
        let found = settings(LLAMA, Overrides::default()).sampling;
        let expected = Sampling { temperature: 0.6, top_k: 50, top_p: 0.9, ..Sampling::GREEDY };
        assert_eq!(found, expected);
        let overrides = Overrides { top_k: Some(0), top_p: Some(0.5), ..Default::default() };
        let found = settings(LLAMA, overrides);
        assert_eq!(found.sampling, Sampling { top_k: 0, top_p: 0.5, ..expected });
        assert_eq!(found.describe(), "temperature 0.6, top-p 0.5");
        let overrides = Overrides { top_p: Some(0.5), ..Default::default() };
        assert_eq!(settings("{}", overrides).sampling.temperature, 1.0, "any option samples");
    }

    #[test]
    fn temperature_zero_is_greedy_whatever_the_file_says() {
        let overrides = Overrides {
            temperature: Some(0.0),
            repetition_penalty: Some(1.2),
            ..Default::default()
        };
        let found = settings(LLAMA, overrides);
        assert_eq!(found.sampling, Sampling { repetition_penalty: 1.2, ..Sampling::GREEDY });
        let penalty = Overrides { repetition_penalty: Some(1.2), ..Default::default() };
        assert!(settings("{}", penalty).sampling.is_greedy(), "the penalty alone does not sample");
    }

    #[test]
    fn what_is_wrong_is_named_and_what_is_missing_is_told() {
        for (text, expected) in [
            ("[", "generation_config.json"),
            (r#"{"top_p": 2}"#, "`top_p`"),
            (r#"{"temperature": "hot"}"#, "`temperature`"),
            (r#"{"max_new_tokens": 0}"#, "`max_new_tokens`"),
        ] {
            let error = GenerationSettings::from_json(text, FILE, &Overrides::default());
            let message = error.unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let text = r#"{"num_beams": 4, "typical_p": 1.0, "bad_words_ids": null, "min_length": 0}"#;
        let warnings = settings(text, Overrides::default()).warnings;
        assert!(matches!(&warnings[..], [one] if one.contains("num_beams")), "{warnings:?}");
    }
}
