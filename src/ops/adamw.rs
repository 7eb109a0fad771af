//! AdamW (Loshchilov and Hutter, 2017, arXiv:1711.05101), fused: one pass over parameter, moments
//! and gradient, with decoupled decay, bias correction and the clip factor folded in.

use super::StepState;
use super::binding_slices::in_slices;
use super::host::rows_per_task;
use super::simd::vectorized;
use super::step_state::index;
use crate::backend::KernelCall;
use crate::error::{Error, Result};
use crate::kernel_text;
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// The settings that stay the same for the whole run.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay; 0 for biases and norm weights.
    pub weight_decay: f32,
    /// What the learning rate is multiplied by: 1, or LoRA+'s ratio.
    pub lr_ratio: f32,
}

/// Updates `param`, `m` and `v` in place with the gradient `grad`; all f32, of one length. Learning
/// rate, bias corrections, clip factor and skip flag are those of `state`.
pub fn adamw(
    settings: AdamW,
    param: &Tensor,
    m: &Tensor,
    v: &Tensor,
    grad: &Tensor,
    state: &StepState,
) -> Result<()> {
    if [m, v, grad].iter().any(|tensor| tensor.len() != param.len()) {
        return Err(Error::internal("adamw", format!("{param:?}, {m:?}, {v:?}, {grad:?}")));
    }
    in_slices([param, m, v, grad], |_, [param, m, v, grad]| {
        let state = state.tensor();
        KernelCall::new(&ADAMW, &[grad.view(), state.view(), param.view(), m.view(), v.view()])
            .params(Params {
                count: param.len() as u32,
                beta1: settings.beta1,
                beta2: settings.beta2,
                eps: settings.eps,
                weight_decay: settings.weight_decay,
                lr_ratio: settings.lr_ratio,
            })
            .launch(param.device(), grid_1d(param.len(), BLOCK))
    })
}

const BLOCK: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    count: u32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
    lr_ratio: f32,
}

static TEXT: KernelText = kernel_text!("adamw");

pub(super) const KERNELS: &[&KernelSpec] = &[&ADAMW];

static ADAMW: KernelSpec = KernelSpec {
    name: "adamw",
    text: &TEXT,
    bindings: &[
        Binding::read("grad", Kind::F32),
        Binding::read("state", Kind::F32),
        Binding::update("param", Kind::F32),
        Binding::update("m", Kind::F32),
        Binding::update("v", Kind::F32),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference,
    reference_f64: reference,
    cpu,
};

fn reference<F: Real>(call: &mut RefCall<F>) {
    let Params { beta1, beta2, eps, weight_decay, lr_ratio, .. } = call.params();
    let [beta1, beta2, eps, weight_decay, lr_ratio] =
        [beta1, beta2, eps, weight_decay, lr_ratio].map(|value| F::from_f64(f64::from(value)));
    let (grad, state) = (call.input(0), call.input(1));
    let (param, m, v) = (call.output(2), call.output(3), call.output(4));
    if state[index::SKIP] != F::ZERO {
        return;
    }
    let lr = state[index::LEARNING_RATE] * lr_ratio;
    for i in 0..param.len() {
        let g = grad[i] * state[index::CLIP];
        param[i] = param[i] * (F::ONE - lr * weight_decay);
        m[i] = beta1 * m[i] + (F::ONE - beta1) * g;
        v[i] = beta2 * v[i] + (F::ONE - beta2) * g * g;
        let root = (v[i] / state[index::BIAS_CORRECTION2]).sqrt() + eps;
        param[i] = param[i] - lr / state[index::BIAS_CORRECTION1] * m[i] / root;
    }
}

fn cpu(call: &mut HostCall) {
    let Params { beta1, beta2, eps, weight_decay, lr_ratio, .. } = call.params();
    let (grad, state) = (call.input::<f32>(0), call.input::<f32>(1));
    let (param, m, v) = (call.output::<f32>(2), call.output::<f32>(3), call.output::<f32>(4));
    if state[index::SKIP] != 0.0 {
        return;
    }
    let lr = state[index::LEARNING_RATE] * lr_ratio;
    let keep = 1.0 - lr * weight_decay;
    let step_size = lr / state[index::BIAS_CORRECTION1];
    let (clip, correction2) = (state[index::CLIP], state[index::BIAS_CORRECTION2]);
    let task = rows_per_task(1);
    param
        .par_chunks_mut(task)
        .zip(m.par_chunks_mut(task))
        .zip(v.par_chunks_mut(task))
        .zip(grad.par_chunks(task))
        .for_each(|(((param, m), v), grad)| {
            vectorized(
                #[inline(always)]
                || {
                    for (((p, m), v), &grad) in param.iter_mut().zip(m).zip(v).zip(grad) {
                        let g = grad * clip;
                        *m = beta1 * *m + (1.0 - beta1) * g;
                        *v = beta2 * *v + (1.0 - beta2) * g * g;
                        let root = (*v / correction2).sqrt() + eps;
                        *p = *p * keep - step_size * *m / root;
                    }
                },
            )
        });
}
