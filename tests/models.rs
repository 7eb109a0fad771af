//! Every family of models against Transformers: logits, loss and the gradient of every parameter, as
//! tests/fixtures/models holds them.

mod common;

use common::{
    Row, Tensors, batch, compare, cpu, families, fixture, json, loss_tokens, open, options,
};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use tunesmith::data::Batch;
use tunesmith::model::load::{LoadOptions, Source, load};
use tunesmith::model::transformer::{Model, Recompute};
use tunesmith::model::{ModelConfig, Weights};
use tunesmith::nn::{Context, Parameter};
use tunesmith::ops::{self, Implementation, StepState, StepValues};
use tunesmith::{DType, Device, Result, Tape, Tensor};

#[derive(Deserialize)]
struct Reference {
    rows: Vec<Row>,
    loss: f64,
    num_tokens: usize,
}

/// A model with its reference values.
struct Case {
    model: Model,
    parameters: Vec<Parameter>,
    reference: Reference,
    tensors: Tensors,
    attention: Implementation,
}

/// What a step's forward and backward passes found.
#[derive(PartialEq)]
struct Found {
    losses: Vec<f32>,
    gradients: BTreeMap<String, Vec<f32>>,
}

impl Case {
    fn open(device: &Device, family: &str, attention: Implementation) -> Result<Self> {
        let dir = fixture("models").join(family);
        let reference: Reference = json(&dir.join("reference.json"));
        let (model, parameters) =
            open(device, &dir, options(None, true, longest(&reference.rows)))?;
        let tensors = Tensors::open(&dir.join("reference.safetensors"));
        Ok(Self { model, parameters, reference, tensors, attention })
    }

    /// The rows as batches of one.
    fn one_by_one(&self) -> Vec<Batch> {
        self.reference.rows.iter().map(|row| batch(std::slice::from_ref(row), 0)).collect()
    }

    /// Forward and backward over `batches`, gradients added up.
    fn run(&mut self, batches: &[Batch]) -> Result<Found> {
        let device = self.model.embed_tokens.device().clone();
        let state = StepState::new(&device)?;
        let inv_tokens = 1.0 / self.reference.num_tokens as f32;
        state.set(&StepValues { inv_tokens, ..Default::default() })?;
        let mut losses = Vec::new();
        for batch in batches {
            let tape = Tape::recording();
            let hidden = hidden(&self.model, &tape, batch, self.attention)?;
            let targets =
                Tensor::from_u32(&device, &[batch.num_tokens()], &ops::target_ids(&batch.targets))?;
            let head = &self.model.lm_head;
            let found = ops::linear_cross_entropy(&tape, &hidden, head, &targets, &state)?;
            tape.backward(
                &found.scaled_loss,
                Tensor::from_f32(&device, &[1], DType::F32, &[1.0])?,
            )?;
            losses.extend(found.losses.read_f32()?);
        }
        let mut gradients = BTreeMap::new();
        for parameter in &self.parameters {
            gradients.insert(parameter.name.clone(), parameter.grad()?.read_f32()?);
            parameter.clear_grad();
        }
        Ok(Found { losses, gradients })
    }

    fn check_logits(&mut self) -> Result<()> {
        for (i, batch) in self.one_by_one().iter().enumerate() {
            let found = logits(&self.model, batch, self.attention)?;
            let name = format!("logits.{i}");
            compare(&name, &found, &self.tensors.get(&name));
        }
        Ok(())
    }

    fn check(&self, found: &Found) {
        let sum: f64 = found.losses.iter().map(|&loss| f64::from(loss)).sum();
        let loss = sum / self.reference.num_tokens as f64;
        let expected = self.reference.loss;
        assert!((loss - expected).abs() <= 1e-6 * expected, "loss {loss}, expected {expected}");
        for (name, gradient) in &found.gradients {
            compare(name, gradient, &self.tensors.get(&format!("grad.{name}")));
        }
        let expected = self.tensors.names();
        let expected = expected.iter().filter_map(|name| name.strip_prefix("grad."));
        let forgotten: Vec<_> =
            expected.filter(|&name| !found.gradients.contains_key(name)).collect();
        assert!(forgotten.is_empty(), "no gradient of {forgotten:?}");
    }
}

fn longest(rows: &[Row]) -> usize {
    rows.iter().map(|row| row.input_ids.len()).max().unwrap()
}

fn hidden(model: &Model, tape: &Tape, batch: &Batch, attention: Implementation) -> Result<Tensor> {
    let device = model.embed_tokens.device();
    let context = Context::of_sequences(device, &batch.positions, &batch.bounds, attention, None)?;
    model.hidden(tape, &batch.input_ids, &Rc::new(context))
}

/// [T, V].
fn logits(model: &Model, batch: &Batch, attention: Implementation) -> Result<Vec<f32>> {
    let tape = Tape::inference();
    let hidden = hidden(model, &tape, batch, attention)?;
    ops::matmul(&tape, &hidden, &model.lm_head)?.read_f32()
}

fn assert_same_bits(what: &str, found: &Found, expected: &Found) {
    for (name, gradient) in &found.gradients {
        assert!(gradient == &expected.gradients[name], "{what}: other bits in {name}");
    }
    assert!(found == expected, "{what}: other losses");
}

/// Logits, loss and gradients, row by row and packed into one batch, and the same bits on every
/// rung of recomputation.
fn check_family(device: &Device, family: &str, attention: Implementation) -> Result<()> {
    println!("{family}, {attention:?}");
    let mut case = Case::open(device, family, attention)?;
    assert_eq!(loss_tokens(&case.reference.rows), case.reference.num_tokens);
    case.check_logits()?;
    let rows = case.one_by_one();
    let batches = vec![batch(&case.reference.rows, 0)];
    for batches in [&rows, &batches] {
        let found = case.run(batches)?;
        case.check(&found);
    }
    case.model.recompute = Recompute::Nothing;
    let expected = case.run(&batches)?;
    for recompute in [Recompute::Elementwise, Recompute::Mlp, Recompute::Layer] {
        case.model.recompute = recompute;
        assert_same_bits(&format!("{recompute:?}"), &case.run(&batches)?, &expected);
    }
    Ok(())
}

#[test]
fn every_family_agrees_with_transformers() -> Result<()> {
    for family in families("models") {
        for attention in [Implementation::Flash, Implementation::Eager] {
            check_family(&cpu(), &family, attention)?;
        }
    }
    Ok(())
}

/// Mistral has the sliding window, Qwen3 the norms of heads and the tied embedding, Gemma 3 scaled
/// embeddings and norms with an offset, Phi-4-mini fused layers and heads that turn in part.
#[cfg(feature = "wgpu")]
#[test]
fn wgpu_agrees_with_transformers() -> Result<()> {
    let device = common::wgpu();
    for family in ["mistral", "qwen3", "gemma3", "phi4-mini"] {
        for attention in [Implementation::Flash, Implementation::Eager] {
            check_family(&device, family, attention)?;
        }
    }
    Ok(())
}

/// What one sequence of a packed batch says changes no bit of another's logits.
#[test]
fn packed_sequences_do_not_see_each_other() -> Result<()> {
    for attention in [Implementation::Flash, Implementation::Eager] {
        let case = Case::open(&cpu(), "mistral", attention)?;
        let packed = batch(&case.reference.rows, 0);
        let [first, last] = packed.rows[1].map(|token| token as usize);
        let mut other = packed.clone();
        for id in &mut other.input_ids[first..last] {
            *id = (*id + 1) % case.model.config.spec.vocab_size as u32;
        }
        let expected = logits(&case.model, &packed, attention)?;
        let found = logits(&case.model, &other, attention)?;
        let width = case.model.config.spec.vocab_size;
        let of = |token: usize| token * width..(token + 1) * width;
        for token in 0..packed.num_tokens() {
            let same = found[of(token)] == expected[of(token)];
            let inside = (first..last).contains(&token);
            assert_eq!(same, !inside, "{attention:?}, token {token}");
        }
    }
    Ok(())
}

/// The logits of a bitsandbytes checkpoint of 4-bit weights.
fn check_4bit(device: &Device, dir: &Path) -> Result<()> {
    #[derive(Deserialize)]
    struct Rows {
        rows: Vec<Row>,
    }
    let Rows { rows } = json(&dir.join("reference.json"));
    let tensors = Tensors::open(&dir.join("reference.safetensors"));
    let (model, _) = open(device, dir, options(None, false, longest(&rows)))?;
    let dense =
        model.linears().filter(|linear| !matches!(linear.weight, tunesmith::nn::Weight::Nf4(_)));
    assert_eq!(dense.count(), 0, "{}: not 4-bit", dir.display());
    for (i, row) in rows.iter().enumerate() {
        let name = format!("logits.{i}");
        let found = logits(&model, &batch(std::slice::from_ref(row), 0), Implementation::Flash)?;
        compare(&format!("{} {name}", dir.display()), &found, &tensors.get(&name));
    }
    Ok(())
}

const CHECKPOINTS: [&str; 5] =
    ["qwen2-single", "qwen2-double", "smollm2-double-bfloat16", "gemma3-double", "phi3-double"];

#[test]
fn bitsandbytes_checkpoints_give_their_logits() -> Result<()> {
    CHECKPOINTS.iter().try_for_each(|name| check_4bit(&cpu(), &fixture("nf4").join(name)))
}

#[cfg(feature = "wgpu")]
#[test]
fn wgpu_gives_the_logits_of_a_bitsandbytes_checkpoint() -> Result<()> {
    let device = common::wgpu();
    CHECKPOINTS.iter().try_for_each(|name| check_4bit(&device, &fixture("nf4").join(name)))
}

/// A number that float32 has and float16 has not, at the end of an embedding.
#[test]
fn weights_beyond_the_range_of_a_dtype_are_refused() -> Result<()> {
    const NAME: &str = "model.embed_tokens.weight";
    let dir = fixture("models/llama");
    let config = ModelConfig::open(&dir)?;
    let mut bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let data = file.tensor(NAME).unwrap().data();
    let end = data.as_ptr() as usize - bytes.as_ptr() as usize + data.len();
    bytes[end - 4..end].copy_from_slice(&70_000f32.to_le_bytes());
    let weights = Weights::from_bytes(vec![("model.safetensors".into(), bytes)])?;
    for train_all in [false, true] {
        let load = |dtype| {
            let options = LoadOptions { dtype, ..options(None, train_all, 8) };
            load(&cpu(), &config, &Source::Weights(&weights), options).map(|_| ())
        };
        load(DType::F32)?;
        load(DType::BF16)?;
        let message = load(DType::F16).unwrap_err().to_string();
        assert!(
            message.contains(NAME) && message.contains("is 70000, beyond the range"),
            "{message}"
        );
    }
    Ok(())
}
