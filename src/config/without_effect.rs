//! Keys of other tools that change no number of a run here: read, said in a note, and left out. Where one
//! has a value that would change something, it is refused with what to write instead.

use super::tree::{Node, Value};

/// A key of another tool that has no effect.
pub(super) struct WithoutEffect {
    pub names: &'static [&'static str],
    /// The values that have none.
    pub harmless: fn(&Node) -> bool,
    /// Why, for the note.
    pub why: &'static str,
    /// What to do with another value; empty where there is none.
    pub otherwise: &'static str,
}

const fn any(names: &'static [&'static str], why: &'static str) -> WithoutEffect {
    WithoutEffect { names, harmless: |_| true, why, otherwise: "" }
}

const fn only(
    names: &'static [&'static str],
    harmless: fn(&Node) -> bool,
    why: &'static str,
    otherwise: &'static str,
) -> WithoutEffect {
    WithoutEffect { names, harmless, why, otherwise }
}

fn is(node: &Node, words: &[&str]) -> bool {
    matches!(&node.value, Value::Text(text) if words.contains(&text.as_str()))
}

fn is_true(node: &Node) -> bool {
    node.value == Value::Bool(true)
}

fn is_false(node: &Node) -> bool {
    node.value == Value::Bool(false)
}

fn is_zero(node: &Node) -> bool {
    matches!(node.value, Value::Integer(0)) || node.value == Value::Float(0.0)
}

/// A table in which only padding tokens are named: nothing here is padded.
fn only_padding(node: &Node) -> bool {
    match &node.value {
        Value::Table(entries) => entries
            .iter()
            .all(|entry| entry.name == "pad_token" || matches!(entry.node.value, Value::Null)),
        _ => false,
    }
}

pub(super) const KEYS: &[WithoutEffect] = &[
    any(
        &[
            "report_to",
            "run_name",
            "logging_dir",
            "plot_loss",
            "wandb_project",
            "wandb_entity",
            "wandb_watch",
            "wandb_name",
            "wandb_run_id",
            "wandb_log_model",
            "wandb_mode",
            "mlflow_tracking_uri",
            "mlflow_experiment_name",
            "mlflow_run_name",
            "comet_workspace",
            "comet_project_name",
            "use_wandb",
            "use_tensorboard",
            "use_swanlab",
            "swanlab_project",
            "trackio_space_id",
            "include_num_input_tokens_seen",
            "include_tokens_per_second",
            "logging_first_step",
            "log_level",
            "disable_tqdm",
        ],
        "metrics go to metrics.jsonl in output_dir",
    ),
    any(
        &["hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_revision"],
        "nothing is uploaded",
    ),
    only(
        &["do_train"],
        is_true,
        "train trains",
        "this is the training program: generate and evaluate do the rest",
    ),
    any(
        &["do_eval", "do_predict", "do_test", "test", "test_batches", "eval_on_start"],
        "the held-out examples are evaluated before the first step and after the last",
    ),
    any(&["val_batches"], "the whole held-out set is evaluated"),
    any(
        &[
            "ddp_timeout",
            "ddp_backend",
            "ddp_find_unused_parameters",
            "ddp_bucket_cap_mb",
            "local_rank",
        ],
        "one device computes",
    ),
    any(
        &[
            "dataloader_num_workers",
            "dataloader_pin_memory",
            "dataloader_prefetch_factor",
            "dataloader_persistent_workers",
            "dataset_num_proc",
            "preprocessing_num_workers",
            "dataset_processes",
            "num_proc",
            "dataset_prepared_path",
            "overwrite_cache",
            "remove_unused_columns",
            "tokenized_path",
        ],
        "rows are read and tokenized when the run starts",
    ),
    any(
        &[
            "pad_to_sequence_len",
            "pad_to_multiple_of",
            "padding_free",
            "padding_side",
            "pad_token",
            "group_by_length",
            "length_column_name",
        ],
        "batches have no padding",
    ),
    only(
        &["special_tokens"],
        only_padding,
        "batches have no padding",
        "the special tokens are those of the model's tokenizer files: remove the key",
    ),
    any(
        &["eval_sample_packing", "eval_packing"],
        "held-out examples are evaluated one by one, with the same loss",
    ),
    any(
        &[
            "use_liger_kernel",
            "liger_kernel_config",
            "torch_compile",
            "torch_compile_backend",
            "torch_compile_mode",
            "compile",
            "use_cache",
            "gradient_checkpointing_kwargs",
            "use_reentrant_gc",
            "lora_mlp_kernel",
            "lora_qkv_kernel",
            "lora_o_kernel",
            "low_cpu_mem_usage",
            "torch_empty_cache_steps",
            "use_unsloth",
            "enable_liger_kernel",
            "flash_attn_cross_entropy",
            "flash_attn_rms_norm",
            "xformers_attention",
        ],
        "it is about the speed and memory of other tools",
    ),
    only(&["tf32"], is_false, "float32 is float32 here", "write dtype = \"bfloat16\" for speed"),
    only(
        &["fp16"],
        is_false,
        "float16 is not chosen unless asked for",
        "is not a key here: write dtype = \"float16\"",
    ),
    only(
        &["bias"],
        |node| is(node, &["none"]),
        "biases are not trained with LoRA",
        "training biases beside LoRA is not there; expected \"none\"",
    ),
    only(
        &["task_type"],
        |node| is(node, &["CAUSAL_LM", "causal_lm"]),
        "the objective says it",
        "expected CAUSAL_LM: objective says what is trained",
    ),
    only(
        &["peft_type"],
        |node| is(node, &["LORA", "lora"]),
        "[lora] says it",
        "expected LORA, the one kind of adapter here",
    ),
    only(&["inference_mode", "fan_in_fan_out"], is_false, "it is so here", "expected false"),
    only(
        &["model_type"],
        |node| matches!(&node.value, Value::Text(text) if text.ends_with("ForCausalLM")),
        "config.json says it",
        "config.json says what the model is; expected the name of a class that ends in ForCausalLM",
    ),
    any(
        &["tokenizer_type", "tokenizer_use_fast", "use_fast_tokenizer", "is_llama_derived_model"],
        "the tokenizer's files say it",
    ),
    any(&["trust_remote_code"], "no code of a model is ever run"),
    any(
        &["overwrite_output_dir"],
        "an output_dir that is not empty is refused: give another, or go on with --resume",
    ),
    any(
        &["save_only_model", "save_safetensors", "save_first_step"],
        "a checkpoint has the optimizer's state, so that the run can go on from it",
    ),
    any(
        &["loss_watchdog_threshold", "loss_watchdog_patience"],
        "a run stops at a loss that is not finite, and at no other",
    ),
    any(
        &["strict", "debug", "hf_use_auth_token", "use_auth_token", "env"],
        "it is about the other tool",
    ),
    only(
        &["streaming", "auto_find_batch_size"],
        is_false,
        "it is so here",
        "is not there: remove it (--plan shows the memory that a batch takes)",
    ),
    only(
        &["label_smoothing_factor", "router_aux_loss_coef"],
        is_zero,
        "it is so here",
        "this term of the loss is not there; expected 0",
    ),
    only(
        &["training_mode"],
        |node| is(node, &["normal"]),
        "objective says it",
        "write objective = \"NAME\"",
    ),
    only(
        &["dataset_text_field"],
        |node| is(node, &["text"]),
        "rows say it by their keys",
        "rename that key of the rows to \"text\"",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree::Place;

    #[test]
    fn a_value_that_would_change_something_has_an_answer() {
        let value = Node { value: Value::Null, place: Place::CommandLine("".into()), raw: None };
        for key in KEYS {
            let takes_all = (key.harmless)(&value);
            assert_eq!(takes_all, key.otherwise.is_empty(), "{:?}", key.names);
        }
    }
}
