//! AdamW whose moments are 8-bit codes in blocks of 256, as bitsandbytes has it (Dettmers et al., 2021,
//! arXiv:2110.02861): each block is decoded, moved, used and quantized again in one pass.

use super::StepState;
use super::host::rows_per_task;
use super::simd::vectorized;
use super::step_state::index;
use crate::backend::{Device, KernelCall};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel_text;
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::quant::dynamic8;
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Elements that share an absmax.
const BLOCKSIZE: usize = 256;

/// The settings that stay the same for the whole run.
#[derive(Clone, Copy, Debug)]
pub struct AdamW8bit {
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

/// The moments of one parameter: codes in its shape and one absmax for each 256 elements of it,
/// flattened. A moment is `map[code] * absmax`.
pub struct Moments8bit {
    /// u8: codes of the mean of gradients, in the signed dynamic map.
    pub m: Tensor,
    /// u8: codes of the mean of squared gradients, in the unsigned one.
    pub v: Tensor,
    /// f32 `[blocks]`.
    pub m_absmax: Tensor,
    /// f32 `[blocks]`.
    pub v_absmax: Tensor,
}

impl Moments8bit {
    /// Moments of zero for a parameter of this shape.
    pub fn zeros(device: &Device, shape: &[usize]) -> Result<Self> {
        let len: usize = shape.iter().product();
        let codes = || Tensor::from_bytes(device, shape, DType::U8, &vec![0; len]);
        let absmax = || super::zeros(device, &[len.div_ceil(BLOCKSIZE)], DType::F32);
        Ok(Self { m: codes()?, v: codes()?, m_absmax: absmax()?, v_absmax: absmax()? })
    }
}

/// What the kernel looks up, f32 [4, 256]: the signed and the unsigned map, then for each the first of
/// the 65,536 steps over [-1, 1] that every code stands for. One serves all parameters of a device.
pub fn dynamic_tables(device: &Device) -> Result<Tensor> {
    let maps = [dynamic8::dynamic_map(), dynamic8::unsigned_dynamic_map()];
    let steps = maps.each_ref().map(|map| dynamic8::first_steps(&dynamic8::step_codes(map)));
    Tensor::from_f32(device, &[4, 256], DType::F32, &[maps, steps].concat().concat())
}

/// Updates `param` (f32) and its `moments` in place with the gradient `grad` (f32); `tables` are those
/// of [`dynamic_tables`]. Learning rate, bias corrections, clip factor and skip flag are those of
/// `state`.
pub fn adamw_8bit(
    settings: AdamW8bit,
    tables: &Tensor,
    param: &Tensor,
    moments: &Moments8bit,
    grad: &Tensor,
    state: &StepState,
) -> Result<()> {
    let Moments8bit { m, v, m_absmax, v_absmax } = moments;
    let (len, blocks) = (param.len(), param.len().div_ceil(BLOCKSIZE));
    if [m, v, grad].iter().any(|tensor| tensor.len() != len)
        || [m_absmax, v_absmax].iter().any(|tensor| tensor.len() != blocks)
    {
        let what = format!("{param:?}, {m:?}, {v:?}, {m_absmax:?}, {v_absmax:?}, {grad:?}");
        return Err(Error::internal("adamw_8bit", what));
    }
    let AdamW8bit { beta1, beta2, eps, weight_decay, lr_ratio } = settings;
    let piece = piece(param.device().capabilities().max_binding_bytes);
    for first in (0..len).step_by(piece) {
        let count = piece.min(len - first);
        let part = |tensor: &Tensor, first: usize, count: usize| {
            tensor.detach().reshape(&[tensor.len()])?.narrow(first, count)
        };
        let [grad, param, m, v] = [
            part(grad, first, count)?,
            part(param, first, count)?,
            part(m, first, count)?,
            part(v, first, count)?,
        ];
        let (block, blocks) = (first / BLOCKSIZE, count.div_ceil(BLOCKSIZE));
        let [m_absmax, v_absmax] = [part(m_absmax, block, blocks)?, part(v_absmax, block, blocks)?];
        let tensors = [&grad, state.tensor(), tables, &param, &m, &v, &m_absmax, &v_absmax];
        KernelCall::new(&ADAMW_8BIT, &tensors.map(Tensor::view))
            .params(Params {
                count: count as u32,
                zero: 0,
                beta1,
                beta2,
                eps,
                weight_decay,
                lr_ratio,
            })
            .launch(param.device(), grid_1d(count.div_ceil(4), BLOCK))?;
    }
    Ok(())
}

/// Elements for one launch where a device binds this many bytes at once: a multiple of 64 blocks, so
/// that the views of all tensors start at aligned bytes.
fn piece(max_binding_bytes: usize) -> usize {
    const MULTIPLE: usize = 64 * BLOCKSIZE;
    (max_binding_bytes / 4 / MULTIPLE * MULTIPLE).max(MULTIPLE)
}

const BLOCK: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    count: u32,
    /// 0, which a compiler cannot know.
    zero: u32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
    lr_ratio: f32,
}

static TEXT: KernelText = kernel_text!("adamw_8bit");

pub(super) const KERNELS: &[&KernelSpec] = &[&ADAMW_8BIT];

static ADAMW_8BIT: KernelSpec = KernelSpec {
    name: "adamw_8bit",
    text: &TEXT,
    bindings: &[
        Binding::read("grad", Kind::F32),
        Binding::read("state", Kind::F32),
        Binding::read("tables", Kind::F32),
        Binding::update("param", Kind::F32),
        Binding::update("m", Kind::U8),
        Binding::update("v", Kind::U8),
        Binding::update("m_absmax", Kind::F32),
        Binding::update("v_absmax", Kind::F32),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference,
    reference_f64: reference,
    cpu,
};

fn reference<F: Real>(call: &mut RefCall<F>) {
    let params: Params = call.params();
    let real = |value: f32| F::from_f64(f64::from(value));
    let [beta1, beta2, eps] = [params.beta1, params.beta2, params.eps].map(real);
    let (grad, state, tables) = (call.input(0), call.input(1), call.input(2));
    let (param, m, v) = (call.output(3), call.output_u8(4), call.output_u8(5));
    let (m_absmax, v_absmax) = (call.output(6), call.output(7));
    if state[index::SKIP] != F::ZERO {
        return;
    }
    let tables: Vec<&[F]> = tables.chunks(256).collect();
    let [m_map, v_map, m_steps, v_steps] = tables[..] else { return };
    let lr = state[index::LEARNING_RATE] * real(params.lr_ratio);
    for (block, first) in (0..param.len()).step_by(BLOCKSIZE).enumerate() {
        let elements = first..(first + BLOCKSIZE).min(param.len());
        let (mut m_new, mut v_new) = (Vec::new(), Vec::new());
        for i in elements.clone() {
            let g = grad[i] * state[index::CLIP];
            let m_old = m_map[m[i] as usize] * m_absmax[block];
            let v_old = v_map[v[i] as usize] * v_absmax[block];
            let m_i = beta1 * m_old + (F::ONE - beta1) * g;
            let v_i = beta2 * v_old + (F::ONE - beta2) * g * g;
            let root = (v_i / state[index::BIAS_CORRECTION2]).sqrt() + eps;
            param[i] = param[i] * (F::ONE - lr * real(params.weight_decay))
                - lr / state[index::BIAS_CORRECTION1] * m_i / root;
            m_new.push(m_i);
            v_new.push(v_i);
        }
        m_absmax[block] = quantize(&m_new, m_steps, &mut m[elements.clone()]);
        v_absmax[block] = quantize(&v_new, v_steps, &mut v[elements]);
    }
}

/// Codes of one block; returns its absmax. The code is the last one that has begun at the value's step.
fn quantize<F: Real>(values: &[F], first_steps: &[F], codes: &mut [u8]) -> F {
    let absmax = values.iter().fold(F::ZERO, |largest, value| largest.max(value.abs()));
    for (code, &value) in codes.iter_mut().zip(values) {
        let step = (value / absmax + F::ONE) * F::from_f64(32_767.5) + F::from_f64(0.5);
        let begun = first_steps[1..].iter().filter(|&&first| first <= step).count();
        *code = if absmax == F::ZERO { 0 } else { begun as u8 };
    }
    absmax
}

/// The codes of all steps of both maps.
fn step_codes() -> &'static [Vec<u8>; 2] {
    static CODES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    CODES.get_or_init(|| {
        let maps = [dynamic8::dynamic_map(), dynamic8::unsigned_dynamic_map()];
        maps.each_ref().map(dynamic8::step_codes)
    })
}

fn cpu(call: &mut HostCall) {
    let params: Params = call.params();
    let (grad, state) = (call.input::<f32>(0), call.input::<f32>(1));
    let tables = call.input::<f32>(2);
    let (param, m, v) = (call.output::<f32>(3), call.output::<u8>(4), call.output::<u8>(5));
    let (m_absmax, v_absmax) = (call.output::<f32>(6), call.output::<f32>(7));
    if state[index::SKIP] != 0.0 {
        return;
    }
    let step = HostStep::new(&params, state, tables);
    let task = rows_per_task(BLOCKSIZE) * BLOCKSIZE;
    param
        .par_chunks_mut(task)
        .zip(m.par_chunks_mut(task).zip(m_absmax.par_chunks_mut(task / BLOCKSIZE)))
        .zip(v.par_chunks_mut(task).zip(v_absmax.par_chunks_mut(task / BLOCKSIZE)))
        .zip(grad.par_chunks(task))
        .for_each(|(((param, (m, m_absmax)), (v, v_absmax)), grad)| {
            let blocks = param.chunks_mut(BLOCKSIZE).zip(grad.chunks(BLOCKSIZE));
            let codes = m.chunks_mut(BLOCKSIZE).zip(v.chunks_mut(BLOCKSIZE));
            let absmax = m_absmax.iter_mut().zip(v_absmax);
            for (((param, grad), (m, v)), (m_absmax, v_absmax)) in blocks.zip(codes).zip(absmax) {
                step.block(param, grad, (m, m_absmax), (v, v_absmax));
            }
        });
}

/// What a step on the host has for all blocks.
struct HostStep<'a> {
    params: &'a Params,
    m_map: &'a [f32],
    v_map: &'a [f32],
    clip: f32,
    keep: f32,
    step_size: f32,
    correction2: f32,
}

impl<'a> HostStep<'a> {
    fn new(params: &'a Params, state: &[f32], tables: &'a [f32]) -> Self {
        let lr = state[index::LEARNING_RATE] * params.lr_ratio;
        Self {
            params,
            m_map: &tables[..256],
            v_map: &tables[256..512],
            clip: state[index::CLIP],
            keep: 1.0 - lr * params.weight_decay,
            step_size: lr / state[index::BIAS_CORRECTION1],
            correction2: state[index::BIAS_CORRECTION2],
        }
    }

    /// One block of at most 256 elements: its moments with their absmax.
    fn block(
        &self,
        param: &mut [f32],
        grad: &[f32],
        (m, m_absmax): (&mut [u8], &mut f32),
        (v, v_absmax): (&mut [u8], &mut f32),
    ) {
        let (mut m_new, mut v_new) = ([0.0; BLOCKSIZE], [0.0; BLOCKSIZE]);
        let (m_new, v_new) = (&mut m_new[..m.len()], &mut v_new[..m.len()]);
        for ((m_new, v_new), (&m, &v)) in m_new.iter_mut().zip(&mut *v_new).zip(m.iter().zip(&*v)) {
            *m_new = self.m_map[usize::from(m)] * *m_absmax;
            *v_new = self.v_map[usize::from(v)] * *v_absmax;
        }
        let Params { beta1, beta2, eps, .. } = *self.params;
        vectorized(
            #[inline(always)]
            || {
                let moments = m_new.iter_mut().zip(&mut *v_new);
                for ((p, &grad), (m, v)) in param.iter_mut().zip(grad).zip(moments) {
                    let g = grad * self.clip;
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                    let root = (*v / self.correction2).sqrt() + eps;
                    *p = *p * self.keep - self.step_size * *m / root;
                }
            },
        );
        let [m_codes, v_codes] = step_codes();
        *m_absmax = quantize_block(m_new, m_codes, m);
        *v_absmax = quantize_block(v_new, v_codes, v);
    }
}

/// [`quantize`], by the table of all steps.
fn quantize_block(values: &[f32], step_codes: &[u8], codes: &mut [u8]) -> f32 {
    let absmax = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    if absmax == 0.0 {
        codes.fill(0);
        return absmax;
    }
    let inverse = 1.0 / absmax;
    for (code, value) in codes.iter_mut().zip(values) {
        *code = step_codes[dynamic8::step_of(value * inverse)];
    }
    absmax
}
