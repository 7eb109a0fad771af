//! What SwiGLU and GeGLU (Shazeer, 2020, arXiv:2002.05202) share: out = gate * s * up with s the logistic
//! function of something of gate. Each activation is a [`Gate`] and has its kernels' texts in its own file.

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
use crate::with_element;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// An activation g * s with s = 1 / (1 + e^-x) and x a function of g.
pub(super) trait Gate: 'static {
    /// x of g.
    fn exponent<F: Real>(g: F) -> F;

    /// The derivative by g of `scale` g s.
    fn derivative<F: Real>(scale: F, g: F, s: F) -> F;
}

/// An activation's name on the tape and its kernels, each portable and wide.
pub(super) struct Kernels {
    pub name: &'static str,
    pub fwd: [&'static KernelSpec; 2],
    pub bwd: [&'static KernelSpec; 2],
}

/// activation(gate) * up, element by element; both [T, F] and of one dtype, as is the result. The
/// backward computes the activation again, so only the two inputs are kept; the result can be computed
/// again from them.
pub(super) fn gated(
    kernels: &'static Kernels,
    tape: &Tape,
    gate: &Tensor,
    up: &Tensor,
) -> Result<Tensor> {
    if gate.shape() != up.shape() || gate.dtype() != up.dtype() {
        return Err(Error::internal(kernels.name, format!("{gate:?} and {up:?}")));
    }
    let out = forward(kernels, gate, up)?;
    let targets = [gate, up].map(GradTarget::of);
    let saved = [gate, up].map(Saved::of);
    let [gate_again, up_again] = saved.clone();
    let out = tape.record(kernels.name, &[gate, up], out, move |dout| {
        let [gate, up] = [&saved[0].get()?, &saved[1].get()?];
        let dgate = Tensor::empty(gate.device(), gate.shape(), gate.dtype())?;
        let dup = Tensor::empty(up.device(), up.shape(), up.dtype())?;
        let views = [dout.view(), gate.view(), up.view(), dgate.view(), dup.view()];
        launch(kernels.bwd, &views, gate)?;
        for (target, gradient) in targets.iter().zip([dgate, dup]) {
            if let Some(target) = target {
                target.add(gradient)?;
            }
        }
        Ok(())
    });
    let again = move || forward(kernels, &gate_again.get()?, &up_again.get()?);
    Ok(tape.recomputable(out, again))
}

fn forward(kernels: &Kernels, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let out = Tensor::empty(gate.device(), gate.shape(), gate.dtype())?;
    launch(kernels.fwd, &[gate.view(), up.view(), out.view()], gate)?;
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

const FWD_BINDINGS: &[Binding] = &[
    Binding::read("gate", Kind::Float),
    Binding::read("up", Kind::Float),
    Binding::write("out", Kind::Float),
];

const BWD_BINDINGS: &[Binding] = &[
    Binding::read("dout", Kind::Float),
    Binding::read("gate", Kind::Float),
    Binding::read("up", Kind::Float),
    Binding::write("dgate", Kind::Float),
    Binding::write("dup", Kind::Float),
];

/// The forward kernel of an activation.
pub(super) const fn fwd<G: Gate>(name: &'static str, text: &'static KernelText) -> KernelSpec {
    KernelSpec {
        name,
        text,
        bindings: FWD_BINDINGS,
        constants: &[],
        block: [BLOCK as u32, 1, 1],
        requires: Requires::Portable,
        reference_f32: fwd_reference::<G, f32>,
        reference_f64: fwd_reference::<G, f64>,
        cpu: |call| with_element!(call.dtype(0), T => fwd_cpu::<G, T>(call)),
    }
}

/// The backward kernel of an activation.
pub(super) const fn bwd<G: Gate>(name: &'static str, text: &'static KernelText) -> KernelSpec {
    KernelSpec {
        name,
        text,
        bindings: BWD_BINDINGS,
        constants: &[],
        block: [BLOCK as u32, 1, 1],
        requires: Requires::Portable,
        reference_f32: bwd_reference::<G, f32>,
        reference_f64: bwd_reference::<G, f64>,
        cpu: |call| with_element!(call.dtype(0), T => bwd_cpu::<G, T>(call)),
    }
}

/// The same kernel, 16 bytes at a time.
pub(super) const fn wide(
    portable: &KernelSpec,
    name: &'static str,
    text: &'static KernelText,
) -> KernelSpec {
    KernelSpec { name, text, requires: wide_loads::REQUIRES, ..*portable }
}

fn logistic<F: Real>(x: F) -> F {
    F::ONE / (F::ONE + (-x).exp())
}

fn fwd_reference<G: Gate, F: Real>(call: &mut RefCall<F>) {
    let (gate, up, out) = (call.input(0), call.input(1), call.output(2));
    for i in 0..out.len() {
        out[i] = gate[i] * logistic(G::exponent(gate[i])) * up[i];
    }
}

/// dgate = dout * up * (gate s)', dup = dout * gate * s.
fn bwd_reference<G: Gate, F: Real>(call: &mut RefCall<F>) {
    let (dout, gate, up) = (call.input(0), call.input(1), call.input(2));
    let (dgate, dup) = (call.output(3), call.output(4));
    for i in 0..dgate.len() {
        let s = logistic(G::exponent(gate[i]));
        dgate[i] = G::derivative(dout[i] * up[i], gate[i], s);
        dup[i] = dout[i] * gate[i] * s;
    }
}

/// By the vectorized e^x.
#[inline(always)]
fn fast_logistic(x: f32) -> f32 {
    1.0 / (1.0 + vector::exp(-x))
}

fn fwd_cpu<G: Gate, T: Element>(call: &mut HostCall) {
    let (gate, up, out) = (call.input::<T>(0), call.input::<T>(1), call.output::<T>(2));
    let task = rows_per_task(1);
    out.par_chunks_mut(task).zip(gate.par_chunks(task)).zip(up.par_chunks(task)).for_each(
        |((out, gate), up)| {
            vectorized(
                #[inline(always)]
                || {
                    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                        let gate = gate.to_f32();
                        *out = T::from_f32(gate * fast_logistic(G::exponent(gate)) * up.to_f32());
                    }
                },
            )
        },
    );
}

fn bwd_cpu<G: Gate, T: Element>(call: &mut HostCall) {
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
                    let s = fast_logistic(G::exponent(gate));
                    *dgate = T::from_f32(G::derivative(dout * up, gate, s));
                    *dup = T::from_f32(dout * gate * s);
                }
            },
        )
    });
}
