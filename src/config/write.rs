//! The resolved config as commented TOML, to repeat the run with.

use super::keys::{self, SECTIONS};
use super::settings::TrainConfig;

impl TrainConfig {
    /// The config as commented TOML. Reading it back gives the same config, except for `resume`,
    /// which belongs to one start of the run; paths are absolute.
    pub fn to_toml(&self) -> String {
        let mut text = String::from(
            "# The settings of this run, defaults included. To repeat it, give another output_dir:\n\
             #   train config.toml --set output_dir=DIR\n",
        );
        for section in [""].into_iter().chain(SECTIONS) {
            if section == "lora" && self.lora.is_none() {
                text.push_str("\n# No [lora] section: all weights are trained.\n");
                continue;
            }
            if section.is_empty() {
                text.push('\n');
            } else {
                text.push_str(&format!("\n[{section}]\n"));
            }
            for key in keys::all().filter(|key| key.section == section) {
                match (key.show)(self) {
                    Some(value) => {
                        text.push_str(&format!("# {}\n{} = {value}\n", key.doc, key.name));
                    }
                    None if key.is_never_saved() => {}
                    None => text.push_str(&format!("# {}: {} (not set)\n", key.name, key.doc)),
                }
            }
        }
        text
    }
}
