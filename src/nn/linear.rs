//! A linear layer y = x Wᵀ + b, dense or NF4, with or without low-rank updates.

use super::{AdapterChoice, Context, DEFAULT_ADAPTER};
use crate::error::Result;
use crate::ops::{self, Dropout, Nf4Tensor};
use crate::random::site;
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::collections::BTreeMap;

/// The matrix of a linear layer, [N, K] (out, in).
// One per layer, so its size does not matter.
#[allow(clippy::large_enum_variant)]
pub enum Weight {
    /// Floats of the model's dtype.
    Dense(Tensor),
    /// 4-bit codes, frozen.
    Nf4(Nf4Tensor),
}

/// A low-rank update: y += scale * drop(x) lora_aᵀ lora_bᵀ (Hu et al., 2021, arXiv:2106.09685).
#[derive(Clone)]
pub struct Lora {
    /// f32 [rank, K].
    pub lora_a: Tensor,
    /// f32 [N, rank].
    pub lora_b: Tensor,
    /// alpha / rank, or alpha / sqrt(rank) for rsLoRA.
    pub scale: f32,
    /// Probability that an element of x is dropped while training.
    pub dropout: f32,
}

/// A linear layer.
pub struct Linear {
    /// The module's path, as in Hugging Face's names without `.weight`.
    pub path: String,
    /// The matrix.
    pub weight: Weight,
    /// `[N]`, if the layer has one.
    pub bias: Option<Tensor>,
    /// The low-rank updates, by the name of the adapter they are of. A pass uses one of them at most.
    pub loras: BTreeMap<&'static str, Lora>,
}

impl Linear {
    /// [N, K].
    pub fn shape(&self) -> [usize; 2] {
        match &self.weight {
            Weight::Dense(weight) => [weight.dim(0), weight.dim(1)],
            Weight::Nf4(weight) => weight.shape(),
        }
    }

    /// The update of the adapter in use.
    fn lora(&self, choice: AdapterChoice) -> Option<(&'static str, &Lora)> {
        match choice {
            AdapterChoice::Off => None,
            AdapterChoice::Named(name) => self.loras.get(name).map(|lora| (name, lora)),
        }
    }

    /// `x` [T, K] to [T, N].
    pub fn forward(&self, tape: &Tape, x: &Tensor, context: &Context) -> Result<Tensor> {
        let mut y = match &self.weight {
            Weight::Dense(weight) => ops::matmul(tape, x, weight)?,
            Weight::Nf4(weight) => ops::nf4_matmul(tape, x, weight)?,
        };
        if let Some(bias) = &self.bias {
            y = ops::add_bias(tape, &y, bias)?;
        }
        let Some((adapter, lora)) = self.lora(context.adapter) else { return Ok(y) };
        let dropout = match &context.noise {
            Some(noise) if noise.dropout && lora.dropout > 0.0 => Some(Dropout {
                p: lora.dropout,
                seed: noise.seed,
                site: match adapter {
                    DEFAULT_ADAPTER => site(&self.path),
                    other => site(&format!("{}.{other}", self.path)),
                },
                ordinals: noise.ordinals.clone(),
                positions: context.positions.clone(),
                step_state: noise.step_state.clone(),
            }),
            _ => None,
        };
        ops::lora(tape, y, x, &lora.lora_a, &lora.lora_b, lora.scale, dropout.as_ref())
    }
}
