//! The keys of `[data]`.

use super::{Key, named, plain, quoted};
use crate::config::paths::{Bases, TemplateSource};
use crate::config::read::Read;
use crate::config::settings::EvalSource;
use crate::config::tree::{Node, Value};
use crate::data::DataFile;

pub(super) const KEYS: &[Key] = &[
    Key {
        section: "data",
        name: "train",
        aliases: &["train_file"],
        doc: "a file of JSON Lines, or a list of { path, weight }",
        set: |config, node, bases| sources(node, bases).map(|files| config.data.train = files),
        show: |config| Some(show_sources(&config.data.train)),
    },
    Key {
        section: "data",
        name: "eval",
        aliases: &["eval_file", "validation_file"],
        doc: "a file of held-out examples",
        set: |config, node, bases| {
            config.data.eval = EvalSource::File(bases.path(node)?);
            Ok(())
        },
        show: |config| match &config.data.eval {
            EvalSource::File(path) => Some(quoted(&path.to_string_lossy())),
            _ => None,
        },
    },
    Key {
        section: "data",
        name: "eval_split",
        aliases: &["val_set_size", "val_size"],
        doc: "instead of a file: the share of the examples to hold out",
        set: |config, node, _| {
            let share = node.fraction()?;
            if share == 0.0 {
                return Ok(());
            }
            if config.data.eval != EvalSource::None {
                return Err("contradicts data.eval: give a file or a share, not both".to_owned());
            }
            config.data.eval = EvalSource::Split(share);
            Ok(())
        },
        show: |config| match config.data.eval {
            EvalSource::Split(share) => plain(share),
            _ => None,
        },
    },
    Key {
        section: "data",
        name: "format",
        aliases: &[],
        doc: "auto, text, messages, prompt-completion, preference, alpaca or sharegpt",
        set: |config, node, _| node.choice().map(|format| config.data.format = format),
        show: |config| named(config.data.format),
    },
    Key {
        section: "data",
        name: "chat_template",
        aliases: &["chat_template_path"],
        doc: "a template's name, or a Jinja file; the model's own if not given",
        set: |config, node, bases| {
            config.data.chat_template = match &node.value {
                // axolotl's name for the model's own.
                Value::Text(text) if text == "tokenizer_default" => None,
                _ => Some(bases.template(node)?),
            };
            Ok(())
        },
        show: |config| match config.data.chat_template.as_ref()? {
            TemplateSource::Named(name) => Some(quoted(name)),
            TemplateSource::File(path) => Some(quoted(&path.to_string_lossy())),
        },
    },
    Key {
        section: "data",
        name: "max_length",
        aliases: &["sequence_len", "max_seq_length", "max_seq_len", "cutoff_len"],
        doc: "the longest example in tokens; 1024, or the model's context if that is smaller",
        // The first token carries no loss, so an example of one token trains nothing.
        set: |config, node, _| node.whole(2).map(|length| config.data.max_length = Some(length)),
        show: |config| config.data.max_length.and_then(plain),
    },
    Key {
        section: "data",
        name: "excess_length_strategy",
        aliases: &["excess_length_handling"],
        doc: "longer examples: truncate (cut at the end), drop or raise (an error)",
        set: |config, node, _| {
            node.choice().map(|strategy| config.data.excess_length_strategy = strategy)
        },
        show: |config| named(config.data.excess_length_strategy),
    },
    Key {
        section: "data",
        name: "packing",
        aliases: &["sample_packing"],
        doc: "several examples in a row, isolated from each other",
        set: |config, node, _| node.bool().map(|on| config.data.packing = on),
        show: |config| plain(config.data.packing),
    },
    Key {
        section: "data",
        name: "shared_prefix",
        aliases: &[],
        doc: "compute a prompt once for all completions that share it; false writes pairs out",
        set: |config, node, _| node.bool().map(|on| config.data.shared_prefix = on),
        // Said only where it is off: most objectives have no pairs.
        show: |config| if config.data.shared_prefix { None } else { plain(false) },
    },
    Key {
        section: "data",
        name: "completion_only_loss",
        aliases: &["assistant_only_loss"],
        doc: "loss on completions and assistant turns only",
        set: |config, node, _| node.bool().map(|on| config.data.completion_only_loss = on),
        show: |config| plain(config.data.completion_only_loss),
    },
    Key {
        section: "data",
        name: "shuffle",
        aliases: &["shuffle_dataset"],
        doc: "a new order every epoch",
        set: |config, node, _| node.bool().map(|on| config.data.shuffle = on),
        show: |config| plain(config.data.shuffle),
    },
];

fn sources(node: &Node, bases: &Bases) -> Read<Vec<DataFile>> {
    match &node.value {
        Value::List(_) => {
            let items = node.list("at least one file")?;
            items.iter().map(|item| source(item, bases)).collect()
        }
        _ => Ok(vec![source(node, bases)?]),
    }
}

fn source(node: &Node, bases: &Bases) -> Read<DataFile> {
    let Value::Table(entries) = &node.value else {
        return Ok(DataFile::new(bases.path(node)?));
    };
    let mut path = None;
    let mut weight = 1.0;
    for entry in entries {
        match entry.name.as_str() {
            "path" => path = Some(bases.path(&entry.node)?),
            "weight" => weight = entry.node.real("a weight above 0", |weight| weight > 0.0)?,
            other => {
                return Err(format!("unknown key {other:?} of a file; expected path and weight"));
            }
        }
    }
    let path = path.ok_or("a file needs a path, as in { path = \"a.jsonl\", weight = 1.0 }")?;
    Ok(DataFile { path, weight })
}

fn show_sources(sources: &[DataFile]) -> String {
    if let [DataFile { path, weight: 1.0 }] = sources {
        return quoted(&path.to_string_lossy());
    }
    let items: Vec<String> = sources
        .iter()
        .map(|source| {
            let path = quoted(&source.path.to_string_lossy());
            format!("    {{ path = {path}, weight = {:?} }},\n", source.weight)
        })
        .collect();
    format!("[\n{}]", items.concat())
}
