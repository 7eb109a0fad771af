//! Keys that are not there: what was meant, by the letters or by the meaning.

use super::foreign;
use super::keys::Setting;
use super::without_effect;
use crate::objective::{self, Chosen};
use crate::suggest::nearest;

/// Words that other tools, and people, have for what a key or section here does.
const SYNONYMS: &[(&[&str], &str)] = &[
    (&["base", "checkpoint", "model_id", "model_name", "model_path", "pretrained"], "model"),
    (&["output", "output_path", "out", "out_dir", "save_dir", "save_path"], "output_dir"),
    (&["precision", "mixed_precision", "compute_dtype", "load_dtype"], "dtype"),
    (&["attention", "attn", "use_flash_attention", "use_flash_attention_2"], "attn_implementation"),
    (&["task", "training_type"], "objective"),
    (&["4bit", "int4", "nf4", "quantize", "quantization_bit", "bits"], "quantization.load_in_4bit"),
    (&["lora_modules", "target_layers", "modules"], "lora.target_modules"),
    (&["scaling", "lora_scale"], "lora.lora_alpha"),
    (&["data_path", "train_data", "train_dataset", "training_data", "train_path"], "data.train"),
    (&["eval_data", "eval_dataset", "valid_data", "val_data", "dev_file"], "data.eval"),
    (&["data_type", "dataset_type", "dataset_format"], "data.format"),
    (&["template", "prompt_template", "chat_template_jinja"], "data.chat_template"),
    (&["block_size", "context_length", "seq_len", "model_max_length"], "data.max_length"),
    (&["truncation", "truncate"], "data.excess_length_strategy"),
    (&["pack", "neat_packing"], "data.packing"),
    (
        &["batch_size", "train_batch_size", "batch", "mini_batch_size"],
        "train.per_device_train_batch_size",
    ),
    (
        &["accumulation", "accumulate_grad_batches", "grad_accumulation_steps"],
        "train.gradient_accumulation_steps",
    ),
    (&["num_steps", "steps", "iters", "iterations", "max_iters"], "train.max_steps"),
    (&["scheduler", "schedule", "lr_schedule", "lr_decay_style"], "train.lr_scheduler_type"),
    (&["warmup", "num_warmup_steps", "warmup_iters"], "train.warmup_steps"),
    (&["wd", "decay"], "train.weight_decay"),
    (&["clip", "grad_clip", "clip_grad", "clip_grad_norm"], "train.max_grad_norm"),
    (
        &["activation_checkpointing", "enable_activation_checkpointing", "recompute"],
        "train.gradient_checkpointing",
    ),
    (&["log_every", "log_interval", "log_every_n_steps"], "train.logging_steps"),
    (&["eval_every", "eval_interval", "val_interval"], "train.eval_steps"),
    (&["checkpoint_every", "save_interval", "checkpointing_steps"], "train.save_steps"),
    (&["training", "trainer", "training_args", "training_arguments"], "train"),
    (&["peft", "lora_config", "peft_config"], "lora"),
    (&["bnb", "bnb_config", "quantization_config", "quant"], "quantization"),
    (&["patience"], "train.early_stopping_patience"),
    (&["random_seed", "manual_seed", "random_state"], "train.seed"),
];

/// The keys and sections of a run with this objective.
pub(super) struct Known<'a> {
    pub keys: &'a [Setting],
    pub sections: &'a [&'static str],
    pub objective: &'a Chosen,
}

impl Known<'_> {
    /// What to say of `section.name`, which is no key: the problem, and the known keys where nothing
    /// like it is among them.
    pub fn explain(&self, section: &str, name: &str) -> (String, Option<String>) {
        let written =
            if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
        if let Some(other) = self.other_objective(section, name) {
            let own = self.objective.name();
            return (
                format!(
                    "{written} is for objective = {other:?}, and this run's is {own:?}: remove it, \
                     or set objective = {other:?}"
                ),
                None,
            );
        }
        match self.suggestion(section, name) {
            Some(known) => (format!("unknown key {written}: did you mean {known}?"), None),
            None => (format!("unknown key {written}"), Some(self.list(section))),
        }
    }

    /// The keys of a section, in words.
    fn list(&self, section: &str) -> String {
        let keys = self.keys.iter().filter(|key| key.section == section);
        let names = keys.map(|key| key.name).filter(|name| !self.sections.contains(name));
        let names = names.collect::<Vec<_>>().join(", ");
        match section {
            "" => format!("the keys are {names}, and the sections {}", self.sections.join(", ")),
            _ => format!("the keys of [{section}] are {names}"),
        }
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

    /// The known key that `name` means or resembles, its own section first.
    fn suggestion(&self, section: &str, name: &str) -> Option<String> {
        let called = |name: &str| {
            let mut keys = self.keys.iter();
            keys.find(|key| key.names().any(|known| known == name))
        };
        // A known name in the wrong section, or a known key of an unknown one.
        if let Some(key) = called(name) {
            return Some(key.path());
        }
        let lower = name.to_lowercase().replace('-', "_");
        if let Some((_, path)) = SYNONYMS.iter().find(|(words, _)| words.contains(&&*lower)) {
            return Some((*path).to_owned());
        }
        let all = self.keys.iter();
        let own = all.clone().filter(|key| key.section == section).flat_map(|key| key.names());
        let any = all.flat_map(|key| key.names());
        let foreign = foreign::KEYS.iter().flat_map(|key| key.names.iter().copied());
        let idle = without_effect::KEYS.iter().flat_map(|key| key.names.iter().copied());
        let sections = self.sections.iter().copied();
        let others = any.chain(foreign).chain(idle).chain(sections);
        let near = nearest(name, own).or_else(|| nearest(name, others))?;
        match called(near) {
            Some(key) if key.name == near => Some(key.path()),
            Some(key) => Some(format!("{near} (here {})", key.path())),
            None => Some(near.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;
    use std::collections::BTreeSet;

    #[test]
    fn synonyms_lead_to_keys_and_are_none_themselves() {
        let mut seen = BTreeSet::new();
        let objective = Chosen::default();
        let keys = keys::of(&*objective);
        for (words, path) in SYNONYMS {
            let is_section = keys::sections(&keys).contains(path);
            assert!(is_section || keys.iter().any(|key| key.path() == *path), "{path}");
            for word in *words {
                assert!(seen.insert(*word), "{word} means two things");
                let is_key = keys.iter().any(|key| key.names().any(|name| name == *word));
                assert!(!is_key, "{word} is a key");
            }
        }
    }
}
