//! The keys before the first section: model, output, device.

use super::{Key, named, quoted};
use crate::config::lora::LoraConfig;
use crate::config::read::Read;
use crate::config::settings::Resume;
use crate::config::size::{format_size, parse_size};
use crate::config::tree::Value;
use crate::objective::{self, Chosen};
use crate::suggest::nearest;

pub(super) const KEYS: &[Key] = &[
    Key {
        section: "",
        name: "model",
        aliases: &["base_model", "model_name_or_path"],
        doc: "a model directory, or Org/Name[@revision] in the local Hugging Face cache",
        set: |config, node, bases| bases.model(node).map(|model| config.model = model),
        show: |config| Some(quoted(&config.model)),
    },
    Key {
        section: "",
        name: "output_dir",
        aliases: &[],
        doc: "where the result goes; must be empty or absent, except with --resume",
        set: |config, node, bases| bases.path(node).map(|path| config.output_dir = path),
        show: |config| Some(quoted(&config.output_dir.to_string_lossy())),
    },
    Key {
        section: "",
        name: "objective",
        aliases: &["rl", "stage"],
        doc: "what the run optimizes",
        set: |config, node, _| {
            find_objective(node.text()?).map(|objective| config.objective = objective)
        },
        show: |config| Some(quoted(config.objective.name())),
    },
    Key {
        section: "",
        name: "device",
        aliases: &[],
        doc: "auto, cpu, wgpu[:i], cuda[:i] or cuda-emulated",
        set: |config, node, _| node.text()?.parse().map(|device| config.device = device),
        show: |config| Some(quoted(&config.device.to_string())),
    },
    Key {
        section: "",
        name: "max_memory",
        aliases: &[],
        doc: "the most device memory that may be used, such as \"20GiB\"; else what the device or the machine has",
        set: |config, node, _| {
            let bytes = match node.value {
                Value::Integer(_) => node.whole(1)?,
                _ => parse_size(node.text()?)?,
            };
            config.max_memory = Some(bytes);
            Ok(())
        },
        show: |config| config.max_memory.map(|bytes| quoted(&format_size(bytes))),
    },
    Key {
        section: "",
        name: "dtype",
        aliases: &["torch_dtype"],
        doc: "base weights and activations: auto, float32, bfloat16 or float16",
        set: |config, node, _| node.choice().map(|dtype| config.dtype = dtype),
        show: |config| named(config.dtype),
    },
    Key {
        section: "",
        name: "init",
        aliases: &[],
        doc: "pretrained weights, or random ones from config.json alone",
        set: |config, node, _| node.choice().map(|init| config.init = init),
        show: |config| named(config.init),
    },
    Key {
        section: "",
        name: "attn_implementation",
        aliases: &[],
        doc: "flash, or eager: the plain fallback with the same results",
        set: |config, node, _| node.choice().map(|attn| config.attn_implementation = attn),
        show: |config| named(config.attn_implementation),
    },
    Key {
        section: "",
        name: "lora",
        aliases: &["use_peft"],
        doc: "LoRA with its defaults",
        set: |config, node, _| {
            config.lora = node.bool()?.then(LoraConfig::default);
            Ok(())
        },
        // The section says it.
        show: |_| None,
    },
    Key {
        section: "",
        name: "resume_from_checkpoint",
        aliases: &["auto_resume_from_checkpoints"],
        doc: "a checkpoint directory to go on from, or true for the newest",
        set: |config, node, bases| {
            config.resume = match &node.value {
                Value::Bool(true) => Resume::Latest,
                Value::Bool(false) => Resume::No,
                _ => Resume::From(bases.path(node)?),
            };
            Ok(())
        },
        // A repetition of the run starts anew.
        show: |_| None,
    },
];

/// The objective of that name, with its defaults.
pub(in crate::config) fn find_objective(name: &str) -> Read<Chosen> {
    let known = objective::all();
    let names: Vec<&str> = known.iter().map(|objective| objective.name()).collect();
    let shown: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    let expected = shown.join(", ");
    if let Some(at) = names.iter().position(|known| *known == name) {
        return Ok(known[at].clone());
    }
    if objective::COMING.contains(&name) {
        return Err(format!("{name:?} is not there yet; this version knows {expected}"));
    }
    if let Some((_, here)) = objective::OTHERWISE.iter().find(|(other, _)| *other == name) {
        return Err(format!("{name:?} is no objective of its own: write {here}"));
    }
    let hint = match nearest(name, names) {
        Some(name) => format!(" (did you mean {name:?}?)"),
        None => String::new(),
    };
    Err(format!("expected one of {expected}, found {name:?}{hint}"))
}
