//! Activation recomputation: memory for time. No kernel of its own.

use super::accumulate;
use crate::error::{Error, Result};
use crate::tape::Tape;
use crate::tensor::Tensor;

/// Runs `forward` keeping only `x`, and runs it again when its gradient is wanted. Kernels are
/// deterministic, so the gradients have the same bits as without.
///
/// `forward` must be a function of its argument and of parameters alone.
///
/// Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
///
/// # Errors
/// [`Error::MissingGradient`], in the backward pass, when `x` wants a gradient and `forward` does
/// not depend on it.
pub fn checkpoint(
    tape: &Tape,
    x: &Tensor,
    forward: impl Fn(&Tape, &Tensor) -> Result<Tensor> + 'static,
) -> Result<Tensor> {
    if !tape.is_recording() {
        return forward(tape, x);
    }
    let y = forward(&Tape::inference(), &x.detach())?;
    let x = x.clone();
    // Parameters inside may want gradients even where `x` does not, so record always.
    Ok(tape.record_always("checkpoint", y, move |dy| {
        let tape = Tape::recording();
        let inner = x.detach().with_grad("checkpoint input", x.dtype());
        let y = forward(&tape, &inner)?;
        tape.backward(&y, dy.clone())?;
        match inner.slot().and_then(|slot| slot.take()) {
            Some(dx) if x.needs_grad() => accumulate(&x, dx),
            None if x.needs_grad() => Err(Error::MissingGradient {
                tensor: "checkpoint input".into(),
                why: "the recomputed function does not depend on its input".into(),
            }),
            _ => Ok(()),
        }
    }))
}
