//! Generation and evaluation on models, adapters and 4-bit checkpoints of the ecosystem, against
//! what Transformers, PEFT and bitsandbytes make of them.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::Value;
use tunesmith::adapter::{PeftAdapter, attach, detach};
use tunesmith::backend::cpu::Cpu;
use tunesmith::data::{Batch, Group, Sequence};
use tunesmith::evaluate::evaluate;
use tunesmith::generate::{Finish, Request, Sampler, Sampling, Session};
use tunesmith::model::load::{LoadOptions, Source, load};
use tunesmith::model::transformer::Model;
use tunesmith::model::{ModelConfig, Weights};
use tunesmith::nn::Context;
use tunesmith::objective::sft::Sft;
use tunesmith::ops::{self, Implementation};
use tunesmith::{DType, Device, Tape};

const FAMILIES: [&str; 13] = [
    "gemma3",
    "gemma3-v4",
    "llama",
    "llama3",
    "llama-linear",
    "llama-dynamic",
    "llama-yarn",
    "mistral",
    "phi3",
    "phi4-mini",
    "qwen2",
    "qwen3",
    "smollm2",
];

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// New buffers hold NaN, so that reading what was never written shows.
fn cpu() -> Device {
    Device::new(Cpu::poisoned())
}

fn open(device: &Device, dir: &Path, nf4: Option<bool>) -> Model {
    let config = ModelConfig::open(dir).unwrap();
    let weights = Weights::open(dir).unwrap();
    let max_positions = config.max_position_embeddings;
    let options = LoadOptions { dtype: DType::F32, nf4, train_all: false, max_positions };
    load(device, &config, &Source::Weights(&weights), options).unwrap().0
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Rows of `{input_ids, labels}` laid end to end.
fn batch(rows: &[Value]) -> Batch {
    let group = |row: &Value| {
        let (input_ids, labels) = (ids(&row["input_ids"]), row["labels"].as_array().unwrap());
        let labels = labels.iter().map(|label| label.as_i64().unwrap() as i32).collect();
        Group::of(Sequence { input_ids, labels, ..Sequence::default() })
    };
    Batch::of(&rows.iter().map(group).collect::<Vec<_>>(), 0)
}

fn loss(model: &Model, rows: &[Value]) -> f64 {
    evaluate(&Sft, model, Implementation::Flash, std::iter::once(batch(rows))).unwrap().loss()
}

/// Logits [T, V] of one sequence.
fn logits(model: &Model, input: &[u32]) -> Vec<f32> {
    let device = model.embed_tokens.device();
    let length = input.len() as u32;
    let positions: Vec<u32> = (0..length).collect();
    let bounds = vec![[0, length]; input.len()];
    let context =
        Context::of_sequences(device, &positions, &bounds, Implementation::Flash, None).unwrap();
    let tape = Tape::inference();
    let hidden = model.hidden(&tape, input, &Rc::new(context)).unwrap();
    ops::matmul(&tape, &hidden, &model.lm_head).unwrap().read_f32().unwrap()
}

/// Within 1e-5 of the largest value: 24 bits through a few dozen products in another order.
fn assert_close(ours: &[f32], theirs: &[f32], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let largest = theirs.iter().fold(0f32, |max, x| max.max(x.abs()));
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= 1e-5 * largest, "{what}[{i}]: {a} and {b}, largest {largest}");
    }
}

fn check_greedy(device: &Device, family: &str) {
    let dir = fixture(&format!("models/{family}"));
    let model = open(device, &dir, None);
    let mut session = Session::new();
    for case in json(&dir.join("reference.json"))["generation"].as_array().unwrap() {
        let (prompt, expected) = (ids(&case["prompt_token_ids"]), ids(&case["token_ids"]));
        let request = Request { prompt: &prompt, max_new_tokens: expected.len(), stop_ids: &[] };
        let mut streamed = Vec::new();
        let mut on_token = |id| {
            streamed.push(id);
            Ok(ControlFlow::Continue(()))
        };
        let mut sampler = Sampler::new(Sampling::GREEDY, 0);
        let found = session.generate(&model, request, &mut sampler, &mut on_token).unwrap();
        assert_eq!(found.token_ids, expected, "{family} after {prompt:?}");
        assert_eq!(streamed, expected);
    }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    for family in FAMILIES {
        check_greedy(&cpu(), family);
    }
}

#[cfg(feature = "wgpu")]
#[test]
fn greedy_tokens_on_wgpu_are_those_of_transformers() {
    use tunesmith::backend::wgpu::{Options, Wgpu};
    check_greedy(&Device::new(Wgpu::open(0, Options { strict: true }).unwrap()), "qwen3");
}

#[test]
fn losses_are_those_of_transformers() {
    for family in FAMILIES {
        let dir = fixture(&format!("models/{family}"));
        let (model, reference) = (open(&cpu(), &dir, None), json(&dir.join("reference.json")));
        let rows = reference["rows"].as_array().unwrap();
        // Dynamic RoPE has other frequencies for a row longer than the context.
        let context = model.config.max_position_embeddings;
        if rows.iter().all(|row| row["input_ids"].as_array().unwrap().len() <= context) {
            let (ours, theirs) = (loss(&model, rows), reference["loss"].as_f64().unwrap());
            assert!((ours - theirs).abs() < 1e-5 * theirs, "{family}: {ours} and {theirs}");
        }
    }
}

#[test]
fn decoding_with_the_cache_is_recomputing() {
    for family in ["mistral", "qwen3", "gemma3", "phi3"] {
        let model = open(&cpu(), &fixture(&format!("models/{family}")), None);
        let tokens: Vec<u32> = (0..21).map(|i| (i * 37 + 5) % 97).collect();
        let whole = logits(&model, &tokens);
        let vocabulary = model.config.spec.vocab_size;
        let mut session = Session::new();
        // In steps of 3, 1, 1, ...; then back, to a prompt that begins like the last one.
        for end in (3..=tokens.len()).chain([9, 10]) {
            let found = session.logits(&model, &tokens[..end]).unwrap();
            assert_eq!(session.cached(), &tokens[..end]);
            let expected = &whole[(end - 1) * vocabulary..end * vocabulary];
            assert_close(&found, expected, &format!("{family}, {end} tokens"));
        }
        let other = [&tokens[..6], &[3, 1, 4]].concat();
        let whole = logits(&model, &other);
        let found = session.logits(&model, &other).unwrap();
        assert_close(&found, &whole[8 * vocabulary..], "after a common prefix");
    }
}

#[test]
fn generation_ends_where_it_should() {
    let dir = fixture("models/llama");
    let model = open(&cpu(), &dir, None);
    let case = &json(&dir.join("reference.json"))["generation"][0];
    let (prompt, expected) = (ids(&case["prompt_token_ids"]), ids(&case["token_ids"]));
    let run = |prompt: &[u32], max_new_tokens, stop_ids: &[u32], most: usize| {
        let request = Request { prompt, max_new_tokens, stop_ids };
        let mut count = 0;
        let mut on_token = |_| {
            count += 1;
            Ok(if count < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        };
        let mut sampler = Sampler::new(Sampling::GREEDY, 0);
        Session::new().generate(&model, request, &mut sampler, &mut on_token)
    };
    let stop = expected[3];
    let first = expected.iter().position(|&id| id == stop).unwrap();
    let found = run(&prompt, 99, &[stop], 99).unwrap();
    assert_eq!((found.finish, &found.token_ids[..]), (Finish::Stop, &expected[..first]));
    let found = run(&prompt, 2, &[], 99).unwrap();
    assert_eq!((found.finish, &found.token_ids[..]), (Finish::MaxNewTokens, &expected[..2]));
    let found = run(&prompt, 99, &[], 4).unwrap();
    assert_eq!((found.finish, &found.token_ids[..]), (Finish::Cancelled, &expected[..4]));
    let context = model.config.max_position_embeddings;
    let long = vec![7; context - 2];
    let found = run(&long, 99, &[], 99).unwrap();
    assert_eq!((found.finish, found.token_ids.len()), (Finish::ContextFull, 2));
    let error = run(&vec![7; context], 99, &[], 99).unwrap_err();
    assert!(error.exit_status() == 2 && error.to_string().contains("64"), "{error}");
    assert_eq!(run(&[], 99, &[], 99).unwrap_err().exit_status(), 2);
}

#[test]
fn adapters_attach_as_in_peft_and_detach_without_a_trace() {
    for (family, mode, nf4) in [
        ("qwen3", "lora", None),
        ("llama", "lora", None),
        ("qwen2", "qlora", Some(true)),
        ("mistral", "qlora-single", Some(false)),
    ] {
        let device = cpu();
        let mut model = open(&device, &fixture(&format!("models/{family}")), nf4);
        let run = fixture(&format!("trajectories/{family}"));
        // The adapter as it was at the end of the run.
        let dir = tempfile::tempdir().unwrap();
        let copy = |from: &str, to: &str| fs::copy(run.join(from), dir.path().join(to)).unwrap();
        copy("adapter/adapter_config.json", "adapter_config.json");
        copy(&format!("{mode}.safetensors"), "adapter_model.safetensors");
        let adapter = PeftAdapter::load(dir.path(), &model.config, &device).unwrap();

        let log = json(&run.join(format!("{mode}.json")));
        let batches = json(&run.join("batches.json"));
        let rows = batches[0].as_array().unwrap();
        let check = |model: &Model, theirs: &Value, what: &str| {
            let (ours, theirs) = (loss(model, rows), theirs.as_f64().unwrap());
            assert!((ours - theirs).abs() < 1e-5 * theirs, "{what}: {ours} and {theirs}");
        };
        // Adapters start with B = 0, so the first loss is the base model's.
        let base = &log["steps"][0]["loss"];
        check(&model, base, &format!("{family} {mode}, base"));
        for round in 0..2 {
            attach(&mut model, &adapter).unwrap();
            check(&model, &log["final_loss"], &format!("{family} {mode}, tuned, {round}"));
            detach(&mut model).unwrap();
            check(&model, base, &format!("{family} {mode}, detached, {round}"));
        }
        let other = open(&device, &fixture("models/smollm2"), None);
        assert!(PeftAdapter::load(dir.path(), &other.config, &device).is_err());
    }
}

#[test]
fn four_bit_checkpoints_give_the_logits_of_their_decoded_weights() {
    for name in ["qwen2-single", "qwen2-double", "smollm2-double-bfloat16"] {
        let dir = fixture(&format!("nf4/{name}"));
        let model = open(&cpu(), &dir, None);
        let expected = Weights::open_file(&dir.join("reference.safetensors")).unwrap();
        let reference = json(&dir.join("reference.json"));
        for (i, row) in reference["rows"].as_array().unwrap().iter().enumerate() {
            let theirs = expected.get(&format!("logits.{i}")).unwrap();
            let theirs: Vec<f32> = theirs.to_f32().unwrap();
            let input = ids(&row["input_ids"]);
            assert_close(&logits(&model, &input), &theirs, &format!("{name}, row {i}"));
            let last = Session::new().logits(&model, &input).unwrap();
            assert_close(
                &last,
                &theirs[theirs.len() - last.len()..],
                &format!("{name}, {i}, last"),
            );
        }
    }
}

#[test]
fn filters_are_those_of_transformers() {
    let expected = Weights::open_file(&fixture("sampling/sampling.safetensors")).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let tensor = expected.get(name).unwrap();
        tensor.to_f32().unwrap()
    };
    let reference = json(&fixture("sampling/sampling.json"));
    let so_far = ids(&reference["token_ids_so_far"]);
    for (i, case) in reference["cases"].as_array().unwrap().iter().enumerate() {
        let number = |key: &str, none: f64| case[key].as_f64().unwrap_or(none);
        let sampling = Sampling {
            temperature: number("temperature", 1.0),
            top_k: case["top_k"].as_u64().unwrap_or(0) as usize,
            top_p: number("top_p", 1.0),
            min_p: number("min_p", 0.0),
            repetition_penalty: number("repetition_penalty", 1.0),
        };
        let mut ours = floats("logits");
        sampling.filter(&mut ours, &so_far);
        for (id, (a, b)) in ours.iter().zip(floats(&format!("filtered.{i}"))).enumerate() {
            // One rounding each of the penalty and the temperature.
            let near = (a - b).abs() <= 2.0 * f32::EPSILON * b.abs();
            assert!(*a == b || near, "{case}, token {id}: {a} and {b}");
        }
    }
}
