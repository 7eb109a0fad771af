//! Every key with its default, for `train --help`.

use super::keys::{self, SECTIONS};
use super::settings::{LoraConfig, TrainConfig};

/// The keys of a config, section by section, with their defaults and what they do.
pub fn describe_keys() -> String {
    let defaults = TrainConfig { lora: Some(LoraConfig::default()), ..TrainConfig::default() };
    // They depend on the rest of the config; the text says how.
    let depends = ["model", "output_dir", "data.train", "train.learning_rate"];
    let mut text = String::new();
    for section in [""].into_iter().chain(SECTIONS) {
        match section {
            "" => {}
            "lora" => {
                text.push_str("\n[lora]  (without it all weights are trained; --set lora=true)\n")
            }
            _ => text.push_str(&format!("\n[{section}]\n")),
        }
        // The key `lora` stands for its section.
        for key in keys::all().filter(|key| key.section == section && key.path() != "lora") {
            let default = (key.show)(&defaults).filter(|_| !depends.contains(&key.path().as_str()));
            let default = default.map(|value| format!(" [default: {value}]")).unwrap_or_default();
            text.push_str(&format!("  {:<29} {}{default}\n", key.name, key.doc));
        }
    }
    text
}
