//! Filling with one value.

use super::binding_slices::in_slices;
use super::host::words;
use crate::backend::{Device, KernelCall};
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::tensor::Tensor;
use crate::{kernel_text, with_element};
use bytemuck::{Pod, Zeroable};

/// A tensor of zeros.
pub fn zeros(device: &Device, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let tensor = Tensor::empty(device, shape, dtype)?;
    fill(&tensor, 0.0)?;
    Ok(tensor)
}

/// Overwrites every element of a float tensor with `value`.
pub fn fill(tensor: &Tensor, value: f32) -> Result<()> {
    in_slices([tensor], |_, [part]| {
        KernelCall::new(&FILL, &[part.view()])
            .params(Params { count: part.len() as u32, value })
            .launch(part.device(), grid_1d(words(part), BLOCK))
    })
}

const BLOCK: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    count: u32,
    value: f32,
}

static TEXT: KernelText = kernel_text!("fill");

pub(super) const KERNELS: &[&KernelSpec] = &[&FILL];

static FILL: KernelSpec = KernelSpec {
    name: "fill",
    text: &TEXT,
    bindings: &[Binding::write("out", Kind::Float)],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference,
    reference_f64: reference,
    cpu: |call| with_element!(call.dtype(0), T => cpu::<T>(call)),
};

fn reference<F: Real>(call: &mut RefCall<F>) {
    let Params { value, .. } = call.params();
    call.output(0).fill(F::from_f64(f64::from(value)));
}

fn cpu<T: Element>(call: &mut HostCall) {
    let Params { value, .. } = call.params();
    call.output::<T>(0).fill(T::from_f32(value));
}
