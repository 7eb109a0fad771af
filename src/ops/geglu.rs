//! GeGLU (Shazeer, 2020, arXiv:2002.05202): out = gelu(gate) * up, the gated middle of Gemma's MLP.
//! GELU (Hendrycks and Gimpel, 2016, arXiv:1606.08415) by its tanh formula, `gelu_pytorch_tanh`.
//!
//! (1 + tanh(u)) / 2 is the logistic function of 2 u, which is how it is computed: nothing cancels.

use super::grad_target::GradTarget;
use super::host::{rows_per_task, words};
use super::simd::vectorized;
use super::{vector, wide_loads};
use crate::backend::{KernelCall, View};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::tape::Tape;
use crate::tensor::{Saved, Tensor};
use crate::{cuda_text, kernel_text, with_element};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// gelu(gate) * up, element by element; both [T, F] and of one dtype, as is the result. The backward
/// computes gelu again, so only the two inputs are kept; the result can be computed again from them.
pub fn geglu(tape: &Tape, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.shape() != up.shape() || gate.dtype() != up.dtype() {
        return Err(Error::internal("geglu", format!("{gate:?} and {up:?}")));
    }
    let out = forward(gate, up)?;
    let targets = [gate, up].map(GradTarget::of);
    let saved = [gate, up].map(Saved::of);
    let [gate_again, up_again] = saved.clone();
    let out = tape.record("geglu", &[gate, up], out, move |dout| {
        let [gate, up] = [&saved[0].get()?, &saved[1].get()?];
        let dgate = Tensor::empty(gate.device(), gate.shape(), gate.dtype())?;
        let dup = Tensor::empty(up.device(), up.shape(), up.dtype())?;
        let views = [dout.view(), gate.view(), up.view(), dgate.view(), dup.view()];
        launch([&GEGLU_BWD, &GEGLU_BWD_WIDE], &views, gate)?;
        for (target, gradient) in targets.iter().zip([dgate, dup]) {
            if let Some(target) = target {
                target.add(gradient)?;
            }
        }
        Ok(())
    });
    Ok(tape.recomputable(out, move || forward(&gate_again.get()?, &up_again.get()?)))
}

fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let out = Tensor::empty(gate.device(), gate.shape(), gate.dtype())?;
    launch([&GEGLU_FWD, &GEGLU_FWD_WIDE], &[gate.view(), up.view(), out.view()], gate)?;
    Ok(out)
}

/// Launches the portable version of a kernel, or the wide one where `gate` goes by chunks.
fn launch(
    [portable, wide]: [&'static KernelSpec; 2],
    views: &[&View],
    gate: &Tensor,
) -> Result<()> {
    let (spec, threads) = match wide_loads::chunks(gate) {
        Some(chunks) => (wide, chunks),
        None => (portable, words(gate)),
    };
    KernelCall::new(spec, views)
        .params(Params { count: gate.len() as u32 })
        .launch(gate.device(), grid_1d(threads, BLOCK))
}

const BLOCK: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    count: u32,
}

static TEXT: KernelText = kernel_text!("geglu");

static WIDE_TEXT: KernelText = cuda_text!("geglu_wide");

pub(super) const KERNELS: &[&KernelSpec] =
    &[&GEGLU_FWD, &GEGLU_BWD, &GEGLU_FWD_WIDE, &GEGLU_BWD_WIDE];

static GEGLU_FWD: KernelSpec = KernelSpec {
    name: "geglu_fwd",
    text: &TEXT,
    bindings: &[
        Binding::read("gate", Kind::Float),
        Binding::read("up", Kind::Float),
        Binding::write("out", Kind::Float),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: fwd_reference,
    reference_f64: fwd_reference,
    cpu: |call| with_element!(call.dtype(0), T => fwd_cpu::<T>(call)),
};

static GEGLU_BWD: KernelSpec = KernelSpec {
    name: "geglu_bwd",
    text: &TEXT,
    bindings: &[
        Binding::read("dout", Kind::Float),
        Binding::read("gate", Kind::Float),
        Binding::read("up", Kind::Float),
        Binding::write("dgate", Kind::Float),
        Binding::write("dup", Kind::Float),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: bwd_reference,
    reference_f64: bwd_reference,
    cpu: |call| with_element!(call.dtype(0), T => bwd_cpu::<T>(call)),
};

static GEGLU_FWD_WIDE: KernelSpec = KernelSpec {
    name: "geglu_fwd_wide",
    text: &WIDE_TEXT,
    requires: wide_loads::REQUIRES,
    ..GEGLU_FWD
};

static GEGLU_BWD_WIDE: KernelSpec = KernelSpec {
    name: "geglu_bwd_wide",
    text: &WIDE_TEXT,
    requires: wide_loads::REQUIRES,
    ..GEGLU_BWD
};

/// 2 sqrt(2 / pi).
const TWO_ROOT: f64 = 1.595_769_121_605_730_8;
/// Of the cube.
const CUBIC: f64 = 0.044_715;

/// s = (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (g + 0.044715 g^3), and the derivative of g s.
fn gate_reference<F: Real>(g: F) -> (F, F) {
    let (root, cubic) = (F::from_f64(TWO_ROOT), F::from_f64(CUBIC));
    let s = F::ONE / (F::ONE + (-(root * (g + cubic * g * g * g))).exp());
    let slope = root * (F::ONE + F::from_f64(3.0) * cubic * g * g);
    (s, s + g * s * (F::ONE - s) * slope)
}

fn fwd_reference<F: Real>(call: &mut RefCall<F>) {
    let (gate, up, out) = (call.input(0), call.input(1), call.output(2));
    for i in 0..out.len() {
        out[i] = gate[i] * gate_reference(gate[i]).0 * up[i];
    }
}

/// dgate = dout * up * (gate s)', dup = dout * gate * s.
fn bwd_reference<F: Real>(call: &mut RefCall<F>) {
    let (dout, gate, up) = (call.input(0), call.input(1), call.input(2));
    let (dgate, dup) = (call.output(3), call.output(4));
    for i in 0..dgate.len() {
        let (s, slope) = gate_reference(gate[i]);
        dgate[i] = dout[i] * up[i] * slope;
        dup[i] = dout[i] * gate[i] * s;
    }
}

#[inline(always)]
fn half_tanh(g: f32) -> f32 {
    1.0 / (1.0 + vector::exp(-(TWO_ROOT as f32 * (g + CUBIC as f32 * g * g * g))))
}

fn fwd_cpu<T: Element>(call: &mut HostCall) {
    let (gate, up, out) = (call.input::<T>(0), call.input::<T>(1), call.output::<T>(2));
    let task = rows_per_task(1);
    out.par_chunks_mut(task).zip(gate.par_chunks(task)).zip(up.par_chunks(task)).for_each(
        |((out, gate), up)| {
            vectorized(
                #[inline(always)]
                || {
                    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                        let gate = gate.to_f32();
                        *out = T::from_f32(gate * half_tanh(gate) * up.to_f32());
                    }
                },
            )
        },
    );
}

fn bwd_cpu<T: Element>(call: &mut HostCall) {
    let (dout, gate, up) = (call.input::<T>(0), call.input::<T>(1), call.input::<T>(2));
    let (dgate, dup) = (call.output::<T>(3), call.output::<T>(4));
    let task = rows_per_task(1);
    let outputs = dgate.par_chunks_mut(task).zip(dup.par_chunks_mut(task));
    let inputs = dout.par_chunks(task).zip(gate.par_chunks(task)).zip(up.par_chunks(task));
    outputs.zip(inputs).for_each(|((dgate, dup), ((dout, gate), up))| {
        vectorized(
            #[inline(always)]
            || {
                let outputs = dgate.iter_mut().zip(dup);
                for ((dgate, dup), ((&dout, &gate), &up)) in
                    outputs.zip(dout.iter().zip(gate).zip(up))
                {
                    let (dout, gate, up) = (dout.to_f32(), gate.to_f32(), up.to_f32());
                    let s = half_tanh(gate);
                    let slope = TWO_ROOT as f32 * (1.0 + 3.0 * CUBIC as f32 * gate * gate);
                    *dgate = T::from_f32(dout * up * (s + gate * s * (1.0 - s) * slope));
                    *dup = T::from_f32(dout * gate * s);
                }
            },
        )
    });
}
