//! An RMS norm.

use super::AdapterChoice;
use crate::error::Result;
use crate::ops;
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::collections::BTreeMap;

/// x / sqrt(mean(x^2) + eps) * (weight + offset), over the innermost rows.
pub struct RmsNorm {
    /// The module's path, as in Hugging Face's names without `.weight`.
    pub path: String,
    /// `[C]`, or `[HD]` where each head is normed.
    pub weight: Tensor,
    /// Added under the root.
    pub eps: f32,
    /// Added to the weight: 1 where weights are near 0, else 0.
    pub offset: f32,
    /// What adapters have in the weight's place, by their names.
    pub saved: BTreeMap<&'static str, Tensor>,
}

impl RmsNorm {
    /// `x` [.., C], normed, under an adapter.
    pub fn forward(&self, tape: &Tape, x: &Tensor, adapter: AdapterChoice) -> Result<Tensor> {
        let weight = adapter.of(&self.saved).map_or(&self.weight, |(_, saved)| saved);
        ops::rms_norm(tape, x, weight, self.eps, self.offset)
    }
}
