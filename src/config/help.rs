//! Every key with its default, for `train --help`.

use super::keys::{self, Setting};
use super::lora::LoraConfig;
use super::settings::TrainConfig;
use crate::objective;

/// The keys of a config, section by section, with their defaults and what they do.
pub fn describe_keys() -> String {
    let defaults = TrainConfig { lora: Some(LoraConfig::default()), ..TrainConfig::default() };
    let all_runs: Vec<Setting> = keys::of_all_runs().collect();
    let mut text = describe(&all_runs, &defaults, |section| match section {
        "lora" => "  (without it all weights are trained; --set lora=true)",
        _ => "",
    });
    text += "\nObjectives:\n";
    let known = objective::all();
    for objective in &known {
        text += &format!("  {:<29} {}\n", objective.name(), objective.doc());
    }
    for objective in known {
        let keys: Vec<Setting> = keys::of(&*objective).into_iter().skip(all_runs.len()).collect();
        text += &describe(&keys, &TrainConfig { objective, ..TrainConfig::default() }, |_| "");
    }
    text
}

/// The keys, section by section; `note` is what stands beside the name of a section.
fn describe(keys: &[Setting], defaults: &TrainConfig, note: fn(&str) -> &'static str) -> String {
    // They depend on the rest of the config; the text says how.
    let depends = ["model", "output_dir", "data.train", "train.learning_rate"];
    let mut text = String::new();
    for section in [""].into_iter().chain(keys::sections(keys)) {
        // The key `lora` stands for its section.
        let mut keys =
            keys.iter().filter(|key| key.section == section && key.path() != "lora").peekable();
        if !section.is_empty() && keys.peek().is_some() {
            text += &format!("\n[{section}]{}\n", note(section));
        }
        for key in keys {
            let default = key.show(defaults).filter(|_| !depends.contains(&key.path().as_str()));
            let default = default.map(|value| format!(" [default: {value}]")).unwrap_or_default();
            text += &format!("  {:<29} {}{default}\n", key.name, key.doc);
        }
    }
    text
}
