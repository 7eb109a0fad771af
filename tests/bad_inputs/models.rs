//! Models and adapters that are missing, broken or not supported.

use super::{ADAPTER, TRAIN, WEIGHTS, adapter, case, check, config, header, index, model, remove};
use crate::common::fixture;
use std::fs;

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn weights_that_are_missing_or_broken() {
    check(&[
        case(
            "no weights",
            |d| remove(d, WEIGHTS),
            TRAIN,
            &["/model: no weights", "model.safetensors"],
        ),
        case(
            "a truncated file",
            |d| {
                let bytes = fs::read(d.join(WEIGHTS)).unwrap();
                fs::write(d.join(WEIGHTS), &bytes[..bytes.len() - 100]).unwrap();
            },
            TRAIN,
            &["model.safetensors: truncated", "download it again"],
        ),
        case(
            "an empty file",
            |d| fs::write(d.join(WEIGHTS), "").unwrap(),
            TRAIN,
            &["0 bytes long"],
        ),
        case(
            "a wrong shape",
            |d| model(d, "\"intermediate_size\": 74", "\"intermediate_size\": 75"),
            TRAIN,
            &[
                "/model: the weights do not fit config.json",
                "down_proj.weight has shape [32, 74], expected [32, 75]",
            ],
        ),
        case(
            "a missing tensor",
            |d| header(d.join(WEIGHTS), "model.norm.weight", "model.mean.weight"),
            TRAIN,
            &["model.norm.weight is missing (expected shape [32])"],
        ),
        case(
            "an index that climbs",
            |d| index(d, "../elsewhere.safetensors"),
            TRAIN,
            &["index.json", "leads out of the directory"],
        ),
        case(
            "an index that is absolute",
            |d| index(d, "/etc/passwd"),
            TRAIN,
            &["\"/etc/passwd\"", "leads out of the directory"],
        ),
        case(
            "an index without its file",
            |d| index(d, "model-1.safetensors"),
            TRAIN,
            &["\"model-1.safetensors\"", "is missing"],
        ),
        case(
            "a pickle",
            |d| fs::rename(d.join(WEIGHTS), d.join("model/pytorch_model.bin")).unwrap(),
            TRAIN,
            &["a Python pickle", "save_pretrained"],
        ),
        case(
            "an untied head",
            |d| model(d, "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false"),
            TRAIN,
            &["lm_head.weight is missing"],
        ),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn models_that_are_not_supported() {
    check(&[
        case(
            "no config.json",
            |d| remove(d, "model/config.json"),
            TRAIN,
            &["/model/config.json", "Hugging Face form"],
        ),
        case(
            "no JSON",
            |d| fs::write(d.join("model/config.json"), "{").unwrap(),
            TRAIN,
            &["config.json: not valid JSON"],
        ),
        case(
            "an architecture",
            |d| model(d, "\"llama\"", "\"gemma2\""),
            TRAIN,
            &["\"gemma2\" is not supported", "llama, mistral, qwen2, qwen3"],
        ),
        case(
            "a RoPE type",
            |d| model(d, "\"default\"", "\"mrope\""),
            TRAIN,
            &["\"mrope\" is not supported", "llama3"],
        ),
        case(
            "an activation",
            |d| model(d, "\"silu\"", "\"gelu\""),
            TRAIN,
            &["`hidden_act` \"gelu\" is not supported"],
        ),
        case(
            "a type",
            |d| model(d, "\"hidden_size\": 32", "\"hidden_size\": \"32\""),
            TRAIN,
            &["`hidden_size` must be a whole number"],
        ),
        case(
            "another quantization",
            |d| {
                model(
                    d,
                    "\"vocab_size\"",
                    "\"quantization_config\": {\"quant_method\": \"gptq\"}, \"vocab_size\"",
                )
            },
            TRAIN,
            &["\"gptq\", which is not supported"],
        ),
        case(
            "no tokenizer",
            |d| remove(d, "model/tokenizer.json"),
            TRAIN,
            &["/model/tokenizer.json", "needs a tokenizer.json"],
        ),
        case(
            "a broken tokenizer",
            |d| fs::write(d.join("model/tokenizer.json"), "{}").unwrap(),
            TRAIN,
            &["/model/tokenizer.json: not a tokenizer"],
        ),
        case(
            "a tokenizer that is too large",
            |d| {
                model(d, "\"vocab_size\": 403", "\"vocab_size\": 131");
                fs::copy(fixture("models/llama/model.safetensors"), d.join(WEIGHTS)).unwrap();
            },
            TRAIN,
            &["data.jsonl:1: token", "outside the model's vocabulary of 131 ids"],
        ),
        case(
            "not in the cache",
            |_| {},
            "train --model Org/Name@v1 --data data.jsonl",
            &["hf download Org/Name --revision v1"],
        ),
        case(
            "no such directory",
            |_| {},
            "train --model nowhere --data data.jsonl",
            &["there is no directory", "/nowhere"],
        ),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn adapters() {
    check(&[
        case(
            "none",
            |d| config(d, "r = 2", "adapter = \"no\""),
            TRAIN,
            &["/no/adapter_config.json", "PEFT's form"],
        ),
        case(
            "no weights",
            |d| {
                adapter(d, "LORA", "LORA");
                remove(d, ADAPTER);
            },
            TRAIN,
            &["adapter_model.safetensors"],
        ),
        case(
            "another rank",
            |d| adapter(d, "\"r\": 4", "\"r\": 5"),
            TRAIN,
            &["lora_A.weight has shape [4, 32], expected [5, 32]"],
        ),
        case(
            "another model",
            |d| {
                adapter(d, "LORA", "LORA");
                model(d, "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4");
                model(d, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
            },
            TRAIN,
            &["k_proj.weight has shape"],
        ),
        case(
            "a missing factor",
            |d| {
                adapter(d, "LORA", "LORA");
                header(
                    d.join(ADAPTER),
                    "layers.1.mlp.up_proj.lora_A",
                    "layers.9.mlp.up_proj.lora_A",
                );
            },
            TRAIN,
            &["layers.1.mlp.up_proj.lora_A.weight is missing"],
        ),
        case(
            "DoRA",
            |d| adapter(d, "\"use_dora\": false", "\"use_dora\": true"),
            TRAIN,
            &["q_proj.lora_magnitude_vector is missing (expected shape [32])"],
        ),
        case(
            "patterns",
            |d| adapter(d, "\"rank_pattern\": {}", "\"rank_pattern\": {\"q_proj\": 8}"),
            TRAIN,
            &["q_proj.lora_A.weight has shape [4, 32], expected [8, 32]"],
        ),
        case(
            "saved modules",
            |d| adapter(d, "\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]"),
            TRAIN,
            &["lm_head.weight is missing (expected shape [403, 32])"],
        ),
        case(
            "a pattern of modules",
            |d| adapter(d, "\"exclude_modules\": null", "\"exclude_modules\": \"(?=x)\""),
            TRAIN,
            &["exclude_modules: the pattern \"(?=x)\" is not understood", "look-around"],
        ),
        case(
            "another method",
            |d| adapter(d, "LORA", "IA3"),
            TRAIN,
            &["`peft_type` \"IA3\" is not supported"],
        ),
        case(
            "its own rank",
            |d| {
                adapter(d, "LORA", "LORA");
                config(d, "[data]", "r = 4\n[data]");
            },
            TRAIN,
            &["lora.r: contradicts lora.adapter"],
        ),
        case(
            "no base",
            |d| {
                adapter(
                    d,
                    "\"base_model_name_or_path\": \"tests/fixtures/models/llama\"",
                    "\"base_model_name_or_path\": null",
                )
            },
            "generate --adapter adapter --prompt a --device cpu",
            &["does not say which model it is for", "--model"],
        ),
        case(
            "a base that is not here",
            |d| adapter(d, "tests/fixtures/models/llama", "Org/Name"),
            "generate --adapter adapter --prompt a --device cpu",
            &["hf download Org/Name", "--model"],
        ),
    ]);
}
