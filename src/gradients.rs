//! The gradients of a very model, on a device and by definition: a LoRA adapter on its first and its last
//! block, between its own embedding and head, on a few rows.
//!
//! The table of cases ([`crate::conformance`]) holds each kernel to its definition at sizes of its own. This
//! holds all of them together to it, at the sizes and with the numbers of one model. The blocks between the
//! first and the last are left out: they have the same kernels, and in f64 they would take hours. The
//! factors of the adapter are waves, so that whoever repeats it (see `verify --python`) has the same ones.

use crate::backend::Device;
use crate::backend::reference::Reference;
use crate::data::{Batch, Group, NO_LOSS, Sequence};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::model::load::{LoadOptions, Source, load};
use crate::model::transformer::Model;
use crate::model::{ModelConfig, Weights};
use crate::nn::{
    Context, DEFAULT_ADAPTER, LinearUpdate, Lora, Parameter, Targets, next_token_loss,
};
use crate::ops::verify::{Comparison, compare, naive_bounds};
use crate::ops::{Implementation, StepState, StepValues};
use crate::random::Rng;
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::rc::Rc;

/// The rank of the adapter.
pub const RANK: usize = 8;
/// What its update is multiplied by: alpha / rank.
pub const SCALE: f32 = 2.0;
/// The most tokens of a row: in f64 each token of a large model takes long.
pub const TOKENS: usize = 24;
/// The largest error of a gradient in f32, as a share of the largest element of its definition.
const F32: f64 = 1e-5;

/// What is computed.
pub struct Subject<'a> {
    /// The model.
    pub config: &'a ModelConfig,
    /// Its weights.
    pub weights: &'a Weights,
    /// Of weights and activations.
    pub dtype: DType,
    /// Whether linear layers are quantized to NF4, and then their scales too.
    pub nf4: Option<bool>,
    /// The rows.
    pub sequences: &'a [Sequence],
}

/// What one device found.
pub struct Found {
    /// Of the tokens, f32, 0 where they carry none; those without loss may be left out.
    pub losses: Tensor,
    /// How many carry loss.
    pub loss_tokens: usize,
    /// By the names of the adapter's factors, in the order of the forward pass.
    pub gradients: Vec<(String, Tensor)>,
}

impl Subject<'_> {
    /// The blocks that are computed: the first and the last.
    pub fn blocks(&self) -> Vec<usize> {
        match self.config.spec.blocks.len() {
            0 | 1 => (0..self.config.spec.blocks.len()).collect(),
            count => vec![0, count - 1],
        }
    }

    /// Losses and gradients on a device.
    ///
    /// # Errors
    /// What loading and the ops report.
    pub fn compute(&self, device: &Device) -> Result<Found> {
        let groups: Vec<Group> = self.sequences.iter().cloned().map(Group::of).collect();
        let batch = Batch::of(&groups, 0);
        let (model, parameters) = self.model(device)?;
        let state = StepState::new(device)?;
        let inv_tokens = 1.0 / batch.num_loss_tokens() as f32;
        state.set(&StepValues { inv_tokens, ..StepValues::default() })?;
        let targets = Targets::new(device, &batch)?;
        let tape = Tape::recording();
        let attention = Implementation::Flash;
        let context = Context::of_batch(device, &batch, attention, None)?;
        let hidden = model.hidden(&tape, &batch.input_ids, &Rc::new(context))?;
        let loss = next_token_loss(&tape, &hidden, &model.lm_head, &targets, &state)?;
        let one = Tensor::from_f32(device, &[1], DType::F32, &[1.0])?;
        tape.backward(&loss.scaled_loss, one)?;
        let gradients = parameters
            .iter()
            .map(|parameter| Ok((parameter.name.clone(), parameter.grad()?)))
            .collect::<Result<_>>()?;
        Ok(Found { losses: loss.losses, loss_tokens: batch.num_loss_tokens(), gradients })
    }

    /// Losses and gradients in f64, by the definitions of the ops.
    ///
    /// # Errors
    /// As [`Subject::compute`].
    pub fn define(&self) -> Result<Found> {
        self.compute(&Device::new(Reference::<f64>::new()))
    }

    /// What `device` computes against `definition`. In f32 a gradient may be off by 1e-5 of the largest
    /// element of its tensor; in 16 bits losses by twice, and gradients by three times, what the plain
    /// computation in that dtype is off by.
    ///
    /// # Errors
    /// As [`Subject::compute`]; a disagreement is a [`Comparison`] that has not passed.
    pub fn verify(&self, device: &Device, definition: &Found) -> Result<Vec<Comparison>> {
        let found = self.compute(device)?;
        let naive = match self.dtype {
            DType::F32 => None,
            _ => Some(self.compute(&Device::new(Reference::<f32>::new()))?),
        };
        let naive: Option<Vec<_>> = naive.as_ref().map(|naive| naive.tensors().collect());
        let pairs = found.tensors().zip(definition.tensors()).enumerate();
        let compared = pairs.map(|(index, ((name, tensor), (_, reference)))| {
            let reference = reference.read_f64()?;
            let bounds = match &naive {
                Some(naive) => {
                    let factor = if index == 0 { 2.0 } else { 3.0 };
                    naive_bounds(&reference, &naive[index].1.read_f64()?, factor)
                }
                None => {
                    let largest = reference.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
                    vec![F32 * largest; reference.len()]
                }
            };
            compare(name.to_owned(), tensor, &tensor.read_f64()?, &reference, &bounds)
        });
        compared.collect()
    }

    /// The model of the two blocks, with the adapter.
    fn model(&self, device: &Device) -> Result<(Model, Vec<Parameter>)> {
        let blocks = self.blocks();
        let mut config = self.config.clone();
        let all = std::mem::take(&mut config.spec.blocks);
        config.spec.blocks = blocks.iter().map(|&block| all[block].clone()).collect();
        let longest = self.sequences.iter().map(|sequence| sequence.input_ids.len()).max();
        let options = LoadOptions {
            dtype: self.dtype,
            nf4: self.nf4,
            train_all: false,
            max_positions: longest.unwrap_or(1),
        };
        let source = Source::Blocks(self.weights, &blocks);
        let (mut model, _) = load(device, &config, &source, options)?;
        let mut parameters = Vec::new();
        for layer in &mut model.layers {
            let layer = Rc::get_mut(layer)
                .ok_or_else(|| Error::internal("gradients", "a layer is in use elsewhere"))?;
            for linear in layer.linears_mut() {
                let [outputs, inputs] = linear.shape();
                let factor = |name: &str, shape: [usize; 2], values: Vec<f32>| {
                    let name = format!("{}.{name}", linear.path);
                    let master = Tensor::from_f32(device, &shape, DType::F32, &values)?;
                    Parameter::new(&name, master, DType::F32)
                };
                let size = 1.0 / (inputs as f64).sqrt();
                let a = factor("lora_A", [RANK, inputs], wave(RANK * inputs, 0.7, 0.1, size))?;
                let b = factor("lora_B", [outputs, RANK], wave(outputs * RANK, 0.3, 0.2, 0.02))?;
                let (lora_a, lora_b) = (a.value.clone(), b.value.clone());
                let lora = Lora {
                    lora_a,
                    lora_b,
                    bias: None,
                    magnitude: None,
                    start: None,
                    scale: SCALE,
                    dropout: 0.0,
                };
                linear.updates.insert(DEFAULT_ADAPTER, LinearUpdate::Lora(Box::new(lora)));
                parameters.extend([a, b]);
            }
        }
        Ok((model, parameters))
    }
}

impl Found {
    /// The losses, then the gradients, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let gradients = self.gradients.iter().map(|(name, tensor)| (name.as_str(), tensor));
        std::iter::once(("loss", &self.losses)).chain(gradients)
    }

    /// Two numbers of each that no error leaves as they are: for the losses their mean and 0; for a
    /// gradient its norm, and its product with a wave.
    ///
    /// # Errors
    /// What reading the device reports.
    pub fn summary(&self) -> Result<Vec<(String, [f64; 2])>> {
        let mean = self.losses.read_f64()?.iter().sum::<f64>() / self.loss_tokens as f64;
        let mut summary = vec![("loss".to_owned(), [mean, 0.0])];
        for (name, gradient) in &self.gradients {
            let values = gradient.read_f64()?;
            let norm = values.iter().map(|x| x * x).sum::<f64>().sqrt();
            let along = values.iter().zip(1u32..).map(|(x, k)| x * f64::from(k).sin()).sum();
            summary.push((name.clone(), [norm, along]));
        }
        Ok(summary)
    }
}

/// `size * sin(step * k + phase)` for k = 0, 1, ...
fn wave(count: usize, step: f64, phase: f64, size: f64) -> Vec<f32> {
    (0..count).map(|k| (size * (step * k as f64 + phase).sin()) as f32).collect()
}

/// At most `length` tokens of a sequence, from shortly before its first token with loss: where there is
/// a prompt, its end and the beginning of the answer.
pub fn window(sequence: &Sequence, length: usize) -> Sequence {
    let Sequence { input_ids, labels, .. } = sequence;
    let first = labels.iter().position(|label| *label != NO_LOSS).unwrap_or(0);
    let start = first.saturating_sub(length / 3);
    let end = (start + length).min(input_ids.len());
    let mut labels = labels[start..end].to_vec();
    if let Some(label) = labels.first_mut() {
        *label = NO_LOSS;
    }
    Sequence { input_ids: input_ids[start..end].to_vec(), labels, ..Sequence::default() }
}

/// Rows of random tokens, all of which carry loss, of odd lengths.
pub fn random_rows(vocab_size: usize) -> Vec<Sequence> {
    let mut rng = Rng::new(42, "gradients", 0);
    let mut row = |length: usize| {
        let draw = |_| ((rng.next_f32() * vocab_size as f32) as usize).min(vocab_size - 1) as u32;
        let input_ids: Vec<u32> = (0..length).map(draw).collect();
        let mut labels: Vec<i32> = input_ids.iter().map(|id| *id as i32).collect();
        labels[0] = NO_LOSS;
        Sequence { input_ids, labels, ..Sequence::default() }
    };
    vec![row(17), row(TOKENS - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_the_end_of_the_prompt_and_the_beginning_of_the_answer() {
        let labels = |from: usize, to: usize| {
            (0..to as i32).map(|t| if t < from as i32 { NO_LOSS } else { t }).collect()
        };
        let of = |input_ids, labels| Sequence { input_ids, labels, ..Sequence::default() };
        let sequence = of((0..50).collect(), labels(30, 50));
        let cut = window(&sequence, 12);
        assert_eq!(cut.input_ids, (26..38).collect::<Vec<u32>>());
        assert_eq!(cut.labels[..5], [NO_LOSS, NO_LOSS, NO_LOSS, NO_LOSS, 30]);
        let short = of(vec![7, 8, 9], labels(1, 3));
        assert_eq!(window(&short, 12), short);
    }
}
