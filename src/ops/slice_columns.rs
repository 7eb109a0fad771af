//! Some columns of a matrix: queries, keys and values out of one product, or gate and up.

use super::grad_target::GradTarget;
use super::host::words;
use crate::backend::KernelCall;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::tape::Tape;
use crate::tensor::Tensor;
use crate::{kernel_text, with_element};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;
use std::ops::Range;

/// Columns `range` of `x` [T, N], as [T, range] of x's dtype. The gradient of the other columns is 0, and
/// `x` is not kept. In 16 bits the range begins and ends at even columns, as N does.
pub fn slice_columns(tape: &Tape, x: &Tensor, range: Range<usize>) -> Result<Tensor> {
    let columns = x.columns();
    let even = x.dtype() == DType::F32
        || [range.start, range.end, columns].iter().all(|column| column % 2 == 0);
    if range.start >= range.end || range.end > columns || !even {
        return Err(Error::internal("slice_columns", format!("{range:?} of {x:?}")));
    }
    let device = x.device();
    let y = Tensor::empty(device, &[x.rows(), range.len()], x.dtype())?;
    let params = Params {
        rows: x.rows() as u32,
        columns: columns as u32,
        first: range.start as u32,
        width: range.len() as u32,
        accumulate: 0,
    };
    KernelCall::new(&SLICE_COLUMNS_FWD, &[x.view(), y.view()])
        .params(params)
        .launch(device, grid_1d(words(&y), BLOCK))?;
    let x_grad = GradTarget::of(x);
    Ok(tape.record("slice_columns", &[x], y, move |dy| match &x_grad {
        Some(target) => target.write(|adds, dx| {
            KernelCall::new(&SLICE_COLUMNS_BWD, &[dy.view(), dx.view()])
                .params(Params { accumulate: u32::from(adds), ..params })
                .launch(dx.device(), grid_1d(words(dx), BLOCK))
        }),
        None => Ok(()),
    }))
}

const BLOCK: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    rows: u32,
    /// Of x.
    columns: u32,
    /// First column of the slice.
    first: u32,
    /// Columns of the slice.
    width: u32,
    /// Whether dx holds a gradient already.
    accumulate: u32,
}

static TEXT: KernelText = kernel_text!("slice_columns");

pub(super) const KERNELS: &[&KernelSpec] = &[&SLICE_COLUMNS_FWD, &SLICE_COLUMNS_BWD];

static SLICE_COLUMNS_FWD: KernelSpec = KernelSpec {
    name: "slice_columns_fwd",
    text: &TEXT,
    bindings: &[Binding::read("x", Kind::Float), Binding::write("y", Kind::Float)],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: fwd_reference,
    reference_f64: fwd_reference,
    cpu: |call| with_element!(call.dtype(0), T => fwd_cpu::<T>(call)),
};

static SLICE_COLUMNS_BWD: KernelSpec = KernelSpec {
    name: "slice_columns_bwd",
    text: &TEXT,
    bindings: &[Binding::read("dy", Kind::Float), Binding::update("dx", Kind::Float)],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: bwd_reference,
    reference_f64: bwd_reference,
    cpu: |call| with_element!(call.dtype(0), T => with_element!(call.dtype(1), D => bwd_cpu::<T, D>(call))),
};

fn fwd_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { rows, columns, first, width, .. } = call.params();
    let [rows, columns, first, width] = [rows, columns, first, width].map(|n| n as usize);
    let (x, y) = (call.input(0), call.output(1));
    for t in 0..rows {
        for c in 0..width {
            y[t * width + c] = x[t * columns + first + c];
        }
    }
}

fn bwd_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { rows, columns, first, width, accumulate } = call.params();
    let [rows, columns, first, width] = [rows, columns, first, width].map(|n| n as usize);
    let (dy, dx) = (call.input(0), call.output(1));
    for t in 0..rows {
        for c in 0..columns {
            let before = if accumulate == 0 { F::ZERO } else { dx[t * columns + c] };
            let inside = (first..first + width).contains(&c);
            let added = if inside { dy[t * width + c - first] } else { F::ZERO };
            dx[t * columns + c] = before + added;
        }
    }
}

fn fwd_cpu<T: Element>(call: &mut HostCall) {
    let Params { columns, first, width, .. } = call.params();
    let [columns, first, width] = [columns, first, width].map(|n| n as usize);
    let (x, y) = (call.input::<T>(0), call.output::<T>(1));
    y.par_chunks_mut(width).zip(x.par_chunks(columns)).for_each(|(y, x)| {
        y.copy_from_slice(&x[first..first + width]);
    });
}

fn bwd_cpu<T: Element, D: Element>(call: &mut HostCall) {
    let Params { columns, first, width, accumulate, .. } = call.params();
    let [columns, first, width] = [columns, first, width].map(|n| n as usize);
    let (dy, dx) = (call.input::<T>(0), call.output::<D>(1));
    dx.par_chunks_mut(columns).zip(dy.par_chunks(width)).for_each(|(dx, dy)| {
        if accumulate == 0 {
            dx.fill(D::from_f32(0.0));
        }
        for (dx, &dy) in dx[first..first + width].iter_mut().zip(dy) {
            *dx = D::from_f32(dx.to_f32() + dy.to_f32());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Device, reference::Reference};
    use crate::ops::add;
    use crate::tape::gradcheck;

    /// Slices that overlap and leave a column out, whose gradients meet in one tensor.
    #[test]
    fn backward_is_the_derivative() -> Result<()> {
        let device = Device::new(Reference::<f64>::new());
        let values: Vec<f32> = (0..18).map(|i| (i as f32 * 0.7).sin()).collect();
        let x = Tensor::from_f32(&device, &[3, 6], DType::F32, &values)?;
        gradcheck(&[x.with_grad("x", DType::F32)], |tape, inputs| {
            let first = slice_columns(tape, &inputs[0], 0..3)?;
            add(tape, &first, &slice_columns(tape, &inputs[0], 2..5)?)
        })
    }

    #[test]
    fn a_range_beyond_the_matrix_is_refused() -> Result<()> {
        let device = Device::new(Reference::<f64>::new());
        let x = Tensor::from_f32(&device, &[1, 4], DType::F32, &[0.0; 4])?;
        for range in [3..5, 2..2] {
            assert!(slice_columns(&Tape::inference(), &x, range).is_err());
        }
        Ok(())
    }
}
