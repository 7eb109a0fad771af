//! An RMS norm.

use crate::error::Result;
use crate::ops;
use crate::tape::Tape;
use crate::tensor::Tensor;

/// x / sqrt(mean(x^2) + eps) * (weight + offset), over the innermost rows.
pub struct RmsNorm {
    /// `[C]`, or `[HD]` where each head is normed.
    pub weight: Tensor,
    /// Added under the root.
    pub eps: f32,
    /// Added to the weight: 1 where weights are near 0, else 0.
    pub offset: f32,
}

impl RmsNorm {
    /// `x` [.., C], normed.
    pub fn forward(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(tape, x, &self.weight, self.eps, self.offset)
    }
}
