//! The table of keys. It alone says which keys there are; reading, `--set`, suggestions and the
//! saved config are all driven by it, so that no key is half-supported. Those of the run stand here,
//! those of its objective in the objective's folder.

mod data;
mod lora;
mod model;
mod run;
mod train;

pub(super) use run::find_objective;

use super::key::{self, Bases, KeyInfo, Node, Read};
use super::settings::TrainConfig;
use crate::objective::Objective;
use std::ops::Deref;

use super::key::{named, plain, quoted};

type Key = key::Key<TrainConfig>;

/// The sections of every run, in the order in which a config is written.
const SECTIONS: [&str; 4] = ["quantization", "lora", "data", "train"];

/// One setting of a run: its own or one of its objective.
#[derive(Clone, Copy)]
pub(super) struct Setting {
    info: KeyInfo,
    /// Where it is in the run's tables; else the objective has it.
    key: Option<&'static Key>,
}

impl Deref for Setting {
    type Target = KeyInfo;

    fn deref(&self) -> &KeyInfo {
        &self.info
    }
}

impl Setting {
    /// Reads the value into the config.
    pub fn set(&self, config: &mut TrainConfig, node: &Node, bases: &Bases) -> Read<()> {
        match self.key {
            Some(key) => (key.set)(config, node, bases),
            None => config.objective.set(&self.path(), node, bases),
        }
    }

    /// The value as TOML; `None` where it is not set, or is said by another key.
    pub fn show(&self, config: &TrainConfig) -> Option<String> {
        match self.key {
            Some(key) => (key.show)(config),
            None => config.objective.show(&self.path()),
        }
    }

    /// Whether it is about one start of the run or said by a section, so that a saved config has
    /// no line for it.
    pub fn is_never_saved(&self) -> bool {
        matches!(self.path().as_str(), "lora" | "resume_from_checkpoint")
    }
}

/// Every key of every run. Keys are applied in this order: a key that checks another comes after it.
pub(super) fn of_all_runs() -> impl Iterator<Item = Setting> {
    let tables = [
        run::KEYS,
        model::QUANTIZATION,
        lora::KEYS,
        data::KEYS,
        train::BATCHES,
        train::OPTIMIZER,
        train::SCHEDULE,
    ];
    tables.into_iter().flatten().map(|key| Setting { info: key.info(), key: Some(key) })
}

/// Every key of a run with this objective.
pub(super) fn of(objective: &dyn Objective) -> Vec<Setting> {
    let own = objective.keys().into_iter().map(|info| Setting { info, key: None });
    of_all_runs().chain(own).collect()
}

/// The sections of these keys, in the order in which a config is written.
pub(super) fn sections(keys: &[Setting]) -> Vec<&'static str> {
    let mut sections = SECTIONS.to_vec();
    for key in keys {
        if !key.section.is_empty() && !sections.contains(&key.section) {
            sections.push(key.section);
        }
    }
    sections
}
