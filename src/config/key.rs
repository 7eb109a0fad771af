//! One setting: how it is read and how it is written.

use super::choice::Choice;
pub use super::paths::Bases;
pub use super::read::Read;
pub use super::tree::{Node, Value};

/// A setting of `C`.
pub struct Key<C> {
    /// Its section; empty for the keys before the first section.
    pub section: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What other tools call it.
    pub aliases: &'static [&'static str],
    /// One line for the saved config.
    pub doc: &'static str,
    /// Reads the value.
    pub set: fn(&mut C, &Node, &Bases) -> Read<()>,
    /// The value as TOML; `None` where it is not set, or is said by another key.
    pub show: fn(&C) -> Option<String>,
}

/// What is known of a key without its settings.
#[derive(Clone, Copy, Debug)]
pub struct KeyInfo {
    /// Its section; empty for the keys before the first section.
    pub section: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What other tools call it.
    pub aliases: &'static [&'static str],
    /// One line for the saved config.
    pub doc: &'static str,
}

impl<C> Key<C> {
    /// What is known without settings.
    pub fn info(&self) -> KeyInfo {
        let Self { section, name, aliases, doc, .. } = *self;
        KeyInfo { section, name, aliases, doc }
    }
}

impl KeyInfo {
    /// `section.name`, or the name alone before the first section.
    pub fn path(&self) -> String {
        match self.section {
            "" => self.name.to_owned(),
            section => format!("{section}.{}", self.name),
        }
    }

    /// The name and the aliases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }
}

/// Settings with their keys: what an objective's folder brings to the config. In a config of another
/// objective these keys are errors.
pub trait Keys: Sized + 'static {
    /// The keys. Their section is the objective's own; those before the first section, such as a list
    /// of tables, may be shared between objectives.
    const KEYS: &'static [Key<Self>];

    /// What is wrong with the settings together: the path of a key, and why.
    ///
    /// # Errors
    /// That.
    fn check(&self) -> Result<(), (&'static str, String)> {
        Ok(())
    }
}

/// [`Keys`] of a type that is not known.
pub trait Settings {
    /// The keys.
    fn keys(&self) -> Vec<KeyInfo>;

    /// Reads the value of the key at `path`.
    ///
    /// # Errors
    /// What is wrong with the value.
    fn set(&mut self, path: &str, node: &Node, bases: &Bases) -> Read<()>;

    /// The value of the key at `path` as TOML; `None` where it is not set, or there is no such key.
    fn show(&self, path: &str) -> Option<String>;

    /// What is wrong with the settings together: the path of a key, and why.
    ///
    /// # Errors
    /// That.
    fn check(&self) -> Result<(), (&'static str, String)>;
}

impl<T: Keys> Settings for T {
    fn keys(&self) -> Vec<KeyInfo> {
        T::KEYS.iter().map(Key::info).collect()
    }

    fn set(&mut self, path: &str, node: &Node, bases: &Bases) -> Read<()> {
        match T::KEYS.iter().find(|key| key.info().path() == path) {
            Some(key) => (key.set)(self, node, bases),
            None => Err("is no key".to_owned()),
        }
    }

    fn show(&self, path: &str) -> Option<String> {
        let key = T::KEYS.iter().find(|key| key.info().path() == path)?;
        (key.show)(self)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        Keys::check(self)
    }
}

/// `text` as a TOML string.
pub fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A choice as a TOML string.
pub fn named(choice: impl Choice) -> Option<String> {
    Some(quoted(choice.name()))
}

/// A number or a boolean as TOML. Floats have the shortest digits that read back as the same bits.
pub fn plain(value: impl std::fmt::Debug) -> Option<String> {
    Some(format!("{value:?}"))
}
