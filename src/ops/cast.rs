//! Conversion between float dtypes: f32 master weights to the model's dtype, logits to f32.

use super::grad_target::GradTarget;
use super::host::{rows_per_task, words};
use super::simd::vectorized;
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

/// `x` in another float dtype, rounded to nearest even; `x` itself where it is of that dtype already.
/// The gradient is converted back.
pub fn cast(tape: &Tape, x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    let y = Tensor::empty(x.device(), x.shape(), dtype)?;
    cast_into(x, &y)?;
    let x_grad = GradTarget::of(x);
    Ok(tape.record("cast", &[x], y, move |dy| match &x_grad {
        Some(target) => target.add(cast(&Tape::inference(), &dy.detach(), target.dtype())?),
        None => Ok(()),
    }))
}

/// Overwrites `y` with the elements of `x` in y's dtype.
pub(crate) fn cast_into(x: &Tensor, y: &Tensor) -> Result<()> {
    KernelCall::new(&CAST, &[x.view(), y.view()])
        .params(Params { count: x.len() as u32 })
        .launch(x.device(), grid_1d(words(y), BLOCK))
}

const BLOCK: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    count: u32,
}

static TEXT: KernelText = kernel_text!("cast");

pub(super) const KERNELS: &[&KernelSpec] = &[&CAST];

static CAST: KernelSpec = KernelSpec {
    // `cast` is a reserved word of WGSL.
    name: "convert",
    text: &TEXT,
    bindings: &[Binding::read("x", Kind::Float), Binding::write("y", Kind::Float)],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference,
    reference_f64: reference,
    cpu: |call| with_element!(call.dtype(0), X => with_element!(call.dtype(1), Y => cpu::<X, Y>(call))),
};

fn reference<F: Real>(call: &mut RefCall<F>) {
    call.output(1).copy_from_slice(call.input(0));
}

fn cpu<X: Element, Y: Element>(call: &mut HostCall) {
    let (x, y) = (call.input::<X>(0), call.output::<Y>(1));
    let task = rows_per_task(1);
    y.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(y, x)| {
        vectorized(
            #[inline(always)]
            || {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = Y::from_f32(x.to_f32());
                }
            },
        )
    });
}
