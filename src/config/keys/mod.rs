//! The table of keys. It alone says which keys there are; reading, `--set`, suggestions and the
//! saved config are all driven by it, so that no key is half-supported.

mod data;
mod model;
mod run;
mod train;

use super::choice::Choice;
use super::paths::Bases;
use super::read::Read;
use super::settings::TrainConfig;
use super::tree::Node;

/// The sections, in the order in which a config is written.
pub(super) const SECTIONS: [&str; 4] = ["quantization", "lora", "data", "train"];

/// One setting.
pub(super) struct Key {
    /// Its section; empty for the keys before the first section.
    pub section: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What other tools call it.
    pub aliases: &'static [&'static str],
    /// One line for the saved config.
    pub doc: &'static str,
    /// Reads the value into the config.
    pub set: fn(&mut TrainConfig, &Node, &Bases) -> Read<()>,
    /// The value as TOML; `None` where it is not set, or is said by another key.
    pub show: fn(&TrainConfig) -> Option<String>,
}

impl Key {
    /// `section.name`, or the name alone before the first section.
    pub fn path(&self) -> String {
        match self.section {
            "" => self.name.to_owned(),
            section => format!("{section}.{}", self.name),
        }
    }

    /// Whether it is about one start of the run or said by a section, so that a saved config has
    /// no line for it.
    pub fn is_never_saved(&self) -> bool {
        matches!(self.path().as_str(), "lora" | "resume_from_checkpoint")
    }

    /// The name and the aliases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }
}

/// Every key. Keys are applied in this order: a key that checks another comes after it.
pub(super) fn all() -> impl Iterator<Item = &'static Key> {
    let tables = [
        run::KEYS,
        model::QUANTIZATION,
        model::LORA,
        data::KEYS,
        train::BATCHES,
        train::OPTIMIZER,
        train::SCHEDULE,
    ];
    tables.into_iter().flatten()
}

/// The key at `section.name` (`name` before the first section).
pub(super) fn at(path: &str) -> Option<&'static Key> {
    all().find(|key| key.path() == path)
}

/// `text` as a TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A choice as a TOML string.
fn named(choice: impl Choice) -> Option<String> {
    Some(quoted(choice.name()))
}

/// A number or a boolean as TOML. Floats have the shortest digits that read back as the same bits.
fn plain(value: impl std::fmt::Debug) -> Option<String> {
    Some(format!("{value:?}"))
}
