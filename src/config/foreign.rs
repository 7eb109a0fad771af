//! Keys of other tools that say with another shape what a key of the table says. Each is translated, or
//! refused with what to write instead. (Those without effect here are in `without_effect`.)

use super::read::Read;
use super::tree::{Entry, Node, Value};

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
        translate: |node| match &node.value {
            Value::Text(text) if text == "auto" => Ok(vec![("dtype", node.clone())]),
            Value::Bool(false) => Err("is not a key here: write dtype = \"float32\"".to_owned()),
            _ => Err("is not a key here: write dtype = \"bfloat16\"".to_owned()),
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
    Foreign {
        names: &["adapter", "finetuning_type", "fine_tune_type"],
        translate: axolotl_adapter,
    },
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
            // LLaMA-Factory names an implementation.
            let name = match &node.value {
                Value::Text(text) if text == "disabled" => "eager",
                Value::Text(text) if ["auto", "sdpa", "fa2", "fa3"].contains(&text.as_str()) => {
                    "flash"
                }
                _ if node.bool()? => "flash",
                _ => "eager",
            };
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
    Foreign {
        names: &["metric_for_best_model"],
        translate: |node| match node.text()? {
            "loss" | "eval_loss" => Ok(Vec::new()),
            other => Err(format!("expected \"eval_loss\" (the only measure), found {other:?}")),
        },
    },
    Foreign {
        names: &["load_in_8bit"],
        translate: |node| only_false(node, "there is load_in_4bit = true"),
    },
    Foreign {
        names: &["push_to_hub"],
        translate: |node| only_false(node, "nothing is uploaded; the result is in output_dir"),
    },
    Foreign { names: &["data"], translate: mlx_data },
    Foreign {
        names: &["train"],
        translate: |node| match node.value {
            // mlx_lm's mode.
            Value::Bool(true) => Ok(Vec::new()),
            Value::Bool(false) => Err("this is the training program".to_owned()),
            _ => Ok(vec![("data.train", node.clone())]),
        },
    },
    Foreign { names: &["lora_parameters"], translate: mlx_lora },
    Foreign {
        names: &["num_layers", "lora_layers"],
        translate: |node| match node.value {
            // All of them, as here.
            Value::Integer(-1) => Ok(Vec::new()),
            _ => Err("means the last layers in mlx_lm: remove it (all layers), or name them as \
                      lora.layers_to_transform"
                .to_owned()),
        },
    },
    Foreign { names: &["adapter_path"], translate: |node| Ok(vec![("output_dir", node.clone())]) },
    Foreign {
        names: &["steps_per_report"],
        translate: |node| Ok(vec![("train.logging_steps", node.clone())]),
    },
    Foreign {
        names: &["steps_per_eval"],
        translate: |node| Ok(vec![("train.eval_steps", node.clone())]),
    },
    Foreign {
        names: &["save_every"],
        translate: |node| Ok(vec![("train.save_steps", node.clone())]),
    },
    Foreign {
        names: &["resume_adapter_file"],
        translate: |_| {
            Err("to start from an adapter, write lora.adapter = \"DIR\" (in PEFT's form)"
                .to_owned())
        },
    },
    // What would change the examples, the order or the sums, and is not there.
    Foreign {
        names: &["max_samples", "max_train_samples", "max_eval_samples"],
        translate: |_| Err("is not there: cut the file (head -n), and remove the key".to_owned()),
    },
    Foreign {
        names: &["deepspeed", "fsdp", "fsdp_config", "fsdp_version", "tensor_parallel_size"],
        translate: |_| {
            Err("one device computes here: remove it, and multiply gradient_accumulation_steps by \
                 the number of devices that you had"
                .to_owned())
        },
    },
    Foreign {
        names: &["data_seed"],
        translate: |_| Err("there is one seed, train.seed: remove it".to_owned()),
    },
    Foreign {
        names: &["lr_scheduler_kwargs", "optim_args", "cosine_min_lr_ratio"],
        translate: |_| {
            Err("is not there: remove it; lr_scheduler_type and optim have no further settings \
                 than the keys of [train]"
                .to_owned())
        },
    },
    Foreign {
        names: &["greater_is_better"],
        translate: |node| only_false(node, "the best model is the one with the lowest loss"),
    },
];

fn only_false(node: &Node, instead: &str) -> Read<Translation> {
    if node.bool()? {
        Err(format!("expected false, found true: {instead}"))
    } else {
        Ok(Vec::new())
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

/// mlx_lm's `data: DIR`, a folder of train.jsonl and valid.jsonl; or a file.
fn mlx_data(node: &Node) -> Read<Translation> {
    let text = match &node.value {
        Value::Text(_) => node.text()?,
        _ => {
            return Err(format!(
                "expected a table of keys such as train, found {}",
                node.describe()
            ));
        }
    };
    let at = |path: String| node.with(Value::Text(path));
    if text.ends_with(".jsonl") || text.ends_with(".json") {
        return Ok(vec![("data.train", at(text.to_owned()))]);
    }
    let folder = text.trim_end_matches('/');
    Ok(vec![
        ("data.train", at(format!("{folder}/train.jsonl"))),
        ("data.eval", at(format!("{folder}/valid.jsonl"))),
    ])
}

/// mlx_lm's `lora_parameters: { rank, scale, dropout, keys }`, where `scale` multiplies the update.
fn mlx_lora(node: &Node) -> Read<Translation> {
    let (mut rank, mut scale) = (None, None);
    let mut translation = Vec::new();
    for Entry { name, node, .. } in node.table("a table such as { rank = 8, scale = 20.0 }")? {
        match name.as_str() {
            "rank" => {
                rank = Some(node.whole::<u32>(1)?);
                translation.push(("lora.r", node.clone()));
            }
            "scale" => scale = Some(node.above_zero()?),
            "dropout" => translation.push(("lora.lora_dropout", node.clone())),
            "keys" => {
                let last = |key: &Node| {
                    let name = key.text()?.rsplit('.').next().unwrap_or_default();
                    Ok(key.with(Value::Text(name.to_owned())))
                };
                let names = node.list("a list of layers")?.iter().map(last).collect::<Read<_>>()?;
                translation.push(("lora.target_modules", node.with(Value::List(names))));
            }
            other => {
                return Err(format!("unknown key {other:?}; expected rank, scale, dropout, keys"));
            }
        }
    }
    match (rank, scale) {
        (Some(rank), Some(scale)) => {
            let alpha = node.with(Value::Float(scale * f64::from(rank)));
            translation.push(("lora.lora_alpha", alpha));
            Ok(translation)
        }
        _ => Err("needs rank and scale (the update is scaled by lora_alpha / r here)".to_owned()),
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
