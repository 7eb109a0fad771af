//! Ten optimizer steps against PyTorch, PEFT and bitsandbytes: full, LoRA and QLoRA, as
//! tests/fixtures/trajectories holds them.

mod common;

use common::{Row, Tensors, batch, cpu, families, fixture, json, loss_tokens, open, options};
use serde::Deserialize;
use std::collections::BTreeMap;
use tunesmith::adapter::trainable::attach_saved;
use tunesmith::config::LrSchedulerType;
use tunesmith::data::Batch;
use tunesmith::evaluate::evaluate;
use tunesmith::nn::{Parameter, Weight};
use tunesmith::objective::sft::Sft;
use tunesmith::ops::Implementation;
use tunesmith::optim::{Kind, Settings};
use tunesmith::train::schedule::Schedule;
use tunesmith::train::trainer::Trainer;
use tunesmith::{Device, Result};

/// Largest difference of a loss, and of a gradient norm as a share of it.
const LOSS: f64 = 1e-5;
const GRAD_NORM: f64 = 1e-4;
/// Largest difference of a parameter's total change, as a share of that change (L2 norms). Adam
/// divides by the root of the mean square, so elements whose gradient is near 0 amplify rounding.
const CHANGE: f64 = 1e-3;

const MAX_POSITIONS: usize = 64;
const SEED: u64 = 1;

#[derive(Deserialize)]
struct Log {
    learning_rate: f64,
    max_steps: u64,
    warmup_steps: f64,
    weight_decay: f64,
    adam_beta1: f64,
    adam_beta2: f64,
    adam_epsilon: f64,
    max_grad_norm: f64,
    per_device_train_batch_size: usize,
    gradient_accumulation_steps: usize,
    load_in_4bit: bool,
    bnb_4bit_use_double_quant: bool,
    #[serde(default)]
    optim: Option<String>,
    #[serde(default)]
    rounding: Rounding,
    steps: Vec<Step>,
    final_loss: f64,
    change_norm: BTreeMap<String, f64>,
}

/// How far runs of PyTorch's side end apart that differ in rounding alone, where that is more than
/// rounding: 8-bit moments jump from code to code.
#[derive(Clone, Copy, Default, Deserialize)]
struct Rounding {
    loss: f64,
    grad_norm: f64,
    change: f64,
}

impl Rounding {
    /// `tolerance`, or twice what rounding does.
    fn allows(differs: f64, tolerance: f64) -> f64 {
        tolerance.max(2.0 * differs)
    }
}

#[derive(Deserialize)]
struct Step {
    loss: f64,
    grad_norm: f64,
    learning_rate: f64,
    num_tokens: usize,
}

/// The values of every parameter, by name.
type Values = BTreeMap<String, Vec<f32>>;

fn values(parameters: &[Parameter]) -> Result<Values> {
    parameters.iter().map(|p| Ok((p.name.clone(), p.master.read_f32()?))).collect()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

fn difference<'a>(a: &'a [f32], b: &'a [f32]) -> impl Iterator<Item = f64> {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b))
}

impl Log {
    fn trainer(&self, device: &Device, family: &str, lora: bool) -> Result<Trainer> {
        let nf4 = self.load_in_4bit.then_some(self.bnb_4bit_use_double_quant);
        let dir = fixture("models").join(family);
        let (mut model, mut parameters) = open(device, &dir, options(nf4, !lora, MAX_POSITIONS))?;
        if lora {
            let adapter = fixture("trajectories").join(family).join("adapter");
            (_, parameters) = attach_saved(&mut model, &adapter, 0.0, None)?;
            let is_4bit = |weight: &Weight| matches!(weight, Weight::Nf4(_));
            assert!(model.linears().all(|linear| is_4bit(&linear.weight) == self.load_in_4bit));
        }
        let settings = Settings {
            optim: Kind::find(self.optim.as_deref().unwrap_or("adamw_torch")).unwrap(),
            beta1: self.adam_beta1,
            beta2: self.adam_beta2,
            eps: self.adam_epsilon,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
        };
        Trainer::new(model, parameters, Sft, settings, Implementation::Flash, SEED)
    }

    /// The micro-batches of a step.
    fn batches(&self, rows: &[Row]) -> Vec<Batch> {
        let size = self.per_device_train_batch_size;
        let batches = rows.chunks(size).zip((0..).step_by(size));
        let batches: Vec<_> = batches.map(|(rows, first)| batch(rows, first)).collect();
        assert_eq!(batches.len(), self.gradient_accumulation_steps);
        batches
    }

    fn take_steps(&self, trainer: &mut Trainer, steps: &[Vec<Row>]) -> Result<()> {
        let kind = LrSchedulerType::Cosine;
        let schedule = Schedule::new(kind, self.learning_rate, self.warmup_steps, self.max_steps);
        for ((number, rows), expected) in (1..).zip(steps).zip(&self.steps) {
            let learning_rate = schedule.learning_rate(number);
            let tokens = loss_tokens(rows);
            let found = trainer.step(number, learning_rate, &self.batches(rows))?;
            let what = format!("step {number}: {found:?}, expected {}", expected.loss);
            assert_eq!(tokens, expected.num_tokens, "{what}");
            assert!(!found.skipped, "{what}");
            let off = (found.loss - expected.loss).abs();
            assert!(off <= Rounding::allows(self.rounding.loss, LOSS), "{what}");
            let off = (found.grad_norm - expected.grad_norm).abs() / expected.grad_norm;
            let allowed = Rounding::allows(self.rounding.grad_norm, GRAD_NORM);
            assert!(off <= allowed, "{what}, gradient norm {}", expected.grad_norm);
            let off = (learning_rate - expected.learning_rate).abs();
            assert!(off <= 1e-12 * self.learning_rate, "{what}, at {learning_rate}");
        }
        Ok(())
    }

    /// The end state, by how far each parameter has come.
    fn check_changes(&self, head_dim: usize, [start, end]: [&Values; 2], stored: &Tensors) {
        let allowed = Rounding::allows(self.rounding.change, CHANGE);
        // PEFT's modules have a prefix and an adapter's name, its files only the prefix.
        let mut found = 0;
        for (key, &expected) in &self.change_norm {
            let name = key.replace("base_model.model.", "").replace(".default", "");
            assert!(end.contains_key(&name), "{name} was not trained");
            let change = norm(difference(&end[&name], &start[&name]));
            let what = format!("{name}: changed by {change}, expected {expected}");
            assert!((change - expected).abs() <= allowed * expected, "{what}");
            found += 1;
        }
        assert_eq!(found, end.len(), "parameters");
        let names = stored.names();
        assert!(!names.is_empty());
        for key in names {
            let name = key.replace("base_model.model.", "");
            let expected = stored.get(&key);
            let counts = |i: usize| !(name.ends_with("k_proj.bias") && cancels(i, head_dim));
            let of = |a, b| {
                norm(difference(a, b).enumerate().filter(|&(i, _)| counts(i)).map(|(_, d)| d))
            };
            let off = of(&end[&name], &expected);
            let change = of(&expected, &start[&name]);
            assert!(off <= allowed * change, "{name}: off by {off} after a change of {change}");
        }
    }
}

/// Whether element `i` of a bias on keys belongs to the pair that RoPE turns slowest. There the bias
/// adds nearly the same to all scores of a query, which the softmax takes out again: its gradient is
/// rounding (1e-4 of the other elements'), of which Adam makes steps of full size.
fn cancels(i: usize, head_dim: usize) -> bool {
    i % (head_dim / 2) == head_dim / 2 - 1
}

/// All steps of a trajectory, and where it ends.
fn check(device: &Device, family: &str, mode: &str) -> Result<()> {
    println!("{family}, {mode}");
    let dir = fixture("trajectories").join(family);
    let log: Log = json(&dir.join(format!("{mode}.json")));
    let steps: Vec<Vec<Row>> = json(&dir.join("batches.json"));
    assert_eq!(steps.len(), log.steps.len());
    let mut trainer = log.trainer(device, family, !mode.starts_with("full"))?;
    let start = values(&trainer.parameters)?;
    let frozen = frozen(&trainer)?;
    log.take_steps(&mut trainer, &steps)?;
    let end = values(&trainer.parameters)?;
    for (name, values) in &end {
        assert_ne!(values, &start[name], "{name} did not move");
    }
    assert!(frozen == self::frozen(&trainer)?, "a frozen tensor moved");
    let rows = log.batches(&steps[0]).into_iter();
    let found = evaluate(&Sft, &trainer.model, trainer.attention(), rows)?.loss();
    let off = (found - log.final_loss).abs();
    let allowed = Rounding::allows(log.rounding.loss, LOSS);
    assert!(off <= allowed, "final loss {found}, expected {}", log.final_loss);
    let stored = Tensors::open(&dir.join(format!("{mode}.safetensors")));
    log.check_changes(
        trainer.model.config.spec.blocks[0].attention.head_dim,
        [&start, &end],
        &stored,
    );
    Ok(())
}

/// The bytes of everything that is not trained; of nothing in full fine-tuning.
fn frozen(trainer: &Trainer) -> Result<Vec<Vec<u8>>> {
    let model = &trainer.model;
    let mut tensors = vec![&model.embed_tokens, &model.norm.weight, &model.lm_head];
    let mut bytes = Vec::new();
    for layer in &model.layers {
        tensors.extend(layer.norms().map(|norm| &norm.weight));
    }
    for linear in model.linears() {
        tensors.extend(linear.bias.iter());
        match &linear.weight {
            Weight::Dense(weight) => tensors.push(weight),
            Weight::Nf4(weight) => bytes.push(weight.codes().read_bytes()?),
        }
    }
    for tensor in tensors.into_iter().filter(|tensor| !tensor.needs_grad()) {
        bytes.push(tensor.read_bytes()?);
    }
    Ok(bytes)
}

fn check_all(mode: &str) -> Result<()> {
    families("trajectories").iter().try_for_each(|family| check(&cpu(), family, mode))
}

#[test]
fn full_training_follows_pytorch() -> Result<()> {
    check_all("full")
}

#[test]
fn full_training_with_8_bit_moments_follows_bitsandbytes() -> Result<()> {
    check_all("full-adamw_8bit")
}

#[test]
fn full_training_with_muon_follows_pytorch() -> Result<()> {
    check_all("full-muon")
}

#[test]
fn lora_follows_peft() -> Result<()> {
    check_all("lora")
}

#[test]
fn qlora_follows_bitsandbytes() -> Result<()> {
    check_all("qlora")
}

#[test]
fn qlora_without_double_quantization_follows_bitsandbytes() -> Result<()> {
    check_all("qlora-single")
}

/// Another device than the CPU, on one family: it goes PyTorch's way, and so the CPU's.
fn check_device(device: &Device) -> Result<()> {
    let modes = ["full", "lora", "qlora", "full-adamw_8bit", "full-muon"];
    modes.iter().try_for_each(|mode| check(device, "llama", mode))
}

#[cfg(feature = "wgpu")]
#[test]
fn wgpu_follows_pytorch_peft_and_bitsandbytes() -> Result<()> {
    check_device(&common::wgpu())
}

#[cfg(feature = "cuda-emulated")]
#[test]
fn cuda_emulated_follows_pytorch_peft_and_bitsandbytes() -> Result<()> {
    common::cuda_emulated(80).map_or(Ok(()), |device| check_device(&device))
}

#[cfg(feature = "cudarc")]
#[test]
fn cuda_follows_pytorch_peft_and_bitsandbytes() -> Result<()> {
    common::cuda().map_or(Ok(()), |device| check_device(&device))
}

/// However the examples of a step are cut into batches, and not at all without training.
#[test]
fn noise_on_the_embeddings_belongs_to_the_example() -> Result<()> {
    let dir = fixture("trajectories/llama");
    let log: Log = json(&dir.join("lora.json"));
    let steps: Vec<Vec<Row>> = json(&dir.join("batches.json"));
    let rows = &steps[0];
    let step = |alpha: f32, size: usize| -> Result<_> {
        let mut trainer = log.trainer(&cpu(), "llama", true)?;
        trainer.neftune_alpha = alpha;
        let chunks = rows.chunks(size).zip((0..).step_by(size));
        let batches: Vec<_> = chunks.map(|(rows, first)| batch(rows, first)).collect();
        let held_out = batches.clone().into_iter();
        let before = evaluate(&Sft, &trainer.model, trainer.attention(), held_out)?;
        Ok((trainer.step(1, 0.0, &batches)?, before.loss()))
    };
    let (together, clean) = step(5.0, rows.len())?;
    let (one_by_one, _) = step(5.0, 1)?;
    assert!((together.loss - one_by_one.loss).abs() <= LOSS, "{together:?}, {one_by_one:?}");
    let off = (together.grad_norm - one_by_one.grad_norm).abs() / together.grad_norm;
    assert!(off <= GRAD_NORM, "{together:?}, {one_by_one:?}");
    let (without, evaluated) = step(0.0, rows.len())?;
    assert_eq!(clean, evaluated);
    assert!((without.loss - evaluated).abs() <= LOSS, "{without:?}, {evaluated}");
    assert!((together.loss - without.loss).abs() > 100.0 * LOSS, "{together:?}, {without:?}");
    Ok(())
}
