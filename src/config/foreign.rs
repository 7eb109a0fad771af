//! Keys of other tools that say with another shape what a key of the table says, or something that
//! holds here anyway. Each is translated, or refused with what to write instead.

use super::read::Read;
use super::tree::{Node, Value};

/// The keys of the table (by path) that a foreign key stands for, with their values.
type Translation = Vec<(&'static str, Node)>;

/// A key of another tool.
pub(super) struct Foreign {
    pub names: &'static [&'static str],
    pub translate: fn(&Node) -> Read<Translation>,
}

pub(super) const KEYS: &[Foreign] = &[
    Foreign {
        names: &["bf16"],
        translate: |_| Err("is not a key here: write dtype = \"bfloat16\"".to_owned()),
    },
    Foreign {
        names: &["fp16"],
        translate: |_| Err("is not a key here: write dtype = \"float16\"".to_owned()),
    },
    Foreign {
        names: &["tf32"],
        translate: |_| {
            Err("is not a key here: write dtype = \"float32\" or \"bfloat16\"".to_owned())
        },
    },
    Foreign {
        names: &["warmup_ratio"],
        translate: |node| {
            Ok(vec![("train.warmup_steps", node.with(Value::Float(node.fraction()?)))])
        },
    },
    Foreign {
        names: &["train_on_inputs", "train_on_prompt"],
        translate: |node| {
            Ok(vec![("data.completion_only_loss", node.with(Value::Bool(!node.bool()?)))])
        },
    },
    Foreign { names: &["adapter", "finetuning_type"], translate: axolotl_adapter },
    Foreign { names: &["datasets"], translate: axolotl_datasets },
    Foreign {
        names: &["test_datasets"],
        translate: |node| match node.list("a list of one { path }")? {
            [one] => dataset(one).map(|(path, _)| vec![("data.eval", path)]),
            _ => Err("expected one file; there is one held-out set".to_owned()),
        },
    },
    Foreign {
        names: &["dataset_name", "dataset"],
        translate: |_| {
            Err("nothing is downloaded: write data.train = \"FILE\" (JSON Lines)".to_owned())
        },
    },
    Foreign {
        names: &["model_revision"],
        translate: |_| Err("write it with the model: model = \"Org/Name@revision\"".to_owned()),
    },
    Foreign {
        names: &["lora_target_linear"],
        translate: |node| {
            let all = node.with(Value::Text("all-linear".to_owned()));
            Ok(if node.bool()? { vec![("lora.target_modules", all)] } else { Vec::new() })
        },
    },
    Foreign {
        names: &["flash_attention", "flash_attn", "sdp_attention"],
        translate: |node| {
            let name = if node.bool()? { "flash" } else { "eager" };
            Ok(vec![("attn_implementation", node.with(Value::Text(name.to_owned())))])
        },
    },
    Foreign {
        names: &["use_cpu"],
        translate: |node| {
            let cpu = node.with(Value::Text("cpu".to_owned()));
            Ok(if node.bool()? { vec![("device", cpu)] } else { Vec::new() })
        },
    },
    Foreign { names: &["device_map"], translate: |node| Ok(vec![("device", node.clone())]) },
    Foreign { names: &["evals_per_epoch"], translate: |node| per_epoch(node, "train.eval_steps") },
    Foreign { names: &["saves_per_epoch"], translate: |node| per_epoch(node, "train.save_steps") },
    Foreign {
        names: &["metric_for_best_model"],
        translate: |node| match node.text()? {
            "loss" | "eval_loss" => Ok(Vec::new()),
            other => Err(format!("expected \"eval_loss\" (the only measure), found {other:?}")),
        },
    },
    Foreign {
        names: &["report_to"],
        translate: |node| match &node.value {
            Value::Text(text) if text == "none" => Ok(Vec::new()),
            Value::List(items) if items.is_empty() => Ok(Vec::new()),
            _ => Err("expected \"none\": metrics go to metrics.jsonl in output_dir".to_owned()),
        },
    },
    Foreign {
        names: &["overwrite_output_dir"],
        translate: |node| only_false(node, "give another output_dir, or go on with --resume"),
    },
    Foreign {
        names: &["load_in_8bit"],
        translate: |node| only_false(node, "there is load_in_4bit = true"),
    },
    Foreign {
        names: &["use_dora", "peft_use_dora", "lora_use_dora"],
        translate: |node| only_false(node, "DoRA is not there; there is use_rslora = true"),
    },
    Foreign {
        names: &["push_to_hub"],
        translate: |node| only_false(node, "nothing is uploaded; the result is in output_dir"),
    },
    Foreign {
        names: &["trust_remote_code"],
        translate: |node| only_false(node, "no code of a model is ever run"),
    },
    Foreign {
        names: &["greater_is_better"],
        translate: |node| only_false(node, "the best model is the one with the lowest loss"),
    },
    // Only speed in other tools; batches are free of padding here in any case.
    Foreign {
        names: &["pad_to_sequence_len", "group_by_length", "use_liger_kernel"],
        translate: |node| node.bool().map(|_| Vec::new()),
    },
];

fn only_false(node: &Node, instead: &str) -> Read<Translation> {
    if node.bool()? {
        Err(format!("expected false, found true: {instead}"))
    } else {
        Ok(Vec::new())
    }
}

fn per_epoch(node: &Node, key: &'static str) -> Read<Translation> {
    match node.whole(1)? {
        1u64 => Ok(vec![(key, node.with(Value::Integer(0)))]),
        count => {
            Err(format!("expected 1, found {count}: for more, give a number of steps as {key}"))
        }
    }
}

/// axolotl's `adapter: lora | qlora` (LLaMA-Factory's `finetuning_type: lora | full`).
fn axolotl_adapter(node: &Node) -> Read<Translation> {
    let on = || node.with(Value::Bool(true));
    match node.text()? {
        "lora" => Ok(vec![("lora", on())]),
        "qlora" => Ok(vec![("lora", on()), ("quantization.load_in_4bit", on())]),
        "full" => Ok(Vec::new()),
        other => Err(format!(
            "expected \"lora\" or \"qlora\", found {other:?}; to start from an adapter, write \
             lora.adapter = {other:?}"
        )),
    }
}

/// axolotl's `datasets: [{ path, type }]`.
fn axolotl_datasets(node: &Node) -> Read<Translation> {
    let mut files = Vec::new();
    let mut format: Option<Node> = None;
    for item in node.list("a list of { path, type }")? {
        let (path, kind) = dataset(item)?;
        files.push(path);
        let Some(kind) = kind else { continue };
        if format.as_ref().is_some_and(|format| format.value != kind.value) {
            return Err("all files need one type: each is read in the same format".to_owned());
        }
        format = Some(kind);
    }
    let mut translation = vec![("data.train", node.with(Value::List(files)))];
    translation.extend(format.map(|format| ("data.format", format)));
    Ok(translation)
}

/// The path of a dataset and, where its type is given, the name of the format here.
fn dataset(item: &Node) -> Read<(Node, Option<Node>)> {
    let mut path = None;
    let mut format = None;
    for entry in item.table("a table such as { path = \"a.jsonl\", type = \"alpaca\" }")? {
        match entry.name.as_str() {
            "path" => path = Some(entry.node.clone()),
            "type" => {
                let name = match entry.node.text()? {
                    "alpaca" => "alpaca",
                    "sharegpt" => "sharegpt",
                    "completion" => "text",
                    // Messages under either name; the keys of the examples say which.
                    "chat_template" => "auto",
                    other => {
                        return Err(format!(
                            "expected the type alpaca, sharegpt, completion or chat_template, \
                             found {other:?}"
                        ));
                    }
                };
                format = Some(entry.node.with(Value::Text(name.to_owned())));
            }
            "ds_type" if entry.node.text()? == "json" => {}
            other => return Err(format!("unknown key {other:?}; expected path and type")),
        }
    }
    Ok((path.ok_or("a dataset needs a path")?, format))
}
