//! The output layer and the loss in one op, so that the logits [T, V] never exist at once.
//!
//! Rows go through in chunks: logits, statistics of the softmax, loss. When a gradient is wanted it is
//! taken while the logits of the chunk are there (as Liger Kernel does, arXiv:2410.10989), and kept until
//! backward hands it on. Where a binding cannot hold the whole weight, the vocabulary goes through in
//! slices as well, with an online softmax over them.

use super::grad_target::GradTarget;
use super::host::{rows_per_task, words};
use super::output_layer::{Gradients, Head, IGNORE, OutputLayer, Pieces};
use super::simd::vectorized;
use super::softmax::Scales;
use super::step_state::{StepState, index};
use crate::backend::KernelCall;
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::tape::Tape;
use crate::tensor::Tensor;
use crate::{kernel_text, with_element};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// What [`linear_cross_entropy`] computes.
pub struct CrossEntropy {
    /// f32 `[1]`: LOSS_SCALE * INV_TOKENS * sum of `losses`, both factors from the step state. Backward
    /// starts here, with a gradient of 1.
    pub scaled_loss: Tensor,
    /// f32 `[T]`: each token's cross-entropy in nats, 0 where there is no loss. For reports: it wants no
    /// gradient.
    pub losses: Tensor,
}

/// Cross-entropy of softmax(x weightᵀ) with `targets`; what adapters add to that product is in `head`.
///
/// `x` [T, C] and the head's weight [V, C] in any float dtypes, `targets` u32 `[T]`: below V, or [`IGNORE`]. A target
/// that is neither gives a loss above 1e29. Logits have `x`'s dtype. The gradient of the weight is f32.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported) for an odd V when `x` is 16 bits wide.
pub fn linear_cross_entropy(
    tape: &Tape,
    x: &Tensor,
    head: impl Into<Head>,
    targets: &Tensor,
    step_state: &StepState,
) -> Result<CrossEntropy> {
    let head = head.into();
    linear_cross_entropy_by(Pieces::of(x, &head.weight), tape, x, &head, targets, step_state)
}

/// [`linear_cross_entropy`] in pieces of choice.
pub(super) fn linear_cross_entropy_by(
    pieces: Pieces,
    tape: &Tape,
    x: &Tensor,
    head: &Head,
    targets: &Tensor,
    step_state: &StepState,
) -> Result<CrossEntropy> {
    let operands = [x, targets];
    let layer = OutputLayer::new("linear_cross_entropy", pieces, operands, head, 1.0, false)?;
    let target = |input: &Tensor| tape.is_recording().then(|| GradTarget::of(input)).flatten();
    let gradient = |input: &Tensor, dtype| {
        let target = target(input);
        let gradient =
            target.is_some().then(|| Tensor::empty(input.device(), input.shape(), dtype));
        Ok((target, gradient.transpose()?))
    };
    let (x_grad, dx) = gradient(x, x.dtype())?;
    let inputs = head.inputs().map(|input| gradient(input, DType::F32));
    let (targets_of_head, of_head): (Vec<_>, Vec<_>) =
        inputs.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let low_rank: Vec<_> =
        of_head[1..].chunks(2).map(|two| [two[0].clone(), two[1].clone()]).collect();
    let gradients = Gradients {
        dx: dx.as_ref().map(|dx| (false, dx)),
        dw: of_head[0].as_ref().map(|dw| (false, dw)),
        low_rank: &low_rank,
    };
    let losses = forward(&layer, x, step_state, gradients)?;
    drop(low_rank);

    let scaled_loss = Tensor::empty(x.device(), &[1], DType::F32)?;
    let views = [losses.view(), step_state.tensor().view(), scaled_loss.view()];
    KernelCall::new(&TOTAL, &views)
        .params(Params { count: losses.len() as u32 })
        .launch(x.device(), [1, 1, 1])?;
    let inputs: Vec<&Tensor> = std::iter::once(x).chain(head.inputs()).collect();
    let scaled_loss = tape.record("linear_cross_entropy", &inputs, scaled_loss, move |dout| {
        let of_head = targets_of_head.into_iter().zip(of_head);
        for (target, gradient) in std::iter::once((x_grad, dx)).chain(of_head) {
            if let (Some(target), Some(gradient)) = (target, gradient) {
                scale(&gradient, dout, pieces.vocabulary)?;
                target.add(gradient)?;
            }
        }
        Ok(())
    });
    Ok(CrossEntropy { scaled_loss, losses })
}

/// The losses; and the gradients, while the logits of a chunk are there.
fn forward(
    layer: &OutputLayer,
    x: &Tensor,
    step_state: &StepState,
    gradients: Gradients,
) -> Result<Tensor> {
    let scales = Scales::Mean(step_state.clone());
    // One buffer per slice, used again for every chunk.
    let slices = layer.slices();
    let memory =
        slices.iter().map(|&slice| layer.memory(slice, x.dtype())).collect::<Result<Vec<_>>>()?;
    for chunk in layer.chunks(x)? {
        let slices = slices.iter().zip(&memory);
        let logits = slices
            .map(|(&slice, memory)| Ok((slice, chunk.forward(slice, memory)?)))
            .collect::<Result<Vec<_>>>()?;
        for (slice, logits) in &logits {
            chunk.backward(*slice, logits, &scales, gradients)?;
        }
    }
    let (stats, targets) = (&layer.stats, &layer.targets);
    let losses = Tensor::empty(stats.device(), targets.shape(), DType::F32)?;
    KernelCall::new(&LOSSES, &[stats.view(), targets.view(), losses.view()])
        .params(Params { count: losses.len() as u32 })
        .launch(stats.device(), grid_1d(losses.len(), BLOCK as usize))?;
    Ok(losses)
}

/// y *= factor, `rows` of y at a time.
fn scale(y: &Tensor, factor: &Tensor, rows: usize) -> Result<()> {
    for first in (0..y.dim(0)).step_by(rows) {
        let part = y.narrow(first, rows.min(y.dim(0) - first))?;
        KernelCall::new(&SCALE, &[factor.view(), part.view()])
            .params(Params { count: part.len() as u32 })
            .launch(y.device(), grid_1d(words(&part), BLOCK as usize))?;
    }
    Ok(())
}

const BLOCK: u32 = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    /// Rows, or elements of `y`.
    count: u32,
}

static TEXT: KernelText = kernel_text!("cross_entropy");

pub(super) const KERNELS: &[&KernelSpec] = &[&LOSSES, &TOTAL, &SCALE];

static LOSSES: KernelSpec = KernelSpec {
    name: "cross_entropy_losses",
    text: &TEXT,
    bindings: &[
        Binding::read("stats", Kind::F32),
        Binding::read("targets", Kind::U32),
        Binding::write("losses", Kind::F32),
    ],
    constants: &[],
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: losses_reference,
    reference_f64: losses_reference,
    cpu: losses_cpu,
};

static TOTAL: KernelSpec = KernelSpec {
    name: "cross_entropy_total",
    text: &TEXT,
    bindings: &[
        Binding::read("losses", Kind::F32),
        Binding::read("step_state", Kind::F32),
        Binding::write("scaled_loss", Kind::F32),
    ],
    constants: &[],
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: total_reference,
    reference_f64: total_reference,
    cpu: total_cpu,
};

static SCALE: KernelSpec = KernelSpec {
    name: "cross_entropy_scale",
    text: &TEXT,
    bindings: &[Binding::read("factor", Kind::F32), Binding::update("y", Kind::Float)],
    constants: &[],
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: scale_reference,
    reference_f64: scale_reference,
    cpu: |call| with_element!(call.dtype(1), T => scale_cpu::<T>(call)),
};

/// loss = m + ln l - z.
fn losses_reference<F: Real>(call: &mut RefCall<F>) {
    let (stats, targets, losses) = (call.input(0), call.input_u32(1), call.output(2));
    for (row, loss) in losses.iter_mut().enumerate() {
        let stats = &stats[3 * row..][..3];
        *loss = match targets[row] {
            IGNORE => F::ZERO,
            _ => stats[0] + stats[1].ln() - stats[2],
        };
    }
}

fn total_reference<F: Real>(call: &mut RefCall<F>) {
    let (losses, state, total) = (call.input(0), call.input(1), call.output(2));
    let sum: F = losses.iter().copied().sum();
    total[0] = sum * state[index::INV_TOKENS] * state[index::LOSS_SCALE];
}

fn scale_reference<F: Real>(call: &mut RefCall<F>) {
    let factor = call.input(0)[0];
    call.output(1).iter_mut().for_each(|y| *y = *y * factor);
}

fn losses_cpu(call: &mut HostCall) {
    let (stats, targets) = (call.input::<f32>(0), call.input::<u32>(1));
    let losses = call.output::<f32>(2);
    for ((loss, stats), &target) in losses.iter_mut().zip(stats.chunks_exact(3)).zip(targets) {
        *loss = if target == IGNORE { 0.0 } else { stats[0] + stats[1].ln() - stats[2] };
    }
}

fn total_cpu(call: &mut HostCall) {
    let (losses, state) = (call.input::<f32>(0), call.input::<f32>(1));
    let sum: f64 = losses.iter().copied().map(f64::from).sum();
    call.output::<f32>(2)[0] = sum as f32 * state[index::INV_TOKENS] * state[index::LOSS_SCALE];
}

fn scale_cpu<T: Element>(call: &mut HostCall) {
    let (factor, y) = (call.input::<f32>(0)[0], call.output::<T>(1));
    // Training passes 1, and then there is nothing to do.
    if factor != 1.0 {
        y.par_chunks_mut(rows_per_task(1)).for_each(|y| {
            vectorized(
                #[inline(always)]
                || {
                    y.iter_mut().for_each(|y| *y = T::from_f32(y.to_f32() * factor));
                },
            )
        });
    }
}
