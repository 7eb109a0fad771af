//! Picking rows: only tokens that carry loss need logits.

use super::grad_target::GradTarget;
use super::host::{rows_per_task, words};
use crate::backend::{Device, KernelCall};
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

/// Marks a row of the result that comes from nowhere and is zero.
const NONE: u32 = u32::MAX;

/// Which rows of a [T, C] tensor are picked, and where each row went.
#[derive(Clone, Debug)]
pub struct RowSelection {
    /// u32 [R]: the row of the source for each row of the result.
    rows: Tensor,
    /// u32 [T]: the row of the result for each row of the source, or [`NONE`].
    inverse: Tensor,
}

impl RowSelection {
    /// Picks `rows`, each below `total` and none twice.
    pub fn new(device: &Device, total: usize, rows: &[u32]) -> Result<Self> {
        let mut inverse = vec![NONE; total];
        for (to, &from) in rows.iter().enumerate() {
            match inverse.get_mut(from as usize) {
                Some(place) if *place == NONE => *place = to as u32,
                _ => {
                    let what = format!("row {from} of {total} is twice there or not at all");
                    return Err(Error::internal("gather_rows", what));
                }
            }
        }
        Ok(Self {
            rows: Tensor::from_u32(device, &[rows.len()], rows)?,
            inverse: Tensor::from_u32(device, &[total], &inverse)?,
        })
    }
}

/// The selected rows of `x` [T, C] in the selection's order: [R, C] of `x`'s dtype. The gradient of a row
/// goes back to where it came from; the others get zero.
pub fn gather_rows(tape: &Tape, x: &Tensor, selection: &RowSelection) -> Result<Tensor> {
    let RowSelection { rows, inverse } = selection.clone();
    let even = x.dtype() == DType::F32 || x.columns().is_multiple_of(2);
    if x.shape().len() != 2 || x.dim(0) != inverse.len() || !even {
        return Err(Error::internal("gather_rows", format!("{inverse:?} selects from {x:?}")));
    }
    let y = gather(x, &rows)?;
    let x_grad = GradTarget::of(x);
    Ok(tape.record("gather_rows", &[x], y, move |dy| match &x_grad {
        Some(target) => target.add(gather(dy, &inverse)?),
        None => Ok(()),
    }))
}

fn gather(x: &Tensor, index: &Tensor) -> Result<Tensor> {
    let y = Tensor::empty(x.device(), &[index.len(), x.columns()], x.dtype())?;
    KernelCall::new(&GATHER_ROWS, &[x.view(), index.view(), y.view()])
        .params(Params { rows: index.len() as u32, columns: x.columns() as u32 })
        .launch(x.device(), grid_1d(words(&y), BLOCK))?;
    Ok(y)
}

const BLOCK: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    rows: u32,
    columns: u32,
}

static TEXT: KernelText = kernel_text!("gather_rows");

pub(super) const KERNELS: &[&KernelSpec] = &[&GATHER_ROWS];

static GATHER_ROWS: KernelSpec = KernelSpec {
    name: "gather_rows",
    text: &TEXT,
    bindings: &[
        Binding::read("x", Kind::Float),
        Binding::read("index", Kind::U32),
        Binding::write("y", Kind::Float),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: gather_reference,
    reference_f64: gather_reference,
    cpu: |call| with_element!(call.dtype(0), T => gather_cpu::<T>(call)),
};

fn gather_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { rows, columns } = call.params();
    let columns = columns as usize;
    let (x, index, y) = (call.input(0), call.input_u32(1), call.output(2));
    for row in 0..rows as usize {
        for c in 0..columns {
            let from = index[row];
            y[row * columns + c] =
                if from == NONE { F::ZERO } else { x[from as usize * columns + c] };
        }
    }
}

fn gather_cpu<T: Element>(call: &mut HostCall) {
    let columns = call.params::<Params>().columns as usize;
    let (x, index, y) = (call.input::<T>(0), call.input::<u32>(1), call.output::<T>(2));
    let task = rows_per_task(columns);
    y.par_chunks_mut(task * columns).zip(index.par_chunks(task)).for_each(|(y, index)| {
        for (y, &from) in y.chunks_exact_mut(columns).zip(index) {
            match from {
                NONE => y.fill(T::from_f32(0.0)),
                from => y.copy_from_slice(&x[from as usize * columns..][..columns]),
            }
        }
    });
}
