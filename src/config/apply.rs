//! From a value tree to settings: which objective, as it brings keys of its own, then which key each
//! entry means, then the values, then what follows from them.

use std::collections::BTreeMap;

use super::choice::{Choice, DtypeChoice};
use super::foreign::{self, Foreign};
use super::keys::{self, Setting};
use super::lora::LoraConfig;
use super::paths::Bases;
use super::settings::{EvalSource, Interval, TrainConfig};
use super::tree::{Entry, Node, Place, Value};
use crate::error::{Error, Result};
use crate::objective::{self, Chosen};
use crate::suggest::nearest;

/// One setting as it was written.
struct Assignment {
    /// The key as the user wrote it, an alias perhaps.
    written: String,
    node: Node,
}

/// The config that is given by the entries of a `file`, if there is one, and by those of the command
/// line: `section.key`, or a key alone, and its value. `origin` names the file, or the command line,
/// in messages about what is missing.
pub(super) fn resolve(
    file: Vec<Entry>,
    overrides: &[(&str, &Node)],
    bases: &Bases,
    origin: &str,
) -> Result<TrainConfig> {
    let mut given = Given::new(choose(&file, overrides)?);
    given.add_entries(file, false)?;
    for (key, node) in overrides {
        given.replace(key, (*node).clone())?;
    }
    given.resolve(bases, origin)
}

/// The objective that is asked for last.
fn choose(file: &[Entry], overrides: &[(&str, &Node)]) -> Result<Chosen> {
    let in_file = file.iter().map(|entry| (entry.name.as_str(), &entry.node));
    let all: Vec<(&str, &Node)> = in_file.chain(overrides.iter().copied()).collect();
    let keys: Vec<Setting> = keys::of_all_runs().filter(|key| key.path() == "objective").collect();
    let names = || keys.iter().flat_map(|key| key.names());
    let asked = all
        .iter()
        .rev()
        .find(|(name, node)| names().any(|known| known == *name) && node.value != Value::Null);
    let Some((name, node)) = asked else { return Ok(Chosen::default()) };
    let found = node.text().and_then(keys::find_objective);
    found.map_err(|why| Error::input(format!("{}: {name}: {why}", node.place)))
}

/// The settings that were given, by the path of their key.
struct Given {
    /// Every key that there is under this objective.
    keys: Vec<Setting>,
    /// Their sections.
    sections: Vec<&'static str>,
    objective: Chosen,
    assignments: BTreeMap<String, Assignment>,
    /// The place of a `[lora]` section, which asks for LoRA even when it is empty.
    lora_section: Option<Place>,
}

impl Given {
    fn new(objective: Chosen) -> Self {
        let keys = keys::of(&*objective);
        Self {
            sections: keys::sections(&keys),
            keys,
            objective,
            assignments: BTreeMap::new(),
            lora_section: None,
        }
    }

    /// Takes one value of the command line, which replaces the file's. `key` is `section.key`, or
    /// a key alone.
    fn replace(&mut self, key: &str, node: Node) -> Result<()> {
        let place = node.place.clone();
        let entry = |name: &str, node| Entry { name: name.to_owned(), place: place.clone(), node };
        let entry = match key.split_once('.') {
            Some((section, name)) => {
                let table = node.with(Value::Table(vec![entry(name, node.clone())]));
                entry(section, table)
            }
            None => entry(key, node),
        };
        self.add_entries(vec![entry], true)
    }

    /// Takes entries. Two that mean one key are an error, unless later ones `replace` earlier ones.
    fn add_entries(&mut self, entries: Vec<Entry>, replace: bool) -> Result<()> {
        for entry in entries {
            let section = self.sections.iter().copied().find(|section| *section == entry.name);
            match (section, &entry.node.value) {
                (Some(section), Value::Table(_)) => {
                    if section == "lora" {
                        self.lora_section = Some(entry.place);
                    }
                    let Value::Table(entries) = entry.node.value else { continue };
                    for entry in entries {
                        self.add_entry(section, entry, replace)?;
                    }
                }
                (Some("lora"), Value::Null) => {
                    return Err(Error::input(format!(
                        "{}: lora: the section is empty; write `lora: {{}}` for LoRA with its \
                         defaults, or remove the line for full fine-tuning",
                        entry.place
                    )));
                }
                _ => self.add_entry("", entry, replace)?,
            }
        }
        Ok(())
    }

    /// Takes an entry of `section`, or one outside sections: a key before the first section, one
    /// of another tool, or any key that has its name alone.
    fn add_entry(&mut self, section: &'static str, entry: Entry, replace: bool) -> Result<()> {
        let Entry { name, place, node } = entry;
        let written = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        let named = |key: &&Setting| key.names().any(|known| known == name);
        let foreign = foreign::KEYS.iter().find(|key| key.names.contains(&name.as_str()));
        let keys = &self.keys;
        let settings = match keys.iter().find(|key| key.section == section && named(key)) {
            Some(key) => vec![(*key, node)],
            None => match (foreign, section) {
                (Some(foreign), _) => self.translate(foreign, &written, node)?,
                (None, "") => match keys.iter().find(named) {
                    Some(key) => vec![(*key, node)],
                    None => return Err(self.unknown(section, &name, &place)),
                },
                _ => return Err(self.unknown(section, &name, &place)),
            },
        };
        for (key, node) in settings {
            if node.value == Value::Null {
                continue;
            }
            let (place, value) = (node.place.to_string(), node.value.clone());
            let assignment = Assignment { written: written.clone(), node };
            let previous = self.assignments.insert(key.path(), assignment);
            // axolotl's `adapter: qlora` comes with `load_in_4bit: true`: both say the same.
            if let Some(previous) = previous.filter(|p| !replace && p.node.value != value) {
                return Err(Error::input(format!(
                    "{place}: {written}: already given as {} ({}); keep one of them",
                    previous.written, previous.node.place
                )));
            }
        }
        Ok(())
    }

    /// The config that was given.
    fn resolve(&self, bases: &Bases, origin: &str) -> Result<TrainConfig> {
        let mut config = TrainConfig::default();
        for key in &self.keys {
            if let Some(assignment) = self.assignments.get(&key.path()) {
                key.set(&mut config, &assignment.node, bases)
                    .map_err(|why| assignment.error(&why))?;
            }
        }
        self.require("model", "a model directory or Org/Name", origin)?;
        self.require("output_dir", "where the result goes", origin)?;
        self.require("data.train", "a file of JSON Lines", origin)?;
        self.resolve_lora(&mut config)?;
        if config.lora.is_some() && config.train.optim.full_training_only {
            return Err(self.error(
                "train.optim",
                "trains the matrices of a model, and LoRA trains other ones: remove [lora] (full \
                 training), or take adamw_torch or adamw_8bit",
            ));
        }
        if !self.has("train.learning_rate") {
            config.train.learning_rate = if config.lora.is_some() { 2e-4 } else { 2e-5 };
        }
        self.resolve_dtype(&mut config)?;
        self.resolve_best_model(&mut config)?;
        Ok(config)
    }

    /// 4-bit weights are decoded to the dtype of the activations, whichever key names it.
    fn resolve_dtype(&self, config: &mut TrainConfig) -> Result<()> {
        const COMPUTE: &str = "quantization.bnb_4bit_compute_dtype";
        let compute = config.quantization.bnb_4bit_compute_dtype;
        let (auto, dtype) = (DtypeChoice::Auto, config.dtype);
        if config.quantization.load_in_4bit && self.has(COMPUTE) && compute != auto {
            if dtype != auto && dtype != compute {
                return Err(self.error(
                    COMPUTE,
                    &format!(
                        "must be the same as dtype = {:?}: leave one of them out",
                        dtype.name()
                    ),
                ));
            }
            config.dtype = compute;
        }
        config.quantization.bnb_4bit_compute_dtype = config.dtype;
        Ok(())
    }

    fn resolve_lora(&self, config: &mut TrainConfig) -> Result<()> {
        let off = self.assignments.get("lora").filter(|lora| lora.node.value == Value::Bool(false));
        if let Some(off) = off
            && (config.lora.is_some() || self.lora_section.is_some())
        {
            return Err(off.error("contradicts the settings of LoRA: keep one of them"));
        }
        if self.lora_section.is_some() {
            config.lora.get_or_insert_with(LoraConfig::default);
        }
        if config.lora.is_none() && config.quantization.load_in_4bit {
            return Err(self.error(
                "quantization.load_in_4bit",
                "4-bit weights are frozen, so there is nothing to train: add a [lora] section \
                 (or --set lora=true)",
            ));
        }
        if config.lora.as_ref().is_some_and(|lora| lora.adapter.is_some()) {
            // How it is trained on is this run's.
            const OWN: [&str; 3] = ["adapter", "lora_dropout", "loraplus_lr_ratio"];
            let brought = self.keys.iter().filter(|key| key.section == "lora");
            let brought = brought.filter(|key| !OWN.contains(&key.name)).map(|key| key.path());
            if let Some(key) = brought.into_iter().find(|key| self.has(key)) {
                return Err(self.error(
                    &key,
                    "contradicts lora.adapter, which brings its own: keep one of them",
                ));
            }
        }
        Ok(())
    }

    /// Early stopping implies the best model, which needs evaluations and a checkpoint at each.
    fn resolve_best_model(&self, config: &mut TrainConfig) -> Result<()> {
        const BEST: &str = "train.load_best_model_at_end";
        const PATIENCE: &str = "train.early_stopping_patience";
        let train = &mut config.train;
        let mut asked_by = BEST;
        if train.early_stopping_patience > 0 {
            if self.has(BEST) && !train.load_best_model_at_end {
                return Err(self.error(BEST, &format!("false contradicts {PATIENCE}")));
            }
            train.load_best_model_at_end = true;
            asked_by = PATIENCE;
        }
        if !train.load_best_model_at_end {
            return Ok(());
        }
        if config.data.eval == EvalSource::None {
            return Err(self.error(asked_by, "needs held-out examples: give data.eval_split = 0.1"));
        }
        if train.eval_steps == Interval::Never {
            return Err(self.error(asked_by, "needs evaluations: remove eval_strategy = \"no\""));
        }
        if !self.has("train.save_steps") && !self.has("train.save_strategy") {
            train.save_steps = train.eval_steps;
        }
        let saved_at_evaluations = match (train.save_steps, train.eval_steps) {
            (Interval::Steps(save), Interval::Steps(eval)) => save.is_multiple_of(eval),
            (save, eval) => save == eval,
        };
        if !saved_at_evaluations {
            return Err(self.error(
                asked_by,
                "needs every checkpoint to be evaluated: make save_steps a multiple of eval_steps \
                 (or leave save_steps out)",
            ));
        }
        Ok(())
    }

    fn has(&self, path: &str) -> bool {
        self.assignments.contains_key(path)
    }

    fn require(&self, path: &str, what: &str, origin: &str) -> Result<()> {
        if self.has(path) {
            return Ok(());
        }
        Err(Error::input(format!("{origin}: {path} is missing: give {what}")))
    }

    /// An error about a key that was given.
    fn error(&self, path: &str, why: &str) -> Error {
        match self.assignments.get(path) {
            Some(assignment) => assignment.error(why),
            None => Error::input(format!("{path}: {why}")),
        }
    }

    fn translate(
        &self,
        foreign: &Foreign,
        written: &str,
        node: Node,
    ) -> Result<Vec<(Setting, Node)>> {
        if node.value == Value::Null {
            return Ok(Vec::new());
        }
        let settings = (foreign.translate)(&node)
            .map_err(|why| Error::input(format!("{}: {written}: {why}", node.place)))?;
        settings
            .into_iter()
            .map(|(path, node)| match self.keys.iter().find(|key| key.path() == path) {
                Some(key) => Ok((*key, node)),
                None => Err(Error::internal(
                    "config",
                    format!("{written} stands for {path}, which is no key"),
                )),
            })
            .collect()
    }

    fn unknown(&self, section: &str, name: &str, place: &Place) -> Error {
        let written =
            if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
        if let Some(other) = self.other_objective(section, name) {
            return Error::input(format!(
                "{place}: {written} is for objective = {other:?}, and this run's is {:?}: remove it, \
                 or set objective = {other:?}",
                self.objective.name()
            ));
        }
        let of_section = |section: &str| {
            let keys = self.keys.iter().filter(|key| key.section == section);
            let names = keys.map(|key| key.name).filter(|name| !self.sections.contains(name));
            names.collect::<Vec<_>>().join(", ")
        };
        let hint = match self.suggestion(section, name) {
            Some(known) => format!("did you mean {known}?"),
            None if section.is_empty() => format!(
                "the keys are {}, and the sections {}",
                of_section(""),
                self.sections.join(", ")
            ),
            None => format!("the keys of [{section}] are {}", of_section(section)),
        };
        Error::input(format!("{place}: unknown key {written}: {hint}"))
    }

    /// The objective that has a section or a key of that name, which this run's has not.
    fn other_objective(&self, section: &str, name: &str) -> Option<&'static str> {
        let others = objective::all();
        let has = |other: &&Chosen| {
            let keys = other.keys();
            let mut names = keys.iter().flat_map(|key| key.names());
            let is_section = keys.iter().any(|key| !name.is_empty() && key.section == name);
            section.is_empty() && (is_section || names.any(|known| known == name))
        };
        others.iter().find(has).map(|other| other.name())
    }

    /// The known key that `name` resembles, its own section first.
    fn suggestion(&self, section: &str, name: &str) -> Option<String> {
        let called = |name: &str| {
            let mut keys = self.keys.iter();
            keys.find(|key| key.names().any(|known| known == name))
        };
        // A known name in the wrong section, or a known key of an unknown one.
        if let Some(key) = called(name) {
            return Some(key.path());
        }
        let all = self.keys.iter();
        let own = all.clone().filter(|key| key.section == section).flat_map(|key| key.names());
        let any = all.flat_map(|key| key.names());
        let foreign = foreign::KEYS.iter().flat_map(|key| key.names.iter().copied());
        let sections = self.sections.iter().copied();
        let near =
            nearest(name, own).or_else(|| nearest(name, any.chain(foreign).chain(sections)))?;
        match called(near) {
            Some(key) if key.name == near => Some(key.path()),
            Some(key) => Some(format!("{near} (here {})", key.path())),
            None => Some(near.to_owned()),
        }
    }
}

impl Assignment {
    fn error(&self, why: &str) -> Error {
        Error::input(format!("{}: {}: {why}", self.node.place, self.written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_means_one_thing() {
        for objective in objective::all() {
            let mut seen: BTreeMap<&str, String> = BTreeMap::new();
            let keys = keys::of(&*objective);
            let keys = keys.iter().flat_map(|key| key.names().map(|name| (name, key.path())));
            let foreign = foreign::KEYS
                .iter()
                .flat_map(|key| key.names)
                .map(|name| (*name, "foreign".into()));
            for (name, path) in keys.chain(foreign) {
                // Outside sections axolotl's meaning holds, in `[lora]` PEFT's.
                if name == "adapter" {
                    continue;
                }
                if let Some(other) = seen.insert(name, path.clone()) {
                    panic!("{name} is both {other} and {path}");
                }
            }
        }
    }
}
