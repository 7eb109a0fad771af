//! The global gradient norm, and from it the clip factor and the skip flag of the step.

use super::StepState;
use super::binding_slices::in_slices;
use super::step_state::index;
use crate::backend::{Device, KernelCall};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernel_text;
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// Computes the norm over all `grads` (f32) and writes GRAD_NORM, CLIP and SKIP of `state`:
/// norm = sqrt(sum of squares) / LOSS_SCALE, CLIP = min(1, max_norm / (norm + 1e-6)) / LOSS_SCALE as
/// PyTorch's `clip_grad_norm_` has it (no clipping where `max_norm` is 0), and SKIP = 1 where the
/// norm is not finite.
pub fn grad_norm(
    device: &Device,
    grads: &[Tensor],
    max_norm: f32,
    state: &StepState,
) -> Result<()> {
    let total: usize = grads.iter().map(partial_sums).sum();
    let partials = Tensor::empty(device, &[total], DType::F32)?;
    let mut first = 0;
    for grad in grads {
        sum_squares(grad, &partials, first)?;
        first += partial_sums(grad);
    }
    KernelCall::new(&FINISH, &[partials.view(), state.tensor().view()])
        .params(FinishParams { count: total as u32, max_norm })
        .launch(device, [1, 1, 1])
}

/// How many partial sums the squares of `x` have.
pub(super) fn partial_sums(x: &Tensor) -> usize {
    x.len().div_ceil(CHUNK)
}

/// Writes the sums of the squares of `x` (f32), chunk by chunk, to `partials` from `first` on.
pub(super) fn sum_squares(x: &Tensor, partials: &Tensor, first: usize) -> Result<()> {
    in_slices([x], |start, [part]| {
        let first = (first + start / CHUNK) as u32;
        KernelCall::new(&SUM_SQUARES, &[part.view(), partials.view()])
            .params(SumParams { count: part.len() as u32, first })
            .launch(part.device(), grid_1d(partial_sums(part), 1))
    })
}

const BLOCK: usize = 256;
/// Elements that a block sums.
const CHUNK: usize = 4096;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SumParams {
    count: u32,
    first: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct FinishParams {
    count: u32,
    max_norm: f32,
}

static TEXT: KernelText = kernel_text!("grad_norm");

pub(super) const KERNELS: &[&KernelSpec] = &[&SUM_SQUARES, &FINISH];

static SUM_SQUARES: KernelSpec = KernelSpec {
    name: "sum_squares",
    text: &TEXT,
    bindings: &[Binding::read("grad", Kind::F32), Binding::update("partials", Kind::F32)],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: sum_reference,
    reference_f64: sum_reference,
    cpu: sum_cpu,
};

static FINISH: KernelSpec = KernelSpec {
    name: "grad_norm_finish",
    text: &TEXT,
    bindings: &[Binding::read("partials", Kind::F32), Binding::update("state", Kind::F32)],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: finish_reference,
    reference_f64: finish_reference,
    cpu: finish_cpu,
};

fn sum_reference<F: Real>(call: &mut RefCall<F>) {
    let SumParams { first, .. } = call.params();
    let (grad, partials) = (call.input(0), call.output(1));
    for (chunk, partial) in grad.chunks(CHUNK).zip(&mut partials[first as usize..]) {
        *partial = chunk.iter().map(|&g| g * g).sum();
    }
}

fn finish_reference<F: Real>(call: &mut RefCall<F>) {
    let FinishParams { max_norm, .. } = call.params();
    let (partials, state) = (call.input(0), call.output(1));
    let sum: F = partials.iter().copied().sum();
    let norm = sum.sqrt() / state[index::LOSS_SCALE];
    let coefficient = F::from_f64(f64::from(max_norm)) / (norm + F::from_f64(1e-6));
    let clip = if max_norm > 0.0 && coefficient < F::ONE { coefficient } else { F::ONE };
    state[index::GRAD_NORM] = norm;
    state[index::CLIP] = clip / state[index::LOSS_SCALE];
    state[index::SKIP] = if norm.to_f64().is_finite() { F::ZERO } else { F::ONE };
}

fn sum_cpu(call: &mut HostCall) {
    let SumParams { first, .. } = call.params();
    let (grad, partials) = (call.input::<f32>(0), call.output::<f32>(1));
    let count = grad.len().div_ceil(CHUNK);
    let partials = &mut partials[first as usize..][..count];
    partials.par_iter_mut().zip(grad.par_chunks(CHUNK)).for_each(|(partial, chunk)| {
        // Partial sums side by side, which the compiler keeps in vector registers.
        let mut sums = [0.0f32; 16];
        let tail: f32 = chunk.chunks_exact(16).remainder().iter().map(|g| g * g).sum();
        for values in chunk.chunks_exact(16) {
            for (sum, g) in sums.iter_mut().zip(values) {
                *sum += g * g;
            }
        }
        *partial = sums.iter().sum::<f32>() + tail;
    });
}

fn finish_cpu(call: &mut HostCall) {
    let FinishParams { max_norm, .. } = call.params();
    let (partials, state) = (call.input::<f32>(0), call.output::<f32>(1));
    // Few numbers of very different size: f64 costs nothing here.
    let sum: f64 = partials.iter().map(|&partial| f64::from(partial)).sum();
    let norm = (sum.sqrt() / f64::from(state[index::LOSS_SCALE])) as f32;
    let coefficient = max_norm / (norm + 1e-6);
    let clip = if max_norm > 0.0 && coefficient < 1.0 { coefficient } else { 1.0 };
    state[index::GRAD_NORM] = norm;
    state[index::CLIP] = clip / state[index::LOSS_SCALE];
    state[index::SKIP] = if norm.is_finite() { 0.0 } else { 1.0 };
}
