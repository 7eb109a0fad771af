//! LoRA (Hu et al., 2021, arXiv:2106.09685): a low-rank product beside a frozen linear layer.

use super::cast::cast_into;
use super::dropout::{Dropout, dropout_into};
use super::grad_target::GradTarget;
use super::matmul::{Layout, matmul_into};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tape::Tape;
use crate::tensor::{Saved, Tensor};

/// y = base_out + scale · (drop(x) Aᵀ) Bᵀ, as PEFT computes it: `x` [.., K] in f32, `lora_a` [r, K] and
/// `lora_b` [N, r] in f32, the intermediate [T, r] in f32, one rounding to the dtype of `base_out` [.., N].
///
/// The product is added in place when the caller hands over the only handle on `base_out`'s memory, so
/// pass the tensor itself and keep no clone. What the backward keeps: `x`, or the way to it, and the
/// intermediate; the mask of the dropout is made again.
///
/// Every product here has the rank as one of its sizes, so it is bound by the memory that it moves. In
/// units of a [T, C] activation (C = K = N), forward moves 3 (x read; y read and written again, since the
/// product of the frozen weight is in memory already), backward 5 (dy read for dB and for the
/// intermediate's gradient, x read for dA, dx read and written). At 16,384 tokens of 4096 in bf16 a unit
/// is 134 MB, 28 us of an H200's 4.8 TB/s: 84 us forward, 140 us backward. The gradients of A and B, and
/// x Aᵀ, have few tiles of output and a long K, which is why it is split (`matmul/split.rs`).
///
/// # Errors
/// `Error::Unsupported` for 16-bit rows of odd width.
pub fn lora(
    tape: &Tape,
    base_out: Tensor,
    x: &Tensor,
    lora_a: &Tensor,
    lora_b: &Tensor,
    scale: f32,
    dropout: Option<&Dropout>,
) -> Result<Tensor> {
    let fits = lora_a.shape().len() == 2
        && lora_b.shape().len() == 2
        && lora_a.dim(1) == x.columns()
        && lora_a.dim(0) == lora_b.dim(1)
        && lora_b.dim(0) == base_out.columns()
        && base_out.rows() == x.rows();
    if !fits {
        let what = format!("{base_out:?} + {x:?} with A {lora_a:?} and B {lora_b:?}");
        return Err(Error::internal("lora", what));
    }
    let dropout = dropout.filter(|dropout| dropout.p > 0.0).cloned();
    let xa = Tensor::empty(x.device(), &[x.rows(), lora_a.dim(0)], DType::F32)?;
    matmul_into(Layout::NT, &dropped(x, dropout.as_ref())?, lora_a, 1.0, false, &xa)?;

    let base_grad = GradTarget::of(&base_out);
    let y = if base_out.view().buffer.is_unique() {
        base_out.detach()
    } else {
        let copy = Tensor::empty(x.device(), base_out.shape(), base_out.dtype())?;
        cast_into(&base_out, &copy)?;
        copy
    };
    // From here on `base_out` may hold y; only its slot is used below.
    matmul_into(Layout::NT, &xa, lora_b, scale, true, &y)?;
    if !tape.wants(&[&base_out, x, lora_a, lora_b]) {
        return Ok(y);
    }
    let [x_grad, a_grad, b_grad] = [x, lora_a, lora_b].map(GradTarget::of);
    let through_a = x_grad.is_some() || a_grad.is_some();
    let backward = Backward {
        x: a_grad.is_some().then(|| Saved::of(x)),
        x_shape: x.shape().to_vec(),
        lora_a: x_grad.is_some().then(|| lora_a.detach()),
        lora_b: through_a.then(|| lora_b.detach()),
        xa: b_grad.is_some().then_some(xa),
        dropout: dropout.filter(|_| through_a),
        scale,
        x_grad,
        a_grad,
        b_grad,
    };
    Ok(tape.record("lora", &[&base_out, x, lora_a, lora_b], y, move |dy| {
        backward.run(dy)?;
        match &base_grad {
            Some(target) => target.add(dy.clone()),
            None => Ok(()),
        }
    }))
}

/// What the backward keeps, each for those gradients alone that are made of it.
struct Backward {
    x: Option<Saved>,
    x_shape: Vec<usize>,
    lora_a: Option<Tensor>,
    lora_b: Option<Tensor>,
    /// The intermediate, [T, r].
    xa: Option<Tensor>,
    dropout: Option<Dropout>,
    scale: f32,
    x_grad: Option<GradTarget>,
    a_grad: Option<GradTarget>,
    b_grad: Option<GradTarget>,
}

impl Backward {
    /// Brings the gradients of x, A and B.
    fn run(&self, dy: &Tensor) -> Result<()> {
        if let (Some(target), Some(xa)) = (&self.b_grad, &self.xa) {
            target.write(|adds, db| matmul_into(Layout::TN, dy, xa, self.scale, adds, db))?;
        }
        let Some(lora_b) = &self.lora_b else { return Ok(()) };
        // The gradient of the intermediate.
        let dxa = Tensor::empty(dy.device(), &[dy.rows(), lora_b.columns()], DType::F32)?;
        matmul_into(Layout::NN, dy, lora_b, self.scale, false, &dxa)?;
        if let (Some(target), Some(x)) = (&self.a_grad, &self.x) {
            let x = dropped(&x.get()?, self.dropout.as_ref())?;
            target.write(|adds, da| matmul_into(Layout::TN, &dxa, &x, 1.0, adds, da))?;
        }
        let (Some(target), Some(lora_a)) = (&self.x_grad, &self.lora_a) else { return Ok(()) };
        let Some(dropout) = &self.dropout else {
            return target.write(|adds, dx| matmul_into(Layout::NN, &dxa, lora_a, 1.0, adds, dx));
        };
        let dx_dropped = Tensor::empty(dy.device(), &self.x_shape, DType::F32)?;
        matmul_into(Layout::NN, &dxa, lora_a, 1.0, false, &dx_dropped)?;
        target.write(|adds, dx| dropout_into(&dx_dropped, dropout, adds, dx))
    }
}

/// `x`, or `x` with dropout in f32.
fn dropped(x: &Tensor, dropout: Option<&Dropout>) -> Result<Tensor> {
    let Some(dropout) = dropout else { return Ok(x.detach()) };
    let y = Tensor::empty(x.device(), x.shape(), DType::F32)?;
    dropout_into(x, dropout, false, &y)?;
    Ok(y)
}
