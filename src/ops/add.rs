//! Addition: the residual connection.

pub(super) mod kernels;

use super::grad_target::GradTarget;
use crate::error::{Error, Result};
use crate::tape::Tape;
use crate::tensor::Tensor;

pub(super) use kernels::KERNELS;

/// out = a + b, element by element; all three of one shape and dtype. The gradient of both inputs is
/// that of the output, so that neither is kept.
pub fn add(tape: &Tape, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.shape() != b.shape() || a.dtype() != b.dtype() {
        return Err(Error::internal("add", format!("{a:?} + {b:?}")));
    }
    let out = kernels::sum(a, b)?;
    let targets = [a, b].map(GradTarget::of);
    Ok(tape.record("add", &[a, b], out, move |dout| {
        targets.iter().flatten().try_for_each(|target| target.add(dout.clone()))
    }))
}
