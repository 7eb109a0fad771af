//! SwiGLU (Shazeer, 2020, arXiv:2002.05202): out = silu(gate) * up with silu(g) = g / (1 + e^-g), the
//! gated middle of the MLP.

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

/// silu(gate) * up, element by element; both [T, F] and of one dtype, as is the result. The backward
/// computes silu again, so only the two inputs are kept; the result can be computed again from them.
pub fn swiglu(tape: &Tape, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.shape() != up.shape() || gate.dtype() != up.dtype() {
        return Err(Error::internal("swiglu", format!("{gate:?} and {up:?}")));
    }
    let out = forward(gate, up)?;
    let targets = [gate, up].map(GradTarget::of);
    let saved = [gate, up].map(Saved::of);
    let [gate_again, up_again] = saved.clone();
    let out = tape.record("swiglu", &[gate, up], out, move |dout| {
        let [gate, up] = [&saved[0].get()?, &saved[1].get()?];
        let dgate = Tensor::empty(gate.device(), gate.shape(), gate.dtype())?;
        let dup = Tensor::empty(up.device(), up.shape(), up.dtype())?;
        let views = [dout.view(), gate.view(), up.view(), dgate.view(), dup.view()];
        launch([&SWIGLU_BWD, &SWIGLU_BWD_WIDE], &views, gate)?;
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
    launch([&SWIGLU_FWD, &SWIGLU_FWD_WIDE], &[gate.view(), up.view(), out.view()], gate)?;
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

static TEXT: KernelText = kernel_text!("swiglu");

static WIDE_TEXT: KernelText = cuda_text!("swiglu_wide");

pub(super) const KERNELS: &[&KernelSpec] =
    &[&SWIGLU_FWD, &SWIGLU_BWD, &SWIGLU_FWD_WIDE, &SWIGLU_BWD_WIDE];

static SWIGLU_FWD: KernelSpec = KernelSpec {
    name: "swiglu_fwd",
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

static SWIGLU_BWD: KernelSpec = KernelSpec {
    name: "swiglu_bwd",
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

static SWIGLU_FWD_WIDE: KernelSpec = KernelSpec {
    name: "swiglu_fwd_wide",
    text: &WIDE_TEXT,
    requires: wide_loads::REQUIRES,
    ..SWIGLU_FWD
};

static SWIGLU_BWD_WIDE: KernelSpec = KernelSpec {
    name: "swiglu_bwd_wide",
    text: &WIDE_TEXT,
    requires: wide_loads::REQUIRES,
    ..SWIGLU_BWD
};

fn fwd_reference<F: Real>(call: &mut RefCall<F>) {
    let (gate, up, out) = (call.input(0), call.input(1), call.output(2));
    for i in 0..out.len() {
        out[i] = gate[i] * (F::ONE / (F::ONE + (-gate[i]).exp())) * up[i];
    }
}

/// With s = 1 / (1 + e^-gate): dgate = dout * up * s * (1 + gate * (1 - s)), dup = dout * gate * s.
fn bwd_reference<F: Real>(call: &mut RefCall<F>) {
    let (dout, gate, up) = (call.input(0), call.input(1), call.input(2));
    let (dgate, dup) = (call.output(3), call.output(4));
    for i in 0..dgate.len() {
        let s = F::ONE / (F::ONE + (-gate[i]).exp());
        dgate[i] = dout[i] * up[i] * s * (F::ONE + gate[i] * (F::ONE - s));
        dup[i] = dout[i] * gate[i] * s;
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + vector::exp(-x))
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
                        *out = T::from_f32(gate * sigmoid(gate) * up.to_f32());
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
                    let s = sigmoid(gate);
                    *dgate = T::from_f32(dout * up * s * (1.0 + gate * (1.0 - s)));
                    *dup = T::from_f32(dout * gate * s);
                }
            },
        )
    });
}
