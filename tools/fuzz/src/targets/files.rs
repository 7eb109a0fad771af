//! Weights and their index, config.json, adapters, tokenizers.

use super::{Reader, Target};
use crate::seeds::{file, files, repository, safetensors};
use std::fs;
use std::path::Path;
use tunesmith::adapter::peft;
use tunesmith::model::{ModelConfig, Weights};
use tunesmith::tokenizer::{HfTokenizer, Tokenizer};

const SAFETENSORS: &[&str] = &[
    "\"F32\"",
    "\"BF16\"",
    "\"F64\"",
    "\"F8_E4M3\"",
    "\"U8\"",
    "\"data_offsets\": [0, 8]",
    "\"shape\": [0]",
    "\"shape\": [4294967296, 4294967296]",
    "\"__metadata__\"",
    "\"dtype\"",
    "\0\0\0\0\0\0\0\0",
    "\u{1}\0\0\0\0\0\0\0",
    ",\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}",
];
const CONFIG: &[&str] = &[
    "\"model_type\": \"llama\"",
    "\"model_type\": \"gemma3\"",
    "\"model_type\": \"qwen3\"",
    "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 1e300}",
    "\"rope_type\": \"longrope\"",
    "\"num_hidden_layers\": 4294967295",
    "\"hidden_size\": 0",
    "\"num_key_value_heads\": 0",
    "\"head_dim\": 9223372036854775807",
    "\"layer_types\": []",
    "\"quantization_config\": {}",
    "\"rope_parameters\": {}",
    "\"eos_token_id\": [1, 2]",
    "\"vocab_size\": -1",
    "\"rms_norm_eps\": 0",
];
const ADAPTER: &[&str] = &[
    "\"r\": 0",
    "\"r\": 2147483647",
    "\"target_modules\": \"all-linear\"",
    "\"target_modules\": \"(a+)+$\"",
    "\"rank_pattern\": {\"^.*\": 3}",
    "\"alpha_pattern\": {\"(\": 1}",
    "\"modules_to_save\": [\"lm_head\"]",
    "\"use_dora\": true",
    "\"use_rslora\": true",
    "\"init_lora_weights\": \"pissa\"",
    "\"layers_to_transform\": [0, 99]",
    "\"bias\": \"all\"",
    "\"task_type\": null",
    "\"lora_alpha\": 1e308",
];
const TOKENIZER: &[&str] = &[
    "\"type\": \"Replace\"",
    "{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, \"content\": \"aaaa\"}",
    "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(a+)+$\"}, \"content\": \"\"}",
    "\"Sequence\"",
    "{\"type\": \"Prepend\", \"prepend\": \"x\"}",
    "\"normalizers\": []",
    "\"NFKC\"",
    "\"BPE\"",
    "\"Unigram\"",
    "\"WordPiece\"",
    "\"byte_fallback\": true",
    "\"unk_token\": \"x\"",
    "\"merges\": [\"a b\"]",
    "\"id\": 4294967295",
    "\"special\": true",
    "\"normalized\": true",
    "\"lstrip\": true",
    "\"ByteLevel\"",
    "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(\\\\s|\\\\S)*x\"}, \"behavior\": \"Isolated\"}",
    "\"ids\": [4294967295]",
    "\"dropout\": 1.0",
    "\"added_tokens_decoder\": {\"7\": {\"content\": \"\"}}",
    "\"additional_special_tokens\": [\"a\", \"\"]",
    "\"chat_template\": [{}]",
    "\"split_special_tokens\": true",
];

pub fn targets(dir: &Path) -> Vec<Box<dyn Target>> {
    vec![weights(), index(dir), config(), adapter(dir), tokenizer(dir), tokenizer_config(dir)]
}

/// Reads the beginning of every tensor.
fn look_at(weights: &Weights) {
    for name in weights.names() {
        let Some(tensor) = weights.get(name) else { continue };
        // The tensors are small: each claims no more than its file holds.
        std::hint::black_box(tensor.to_f32());
    }
}

fn some_weights() -> Vec<u8> {
    safetensors(&[
        ("model.embed_tokens.weight", "BF16", 2, &[8, 4]),
        ("model.norm.weight", "F32", 4, &[4]),
        ("w", "F16", 2, &[2, 2, 2]),
        ("w.absmax", "U8", 1, &[3]),
    ])
}

fn weights() -> Box<dyn Target> {
    Box::new(Reader {
        name: "safetensors",
        seeds: vec![some_weights(), safetensors(&[("a", "F64", 8, &[2])]), safetensors(&[])],
        words: SAFETENSORS,
        read: |input: &[u8]| {
            look_at(&Weights::from_bytes(vec![("input".into(), input.to_vec())])?);
            Ok(())
        },
    })
}

fn index(dir: &Path) -> Box<dyn Target> {
    let dir = dir.join("index");
    fs::create_dir_all(&dir).expect("a folder");
    for (file, tensor) in [("1.safetensors", "a"), ("2.safetensors", "b")] {
        fs::write(dir.join(file), safetensors(&[(tensor, "F32", 4, &[2])])).expect("a file");
    }
    let map = r#"{"metadata": {"total_size": 16}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;
    Box::new(Reader {
        name: "index",
        seeds: vec![map.into()],
        words: &[
            "\"1.safetensors\"",
            "\"../1.safetensors\"",
            "\"weight_map\"",
            ", \"c\": \"1.safetensors\"",
        ],
        read: move |input: &[u8]| {
            fs::write(dir.join("model.safetensors.index.json"), input).expect("a file");
            look_at(&Weights::open(&dir)?);
            Ok(())
        },
    })
}

fn config() -> Box<dyn Target> {
    Box::new(Reader {
        name: "config",
        seeds: files("tests/fixtures/models", "config.json"),
        words: CONFIG,
        read: |input: &[u8]| {
            let text = String::from_utf8_lossy(input);
            let config = ModelConfig::from_json(&text, "config.json")?;
            let again = config.to_json(tunesmith::DType::BF16, None);
            ModelConfig::from_json(&again, "written").map(drop)
        },
    })
}

/// `{` begins an adapter_config.json; anything else is the weights.
fn adapter(dir: &Path) -> Box<dyn Target> {
    const FOLDER: &str = "tests/fixtures/trajectories/smollm2/adapter";
    let dir = dir.join("adapter");
    fs::create_dir_all(&dir).expect("a folder");
    let whole = ["adapter_config.json", "adapter_model.safetensors"]
        .map(|name| (name, file(&format!("{FOLDER}/{name}"))));
    let model = ModelConfig::open(&repository("tests/fixtures/models/smollm2")).expect("a model");
    let mut seeds = files("tests/fixtures/trajectories", "adapter/adapter_config.json");
    // The beginning of the weights has the header; the rest is numbers.
    seeds.push(whole[1].1.clone());
    Box::new(Reader {
        name: "adapter",
        seeds,
        words: ADAPTER,
        read: move |input: &[u8]| {
            let is_config = input.trim_ascii_start().starts_with(b"{");
            for (name, content) in &whole {
                let changed = is_config == (*name == "adapter_config.json");
                fs::write(dir.join(name), if changed { input } else { content }).expect("a file");
            }
            peft::load(&dir, &model, None).map(drop)
        },
    })
}

const TEXTS: [&str; 4] = [
    "Hello there, world! 12345 it's",
    "  \n\n é中文\u{1F600}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
    "",
];

fn use_tokenizer(dir: &Path) -> tunesmith::Result<()> {
    let tokenizer = HfTokenizer::load(dir)?;
    for text in TEXTS {
        let encoding = tokenizer.encode_with_spans(text)?;
        assert!(encoding.spans.iter().all(|&(start, end)| start <= end && end <= text.len()));
        tokenizer.decode(&tokenizer.encode(text, true)?, true)?;
    }
    Ok(())
}

fn tokenizer(dir: &Path) -> Box<dyn Target> {
    let dir = dir.join("tokenizer");
    fs::create_dir_all(&dir).expect("a folder");
    Box::new(Reader {
        name: "tokenizer",
        seeds: files("tests/fixtures/tokenizers", "tokenizer.json"),
        words: TOKENIZER,
        read: move |input: &[u8]| {
            fs::write(dir.join("tokenizer.json"), input).expect("a file");
            use_tokenizer(&dir)
        },
    })
}

fn tokenizer_config(dir: &Path) -> Box<dyn Target> {
    let dir = dir.join("tokenizer-config");
    fs::create_dir_all(&dir).expect("a folder");
    let tokenizer = file("tests/fixtures/tokenizers/chatml/tokenizer.json");
    fs::write(dir.join("tokenizer.json"), tokenizer).expect("a file");
    Box::new(Reader {
        name: "tokenizer-config",
        seeds: files("tests/fixtures/tokenizers", "tokenizer_config.json"),
        words: TOKENIZER,
        read: move |input: &[u8]| {
            fs::write(dir.join("tokenizer_config.json"), input).expect("a file");
            use_tokenizer(&dir)
        },
    })
}
