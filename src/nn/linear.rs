//! A linear layer y = x Wᵀ + b, dense or NF4, with or without low-rank updates.

use super::{Context, DEFAULT_ADAPTER};
use crate::dtype::DType;
use crate::error::{Error, Result};
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

/// A low-rank update: y += scale * (drop(x) lora_aᵀ lora_bᵀ + bias) (Hu et al., 2021, arXiv:2106.09685).
#[derive(Clone)]
pub struct Lora {
    /// f32 [rank, K].
    pub lora_a: Tensor,
    /// f32 [N, rank].
    pub lora_b: Tensor,
    /// f32 `[N]` (`lora_bias`).
    pub bias: Option<Tensor>,
    /// DoRA's magnitudes.
    pub magnitude: Option<Magnitude>,
    /// Factors like `lora_a` and `lora_b`, fixed, whose product is taken off: what the weight goes without
    /// in PiSSA and OLoRA.
    pub start: Option<[Tensor; 2]>,
    /// alpha / rank, or alpha / sqrt(rank) for rsLoRA.
    pub scale: f32,
    /// Probability that an element of x is dropped while training.
    pub dropout: f32,
}

/// The lengths that the rows of a weight with its update are given (DoRA, arXiv:2402.09353).
#[derive(Clone)]
pub struct Magnitude {
    /// f32 `[N]`.
    pub values: Tensor,
    /// f32 `[N]`: the squares of the weight's rows. Known once the weight is.
    pub squares: Option<Tensor>,
}

/// What an adapter has in the place of a linear layer's own tensors (`modules_to_save`).
#[derive(Clone)]
pub struct Saved {
    /// [N, K].
    pub weight: Tensor,
    /// `[N]`, if the layer has one.
    pub bias: Option<Tensor>,
}

/// What an adapter makes of a linear layer.
#[derive(Clone)]
pub enum LinearUpdate {
    /// Adds to its product.
    Lora(Box<Lora>),
    /// Replaces it.
    Saved(Saved),
}

/// A linear layer.
pub struct Linear {
    /// The module's path, as in Hugging Face's names without `.weight`.
    pub path: String,
    /// The matrix.
    pub weight: Weight,
    /// `[N]`, if the layer has one.
    pub bias: Option<Tensor>,
    /// What adapters make of it, by their names. A pass uses one of them at most.
    pub updates: BTreeMap<&'static str, LinearUpdate>,
}

impl Linear {
    /// [N, K].
    pub fn shape(&self) -> [usize; 2] {
        match &self.weight {
            Weight::Dense(weight) => [weight.dim(0), weight.dim(1)],
            Weight::Nf4(weight) => weight.shape(),
        }
    }

    /// `x` [T, K] to [T, N].
    pub fn forward(&self, tape: &Tape, x: &Tensor, context: &Context) -> Result<Tensor> {
        match context.adapter.of(&self.updates) {
            None => self.base(tape, x),
            Some((_, LinearUpdate::Saved(Saved { weight, bias }))) => {
                with_bias(tape, ops::matmul(tape, x, weight)?, bias.as_ref())
            }
            Some((adapter, LinearUpdate::Lora(lora))) => {
                let dropout = lora.dropout(&self.path, adapter, context);
                match &lora.magnitude {
                    Some(magnitude) => self.dora(tape, x, lora, magnitude, dropout.as_ref()),
                    None => lora.add(tape, self.base(tape, x)?, x, dropout.as_ref()),
                }
            }
        }
    }

    /// x Wᵀ.
    fn product(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Dense(weight) => ops::matmul(tape, x, weight),
            Weight::Nf4(weight) => ops::nf4_matmul(tape, x, weight),
        }
    }

    /// x Wᵀ + b.
    fn base(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        with_bias(tape, self.product(tape, x)?, self.bias.as_ref())
    }

    /// With m the magnitudes over the norms, x dropped to d: x Wᵀ + (m - 1) d Wᵀ + m scale d Aᵀ Bᵀ + b.
    fn dora(
        &self,
        tape: &Tape,
        x: &Tensor,
        lora: &Lora,
        magnitude: &Magnitude,
        dropout: Option<&Dropout>,
    ) -> Result<Tensor> {
        let Lora { lora_a, lora_b, scale, .. } = lora;
        let Some(squares) = &magnitude.squares else {
            return Err(Error::internal("dora", "an adapter that was not attached"));
        };
        // The norm is no part of what is differentiated.
        let (a, b) = (lora_a.detach(), lora_b.detach());
        let aw = self.product(&Tape::inference(), &a)?; // [rank, N]
        let inverse = ops::dora_norm(squares, &a, &b, &aw, *scale)?;
        let dropped = dropout.map(|dropout| ops::dropout(tape, x, dropout)).transpose()?;
        let (plain, x) = match &dropped {
            None => (None, x),
            Some(dropped) => {
                let of_dropped = self.product(tape, dropped)?;
                let rest = ops::scale(tape, &of_dropped, -1.0)?;
                (Some((ops::add(tape, &self.product(tape, x)?, &rest)?, of_dropped)), dropped)
            }
        };
        let (rest, product) = match plain {
            Some((rest, of_dropped)) => (Some(rest), of_dropped),
            None => (None, self.product(tape, x)?),
        };
        let y = ops::lora(tape, product, x, lora_a, lora_b, *scale, None)?;
        let mut y = ops::scale_columns(tape, &y, &magnitude.values, &inverse)?;
        if let Some(rest) = rest {
            y = ops::add(tape, &y, &rest)?;
        }
        with_bias(tape, y, self.bias.as_ref())
    }

    /// f32 `[N]`: the squares of the rows of the weight.
    ///
    /// # Errors
    /// What the ops report.
    pub fn row_squares(&self) -> Result<Tensor> {
        match &self.weight {
            Weight::Dense(weight) => ops::row_squares(weight),
            Weight::Nf4(weight) => ops::row_squares(&ops::nf4_dequantize(weight, DType::F32)?),
        }
    }
}

fn with_bias(tape: &Tape, y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) => ops::add_bias(tape, &y, bias),
        None => Ok(y),
    }
}

impl Lora {
    /// `y` with the update added, in place where nobody else holds it.
    pub(super) fn add(
        &self,
        tape: &Tape,
        y: Tensor,
        x: &Tensor,
        dropout: Option<&Dropout>,
    ) -> Result<Tensor> {
        let Self { lora_a, lora_b, bias, start, scale, .. } = self;
        let mut y = y;
        if let Some([a, b]) = start {
            y = ops::lora(tape, y, x, a, b, -scale, None)?;
        }
        let y = ops::lora(tape, y, x, lora_a, lora_b, *scale, dropout)?;
        match bias {
            Some(bias) => ops::add_bias(tape, &y, &ops::scale(tape, bias, *scale)?),
            None => Ok(y),
        }
    }

    /// The dropout of this pass, for the module at `path`.
    pub(super) fn dropout(&self, path: &str, adapter: &str, context: &Context) -> Option<Dropout> {
        let noise = context.noise.as_ref().filter(|noise| noise.dropout && self.dropout > 0.0)?;
        Some(Dropout {
            p: self.dropout,
            seed: noise.seed,
            site: match adapter {
                DEFAULT_ADAPTER => site(path),
                other => site(&format!("{path}.{other}")),
            },
            ordinals: noise.ordinals.clone(),
            positions: context.positions.clone(),
            step_state: noise.step_state.clone(),
        })
    }
}
