//! What a run is told: config files in TOML or YAML, and the command line on top of them.
//!
//! `tree` reads both syntaxes to one tree of values with their lines; the table in `keys` says
//! which keys there are and how each is read and written (an objective brings its own: [`key`]);
//! `foreign` translates keys of other tools, `without_effect` knows those that change nothing here,
//! and `unknown` what a key that is not there may mean; `apply` puts them together, checks what one
//! setting says about another, and tells all `problems` at once. The result is a [`TrainConfig`], in
//! which every default is resolved that needs no model or device.

mod apply;
mod choice;
mod foreign;
mod help;
pub mod key;
mod keys;
mod lora;
mod paths;
mod problems;
mod read;
mod settings;
mod size;
mod tree;
mod unknown;
mod without_effect;
mod write;

#[cfg(test)]
mod foreign_tests;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf, absolute};

pub use choice::{Choice, DtypeChoice, GradientCheckpointing, Init, LrSchedulerType, QuantType};
pub use help::describe_keys;
pub use lora::LoraConfig;
pub use paths::TemplateSource;
pub use settings::{
    DataConfig, EvalSource, Interval, QuantizationConfig, Resume, TrainArgs, TrainConfig,
};
pub use size::{format_size, parse_size};
pub use tree::Syntax;
pub use write::Change;

pub use crate::backend::DeviceSpec;
use crate::error::{Error, Result};
use crate::files;
use paths::Bases;
use tree::{Entry, Node, Place};

/// A setting of the command line, which replaces that of the config file. Relative paths in it
/// start from the current directory.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    key: String,
    node: Node,
}

impl Override {
    /// `--set section.key=value`; the section may be left out where the key is unique. The value is
    /// TOML, or else the text itself.
    ///
    /// # Errors
    /// [`Error::Input`] where there is no `=` or no key.
    pub fn set(text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok(Self::new(key.trim(), value.trim(), &format!("--set {text}")))
            }
            _ => Err(Error::input(format!(
                "--set {text}: expected section.key=value, as in --set train.max_steps=100"
            ))),
        }
    }

    /// An option of its own such as `--model DIR` for `model`: messages name it as `option`.
    pub fn option(option: &str, key: &str, value: &str) -> Self {
        Self::new(key, value, option)
    }

    /// Whether it sets `key`.
    pub fn is_for(&self, key: &str) -> bool {
        self.key == key
    }

    fn new(key: &str, value: &str, place: &str) -> Self {
        let node = Node::from_command_line(value, Place::CommandLine(place.into()));
        Self { key: key.to_owned(), node }
    }
}

impl TrainConfig {
    /// What the run that left `dir` behind was told: its config.toml. A directory from elsewhere, such
    /// as another tool's adapter, has none.
    ///
    /// # Errors
    /// As [`TrainConfig::load`].
    pub fn beside(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("config.toml");
        path.is_file().then(|| Self::load(&path, &[])).transpose()
    }

    /// Reads a config file, then applies `overrides` in order.
    ///
    /// # Errors
    /// [`Error::Input`] with the file and line for anything that is not understood, not valid or
    /// contradictory.
    pub fn load(path: &Path, overrides: &[Override]) -> Result<Self> {
        let syntax = Syntax::of(path)?;
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::input(format!("cannot read the config {}: {error}", path.display()))
        })?;
        let file = path.display().to_string();
        let base = absolute(path).ok().and_then(|path| path.parent().map(Path::to_owned));
        Self::parse(&text, syntax, &file, &base.unwrap_or_default(), overrides)
    }

    /// Reads the text of a config: `file` names it in messages, its relative paths start from
    /// `base`.
    ///
    /// # Errors
    /// As [`TrainConfig::load`].
    pub fn parse(
        text: &str,
        syntax: Syntax,
        file: &str,
        base: &Path,
        overrides: &[Override],
    ) -> Result<Self> {
        resolve(tree::parse(text, syntax, file)?, overrides, base, file)
    }

    /// The defaults on a model and a data file: `train --model DIR --data FILE`, which is LoRA. The
    /// result goes to the next free `runs/NAME` after the model's name, unless an override says where.
    ///
    /// # Errors
    /// As [`TrainConfig::load`].
    pub fn for_model_and_data(model: &str, data: &Path, overrides: &[Override]) -> Result<Self> {
        let data = data.to_str().ok_or_else(|| {
            Error::input(format!("--data {}: the path is not valid UTF-8", data.display()))
        })?;
        let output_dir = files::next_free(&runs_of(model)).to_string_lossy().into_owned();
        let mut all = vec![
            Override::option("--model", "model", model),
            Override::option("--data", "data.train", data),
            Override::option("the default", "output_dir", &output_dir),
            Override::option("the default", "lora", "true"),
        ];
        all.extend_from_slice(overrides);
        resolve(Vec::new(), &all, Path::new(""), "the command line")
    }
}

/// Where runs on a model go if nothing says where: `runs/NAME`, and `runs/NAME-2` ... after it.
pub fn runs_of(model: &str) -> PathBuf {
    let model = model.split_once('@').map_or(model, |(id, _)| id);
    let path = absolute(model).ok().map(|path| files::without_detours(&path));
    let name = path.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    Path::new("runs").join(name.unwrap_or("model"))
}

/// The config that the entries of a file and the command line give.
fn resolve(
    file: Vec<Entry>,
    overrides: &[Override],
    base: &Path,
    origin: &str,
) -> Result<TrainConfig> {
    let overrides: Vec<_> =
        overrides.iter().map(|Override { key, node }| (key.as_str(), node)).collect();
    let current = std::env::current_dir()
        .map_err(|error| Error::run(format!("cannot tell the current directory: {error}")))?;
    apply::resolve(file, &overrides, &Bases { config: current.join(base), current }, origin)
}
