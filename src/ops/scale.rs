//! Multiplication by a number: the scale of Gemma's embeddings.

use super::grad_target::GradTarget;
use super::host::{rows_per_task, words};
use super::simd::vectorized;
use crate::backend::KernelCall;
use crate::dtype::Element;
use crate::error::Result;
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::tape::Tape;
use crate::tensor::Tensor;
use crate::{kernel_text, with_element};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// `x` * `factor`, element by element; same shape and dtype out. The gradient is multiplied too, so that
/// nothing is kept.
pub fn scale(tape: &Tape, x: &Tensor, factor: f32) -> Result<Tensor> {
    let y = multiply(x, factor)?;
    let x_grad = GradTarget::of(x);
    Ok(tape.record("scale", &[x], y, move |dy| match &x_grad {
        Some(target) => target.add(multiply(dy, factor)?),
        None => Ok(()),
    }))
}

fn multiply(x: &Tensor, factor: f32) -> Result<Tensor> {
    let y = Tensor::empty(x.device(), x.shape(), x.dtype())?;
    KernelCall::new(&SCALE, &[x.view(), y.view()])
        .params(Params { count: x.len() as u32, factor })
        .launch(x.device(), grid_1d(words(x), BLOCK))?;
    Ok(y)
}

const BLOCK: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    count: u32,
    factor: f32,
}

static TEXT: KernelText = kernel_text!("scale");

pub(super) const KERNELS: &[&KernelSpec] = &[&SCALE];

static SCALE: KernelSpec = KernelSpec {
    name: "scale",
    text: &TEXT,
    bindings: &[Binding::read("x", Kind::Float), Binding::write("y", Kind::Float)],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference,
    reference_f64: reference,
    cpu: |call| with_element!(call.dtype(0), T => cpu::<T>(call)),
};

fn reference<F: Real>(call: &mut RefCall<F>) {
    let Params { factor, .. } = call.params();
    let (x, y) = (call.input(0), call.output(1));
    for i in 0..y.len() {
        y[i] = x[i] * F::from_f64(f64::from(factor));
    }
}

fn cpu<T: Element>(call: &mut HostCall) {
    let Params { factor, .. } = call.params();
    let (x, y) = (call.input::<T>(0), call.output::<T>(1));
    let task = rows_per_task(1);
    y.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(y, x)| {
        vectorized(
            #[inline(always)]
            || {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = T::from_f32(x.to_f32() * factor);
                }
            },
        )
    });
}
