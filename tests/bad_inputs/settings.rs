//! Configs, command lines and devices.

use super::{Case, TRAIN, case, check, config, model, remove};
use std::fs;

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn configs() {
    check(&[
        case(
            "no config",
            |d| remove(d, "config.toml"),
            TRAIN,
            &["cannot read the config config.toml"],
        ),
        case("no TOML", |d| config(d, "r = 2", "r ="), TRAIN, &["config.toml:7: not valid TOML"]),
        case(
            "JSON",
            |d| fs::write(d.join("c.json"), "{}").unwrap(),
            "train c.json",
            &["c.json: expected a config file", ".toml, .yaml or .yml"],
        ),
        case(
            "no model",
            |d| config(d, "model = \"model\"", ""),
            TRAIN,
            &["config.toml: model is missing"],
        ),
        case(
            "a misspelt key",
            |d| config(d, "max_steps", "max_step"),
            TRAIN,
            &["config.toml:13: unknown key train.max_step: did you mean train.max_steps?"],
        ),
        case(
            "a key from elsewhere",
            |d| config(d, "device", "bf16 = true\ndevice"),
            TRAIN,
            &["config.toml:4: bf16", "dtype = \"bfloat16\""],
        ),
        case(
            "several mistakes",
            |d| config(d, "r = 2", "r = 0\nlora_alpa = 2\nwandb_project = \"x\"\nbatch_size = 4"),
            TRAIN,
            &[
                "error: 3 things are wrong in the config:\n  config.toml:7: lora.r: expected",
                "  config.toml:8: unknown key lora.lora_alpa: did you mean lora.lora_alpha?",
                "  config.toml:10: unknown key lora.batch_size: did you mean \
                 train.per_device_train_batch_size?",
            ],
        ),
        case(
            "an unknown section",
            |d| config(d, "[train]", "[training]"),
            TRAIN,
            &["unknown key training: did you mean train?"],
        ),
        case(
            "a key given twice",
            |d| config(d, "r = 2", "r = 2\nlora_r = 3"),
            TRAIN,
            &["config.toml:8: lora.lora_r: already given", "config.toml:7"],
        ),
        case(
            "a text for a number",
            |d| config(d, "= 2\n\n", "= \"two\"\n\n"),
            TRAIN,
            &["config.toml:7: lora.r: expected a whole number", "\"two\""],
        ),
        case(
            "zero",
            |d| config(d, "r = 2", "r = 0"),
            TRAIN,
            &["expected a whole number of at least 1, found 0"],
        ),
        case(
            "a choice",
            |d| config(d, "device", "dtype = \"int8\"\ndevice"),
            TRAIN,
            &["config.toml:4: dtype: expected one of", "found \"int8\""],
        ),
        case(
            "an objective to come",
            |d| config(d, "device", "objective = \"ppo\"\ndevice"),
            TRAIN,
            &["config.toml:4: objective: \"ppo\" is not there yet", "\"sft\""],
        ),
        case(
            "a target",
            |d| config(d, "r = 2", "target_modules = [\"lm_haed\"]"),
            TRAIN,
            &["lora.target_modules", "found \"lm_haed\"", "did you mean \"lm_head\"?"],
        ),
        case(
            "a saved module",
            |d| config(d, "r = 2", "modules_to_save = [\"score\"]"),
            TRAIN,
            &["modules_to_save: \"score\" is no module of the model", "lm_head"],
        ),
        case(
            "rows of another table",
            |d| config(d, "r = 2", "trainable_token_indices = { wte = [1] }"),
            TRAIN,
            &["trainable_token_indices: \"wte\" is no table of tokens", "embed_tokens"],
        ),
        case(
            "magnitudes of the head",
            |d| config(d, "r = 2", "use_dora = true\ntarget_modules = [\"lm_head\"]"),
            TRAIN,
            &["use_dora is not supported for lm_head", "modules_to_save"],
        ),
        case(
            "4 bits without LoRA",
            |d| config(d, "[lora]\nr = 2", "[quantization]\nload_in_4bit = true"),
            TRAIN,
            &["nothing to train", "[lora]"],
        ),
        case(
            "beyond the context",
            |d| config(d, "[train]", "max_length = 65\n[train]"),
            TRAIN,
            &["data.max_length = 65", "context is 64 tokens"],
        ),
        case(
            "YAML",
            |d| fs::write(d.join("c.yaml"), "model: model\nlora:\n  rr: 2\n").unwrap(),
            "train c.yaml",
            &["c.yaml:3: unknown key lora.rr"],
        ),
        case(
            "too little memory",
            |d| config(d, "device", "max_memory = \"100KiB\"\ndevice"),
            TRAIN,
            &["the run needs", "Lower per_device_train_batch_size"],
        ),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn command_lines() {
    check(&[
        case("no such program", |_| {}, "tune", &["unrecognized subcommand 'tune'"]),
        case(
            "no such option",
            |_| {},
            "train config.toml --epochs 3",
            &["unexpected argument '--epochs'"],
        ),
        case(
            "no such key",
            |_| {},
            "train config.toml --set train.max_step=3",
            &["--set train.max_step=3: unknown key", "train.max_steps"],
        ),
        case(
            "no value",
            |_| {},
            "train config.toml --set max_steps",
            &["--set max_steps: expected section.key=value"],
        ),
        case("half a run", |_| {}, "train --model model", &["--data FILE is missing"]),
        case(
            "a plan for data that is not there",
            |_| {},
            "train --model model --data nofile.jsonl --plan",
            &["nofile.jsonl"],
        ),
        case(
            "full training in 4 bits",
            |_| {},
            "train --model model --data data.jsonl --full --qlora",
            &["--full", "--qlora"],
        ),
        case(
            "full training of a config with LoRA",
            |_| {},
            "train config.toml --full",
            &["--full: lora: contradicts the settings of LoRA"],
        ),
        case(
            "no such device",
            |_| {},
            "train config.toml --device tpu",
            &["'tpu'", "cuda-emulated"],
        ),
        case("a size", |_| {}, "train config.toml --plan --memory lots", &["'lots'", "20GiB"]),
        case("nothing to complete", |_| {}, "generate --model model", &["--prompt TEXT"]),
        case(
            "a probability",
            |_| {},
            "generate --model model --prompt a --top-p 2",
            &["'2'", "from 0 to 1"],
        ),
        case(
            "a temperature",
            |_| {},
            "generate --model model --prompt a --temperature -1",
            &["'-1'", "at least 0"],
        ),
        case(
            "a long prompt",
            |d| model(d, "\"max_position_embeddings\": 64", "\"max_position_embeddings\": 4"),
            "generate --model model --prompt 123456789012345678901234567890 --device cpu",
            &["the model's context of 4"],
        ),
        case("no data", |_| {}, "evaluate --model model", &["--data <FILE>"]),
        case(
            "a format",
            |_| {},
            "evaluate --model model --data data.jsonl --format txt",
            &["'txt'", "prompt-completion"],
        ),
        case(
            "a length",
            |_| {},
            "evaluate --model model --data data.jsonl --max-length 65",
            &["--max-length 65", "context of 64"],
        ),
        case("a form", |_| {}, "export --model model --to onnx --output x", &["'onnx'", "merged"]),
        case(
            "an export in 4 bits",
            |_| {},
            "export --model model --to merged --load-in-4bit --output x",
            &["--load-in-4bit", "--to nf4"],
        ),
    ]);
}

#[test]
fn devices_that_are_not_there() {
    let case = |what, arguments, says| Case { what, spoil: |_| {}, arguments, status: 1, says };
    check(&[
        case(
            "CUDA",
            "train config.toml --device cuda:99",
            &["cuda:99 cannot be used", "devices here: cpu"],
        ),
        case(
            "wgpu",
            "evaluate --model model --data data.jsonl --device wgpu:99",
            &["wgpu:99 cannot be used", "devices here: cpu"],
        ),
    ]);
}
