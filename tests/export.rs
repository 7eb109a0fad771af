//! What `export` writes, read back: merged and 4-bit directories, and GGUF files by a reader of their
//! own.
#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use common::{compare, cpu, fixture};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tunesmith::adapter::{AdapterWeights, LoraWeights, PeftAdapter, PeftConfig, attach, peft};
use tunesmith::cli::ExportOptions;
use tunesmith::dtype::bytes_to_f32;
use tunesmith::export::gguf::mix::Mix;
use tunesmith::export::gguf::write_gguf;
use tunesmith::export::{Base, Merge, logits};
use tunesmith::model::load::{LoadOptions, Source, load};
use tunesmith::model::spec::TensorSpec;
use tunesmith::model::{ModelConfig, Weights};
use tunesmith::programs;
use tunesmith::tokenizer::TextProcessor;
use tunesmith::{DType, Error, Result};

const POSITIONS: usize = 32;

/// Runs the program.
fn export(arguments: &[&str]) -> Result<()> {
    let fixed = ["export", "--device", "cpu", "--dtype", "float32", "--quiet"];
    programs::export::run(ExportOptions::try_parse_from(fixed.iter().chain(arguments)).unwrap())
}

/// An adapter for `model` that changes it.
fn write_adapter(model: &Path, dir: &Path) {
    let config = PeftConfig {
        r: 3,
        lora_alpha: 6.0,
        target_modules: tunesmith::adapter::TargetModules::AllLinear,
        ..PeftConfig::default()
    };
    let wave = |count: usize, step: f32| (0..count).map(move |i| 0.2 * (i as f32 * step).sin());
    let modules = config.modules(&ModelConfig::open(model).unwrap()).unwrap();
    let weights: Vec<_> = modules
        .into_iter()
        .map(|module| {
            let lora_a = wave(3 * module.inputs, 0.7).collect();
            let lora_b = wave(3 * module.outputs, 0.3).collect();
            LoraWeights::new(module, lora_a, lora_b)
        })
        .collect();
    let adapter = AdapterWeights { loras: weights, ..AdapterWeights::default() };
    fs::create_dir(dir).unwrap();
    peft::save(dir, &config, &adapter, "").unwrap();
}

/// The logits of a directory, its adapter attached and its weights in 4 bits where asked.
fn logits_of(dir: &Path, nf4: Option<bool>, adapter: Option<&Path>) -> Vec<f32> {
    let (device, config) = (cpu(), ModelConfig::open(dir).unwrap());
    let weights = Weights::open(dir).unwrap();
    let options =
        LoadOptions { dtype: DType::F32, nf4, train_all: false, max_positions: POSITIONS };
    let (mut model, _) = load(&device, &config, &Source::Weights(&weights), options).unwrap();
    if let Some(adapter) = adapter {
        attach(&mut model, &PeftAdapter::load(adapter, &config, &device).unwrap()).unwrap();
    }
    logits(&model, POSITIONS).unwrap()
}

#[test]
fn merged_and_4bit_directories_are_the_model_with_its_adapter() -> Result<()> {
    for family in ["llama", "qwen2", "gemma3", "phi4-mini"] {
        let model = fixture("models").join(family);
        let work = tempfile::tempdir().unwrap();
        let path = |name: &str| work.path().join(name);
        let shown = |name: &str| path(name).display().to_string();
        let (base, adapter) = (model.display().to_string(), shown("adapter"));
        write_adapter(&model, &path("adapter"));
        for (into, nf4) in [("original", None), ("dequantized", Some(true))] {
            let output = shown(into);
            let common = ["--model", &base, "--adapter", &adapter, "--merge-into", into];
            export(&[&common[..], &["--to", "merged", "--output", &output]].concat())?;
            let meant = logits_of(&model, nf4, Some(&path("adapter")));
            let written = logits_of(&path(into), None, None);
            compare(into, &written, &meant);
            assert_ne!(written, logits_of(&model, nf4, None), "{family}: the adapter does nothing");
        }
        // Quantized from the merged floats, decoded to the same bits as when the loader does it.
        let output = shown("nf4");
        let common = ["--model", &base, "--adapter", &adapter, "--to", "nf4"];
        export(&[&common[..], &["--output", &output]].concat())?;
        let quantized = logits_of(&path("original"), Some(true), None);
        assert!(logits_of(&path("nf4"), None, None) == quantized, "{family}");
        let error = export(&[&common[..], &["--output", &output]].concat()).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
    }
    Ok(())
}

/// A value of a GGUF file; lists as their elements' text.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Number(f64),
    Text(String),
    List(Vec<String>),
}

/// A GGUF file: metadata, and tensors as (ggml type, sizes innermost first, bytes).
struct Gguf {
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, (u32, Vec<usize>, Vec<u8>)>,
}

/// Reads numbers and strings from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }
    fn size(&mut self) -> usize {
        u64::from_le_bytes(self.take(8).try_into().unwrap()) as usize
    }
    fn text(&mut self) -> String {
        let count = self.size();
        String::from_utf8(self.take(count).to_vec()).unwrap()
    }
    fn value(&mut self, kind: u32) -> Value {
        match kind {
            4 => Value::Number(f64::from(self.u32())),
            5 => Value::Number(f64::from(self.u32() as i32)),
            6 => Value::Number(f64::from(f32::from_bits(self.u32()))),
            7 => Value::Number(f64::from(self.take(1)[0])),
            8 => Value::Text(self.text()),
            9 => {
                let (kind, count) = (self.u32(), self.size());
                let plain = |value| match value {
                    Value::Text(text) => text,
                    Value::Number(number) => number.to_string(),
                    Value::List(list) => format!("{list:?}"),
                };
                Value::List((0..count).map(|_| plain(self.value(kind))).collect())
            }
            other => panic!("a value of type {other}"),
        }
    }
}

impl Gguf {
    fn open(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let mut reader = Reader(&bytes);
        assert_eq!(reader.take(4), b"GGUF");
        assert_eq!(reader.u32(), 3);
        let (tensors, entries) = (reader.size(), reader.size());
        let mut metadata = BTreeMap::new();
        for _ in 0..entries {
            let (key, kind) = (reader.text(), reader.u32());
            assert!(metadata.insert(key.clone(), reader.value(kind)).is_none(), "{key} twice");
        }
        let infos: Vec<_> = (0..tensors)
            .map(|_| {
                let (name, dimensions) = (reader.text(), reader.u32());
                let sizes: Vec<usize> = (0..dimensions).map(|_| reader.size()).collect();
                (name, sizes, reader.u32(), reader.size())
            })
            .collect();
        let start = (bytes.len() - reader.0.len()).next_multiple_of(32);
        let tensor = |(name, sizes, kind, offset): (String, Vec<usize>, u32, usize)| {
            assert_eq!(offset % 32, 0, "{name}");
            let width = if kind == 0 { 4 } else { 2 };
            let count: usize = sizes.iter().product::<usize>() * width;
            (name, (kind, sizes, bytes[start + offset..][..count].to_vec()))
        };
        Self { metadata, tensors: infos.into_iter().map(tensor).collect() }
    }

    fn number(&self, key: &str) -> Option<f64> {
        match self.metadata.get(key)? {
            Value::Number(number) => Some(*number),
            other => panic!("{key} is {other:?}"),
        }
    }
    fn list(&self, key: &str) -> &[String] {
        match &self.metadata[key] {
            Value::List(list) => list,
            other => panic!("{key} is {other:?}"),
        }
    }
    fn text(&self, key: &str) -> &str {
        match &self.metadata[key] {
            Value::Text(text) => text,
            other => panic!("{key} is {other:?}"),
        }
    }
}

/// A model of a family with waves for weights.
fn model(family: &str, more: &str) -> (ModelConfig, Weights) {
    let text = format!(
        r#"{{"model_type": "{family}", "vocab_size": 410, "hidden_size": 16, {more}
        "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64,
        "tie_word_embeddings": true}}"#
    );
    let config = ModelConfig::from_json(&text, "config.json").unwrap();
    let tensors = config.spec.tensors().into_iter().enumerate();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .map(|(n, TensorSpec { name, shape, .. })| {
            let wave = |i: usize| ((n + i) as f32 * 0.7).sin().to_le_bytes();
            let bytes = (0..shape.iter().product()).flat_map(wave).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    (config, Weights::from_bytes(vec![("w".into(), bytes)]).unwrap())
}

fn text(dir: &Path) -> TextProcessor {
    let date = jiff::civil::date(2024, 1, 1).at(0, 0, 0, 0);
    TextProcessor::load(dir, None, dir, date).unwrap()
}

fn tokenizer(name: &str) -> PathBuf {
    fixture("tokenizers").join(name)
}

/// Writes and reads a file.
fn gguf(model: &(ModelConfig, Weights), tokenizer: &Path, dtype: DType) -> Result<Gguf> {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("model.gguf");
    let merge = Merge::new(&model.1, Base::Original, dtype);
    write_gguf(&path, "name", &model.0, &text(tokenizer), &merge, Mix::Floats(dtype))?;
    Ok(Gguf::open(&path))
}

/// The stored values of a tensor, as f32.
fn stored(weights: &Weights, name: &str) -> Vec<f32> {
    let tensor = weights.expect(name).unwrap();
    tensor.to_f32().unwrap()
}

#[test]
fn gguf_has_the_shape_the_tokenizer_and_every_weight() -> Result<()> {
    let rope = r#""rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 16},"#;
    let model = model("llama", rope);
    let file = gguf(&model, &tokenizer("llama3"), DType::BF16)?;
    assert_eq!(file.text("general.architecture"), "llama");
    assert_eq!(file.number("general.file_type"), Some(32.0));
    for (key, expected) in [
        ("block_count", 2.0),
        ("context_length", 64.0),
        ("attention.head_count_kv", 2.0),
        ("attention.key_length", 4.0),
        ("vocab_size", 410.0),
    ] {
        assert_eq!(file.number(&format!("llama.{key}")), Some(expected), "{key}");
    }
    assert_eq!(file.text("tokenizer.ggml.model"), "gpt2");
    assert_eq!(file.text("tokenizer.ggml.pre"), "smaug-bpe");
    assert_eq!(file.number("tokenizer.ggml.add_bos_token"), Some(1.0));
    assert_eq!(file.number("tokenizer.ggml.bos_token_id"), Some(400.0));
    assert_eq!(file.number("tokenizer.ggml.eos_token_id"), Some(403.0));
    assert!(file.text("tokenizer.chat_template").contains("<|eot_id|>"));
    let (tokens, kinds) =
        (file.list("tokenizer.ggml.tokens"), file.list("tokenizer.ggml.token_type"));
    assert_eq!((tokens.len(), kinds.len()), (410, 410));
    assert_eq!((tokens[403].as_str(), kinds[403].as_str()), ("<|eot_id|>", "3"));
    assert_eq!((tokens[409].as_str(), kinds[409].as_str()), ("[PAD409]", "5"));
    assert_eq!(file.list("tokenizer.ggml.merges").len(), 144);

    // Tied to the embedding: no output matrix; Llama 3's frequencies are one more tensor.
    assert_eq!(file.tensors.len(), model.0.spec.tensors().len() + 1);
    assert_eq!(file.tensors["rope_freqs.weight"].1, [2]);
    let (kind, sizes, bytes) = &file.tensors["token_embd.weight"];
    assert_eq!((*kind, &sizes[..]), (30, &[16, 410][..]));
    let embedding = stored(&model.1, "model.embed_tokens.weight");
    let rounded: Vec<f32> = embedding.iter().map(|x| DType::BF16.round(*x)).collect();
    assert!(bytes_to_f32(bytes, DType::BF16) == rounded);
    let (kind, _, bytes) = &file.tensors["output_norm.weight"];
    assert_eq!(*kind, 0);
    assert!(bytes_to_f32(bytes, DType::F32) == stored(&model.1, "model.norm.weight"));
    // Rows of a head of 4: pairs (0, 2) and (1, 3) side by side.
    let (_, sizes, bytes) = &file.tensors["blk.1.attn_k.weight"];
    assert_eq!(sizes[..], [16, 8]);
    let (found, k) = (
        bytes_to_f32(bytes, DType::BF16),
        stored(&model.1, "model.layers.1.self_attn.k_proj.weight"),
    );
    for (row, source) in [0, 2, 1, 3, 4, 6, 5, 7].into_iter().enumerate() {
        let expected = k[source * 16..][..16].iter().map(|x| DType::BF16.round(*x));
        assert!(found[row * 16..][..16].iter().copied().eq(expected), "row {row}");
    }
    Ok(())
}

#[test]
fn gguf_has_tokens_that_stand_beside_tokenizer_json() -> Result<()> {
    let work = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(tokenizer("chatml").join(file), work.path().join(file)).unwrap();
    }
    let path = work.path().join("tokenizer_config.json");
    let mut config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let token = |content: &str, special: bool| {
        serde_json::json!({"content": content, "special": special, "lstrip": false,
            "rstrip": false, "normalized": false, "single_word": false})
    };
    config["added_tokens_decoder"] = serde_json::json!({
        "400": token("<|endoftext|>", true), "401": token("<|im_start|>", true),
        "402": token("<|im_end|>", true), "403": token("<|tool|>", true), "404": token("<w>", false),
    });
    fs::write(&path, config.to_string()).unwrap();
    let model = model("llama", "");
    let file = gguf(&model, work.path(), DType::F32)?;
    let (tokens, kinds) =
        (file.list("tokenizer.ggml.tokens"), file.list("tokenizer.ggml.token_type"));
    assert_eq!(tokens[402..406], ["<|im_end|>", "<|tool|>", "<w>", "[PAD405]"]);
    assert_eq!(kinds[402..406], ["3", "3", "4", "5"]);

    // One that the embedding has no row for.
    for id in 405..=410 {
        config["added_tokens_decoder"][id.to_string()] = token(&format!("<{id}>"), true);
    }
    fs::write(&path, config.to_string()).unwrap();
    let message = gguf(&model, work.path(), DType::F32).err().unwrap().to_string();
    assert!(message.contains("no id below the model's vocab_size 410"), "{message}");
    Ok(())
}

#[test]
fn gguf_of_qwen_keeps_its_rows_and_biases() -> Result<()> {
    let model = model("qwen2", "");
    let file = gguf(&model, &tokenizer("qwen3"), DType::F32)?;
    assert_eq!(file.text("general.architecture"), "qwen2");
    assert!(file.metadata.contains_key("tokenizer.chat_template.other"));
    for (name, source) in [("attn_q.weight", "q_proj.weight"), ("attn_k.bias", "k_proj.bias")] {
        let (_, _, bytes) = &file.tensors[&format!("blk.0.{name}")];
        let expected = stored(&model.1, &format!("model.layers.0.self_attn.{source}"));
        assert!(bytes_to_f32(bytes, DType::F32) == expected, "{name}");
    }
    Ok(())
}

#[test]
fn gguf_of_gemma_adds_to_norms_what_the_model_does() -> Result<()> {
    let more = r#""query_pre_attn_scalar": 4, "sliding_window": 8, "rope_local_base_freq": 500.0,
        "layer_types": ["sliding_attention", "full_attention"],"#;
    let model = model("gemma3_text", more);
    let file = gguf(&model, &tokenizer("chatml"), DType::BF16)?;
    assert_eq!(file.text("general.architecture"), "gemma3");
    assert_eq!(file.number("gemma3.rope.freq_base_swa"), Some(500.0));
    for (name, source) in [
        ("blk.1.attn_norm", "model.layers.1.input_layernorm"),
        ("blk.1.post_attention_norm", "model.layers.1.post_attention_layernorm"),
        ("blk.1.ffn_norm", "model.layers.1.pre_feedforward_layernorm"),
        ("blk.1.post_ffw_norm", "model.layers.1.post_feedforward_layernorm"),
        ("blk.0.attn_q_norm", "model.layers.0.self_attn.q_norm"),
        ("output_norm", "model.norm"),
    ] {
        let (kind, _, bytes) = &file.tensors[&format!("{name}.weight")];
        assert_eq!(*kind, 0, "{name}");
        let expected = stored(&model.1, &format!("{source}.weight"));
        let expected: Vec<f32> = expected.iter().map(|x| x + 1.0).collect();
        assert!(bytes_to_f32(bytes, DType::F32) == expected, "{name}");
    }
    Ok(())
}

#[test]
fn gguf_of_phi_keeps_fused_layers() -> Result<()> {
    let more = r#""original_max_position_embeddings": 32, "rope_scaling": {"type": "longrope",
        "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]},"#;
    let model = model("phi3", more);
    let file = gguf(&model, &tokenizer("chatml"), DType::F32)?;
    assert_eq!(file.text("general.architecture"), "phi3");
    assert_eq!(file.number("phi3.context_length"), Some(32.0));
    let (_, sizes, bytes) = &file.tensors["blk.0.attn_qkv.weight"];
    assert_eq!(sizes[..], [16, 32]);
    let source = "model.layers.0.self_attn.qkv_proj.weight";
    assert!(bytes_to_f32(bytes, DType::F32) == stored(&model.1, source));
    assert_eq!(file.tensors["blk.0.ffn_up.weight"].1, [16, 48]);
    let (_, _, bytes) = &file.tensors["rope_factors_long.weight"];
    assert_eq!(bytes_to_f32(bytes, DType::F32), [2.0, 4.0]);
    Ok(())
}

#[test]
fn gguf_refuses_tokenizers_that_llama_cpp_does_not_have() {
    let refusal =
        |more: &str, tokenizer: &Path| match gguf(&model("llama", more), tokenizer, DType::F32)
            .err()
            .unwrap()
        {
            Error::Input(message) => message,
            other => panic!("{other}"),
        };
    let message = refusal("", &tokenizer("alpaca"));
    assert!(message.contains("Unigram"), "{message}");

    // SentencePiece's merges, good and with a pair left out that llama.cpp would merge.
    let work = tempfile::tempdir().unwrap();
    let write = |merges: &str| {
        let text = format!(
            r#"{{"version": "1.0", "added_tokens": [{{"id": 0, "content": "<unk>", "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}}],
            "normalizer": {{"type": "Sequence", "normalizers": [{{"type": "Prepend", "prepend": "▁"}},
            {{"type": "Replace", "pattern": {{"String": " "}}, "content": "▁"}}]}},
            "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {{"type": "BPE", "unk_token": "<unk>", "byte_fallback": false, "vocab":
            {{"<unk>": 0, "a": 1, "b": 2, "▁": 3, "ab": 4, "▁a": 5, "▁ab": 6}},
            "merges": {merges}}}}}"#
        );
        fs::write(work.path().join("tokenizer.json"), text).unwrap();
    };
    write(r#"["a b", "▁ a", "▁ ab", "▁a b"]"#);
    let file = gguf(&model("llama", ""), work.path(), DType::F32).unwrap();
    assert_eq!(file.text("tokenizer.ggml.model"), "llama");
    assert_eq!(file.list("tokenizer.ggml.scores")[..7], ["0", "0", "0", "0", "-1", "-2", "-3"]);
    assert_eq!(file.number("tokenizer.ggml.add_space_prefix"), Some(1.0));
    write(r#"["a b", "▁ a", "▁ ab"]"#);
    let message = refusal("", work.path());
    assert!(message.contains("▁ab") && message.contains("2 ways"), "{message}");
}
