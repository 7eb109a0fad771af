//! How much memory a run needs, known before it starts: the run's own code, one training step of it,
//! is run on a device that only counts.

use super::build::build;
use super::prepare::Prepared;
use super::trainer::Trainer;
use crate::backend::Device;
use crate::backend::dry::Dry;
use crate::config::GradientCheckpointing;
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::model::llama::Recompute;

/// The rungs of the ladder, lowest first.
const LADDER: [Recompute; 4] =
    [Recompute::Nothing, Recompute::Elementwise, Recompute::Mlp, Recompute::Layer];

/// Bytes that a run holds on its device.
#[derive(Clone, Copy, Debug)]
pub struct MemoryPlan {
    /// What the backward pass recomputes.
    pub recompute: Recompute,
    /// Weights, trained ones included.
    pub weights: u64,
    /// State of the optimizer.
    pub optimizer: u64,
    /// Gradients, activations and work space at the peak of a step.
    pub step: u64,
    /// Elements that are trained.
    pub trained: u64,
    /// Tokens of the largest micro-batch.
    pub tokens: usize,
}

impl MemoryPlan {
    /// The peak.
    pub fn peak(&self) -> u64 {
        self.weights + self.optimizer + self.step
    }
}

/// The plan of a run with this recomputation.
pub fn plan(prepared: &Prepared, device: &Device, recompute: Recompute) -> Result<MemoryPlan> {
    let dry = Device::new(Dry::new(device.capabilities().clone()));
    let (mut trainer, _) = build(prepared, &dry, recompute, true)?;
    let trained: u64 = trainer.parameters.iter().map(|p| p.master.len() as u64).sum();
    let states = (0..trainer.parameters.len()).flat_map(|i| trainer.optimizer.state(i));
    let optimizer = states.map(|state| state.byte_len()).sum();
    let weights = dry.memory().in_use.saturating_sub(optimizer);
    let batch = largest_batch(prepared);
    let tokens = batch.num_tokens();
    count_step(&mut trainer, batch)?;
    let step = dry.memory().peak.saturating_sub(weights + optimizer);
    Ok(MemoryPlan { recompute, weights, optimizer, step, trained, tokens })
}

/// A step of two micro-batches: the second finds the first one's gradients.
fn count_step(trainer: &mut Trainer, batch: Batch) -> Result<()> {
    trainer.step(1, 0.0, &[batch.clone(), batch]).map(|_| ())
}

/// The micro-batch with the most tokens of the first epoch.
fn largest_batch(prepared: &Prepared) -> Batch {
    let plan = crate::data::Plan::epoch(&prepared.train, &prepared.batching, 0);
    let batches = (0..plan.num_batches()).map(|batch| plan.batch(&prepared.train, batch));
    batches.max_by_key(Batch::num_tokens).unwrap_or_default()
}

/// The memory that the run may use: `max_memory`, else what the device has.
pub fn limit(prepared: &Prepared, device: &Device) -> Option<u64> {
    prepared.config.max_memory.or(device.capabilities().memory_bytes)
}

/// The recomputation that the config asks for; `auto` is the lowest rung that fits.
///
/// # Errors
/// `Error::Input` with the table and what to change, when nothing fits.
pub fn choose(prepared: &Prepared, device: &Device) -> Result<Recompute> {
    let rungs = match prepared.config.train.gradient_checkpointing {
        GradientCheckpointing::On => &LADDER[3..],
        GradientCheckpointing::Off => &LADDER[..1],
        GradientCheckpointing::Auto => &LADDER[..],
    };
    let Some(limit) = limit(prepared, device) else { return Ok(rungs[0]) };
    let mut smallest = None;
    for &rung in rungs {
        let plan = plan(prepared, device, rung)?;
        if plan.peak() <= limit {
            return Ok(rung);
        }
        smallest = Some(plan);
    }
    match smallest {
        Some(plan) => Err(Error::input(format!(
            "the run needs {} and {} may be used:\n{}\nLower per_device_train_batch_size or \
             max_length{}",
            size(plan.peak()),
            size(limit),
            table(&plan),
            match prepared.config.quantization.load_in_4bit {
                true => "",
                false => ", or set load_in_4bit = true with [lora]",
            }
        ))),
        None => Ok(rungs[0]),
    }
}

/// The plan as lines of text.
pub fn table(plan: &MemoryPlan) -> String {
    let recompute = match plan.recompute {
        Recompute::Nothing => "nothing recomputed",
        Recompute::Elementwise => "element-wise results recomputed",
        Recompute::Mlp => "MLP intermediates recomputed",
        Recompute::Layer => "layers recomputed",
    };
    format!(
        "  weights                {:>10}\n  optimizer moments      {:>10}\n  gradients, activations \
         {:>10}  ({} tokens a micro-batch, {recompute})\n  peak                   {:>10}",
        size(plan.weights),
        size(plan.optimizer),
        size(plan.step),
        plan.tokens,
        size(plan.peak()),
    )
}

/// Bytes in words: `1.25 GiB`.
pub fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    match mib >= 1024.0 {
        true => format!("{:.2} GiB", mib / 1024.0),
        false => format!("{mib:.1} MiB"),
    }
}
