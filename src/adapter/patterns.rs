//! How PEFT finds modules: by the ends of their names, or by Python's regular expressions.

use crate::{Error, Result};
use regex::Regex;

/// Modules by their names, as `target_modules` and `exclude_modules` have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleNames {
    /// Those whose path is one of these names, or ends with `.` and one of them.
    Names(Vec<String>),
    /// Those whose whole path this regular expression matches (Python's `re.fullmatch`).
    Pattern(String),
}

impl ModuleNames {
    /// A test of paths. `key` is what messages call the setting.
    ///
    /// # Errors
    /// `Error::Input` for a pattern that is not understood.
    pub(super) fn matcher(&self, key: &str) -> Result<Matcher> {
        Ok(match self {
            Self::Names(names) => Matcher::Names(names.clone()),
            Self::Pattern(pattern) => {
                Matcher::Whole(compile(key, pattern, &format!(r"\A(?:{pattern})\z"))?)
            }
        })
    }
}

/// A test of paths.
pub(super) enum Matcher {
    /// By the end of a path.
    Names(Vec<String>),
    /// By all of it.
    Whole(Regex),
}

impl Matcher {
    /// Whether the module of this path is meant.
    pub fn is(&self, path: &str) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|name| ends_with(path, name)),
            Self::Whole(pattern) => pattern.is_match(path),
        }
    }
}

/// Whether `path` is `name`, or ends with `.` and it.
pub(super) fn ends_with(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Values by patterns (`rank_pattern`, `alpha_pattern`), ready to be asked.
pub(super) struct Overrides<T>(Vec<(Regex, T)>);

impl<T: Copy> Overrides<T> {
    /// # Errors
    /// `Error::Input` for a pattern that is not understood.
    pub fn new(key: &str, patterns: &[(String, T)]) -> Result<Self> {
        let compiled = patterns.iter().map(|(pattern, value)| {
            // PEFT's `re.match(rf"(.*\.)?({key})$", path)`: a name is a pattern that matches itself.
            Ok((compile(key, pattern, &format!(r"\A(?:.*\.)?(?:{pattern})\z"))?, *value))
        });
        compiled.collect::<Result<_>>().map(Self)
    }

    /// The value of the first pattern that a module's path ends with.
    pub fn of(&self, path: &str) -> Option<T> {
        self.0.iter().find(|(pattern, _)| pattern.is_match(path)).map(|&(_, value)| value)
    }
}

/// `whole`, which is made of `pattern`.
fn compile(key: &str, pattern: &str, whole: &str) -> Result<Regex> {
    Regex::new(whole).map_err(|error| {
        // The library's message shows the pattern over several lines, its last one says what is wrong.
        let text = error.to_string();
        let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Error::input(format!(
            "{key}: the pattern {pattern:?} is not understood: {why}; expected a regular expression \
             of Python without look-around and back-references, or a list of names"
        ))
    })
}

/// Finds the layers that modules are of.
pub(super) struct Layers(Vec<Regex>);

impl Layers {
    /// `patterns` are the names of the list of layers (`layers_pattern`); any where there are none.
    ///
    /// # Errors
    /// `Error::Input` for a pattern that is not understood.
    pub fn new(patterns: &[String]) -> Result<Self> {
        const KEY: &str = "layers_pattern";
        if patterns.is_empty() {
            return compile(KEY, "", r"\A.*?\.[^.]*\.(\d+)\.").map(|any| Self(vec![any]));
        }
        let compiled = patterns
            .iter()
            .map(|pattern| compile(KEY, pattern, &format!(r"\A(?:|.*?\.)(?:{pattern})\.(\d+)\.")));
        compiled.collect::<Result<_>>().map(Self)
    }

    /// The number of the layer that the module of a path is of.
    pub fn of(&self, path: &str) -> Option<usize> {
        self.0.iter().find_map(|pattern| pattern.captures(path)?.get(1)?.as_str().parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_ends_and_patterns_whole_paths() {
        let path = "model.layers.10.self_attn.q_proj";
        let is = |names: ModuleNames| names.matcher("target_modules").unwrap().is(path);
        let names = |name: &str| is(ModuleNames::Names(vec![name.into()]));
        assert!(names("q_proj") && names("self_attn.q_proj") && names(path));
        assert!(!names("proj") && !names("q_pro"));
        let pattern = |pattern: &str| is(ModuleNames::Pattern(pattern.into()));
        assert!(pattern(r".*\.self_attn\.(q|v)_proj") && pattern(path));
        assert!(!pattern("q_proj") && !pattern("model|.*q") && !pattern(r".*\.layers\.1\..*"));
        let refused = ModuleNames::Pattern("(?!x).*".into());
        let message = refused.matcher("target_modules").err().unwrap().to_string();
        assert!(message.contains("(?!x).*") && message.contains("look-around"), "{message}");
    }

    #[test]
    fn overrides_match_ends_and_the_first_one_counts() {
        let patterns = [("layers.1.*v_proj".to_owned(), 4), ("[qv]_proj".to_owned(), 8)];
        let ranks = Overrides::new("rank_pattern", &patterns).unwrap();
        assert_eq!(ranks.of("model.layers.0.self_attn.v_proj"), Some(8));
        assert_eq!(ranks.of("model.layers.1.self_attn.v_proj"), Some(4));
        assert_eq!(ranks.of("model.layers.1.self_attn.q_proj"), Some(8));
        assert_eq!(ranks.of("model.layers.1.self_attn.qq_proj"), None);
    }

    #[test]
    fn layers_are_found_as_peft_finds_them() {
        let of = |path: &str, patterns: &[&str]| {
            let patterns: Vec<_> = patterns.iter().map(|p| p.to_string()).collect();
            Layers::new(&patterns).unwrap().of(path)
        };
        let path = "model.layers.12.self_attn.q_proj";
        assert_eq!(of(path, &[]), Some(12));
        assert_eq!(of(path, &["h", "layers"]), Some(12));
        assert_eq!(of(path, &["blocks"]), None);
        assert_eq!(of("lm_head", &[]), None);
    }
}
