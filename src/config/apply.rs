//! From a value tree to settings: which objective, as it brings keys of its own, then which key each
//! entry means, then the values, then what follows from them.

use std::collections::BTreeMap;

use super::choice::{Choice, DtypeChoice};
use super::foreign::{self, Foreign};
use super::keys::{self, Setting};
use super::lora::LoraConfig;
use super::paths::Bases;
use super::problems::{Notes, Problems};
use super::settings::{EvalSource, Interval, TrainConfig};
use super::tree::{Entry, Node, Place, Value};
use super::unknown::Known;
use super::without_effect;
use crate::error::{Error, Result};
use crate::objective::Chosen;

/// One setting as it was written.
struct Assignment {
    /// The key as the user wrote it, an alias perhaps.
    written: String,
    node: Node,
}

/// What a foreign key says another way, so that it is not called missing where that key was refused.
const STANDS_FOR: &[(&str, &str)] = &[
    ("data", "data.train"),
    ("dataset", "data.train"),
    ("dataset_name", "data.train"),
    ("datasets", "data.train"),
];

/// The config that is given by the entries of a `file`, if there is one, and by those of the command
/// line: `section.key`, or a key alone, and its value. `origin` names the file, or the command line,
/// in messages about what is missing. All that is wrong is told at once.
pub(super) fn resolve(
    file: Vec<Entry>,
    overrides: &[(&str, &Node)],
    bases: &Bases,
    origin: &str,
) -> Result<TrainConfig> {
    let mut problems = Problems::default();
    let objective = problems.take(choose(&file, overrides)).unwrap_or_default();
    let mut given = Given::new(objective, problems);
    given.add_entries(file, false);
    for (key, node) in overrides {
        given.replace(key, (*node).clone());
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
    problems: Problems,
    /// The keys, by their paths, whose values are among the problems.
    refused: Vec<String>,
    notes: Notes,
}

impl Given {
    fn new(objective: Chosen, problems: Problems) -> Self {
        let keys = keys::of(&*objective);
        Self {
            sections: keys::sections(&keys),
            keys,
            objective,
            assignments: BTreeMap::new(),
            lora_section: None,
            problems,
            refused: Vec::new(),
            notes: Notes::default(),
        }
    }

    /// Takes one value of the command line, which replaces the file's. `key` is `section.key`, or
    /// a key alone.
    fn replace(&mut self, key: &str, node: Node) {
        let place = node.place.clone();
        let entry = |name: &str, node| Entry { name: name.to_owned(), place: place.clone(), node };
        let entry = match key.split_once('.') {
            Some((section, name)) => {
                let table = node.with(Value::Table(vec![entry(name, node.clone())]));
                entry(section, table)
            }
            None => entry(key, node),
        };
        self.add_entries(vec![entry], true);
    }

    /// Takes entries. Two that mean one key are an error, unless later ones `replace` earlier ones.
    fn add_entries(&mut self, entries: Vec<Entry>, replace: bool) {
        for entry in entries {
            let section = self.sections.iter().copied().find(|section| *section == entry.name);
            match (section, &entry.node.value) {
                (Some(section), Value::Table(_)) => {
                    if section == "lora" {
                        self.lora_section = Some(entry.place);
                    }
                    let Value::Table(entries) = entry.node.value else { continue };
                    for entry in entries {
                        self.add_entry(section, entry, replace);
                    }
                }
                (Some("lora"), Value::Null) => self.problems.add(
                    &entry.place,
                    "lora: the section is empty; write `lora: {}` for LoRA with its defaults, or \
                     remove the line for full fine-tuning",
                ),
                _ => self.add_entry("", entry, replace),
            }
        }
    }

    /// Takes an entry of `section`, or one outside sections: a key before the first section, one
    /// of another tool, or any key that has its name alone.
    fn add_entry(&mut self, section: &'static str, entry: Entry, replace: bool) {
        let Entry { name, place, node } = entry;
        let written = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        let named = |key: &&Setting| key.names().any(|known| known == name);
        let foreign = foreign::KEYS.iter().find(|key| key.names.contains(&name.as_str()));
        let idle = without_effect::KEYS.iter().find(|key| key.names.contains(&name.as_str()));
        let keys = self.keys.iter();
        let own = keys.clone().find(|key| key.section == section && named(key)).copied();
        let settings = match (own, foreign, idle) {
            (Some(key), ..) => vec![(key, node)],
            (None, Some(foreign), _) => self.translate(foreign, &written, node),
            (None, None, Some(idle)) => {
                match (node.value == Value::Null, (idle.harmless)(&node)) {
                    (true, _) => {}
                    (false, true) => self.notes.add(&place, &written, idle.why),
                    (false, false) => {
                        self.problems.add(&place, &format!("{written}: {}", idle.otherwise));
                    }
                }
                Vec::new()
            }
            (None, None, None) => {
                let found = keys.filter(named).filter(|_| section.is_empty()).copied();
                match found.collect::<Vec<_>>().as_slice() {
                    [key] => vec![(*key, node)],
                    [] => {
                        self.unknown(section, &name, &place, &node);
                        Vec::new()
                    }
                    several => {
                        let paths: Vec<String> = several.iter().map(|key| key.path()).collect();
                        let text = format!("{name}: is {}: write which", paths.join(", or "));
                        self.problems.add(&place, &text);
                        Vec::new()
                    }
                }
            }
        };
        for (key, node) in settings {
            self.assign(key, &written, node, replace);
        }
    }

    fn assign(&mut self, key: Setting, written: &str, node: Node, replace: bool) {
        if node.value == Value::Null {
            return;
        }
        let (place, value) = (node.place.clone(), node.value.clone());
        let assignment = Assignment { written: written.to_owned(), node };
        let previous = self.assignments.insert(key.path(), assignment);
        // axolotl's `adapter: qlora` comes with `load_in_4bit: true`: both say the same.
        if let Some(previous) = previous.filter(|p| !replace && p.node.value != value) {
            self.problems.add(
                &place,
                &format!(
                    "{written}: already given as {} ({}); keep one of them",
                    previous.written, previous.node.place
                ),
            );
        }
    }

    /// The config that was given.
    fn resolve(mut self, bases: &Bases, origin: &str) -> Result<TrainConfig> {
        let mut config = TrainConfig::default();
        for key in &self.keys {
            let Some(assignment) = self.assignments.get(&key.path()) else { continue };
            if let Err(why) = key.set(&mut config, &assignment.node, bases) {
                self.problems
                    .add(&assignment.node.place, &format!("{}: {why}", assignment.written));
                self.refused.push(key.path());
            }
        }
        let values_are_right = self.refused.is_empty();
        self.require("model", "a model directory or Org/Name", origin);
        self.require("output_dir", "where the result goes", origin);
        self.require("data.train", "a file of JSON Lines", origin);
        // What one value says about another is known where all of them are.
        if values_are_right {
            let checked = config.objective.check();
            let checked = checked.map_err(|(key, why)| self.error(key, &why));
            self.problems.take(checked);
            let checks = [Self::resolve_lora, Self::resolve_optimizer, Self::resolve_dtype];
            for check in checks.into_iter().chain([Self::resolve_best_model as fn(&_, &mut _) -> _])
            {
                let found = check(&self, &mut config);
                self.problems.take(found);
            }
        }
        config.notes = self.notes.into_lines();
        match self.problems.into_error() {
            Some(error) => Err(error),
            None => Ok(config),
        }
    }

    fn resolve_optimizer(&self, config: &mut TrainConfig) -> Result<()> {
        if config.lora.is_some() && config.train.optim.full_training_only {
            return Err(self.error(
                "train.optim",
                "trains the matrices of a model, and LoRA trains other ones: remove [lora] (or give \
                 --full), or take adamw_torch or adamw_8bit",
            ));
        }
        if !self.has("train.learning_rate") {
            config.train.learning_rate = config.objective.learning_rate(config.lora.is_some());
        }
        Ok(())
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

    fn require(&mut self, path: &str, what: &str, origin: &str) {
        if self.has(path) || self.refused.iter().any(|refused| refused == path) {
            return;
        }
        let text = format!("{path} is missing: give {what}");
        self.problems.add(&Place::CommandLine(origin.into()), &text);
    }

    /// An error about a key that was given.
    fn error(&self, path: &str, why: &str) -> Error {
        match self.assignments.get(path) {
            Some(assignment) => assignment.error(why),
            None => Error::input(format!("{path}: {why}")),
        }
    }

    /// What a key of another tool stands for; nothing where it is refused.
    fn translate(&mut self, foreign: &Foreign, written: &str, node: Node) -> Vec<(Setting, Node)> {
        if node.value == Value::Null {
            return Vec::new();
        }
        if written == "fine_tune_type" {
            self.notes.add(
                &node.place,
                written,
                "a key of mlx_lm, whose AdamW decays weights by 0.01 and corrects no bias unless told \
                 otherwise; here weight_decay is 0 unless given, and the bias is corrected",
            );
        }
        let settings = match (foreign.translate)(&node) {
            Ok(settings) => settings,
            Err(why) => {
                self.problems.add(&node.place, &format!("{written}: {why}"));
                let stands_for = STANDS_FOR.iter().find(|(name, _)| foreign.names.contains(name));
                self.refused.push(stands_for.map_or(written, |(_, path)| path).to_owned());
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for (path, node) in settings {
            match self.keys.iter().find(|key| key.path() == path) {
                Some(key) => found.push((*key, node)),
                None => self.problems.add(&node.place, &format!("{written}: {path} is no key")),
            }
        }
        found
    }

    /// Notes or refuses a key that there is not.
    fn unknown(&mut self, section: &str, name: &str, place: &Place, node: &Node) {
        if node.value == Value::Null {
            let written =
                if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
            return self.notes.add(place, &written, "no such key, and no value: left out");
        }
        if self.problems.is_full() {
            return self.problems.add(place, name);
        }
        let known =
            Known { keys: &self.keys, sections: &self.sections, objective: &self.objective };
        let (text, list) = known.explain(section, name);
        if section.is_empty() && self.sections.contains(&name) {
            let text = format!("{name}: expected a table of keys, found {}", node.describe());
            return self.problems.add(place, &text);
        }
        self.problems.add_with(place, &text, list);
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
        for objective in crate::objective::all() {
            let mut seen: BTreeMap<&str, String> = BTreeMap::new();
            let keys = keys::of(&*objective);
            let keys = keys.iter().flat_map(|key| key.names().map(|name| (name, key.path())));
            let foreign = foreign::KEYS
                .iter()
                .flat_map(|key| key.names)
                .map(|name| (*name, "foreign".into()));
            let idle = without_effect::KEYS.iter().flat_map(|key| key.names);
            let idle = idle.map(|name| (*name, "without effect".into()));
            for (name, path) in keys.chain(foreign).chain(idle) {
                // Outside sections axolotl's meaning holds, in `[lora]` PEFT's; mlx_lm's mode is told
                // from a file by its value; and CPO's alpha, outside its section, is refused.
                if matches!(name, "adapter" | "train" | "alpha") {
                    continue;
                }
                if let Some(other) = seen.insert(name, path.clone()) {
                    panic!("{name} is both {other} and {path}");
                }
            }
        }
    }
}
