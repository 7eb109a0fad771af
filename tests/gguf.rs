//! GGUF files: blocks as llama.cpp decodes and makes them, and a file as the base of everything: the same
//! model and tokenizer as the directory that it was written from.

mod common;

use common::fixture;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::fs;
use std::path::Path;
use tunesmith::backend::cpu::Cpu;
use tunesmith::export::gguf::mix::Mix;
use tunesmith::export::gguf::write_gguf;
use tunesmith::export::{Base, Merge, logits};
use tunesmith::gguf::Kind;
use tunesmith::gguf::container::{Entry, TensorInfo, Value, write};
use tunesmith::model::{ModelConfig, Weights, check, resolve};
use tunesmith::tokenizer::TextProcessor;
use tunesmith::{DType, Device, Result};

const KINDS: [(Kind, &str); 8] = [
    (Kind::Q4_0, "q4_0"),
    (Kind::Q4_1, "q4_1"),
    (Kind::Q5_0, "q5_0"),
    (Kind::Q5_1, "q5_1"),
    (Kind::Q8_0, "q8_0"),
    (Kind::Q4_K, "q4_K"),
    (Kind::Q5_K, "q5_K"),
    (Kind::Q6_K, "q6_K"),
];

#[test]
fn blocks_decode_to_llama_cpps_bits() {
    let file = Weights::open_file(&fixture("gguf/blocks.safetensors")).unwrap();
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    for (kind, name) in KINDS {
        let expected = file.expect(&format!("{name}.decoded")).unwrap().to_f32().unwrap();
        let found = kind.decode(file.expect(name).unwrap().bytes);
        assert!(bits(found) == bits(expected), "{name}");
    }
}

#[test]
fn blocks_are_made_as_llama_cpps_reference_makes_them() {
    let file = Weights::open_file(&fixture("gguf/blocks.safetensors")).unwrap();
    let values = file.expect("values").unwrap().to_f32().unwrap();
    for (kind, name) in KINDS {
        let Some(found) = kind.encode(&values) else {
            assert!(matches!(kind, Kind::Q4_0 | Kind::Q4_1), "{name}");
            continue;
        };
        let expected = file.expect(name).unwrap().bytes;
        let size = kind.block().1;
        let different = found.chunks(size).zip(expected.chunks(size)).position(|(a, b)| a != b);
        assert_eq!(different, None, "{name}");
    }
}

/// A model directory of a family, with waves for weights and a tokenizer.
fn model(dir: &Path, family: &str, tokenizer: &str, more: &str) {
    let text = format!(
        r#"{{"model_type": "{family}", "vocab_size": 416, "hidden_size": 64, {more}
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": null}}"#
    );
    let config = ModelConfig::from_json(&text, "config.json").unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = config
        .spec
        .tensors()
        .into_iter()
        .enumerate()
        .map(|(n, tensor)| {
            let wave = |i: usize| (((n * 31 + i) as f32 * 0.7).sin() * 0.2).to_le_bytes();
            let bytes = (0..tensor.shape.iter().product()).flat_map(wave).collect();
            (tensor.name, tensor.shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    fs::write(dir.join("config.json"), text).unwrap();
    for entry in fs::read_dir(fixture("tokenizers").join(tokenizer)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if path.is_file() && name != "encodings.json" {
            fs::copy(&path, dir.join(name)).unwrap();
        }
    }
}

fn text(path: &Path) -> TextProcessor {
    let date = jiff::civil::date(2024, 1, 1).at(0, 0, 0, 0);
    TextProcessor::load(path, None, path, date).unwrap()
}

fn open(path: &Path) -> Result<(ModelConfig, Weights)> {
    let (mut config, mut weights) = (ModelConfig::open(path)?, Weights::open(path)?);
    assert_eq!(check(&mut weights, &mut config)?, [""; 0], "{}", path.display());
    Ok((config, weights))
}

fn logits_of(path: &Path) -> Result<Vec<f32>> {
    let device = Device::new(Cpu::poisoned());
    let (model, _) = common::open(&device, path, common::options(None, false, 16))?;
    logits(&model, 16)
}

const LLAMA3: &str = r#""tie_word_embeddings": true, "rope_theta": 500000.0, "rope_scaling":
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192},"#;
const ODD_LLAMA3: &str = r#""rope_scaling": {"rope_type": "llama3", "factor": 4.0,
    "low_freq_factor": 1.0, "high_freq_factor": 2.0, "original_max_position_embeddings": 32},"#;
const YARN: &str = r#""rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.7,
    "original_max_position_embeddings": 16},"#;
const GEMMA: &str = r#""head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"], "rope_local_base_freq": 500.0,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},"#;
const PHI: &str = r#""original_max_position_embeddings": 64, "partial_rotary_factor": 0.75,
    "tie_word_embeddings": true, "rope_scaling": {"type": "longrope", "attention_factor": 1.25,
    "short_factor": [1.0, 1.5, 1.1, 1.2, 1.3, 1.4], "long_factor": [2.0, 4.0, 1.0, 1.0, 1.0, 1.0]},"#;

/// Family, tokenizer, settings.
const MODELS: [(&str, &str, &str); 10] = [
    ("llama", "chatml", ""),
    ("llama", "llama3", LLAMA3),
    ("llama", "llama3", ODD_LLAMA3),
    ("llama", "chatml", r#""attention_bias": true, "mlp_bias": true, "head_dim": 32,"#),
    ("llama", "chatml", r#""rope_scaling": {"type": "linear", "factor": 2.5},"#),
    ("qwen2", "qwen3", YARN),
    ("qwen3", "qwen3", r#""head_dim": 16, "tie_word_embeddings": true,"#),
    ("gemma3_text", "chatml", GEMMA),
    ("phi3", "chatml", r#""sliding_window": 9,"#),
    ("phi3", "chatml", PHI),
];

/// Weights, network and tokens of the file are those of the directory.
#[test]
fn a_file_is_the_model_that_it_was_written_from() -> Result<()> {
    for (family, tokenizer, more) in MODELS {
        let what = format!("{family} {more}");
        let work = tempfile::tempdir().unwrap();
        model(work.path(), family, tokenizer, more);
        let (config, weights) = open(work.path())?;
        let path = work.path().join("model.gguf");
        let merge = Merge::new(&weights, Base::Original, DType::F32);
        let own = text(work.path());
        write_gguf(&path, "name", &config, &own, &merge, Mix::Floats(DType::F32))?;

        let (found_config, found) = open(&path)?;
        assert_eq!(found_config.family.model_type, family, "{what}");
        let (mut spec, mut found_spec) = (config.spec.clone(), found_config.spec.clone());
        // llama.cpp's Phi-3 has no window, and its context ends where it begins.
        for block in spec.blocks.iter_mut().filter(|_| family == "phi3") {
            block.attention.window = None;
        }
        if more == ODD_LLAMA3 {
            // Other numbers than Llama 3's: the divisors as they are, held to below.
            found_spec.ropes = spec.ropes.clone();
        }
        assert_eq!(found_spec, spec, "{what}");
        for tensor in config.spec.tensors() {
            let values =
                |weights: &Weights| weights.expect(&tensor.name).unwrap().to_f32().unwrap();
            let (expected, values) = (values(&weights), values(&found));
            // Norms have their offset added and taken away again.
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= tensor.norm_offset() * 1.2e-7;
            assert!(values.len() == expected.len(), "{what} {}", tensor.name);
            assert!(values.iter().zip(&expected).all(close), "{what} {}", tensor.name);
        }
        let theirs = text(&path);
        for input in
            ["Once upon a time", "It's 12345 o'clock,\n\n isn't  it? Größe 数", "a<|im_end|>b"]
        {
            for special in [false, true] {
                let encode = |text: &TextProcessor| text.tokenizer.encode(input, special).unwrap();
                assert_eq!(encode(&theirs), encode(&own), "{what} {input:?}");
                let ids = encode(&own);
                let decode = |text: &TextProcessor| text.tokenizer.decode(&ids, false).unwrap();
                assert_eq!(decode(&theirs), decode(&own), "{what} {input:?}");
            }
        }
        let source = |text: &TextProcessor| text.template.as_ref().map(|t| t.source().to_string());
        assert_eq!(source(&theirs), source(&own), "{what}");
        assert_eq!(theirs.end_of_turn().ids.first(), own.end_of_turn().ids.first(), "{what}");
    }
    Ok(())
}

/// Divisors of RoPE that are nobody's usual ones turn heads by the same angles.
#[test]
fn odd_divisors_of_rope_are_kept() -> Result<()> {
    let work = tempfile::tempdir().unwrap();
    model(work.path(), "llama", "llama3", ODD_LLAMA3);
    let (config, weights) = open(work.path())?;
    let path = work.path().join("model.gguf");
    let merge = Merge::new(&weights, Base::Original, DType::F32);
    write_gguf(&path, "name", &config, &text(work.path()), &merge, Mix::Floats(DType::F32))?;
    let (found, expected) = (logits_of(&path)?, logits_of(work.path())?);
    let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
    let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst <= 1e-5 * largest, "{worst} of {largest}");
    Ok(())
}

/// What is in a file is what its blocks decode to, and what is not supported is said by name.
#[test]
fn what_is_not_supported_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let written = |entries: &[(&str, Value)], tensors: &[TensorInfo]| {
        let entries: Vec<Entry> =
            entries.iter().map(|(key, value)| Entry::new(*key, value.clone())).collect();
        write(&path, &entries, tensors, |i| Ok(vec![0; tensors[i].size()])).unwrap();
    };
    let message = || {
        let config = ModelConfig::open(&path).map(|_| ());
        config
            .and_then(|()| {
                TextProcessor::load(
                    &path,
                    None,
                    &path,
                    jiff::civil::date(2024, 1, 1).at(0, 0, 0, 0),
                )
                .map(|_| ())
            })
            .unwrap_err()
            .to_string()
    };
    let text = |text: &str| Value::Text(text.into());
    written(&[("general.architecture", text("mamba"))], &[]);
    let found = message();
    assert!(found.contains("\"mamba\"") && found.contains("gemma3"), "{found}");
    let sizes = |more: &[(&'static str, Value)]| {
        let mut entries = vec![("general.architecture", text("llama"))];
        for (key, n) in [
            ("llama.context_length", 64),
            ("llama.embedding_length", 8),
            ("llama.block_count", 1),
            ("llama.feed_forward_length", 8),
            ("llama.attention.head_count", 2),
        ] {
            entries.push((key, Value::U32(n)));
        }
        entries.extend(more.iter().cloned());
        entries
    };
    let embedding =
        TensorInfo { name: "token_embd.weight".into(), kind: Kind::F16, shape: vec![4, 8] };
    let tensors = [embedding];
    written(&sizes(&[("llama.expert_count", Value::U32(8))]), &tensors);
    assert!(message().contains("llama.expert_count"), "{}", message());
    let tokens = ("tokenizer.ggml.tokens", Value::Texts(vec!["a".into(); 4]));
    let model = |name: &str| ("tokenizer.ggml.model", text(name));
    written(&sizes(&[tokens.clone(), model("rwkv")]), &tensors);
    assert!(message().contains("\"rwkv\""), "{}", message());
    let merges = ("tokenizer.ggml.merges", Value::Texts(vec![]));
    let pre = ("tokenizer.ggml.pre", text("klingon"));
    written(&sizes(&[tokens, model("gpt2"), merges, pre]), &tensors);
    let found = message();
    assert!(found.contains("\"klingon\"") && found.contains("llama-bpe"), "{found}");
    fs::write(&path, b"GGUF").unwrap();
    assert!(message().contains("truncated"), "{}", message());
    assert!(resolve(path.to_str().unwrap()).is_ok());
}

/// The programs' exports: files that are quantized, and that overflow.
mod exports {
    use super::*;
    use tunesmith::Error;
    use tunesmith::cli::ExportOptions;

    fn export(arguments: &[&str]) -> Result<()> {
        use clap::Parser;
        let arguments = ["export", "--quiet", "--device", "cpu"].iter().chain(arguments);
        tunesmith::programs::export::run(ExportOptions::parse_from(arguments))
    }

    #[test]
    fn a_quantized_file_holds_llama_cpps_blocks_of_the_weights() -> Result<()> {
        let work = tempfile::tempdir().unwrap();
        model(work.path(), "qwen3", "qwen3", r#""head_dim": 64,"#);
        let dir = work.path().to_str().unwrap();
        let (_, weights) = open(work.path())?;
        for (dtype, v, gate, head) in [
            ("q8_0", Kind::Q8_0, Kind::Q8_0, Kind::Q8_0),
            ("q4_k_m", Kind::Q5_0, Kind::Q5_0, Kind::Q8_0),
        ] {
            let path = work.path().join(format!("{dtype}.gguf"));
            let output = path.to_str().unwrap();
            let to = ["--model", dir, "--to", "gguf", "--dtype", dtype, "--output", output];
            export(&to)?;
            let (_, found) = open(&path)?;
            for (name, kind) in [
                ("model.layers.0.self_attn.v_proj.weight", v),
                ("model.layers.0.mlp.gate_proj.weight", gate),
                ("lm_head.weight", head),
            ] {
                let stored = found.expect(name)?;
                assert_eq!(stored.stored_as(), kind.name(), "{dtype} {name}");
                let values = weights.expect(name)?.to_f32().unwrap();
                assert!(stored.bytes == kind.encode(&values).unwrap(), "{dtype} {name}");
            }
            assert_eq!(found.expect("model.norm.weight")?.stored_as(), "F32");
        }
        Ok(())
    }

    #[test]
    fn weights_that_overflow_are_refused_and_nothing_is_left() {
        let work = tempfile::tempdir().unwrap();
        model(work.path(), "llama", "chatml", "");
        let path = work.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for value in bytes[start..].as_chunks_mut::<4>().0 {
            *value = (f32::from_le_bytes(*value) * 5e4).to_le_bytes();
        }
        fs::write(&path, bytes).unwrap();
        let output = work.path().join("x.gguf");
        let (dir, to) = (work.path().to_str().unwrap(), output.to_str().unwrap());
        let arguments = ["--model", dir, "--to", "gguf", "--dtype", "float16", "--output", to];
        match export(&arguments).unwrap_err() {
            Error::Run(message) => assert!(message.contains("not finite"), "{message}"),
            other => panic!("{other}"),
        }
        assert!(!output.exists());
    }

    #[test]
    fn blocks_are_for_gguf_alone() {
        let work = tempfile::tempdir().unwrap();
        model(work.path(), "llama", "chatml", "");
        let dir = work.path().to_str().unwrap();
        let arguments = ["--model", dir, "--to", "merged", "--dtype", "q8_0", "--output", "x"];
        let message = export(&arguments).unwrap_err().to_string();
        assert!(message.contains("--dtype q8_0 is for export --to gguf"), "{message}");
    }
}
