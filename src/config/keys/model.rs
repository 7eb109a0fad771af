//! The keys of `[quantization]` and `[lora]`.

use super::{Key, named, plain, quoted};
use crate::adapter::TargetModules;
use crate::config::read::Read;
use crate::config::settings::{LoraConfig, TrainConfig};
use crate::config::tree::{Node, Value};
use crate::model::spec::Projection;
use crate::suggest::nearest;

pub(super) const QUANTIZATION: &[Key] = &[
    Key {
        section: "quantization",
        name: "load_in_4bit",
        aliases: &[],
        doc: "store the frozen weights of linear layers in 4 bits (QLoRA)",
        set: |config, node, _| node.bool().map(|on| config.quantization.load_in_4bit = on),
        show: |config| plain(config.quantization.load_in_4bit),
    },
    Key {
        section: "quantization",
        name: "bnb_4bit_quant_type",
        aliases: &[],
        doc: "the 4-bit data type: nf4",
        set: |config, node, _| {
            node.choice().map(|kind| config.quantization.bnb_4bit_quant_type = kind)
        },
        show: |config| named(config.quantization.bnb_4bit_quant_type),
    },
    Key {
        section: "quantization",
        name: "bnb_4bit_use_double_quant",
        aliases: &["use_bnb_nested_quant", "double_quantization"],
        doc: "quantize the scales too: 0.4 bits less per weight",
        set: |config, node, _| {
            node.bool().map(|on| config.quantization.bnb_4bit_use_double_quant = on)
        },
        show: |config| plain(config.quantization.bnb_4bit_use_double_quant),
    },
    Key {
        section: "quantization",
        name: "bnb_4bit_compute_dtype",
        aliases: &[],
        doc: "what 4-bit weights are decoded to for products; the same as dtype if not given",
        set: |config, node, _| {
            node.choice().map(|dtype| config.quantization.bnb_4bit_compute_dtype = dtype)
        },
        show: |config| named(config.quantization.bnb_4bit_compute_dtype),
    },
];

pub(super) const LORA: &[Key] = &[
    Key {
        section: "lora",
        name: "r",
        aliases: &["lora_r", "lora_rank"],
        doc: "the rank of the update",
        set: |config, node, _| node.whole(1).map(|r| lora(config).r = r),
        show: |config| own(config).and_then(|lora| plain(lora.r)),
    },
    Key {
        section: "lora",
        name: "lora_alpha",
        aliases: &["alpha"],
        doc: "the update is scaled by lora_alpha / r",
        set: |config, node, _| {
            let alpha = node.real("a number above 0", |alpha| alpha > 0.0)?;
            lora(config).lora_alpha = alpha;
            Ok(())
        },
        show: |config| own(config).and_then(|lora| plain(lora.lora_alpha)),
    },
    Key {
        section: "lora",
        name: "lora_dropout",
        aliases: &["dropout"],
        doc: "dropout before lora_A",
        set: |config, node, _| node.fraction().map(|share| lora(config).lora_dropout = share),
        show: |config| config.lora.as_ref().and_then(|lora| plain(lora.lora_dropout)),
    },
    Key {
        section: "lora",
        name: "target_modules",
        aliases: &["lora_target_modules", "lora_target"],
        doc: "\"all-linear\", or a list of q_proj k_proj v_proj o_proj gate_proj up_proj down_proj \
              (qkv_proj and gate_up_proj in models that have these in one)",
        set: |config, node, _| {
            let targets = target_modules(node)?;
            lora(config).target_modules = targets;
            Ok(())
        },
        show: |config| own(config).map(|lora| show_targets(&lora.target_modules)),
    },
    Key {
        section: "lora",
        name: "use_rslora",
        aliases: &["peft_use_rslora", "lora_use_rslora"],
        doc: "scale by lora_alpha / sqrt(r) instead",
        set: |config, node, _| node.bool().map(|on| lora(config).use_rslora = on),
        show: |config| own(config).and_then(|lora| plain(lora.use_rslora)),
    },
    Key {
        section: "lora",
        name: "adapter",
        aliases: &["lora_model_dir", "adapter_name_or_path"],
        doc: "start from this PEFT adapter; rank, alpha, targets and use_rslora come from it",
        set: |config, node, bases| {
            let path = bases.path(node)?;
            lora(config).adapter = Some(path);
            Ok(())
        },
        show: |config| {
            let adapter = config.lora.as_ref()?.adapter.as_ref()?;
            Some(quoted(&adapter.to_string_lossy()))
        },
    },
];

/// Any LoRA key asks for LoRA.
fn lora(config: &mut TrainConfig) -> &mut LoraConfig {
    config.lora.get_or_insert_default()
}

/// The LoRA settings, unless an adapter brings its own rank, alpha and targets.
fn own(config: &TrainConfig) -> Option<&LoraConfig> {
    config.lora.as_ref().filter(|lora| lora.adapter.is_none())
}

fn target_modules(node: &Node) -> Read<TargetModules> {
    // Text may name several too: a list is awkward to quote in a shell.
    let names: Vec<&str> = match &node.value {
        Value::Text(text) if text == "all-linear" => return Ok(TargetModules::AllLinear),
        Value::Text(text) => text.split([',', ' ']).filter(|name| !name.is_empty()).collect(),
        _ => {
            let items = node.list("\"all-linear\" or a list such as [\"q_proj\", \"v_proj\"]")?;
            items.iter().map(Node::text).collect::<Read<_>>()?
        }
    };
    // The linear layers of the blocks of any family, in the order of the forward pass. Which of them a
    // model has is known when it is read.
    let all = Projection::ALL.map(Projection::name);
    let mut named = all.map(|_| false);
    for name in names {
        match all.iter().position(|known| *known == name) {
            Some(index) => named[index] = true,
            None => {
                let hint = match nearest(name, all) {
                    Some(known) => format!(" (did you mean {known:?}?)"),
                    None => String::new(),
                };
                let known = all.join(", ");
                return Err(format!(
                    "expected \"all-linear\" or some of {known}, found {name:?}{hint}"
                ));
            }
        }
    }
    if !named.contains(&true) {
        return Err("expected \"all-linear\" or the names of layers, found none".to_owned());
    }
    let known = all.into_iter().zip(named);
    let used = known.filter(|(_, used)| *used);
    Ok(TargetModules::Names(used.map(|(name, _)| name.to_owned()).collect()))
}

fn show_targets(targets: &TargetModules) -> String {
    match targets {
        TargetModules::AllLinear => quoted("all-linear"),
        TargetModules::Names(names) => {
            let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
            format!("[{}]", names.join(", "))
        }
    }
}
