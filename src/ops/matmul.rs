//! Matrix products: the linear layer, forward and backward, and every other product of the crate.
//!
//! Five rungs of one kernel show how a GPU product is made fast: [`Rung::Naive`], [`Rung::Tiled`],
//! [`Rung::Blocked`], [`Rung::TensorCore`], [`Rung::Hopper`]. Training uses the last one that device and
//! operands allow, from the third on; all are tested and benched.

mod cpu;
mod layout;
pub(super) mod mma;
mod product;
mod reference;
mod specs;
mod split;
pub(super) mod wgmma;

pub(crate) use layout::{LAYOUTS, Layout, check_width};
pub(crate) use product::{Product, Rung};
pub(crate) use specs::{BLOCKED, BLOCKED_TILE};

use super::grad_target::GradTarget;
use crate::error::{Error, Result};
use crate::kernels::KernelSpec;
use crate::tape::Tape;
use crate::tensor::{Saved, Tensor};

/// y = x wᵀ: `x` [.., K] times the transpose of `w` [N, K] gives [.., N] in `x`'s dtype; sums are f32.
/// A linear layer without bias. The two dtypes may differ.
///
/// # Errors
/// `Error::Unsupported` when a 16-bit result would have rows of odd width.
pub fn matmul(tape: &Tape, x: &Tensor, w: &Tensor) -> Result<Tensor> {
    if w.shape().len() != 2 || x.columns() != w.columns() {
        return Err(Error::internal("matmul", format!("{x:?} times the transpose of {w:?}")));
    }
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = w.dim(0);
    }
    let y = Tensor::empty(x.device(), &shape, x.dtype())?;
    matmul_into(Layout::NT, x, w, 1.0, false, &y)?;
    let (x_grad, w_grad) = (GradTarget::of(x), GradTarget::of(w));
    // A frozen weight costs no activation memory: x is kept for dw alone.
    let x_in = w_grad.is_some().then(|| Saved::of(x));
    let w_in = x_grad.is_some().then(|| w.detach());
    Ok(tape.record("matmul", &[x, w], y, move |dy| {
        if let (Some(target), Some(w)) = (&x_grad, &w_in) {
            target.write(|adds, dx| matmul_into(Layout::NN, dy, w, 1.0, adds, dx))?;
        }
        if let (Some(target), Some(x)) = (&w_grad, &x_in) {
            let x = x.get()?;
            target.write(|adds, dw| matmul_into(Layout::TN, dy, &x, 1.0, adds, dw))?;
        }
        Ok(())
    }))
}

/// out = alpha · A · B, plus what `out` held before if `accumulate`: [`Product::run`].
///
/// # Errors
/// `Error::Unsupported` for a 16-bit `out` of odd width.
pub(crate) fn matmul_into(
    layout: Layout,
    a: &Tensor,
    b: &Tensor,
    alpha: f32,
    accumulate: bool,
    out: &Tensor,
) -> Result<()> {
    Product { layout, a, b, alpha, accumulate, out }.run()
}

pub(super) const KERNELS: &[&KernelSpec] = &[
    &specs::MATMUL_NAIVE,
    &specs::MATMUL_TILED,
    &specs::MATMUL,
    &mma::MATMUL_MMA,
    &mma::MATMUL_F32_MMA,
    &split::SUM_SPLITS,
    &wgmma::MATMUL_WGMMA,
];
