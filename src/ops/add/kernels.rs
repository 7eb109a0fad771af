//! The kernels of addition. They know no tape: what brings gradients needs them too.

use crate::backend::KernelCall;
use crate::dtype::Element;
use crate::error::Result;
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::ops::binding_slices::in_slices;
use crate::ops::host::{rows_per_task, words};
use crate::ops::simd::vectorized;
use crate::tensor::Tensor;
use crate::{kernel_text, with_element};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// a + b, element by element, both of one shape and dtype.
pub(in crate::ops) fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let out = Tensor::empty(a.device(), a.shape(), a.dtype())?;
    in_slices([a, b, &out], |_, [a, b, out]| {
        KernelCall::new(&ADD, &[a.view(), b.view(), out.view()])
            .params(Params { count: a.len() as u32 })
            .launch(a.device(), grid_1d(words(out), BLOCK))
    })?;
    Ok(out)
}

/// y += x; the dtypes may differ.
pub(in crate::ops) fn add_into(y: &Tensor, x: &Tensor) -> Result<()> {
    in_slices([x, y], |_, [x, y]| {
        KernelCall::new(&ADD_INTO, &[x.view(), y.view()])
            .params(Params { count: y.len() as u32 })
            .launch(y.device(), grid_1d(words(y), BLOCK))
    })
}

const BLOCK: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    count: u32,
}

static TEXT: KernelText = kernel_text!("add");

pub(in crate::ops) const KERNELS: &[&KernelSpec] = &[&ADD, &ADD_INTO];

static ADD: KernelSpec = KernelSpec {
    name: "add",
    text: &TEXT,
    bindings: &[
        Binding::read("a", Kind::Float),
        Binding::read("b", Kind::Float),
        Binding::write("out", Kind::Float),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: add_reference,
    reference_f64: add_reference,
    cpu: |call| with_element!(call.dtype(0), T => add_cpu::<T>(call)),
};

static ADD_INTO: KernelSpec = KernelSpec {
    name: "add_into",
    text: &TEXT,
    bindings: &[Binding::read("x", Kind::Float), Binding::update("y", Kind::Float)],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: add_into_reference,
    reference_f64: add_into_reference,
    cpu: |call| with_element!(call.dtype(0), X => with_element!(call.dtype(1), Y => add_into_cpu::<X, Y>(call))),
};

fn add_reference<F: Real>(call: &mut RefCall<F>) {
    let (a, b, out) = (call.input(0), call.input(1), call.output(2));
    for i in 0..out.len() {
        out[i] = a[i] + b[i];
    }
}

fn add_into_reference<F: Real>(call: &mut RefCall<F>) {
    let (x, y) = (call.input(0), call.output(1));
    for i in 0..y.len() {
        y[i] += x[i];
    }
}

fn add_cpu<T: Element>(call: &mut HostCall) {
    let (a, b, out) = (call.input::<T>(0), call.input::<T>(1), call.output::<T>(2));
    let task = rows_per_task(1);
    out.par_chunks_mut(task).zip(a.par_chunks(task)).zip(b.par_chunks(task)).for_each(
        |((out, a), b)| {
            vectorized(
                #[inline(always)]
                || {
                    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                        *out = T::from_f32(a.to_f32() + b.to_f32());
                    }
                },
            )
        },
    );
}

fn add_into_cpu<X: Element, Y: Element>(call: &mut HostCall) {
    let (x, y) = (call.input::<X>(0), call.output::<Y>(1));
    let task = rows_per_task(1);
    y.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(y, x)| {
        vectorized(
            #[inline(always)]
            || {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = Y::from_f32(y.to_f32() + x.to_f32());
                }
            },
        )
    });
}
