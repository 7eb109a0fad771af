//! The resolved config as commented TOML, to repeat the run with.

use super::keys;
use super::settings::TrainConfig;

/// The settings that decide neither the numbers nor the order of a run: where things are, what is
/// looked at and kept on the way, and what costs memory or time only. (Model and data are compared
/// by what they hold.)
const WITHOUT_EFFECT: [&str; 22] = [
    "model",
    "output_dir",
    "device",
    "max_memory",
    "attn_implementation",
    "lora.adapter",
    "data.train",
    "data.eval",
    "data.format",
    "data.chat_template",
    "train.per_device_eval_batch_size",
    "train.gradient_checkpointing",
    "train.num_train_epochs",
    "train.max_steps",
    "train.logging_steps",
    "train.logging_strategy",
    "train.eval_steps",
    "train.eval_strategy",
    "train.save_steps",
    "train.save_strategy",
    "train.save_total_limit",
    "train.early_stopping_patience",
];

/// A setting that is the same as another.
const SAME_AS_DTYPE: &str = "quantization.bnb_4bit_compute_dtype";

/// Those of them that may change the last bits.
const OTHER_BITS: [&str; 3] = ["device", "attn_implementation", "train.per_device_eval_batch_size"];

/// A setting that is another than when a checkpoint was saved.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// `train.seed is 1, was 2`.
    pub text: String,
    /// Why a run must not go on with it, where it must not.
    pub refused: Option<&'static str>,
    /// Whether the last bits of numbers may be others.
    pub other_bits: bool,
}

/// Why a setting must be as it was.
fn reason(path: &str) -> Option<&'static str> {
    if WITHOUT_EFFECT.contains(&path) {
        return None;
    }
    let (section, name) = path.split_once('.').unwrap_or(("", path));
    Some(match (section, name) {
        ("lora", _) => "what is trained would have another form",
        ("quantization", _) | ("", "dtype" | "init") => "the base weights would be others",
        ("data", _)
        | ("train", "per_device_train_batch_size" | "gradient_accumulation_steps" | "seed") => {
            "the steps done would have seen other examples"
        }
        ("train", "optim") => "the saved state is that of the other optimizer",
        ("train", "load_best_model_at_end") => "the best checkpoint so far may not be there",
        ("train", _) => "the steps done were taken with the other value",
        _ => "the steps done were for something else",
    })
}

impl TrainConfig {
    /// The settings that are others than those of `saved`.
    pub fn changes(&self, saved: &Self) -> Vec<Change> {
        let shown = |value: Option<String>| value.unwrap_or_else(|| "not set".into());
        keys::of(&*self.objective)
            .into_iter()
            .filter(|key| !key.is_never_saved() && key.path() != SAME_AS_DTYPE)
            .map(|key| (key.path(), key.show(self), key.show(saved)))
            .filter(|(_, now, was)| now != was)
            .map(|(path, now, was)| Change {
                text: format!("{path} is {}, was {}", shown(now), shown(was)),
                refused: reason(&path),
                other_bits: OTHER_BITS.contains(&path.as_str()),
            })
            .collect()
    }

    /// The config as commented TOML. Reading it back gives the same config, except for `resume`,
    /// which belongs to one start of the run; paths are absolute.
    pub fn to_toml(&self) -> String {
        let mut text = String::from(
            "# The settings of this run, defaults included. To repeat it, give another output_dir:\n\
             #   train config.toml --set output_dir=DIR\n",
        );
        let keys = keys::of(&*self.objective);
        for section in [""].into_iter().chain(keys::sections(&keys)) {
            if section == "lora" && self.lora.is_none() {
                text.push_str("\n# No [lora] section: all weights are trained.\n");
                continue;
            }
            if section.is_empty() {
                text.push('\n');
            } else {
                text.push_str(&format!("\n[{section}]\n"));
            }
            for key in keys.iter().filter(|key| key.section == section) {
                match key.show(self) {
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
