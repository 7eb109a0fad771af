//! The keys of `[lora]`.

use super::{Key, plain, quoted};
use crate::adapter::{InitLoraWeights, ModuleNames, TargetModules};
use crate::config::lora::LoraConfig;
use crate::config::read::Read;
use crate::config::settings::TrainConfig;
use crate::config::tree::{Entry, Node, Value};
use crate::model::spec::Projection;
use crate::suggest::nearest;

pub(super) const KEYS: &[Key] = &[
    Key {
        section: "lora",
        name: "r",
        aliases: &["lora_r", "lora_rank"],
        doc: "the rank of the update",
        set: |config, node, _| node.whole(1).map(|r: u32| lora(config).r = r as usize),
        show: |config| own(config).and_then(|lora| plain(lora.r)),
    },
    Key {
        section: "lora",
        name: "lora_alpha",
        aliases: &["alpha"],
        doc: "the update is scaled by lora_alpha / r",
        set: |config, node, _| {
            let alpha = node.above_zero()?;
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
        doc: "\"all-linear\", a list of q_proj k_proj v_proj o_proj gate_proj up_proj down_proj \
              (qkv_proj and gate_up_proj in models that have these in one) lm_head embed_tokens, or a \
              regular expression",
        set: |config, node, _| {
            let targets = target_modules(node)?;
            lora(config).target_modules = targets;
            Ok(())
        },
        show: |config| own(config).map(|lora| show_targets(&lora.target_modules)),
    },
    Key {
        section: "lora",
        name: "exclude_modules",
        aliases: &["lora_exclude_modules"],
        doc: "modules that get no update although target_modules has them: names, or a pattern",
        set: |config, node, _| {
            lora(config).exclude_modules = Some(modules(node)?);
            Ok(())
        },
        show: |config| own(config)?.exclude_modules.as_ref().map(show_modules),
    },
    Key {
        section: "lora",
        name: "layers_to_transform",
        aliases: &["lora_layers_to_transform", "peft_layers_to_transform"],
        doc: "the layers that updates are in, by number (from 0); all if not given",
        set: |config, node, _| {
            let layers = match node.value {
                Value::Integer(_) => vec![node.whole(0)?],
                _ => list_of(node, "a layer's number, or a list such as [0, 1]", |n| n.whole(0))?,
            };
            lora(config).layers_to_transform = Some(layers);
            Ok(())
        },
        show: |config| own(config)?.layers_to_transform.as_ref().and_then(plain),
    },
    Key {
        section: "lora",
        name: "rank_pattern",
        aliases: &[],
        doc: "other ranks, by modules: { \"v_proj\" = 32 }; keys may be regular expressions",
        set: |config, node, _| {
            let ranks = by_module(node, "{ \"v_proj\" = 32 }", |rank| rank.whole(1))?;
            lora(config).rank_pattern = ranks;
            Ok(())
        },
        show: |config| own(config).and_then(|lora| show_by_module(&lora.rank_pattern)),
    },
    Key {
        section: "lora",
        name: "alpha_pattern",
        aliases: &[],
        doc: "the same for lora_alpha",
        set: |config, node, _| {
            let alphas = by_module(node, "{ \"v_proj\" = 64 }", |alpha| alpha.above_zero())?;
            lora(config).alpha_pattern = alphas;
            Ok(())
        },
        show: |config| own(config).and_then(|lora| show_by_module(&lora.alpha_pattern)),
    },
    Key {
        section: "lora",
        name: "modules_to_save",
        aliases: &["lora_modules_to_save"],
        doc: "modules that are trained and saved whole: lm_head, embed_tokens, norm",
        set: |config, node, _| {
            let names = match &node.value {
                Value::Text(text) => names_of(text),
                _ => {
                    list_of(node, "a list such as [\"lm_head\"]", |n| n.text().map(str::to_owned))?
                }
            };
            lora(config).modules_to_save = names;
            Ok(())
        },
        show: |config| {
            let names = &own(config)?.modules_to_save;
            (!names.is_empty()).then(|| show_names(names))
        },
    },
    Key {
        section: "lora",
        name: "trainable_token_indices",
        aliases: &[],
        doc: "tokens whose embeddings are trained, by id; or by table: { \"embed_tokens\" = [5], \
              \"lm_head\" = [5] } (where the two are tied, embed_tokens says it for both)",
        set: |config, node, _| {
            let ids = |node: &Node| list_of(node, "a list of token ids", |id| id.whole(0));
            let tables = match node.value {
                Value::Table(_) => by_module(node, "{ \"embed_tokens\" = [5] }", ids)?,
                _ => vec![("embed_tokens".to_owned(), ids(node)?)],
            };
            lora(config).trainable_token_indices = tables;
            Ok(())
        },
        show: |config| own(config).and_then(|lora| show_by_module(&lora.trainable_token_indices)),
    },
    Key {
        section: "lora",
        name: "lora_bias",
        aliases: &[],
        doc: "a bias of lora_B",
        set: |config, node, _| node.bool().map(|on| lora(config).lora_bias = on),
        show: |config| own(config).and_then(|lora| plain(lora.lora_bias)),
    },
    Key {
        section: "lora",
        name: "use_dora",
        aliases: &["peft_use_dora", "lora_use_dora"],
        doc: "DoRA: a trained length for each row of a weight with its update",
        set: |config, node, _| node.bool().map(|on| lora(config).use_dora = on),
        show: |config| own(config).and_then(|lora| plain(lora.use_dora)),
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
        name: "init_lora_weights",
        aliases: &["peft_init_lora_weights"],
        doc: "what the factors begin with: true, false, gaussian, pissa, pissa_niter_16, olora; what \
              takes from the base (the last three) is saved as a plain adapter of twice the rank",
        set: |config, node, _| {
            let init = match &node.value {
                Value::Bool(true) => InitLoraWeights::Kaiming,
                Value::Bool(false) => InitLoraWeights::Uniform,
                _ => InitLoraWeights::parse(node.text()?).map_err(|expected| {
                    format!("expected {expected}, found {}", node.describe())
                })?,
            };
            lora(config).init_lora_weights = init;
            Ok(())
        },
        show: |config| own(config).map(|lora| lora.init_lora_weights.text()),
    },
    Key {
        section: "lora",
        name: "loraplus_lr_ratio",
        aliases: &[],
        doc: "LoRA+: lora_B learns at so many times the learning rate",
        set: |config, node, _| {
            let ratio = node.above_zero()?;
            lora(config).loraplus_lr_ratio = Some(ratio);
            Ok(())
        },
        show: |config| config.lora.as_ref()?.loraplus_lr_ratio.and_then(plain),
    },
    Key {
        section: "lora",
        name: "adapter",
        aliases: &["lora_model_dir", "adapter_name_or_path"],
        doc: "start from this PEFT adapter; all but lora_dropout and loraplus_lr_ratio comes from it",
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
    const EXPECTED: &str =
        "\"all-linear\", a regular expression, or a list such as [\"q_proj\", \"v_proj\"]";
    // Text may name several too: a list is awkward to quote in a shell.
    let names: Vec<&str> = match &node.value {
        // LLaMA-Factory's name is `all`.
        Value::Text(text) if text == "all-linear" || text == "all" => {
            return Ok(TargetModules::AllLinear);
        }
        Value::Text(text) if is_pattern(text) => return Ok(TargetModules::Pattern(text.clone())),
        Value::Text(text) => text.split([',', ' ']).filter(|name| !name.is_empty()).collect(),
        _ => node.list(EXPECTED)?.iter().map(Node::text).collect::<Read<_>>()?,
    };
    // The modules of any family, in the order of the forward pass. Which of them a model has is known
    // when it is read.
    let known = known_modules();
    for name in &names {
        // A path ends with a name.
        let last = name.rsplit('.').next().unwrap_or(name);
        if !known.contains(&last) {
            let hint = match nearest(name, known.iter().copied()) {
                Some(known) => format!(" (did you mean {known:?}?)"),
                None => String::new(),
            };
            let known = known.join(", ");
            return Err(format!(
                "expected \"all-linear\" or some of {known}, found {name:?}{hint}"
            ));
        }
    }
    if names.is_empty() {
        return Err("expected \"all-linear\" or the names of layers, found none".to_owned());
    }
    let plain = known.iter().filter(|known| names.contains(*known)).copied();
    let mut found: Vec<String> = plain.map(str::to_owned).collect();
    found.extend(names.iter().filter(|name| !known.contains(*name)).map(|name| name.to_string()));
    Ok(TargetModules::Names(found))
}

/// The names of modules that can have an update.
fn known_modules() -> Vec<&'static str> {
    let projections = Projection::ALL.map(Projection::name);
    projections.into_iter().chain(["lm_head", "embed_tokens"]).collect()
}

/// Whether text is a regular expression rather than names.
fn is_pattern(text: &str) -> bool {
    text.contains(|c: char| !(c.is_alphanumeric() || "._, -".contains(c)))
}

/// The names in a text.
fn names_of(text: &str) -> Vec<String> {
    text.split([',', ' ']).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Names, or a pattern.
fn modules(node: &Node) -> Read<ModuleNames> {
    if let Value::Text(text) = &node.value {
        if is_pattern(text) {
            return Ok(ModuleNames::Pattern(text.clone()));
        }
        return Ok(ModuleNames::Names(names_of(text)));
    }
    list_of(node, "a regular expression, or a list of names", |name| name.text().map(str::to_owned))
        .map(ModuleNames::Names)
}

fn list_of<T>(node: &Node, what: &str, read: impl Fn(&Node) -> Read<T>) -> Read<Vec<T>> {
    node.list(what)?.iter().map(read).collect()
}

/// Values by modules.
fn by_module<T>(
    node: &Node,
    example: &str,
    read: impl Fn(&Node) -> Read<T>,
) -> Read<Vec<(String, T)>> {
    let entries = node.table(&format!("a table such as {example}"))?;
    let entry = |entry: &Entry| match read(&entry.node) {
        Ok(value) => Ok((entry.name.clone(), value)),
        Err(why) => Err(format!("{}: {why}", entry.name)),
    };
    entries.iter().map(entry).collect()
}

fn show_by_module<T: std::fmt::Debug>(values: &[(String, T)]) -> Option<String> {
    let shown = |(name, value): &(String, T)| format!("{} = {value:?}", quoted(name));
    let shown: Vec<String> = values.iter().map(shown).collect();
    (!shown.is_empty()).then(|| format!("{{ {} }}", shown.join(", ")))
}

fn show_targets(targets: &TargetModules) -> String {
    match targets {
        TargetModules::AllLinear => quoted("all-linear"),
        TargetModules::Names(names) => show_names(names),
        TargetModules::Pattern(pattern) => quoted(pattern),
    }
}

fn show_modules(modules: &ModuleNames) -> String {
    match modules {
        ModuleNames::Names(names) => show_names(names),
        ModuleNames::Pattern(pattern) => quoted(pattern),
    }
}

fn show_names(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    format!("[{}]", names.join(", "))
}
