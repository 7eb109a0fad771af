//! Muon (Jordan et al., 2024, <https://kellerjordan.github.io/posts/muon/>) of one matrix: momentum, then
//! a step along the nearest orthogonal matrix, which Newton-Schulz iterations approach with products
//! alone.

use super::StepState;
use super::binding_slices::in_slices;
use super::grad_norm::{partial_sums, sum_squares};
use super::host::rows_per_task;
use super::matmul::{Layout, matmul_into};
use super::simd::vectorized;
use super::step_state::index;
use crate::backend::KernelCall;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel_text;
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// Coefficients a, b, c of an iteration: x becomes a x + b (x xᵀ) x + c (x xᵀ)² x.
const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
/// Iterations.
const STEPS: usize = 5;
/// The least Frobenius norm that the update is divided by.
const EPS: f32 = 1e-7;

/// The settings that stay the same for the whole run.
#[derive(Clone, Copy, Debug)]
pub struct Muon {
    /// Decay of the momentum; Nesterov's form.
    pub momentum: f64,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// What the learning rate is multiplied with for this matrix, in the step but not in the decay.
    pub lr_ratio: f32,
}

/// Updates the matrix `param` [M, N] and its `momentum` in place with the gradient `grad`; all f32, of
/// one shape. Learning rate, clip factor and skip flag are those of `state`. Works in 2 M N + 2 min(M, N)²
/// elements more.
///
/// As `torch.optim.Muon`, whose products are in bfloat16, in f32.
pub fn muon(
    settings: Muon,
    param: &Tensor,
    momentum: &Tensor,
    grad: &Tensor,
    state: &StepState,
) -> Result<()> {
    let same = [momentum, grad].iter().all(|tensor| tensor.shape() == param.shape());
    if param.shape().len() != 2 || !same {
        return Err(Error::internal("muon", format!("{param:?}, {momentum:?}, {grad:?}")));
    }
    let update = Tensor::empty(param.device(), param.shape(), DType::F32)?;
    in_slices([grad, momentum, &update], |_, [grad, momentum, update]| {
        let views = [grad.view(), state.tensor().view(), momentum.view(), update.view()];
        KernelCall::new(&MUON_MOMENTUM, &views)
            .params(MomentumParams {
                count: grad.len() as u32,
                one_minus_momentum: (1.0 - settings.momentum) as f32,
            })
            .launch(grad.device(), grid_1d(grad.len(), BLOCK))
    })?;
    normalize(&update)?;
    let update = orthogonalize(update)?;
    in_slices([&update, param], |_, [update, param]| {
        KernelCall::new(&MUON_APPLY, &[update.view(), state.tensor().view(), param.view()])
            .params(ApplyParams {
                count: param.len() as u32,
                lr_ratio: settings.lr_ratio,
                weight_decay: settings.weight_decay,
            })
            .launch(param.device(), grid_1d(param.len(), BLOCK))
    })
}

/// Divides `x` by its Frobenius norm.
fn normalize(x: &Tensor) -> Result<()> {
    let partials = Tensor::empty(x.device(), &[partial_sums(x)], DType::F32)?;
    let norm = Tensor::empty(x.device(), &[1], DType::F32)?;
    sum_squares(x, &partials, 0)?;
    KernelCall::new(&MUON_NORM, &[partials.view(), norm.view()])
        .params(NormParams { count: partials.len() as u32, eps: EPS })
        .launch(x.device(), [1, 1, 1])?;
    in_slices([x], |_, [x]| {
        KernelCall::new(&MUON_NORMALIZE, &[norm.view(), x.view()])
            .params(x.len() as u32)
            .launch(x.device(), grid_1d(x.len(), BLOCK))
    })
}

/// The iterations on `x` [M, N], whose norm is 1. The Gram matrix is that of the shorter side.
fn orthogonalize(mut x: Tensor) -> Result<Tensor> {
    let [rows, columns] = [x.dim(0), x.dim(1)];
    let side = rows.min(columns);
    let [a, b, c] = COEFFICIENTS;
    let empty = |shape: &[usize]| Tensor::empty(x.device(), shape, DType::F32);
    let (gram, polynomial) = (empty(&[side, side])?, empty(&[side, side])?);
    let mut next = empty(x.shape())?;
    for _ in 0..STEPS {
        let is_tall = rows > columns;
        let layout = if is_tall { Layout::TN } else { Layout::NT };
        matmul_into(layout, &x, &x, 1.0, false, &gram)?;
        scale(&gram, b, &polynomial)?;
        matmul_into(Layout::NN, &gram, &gram, c, true, &polynomial)?;
        scale(&x, a, &next)?;
        match is_tall {
            true => matmul_into(Layout::NN, &x, &polynomial, 1.0, true, &next)?,
            false => matmul_into(Layout::NN, &polynomial, &x, 1.0, true, &next)?,
        }
        std::mem::swap(&mut x, &mut next);
    }
    Ok(x)
}

/// out = factor x.
fn scale(x: &Tensor, factor: f32, out: &Tensor) -> Result<()> {
    in_slices([x, out], |_, [x, out]| {
        KernelCall::new(&MUON_SCALE, &[x.view(), out.view()])
            .params(ScaleParams { count: x.len() as u32, factor })
            .launch(x.device(), grid_1d(x.len(), BLOCK))
    })
}

const BLOCK: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MomentumParams {
    count: u32,
    one_minus_momentum: f32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct NormParams {
    count: u32,
    eps: f32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ScaleParams {
    count: u32,
    factor: f32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ApplyParams {
    count: u32,
    lr_ratio: f32,
    weight_decay: f32,
}

static TEXT: KernelText = kernel_text!("muon");

pub(super) const KERNELS: &[&KernelSpec] =
    &[&MUON_MOMENTUM, &MUON_NORM, &MUON_NORMALIZE, &MUON_SCALE, &MUON_APPLY];

static MUON_MOMENTUM: KernelSpec = KernelSpec {
    bindings: &[
        Binding::read("grad", Kind::F32),
        Binding::read("state", Kind::F32),
        Binding::update("momentum", Kind::F32),
        Binding::write("new_update", Kind::F32),
    ],
    reference_f32: momentum_reference,
    reference_f64: momentum_reference,
    cpu: momentum_cpu,
    ..kernel("muon_momentum")
};

static MUON_NORM: KernelSpec = KernelSpec {
    bindings: &[Binding::read("partials", Kind::F32), Binding::write("new_norm", Kind::F32)],
    reference_f32: norm_reference,
    reference_f64: norm_reference,
    cpu: norm_cpu,
    ..kernel("muon_norm")
};

static MUON_NORMALIZE: KernelSpec = KernelSpec {
    bindings: &[Binding::read("norm", Kind::F32), Binding::update("x", Kind::F32)],
    reference_f32: normalize_reference,
    reference_f64: normalize_reference,
    cpu: normalize_cpu,
    ..kernel("muon_normalize")
};

static MUON_SCALE: KernelSpec = KernelSpec {
    bindings: &[Binding::read("source", Kind::F32), Binding::write("out", Kind::F32)],
    reference_f32: scale_reference,
    reference_f64: scale_reference,
    cpu: scale_cpu,
    ..kernel("muon_scale")
};

static MUON_APPLY: KernelSpec = KernelSpec {
    bindings: &[
        Binding::read("update", Kind::F32),
        Binding::read("state", Kind::F32),
        Binding::update("param", Kind::F32),
    ],
    reference_f32: apply_reference,
    reference_f64: apply_reference,
    cpu: apply_cpu,
    ..kernel("muon_apply")
};

/// What the kernels have in common.
const fn kernel(name: &'static str) -> KernelSpec {
    KernelSpec {
        name,
        text: &TEXT,
        bindings: &[],
        constants: &[],
        block: [BLOCK as u32, 1, 1],
        requires: Requires::Portable,
        reference_f32: |_| {},
        reference_f64: |_| {},
        cpu: |_| {},
    }
}

fn real<F: Real>(value: f32) -> F {
    F::from_f64(f64::from(value))
}

fn momentum_reference<F: Real>(call: &mut RefCall<F>) {
    let MomentumParams { one_minus_momentum, .. } = call.params();
    let rest: F = real(one_minus_momentum);
    let (grad, state) = (call.input(0), call.input(1));
    let (momentum, update) = (call.output(2), call.output(3));
    if state[index::SKIP] != F::ZERO {
        update.fill(F::ZERO);
        return;
    }
    for i in 0..grad.len() {
        let g = grad[i] * state[index::CLIP];
        momentum[i] = momentum[i] + rest * (g - momentum[i]);
        // Nesterov: the momentum that another step of the same gradient would give.
        update[i] = momentum[i] - rest * (momentum[i] - g);
    }
}

fn momentum_cpu(call: &mut HostCall) {
    let MomentumParams { one_minus_momentum: rest, .. } = call.params();
    let (grad, state) = (call.input::<f32>(0), call.input::<f32>(1));
    let (momentum, update) = (call.output::<f32>(2), call.output::<f32>(3));
    if state[index::SKIP] != 0.0 {
        update.fill(0.0);
        return;
    }
    let (task, clip) = (rows_per_task(1), state[index::CLIP]);
    let outputs = momentum.par_chunks_mut(task).zip(update.par_chunks_mut(task));
    outputs.zip(grad.par_chunks(task)).for_each(|((momentum, update), grad)| {
        vectorized(
            #[inline(always)]
            || {
                for ((m, update), &grad) in momentum.iter_mut().zip(update).zip(grad) {
                    let g = grad * clip;
                    *m += rest * (g - *m);
                    *update = *m - rest * (*m - g);
                }
            },
        );
    });
}

fn norm_reference<F: Real>(call: &mut RefCall<F>) {
    let NormParams { eps, .. } = call.params();
    let (partials, norm) = (call.input(0), call.output(1));
    norm[0] = partials.iter().copied().sum::<F>().sqrt().max(real(eps));
}

fn norm_cpu(call: &mut HostCall) {
    let NormParams { eps, .. } = call.params();
    let (partials, norm) = (call.input::<f32>(0), call.output::<f32>(1));
    let sum: f64 = partials.iter().map(|&partial| f64::from(partial)).sum();
    norm[0] = (sum.sqrt() as f32).max(eps);
}

fn normalize_reference<F: Real>(call: &mut RefCall<F>) {
    let (norm, x) = (call.input(0), call.output(1));
    x.iter_mut().for_each(|x| *x = *x / norm[0]);
}

fn normalize_cpu(call: &mut HostCall) {
    let (norm, x) = (call.input::<f32>(0)[0], call.output::<f32>(1));
    x.par_chunks_mut(rows_per_task(1)).for_each(|x| x.iter_mut().for_each(|x| *x /= norm));
}

fn scale_reference<F: Real>(call: &mut RefCall<F>) {
    let ScaleParams { factor, .. } = call.params();
    let (x, out) = (call.input(0), call.output(1));
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = real::<F>(factor) * x);
}

fn scale_cpu(call: &mut HostCall) {
    let ScaleParams { factor, .. } = call.params();
    let (x, out) = (call.input::<f32>(0), call.output::<f32>(1));
    let task = rows_per_task(1);
    out.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(out, x)| {
        out.iter_mut().zip(x).for_each(|(out, &x)| *out = factor * x);
    });
}

fn apply_reference<F: Real>(call: &mut RefCall<F>) {
    let ApplyParams { lr_ratio, weight_decay, .. } = call.params();
    let (update, state, param) = (call.input(0), call.input(1), call.output(2));
    if state[index::SKIP] != F::ZERO {
        return;
    }
    let lr = state[index::LEARNING_RATE];
    for (param, &update) in param.iter_mut().zip(update) {
        *param = *param * (F::ONE - lr * real(weight_decay)) - lr * real(lr_ratio) * update;
    }
}

fn apply_cpu(call: &mut HostCall) {
    let ApplyParams { lr_ratio, weight_decay, .. } = call.params();
    let (update, state) = (call.input::<f32>(0), call.input::<f32>(1));
    let param = call.output::<f32>(2);
    if state[index::SKIP] != 0.0 {
        return;
    }
    let lr = state[index::LEARNING_RATE];
    let (keep, step_size) = (1.0 - lr * weight_decay, lr * lr_ratio);
    let task = rows_per_task(1);
    param.par_chunks_mut(task).zip(update.par_chunks(task)).for_each(|(param, update)| {
        param.iter_mut().zip(update).for_each(|(p, update)| *p = *p * keep - step_size * update);
    });
}
