//! Picking rows: only tokens that carry loss need logits, and the last one of a prompt that several
//! completions share is needed once for each.

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
    /// T.
    total: usize,
    went: Went,
}

/// Where the rows of the source went.
#[derive(Clone, Debug)]
enum Went {
    /// u32 [T]: the row of the result for each row of the source, or [`NONE`].
    Once(Tensor),
    /// Some rows to several places.
    Often {
        /// u32 [T + 1]: where the places of each row begin, and the end of the last one's.
        starts: Tensor,
        /// u32 [R]: the rows of the result, ascending for each row of the source.
        places: Tensor,
    },
}

impl RowSelection {
    /// Picks `rows`, each below `total`, in this order; a row may be picked several times.
    pub fn new(device: &Device, total: usize, rows: &[u32]) -> Result<Self> {
        let mut places = vec![Vec::new(); total];
        for (to, &from) in (0..).zip(rows) {
            match places.get_mut(from as usize) {
                Some(places) => places.push(to),
                None => {
                    let what = format!("row {from} of {total} is not there");
                    return Err(Error::internal("gather_rows", what));
                }
            }
        }
        let upload = |values: &[u32]| Tensor::from_u32(device, &[values.len()], values);
        let went = if places.iter().all(|places| places.len() <= 1) {
            let once = places.iter().map(|places| places.first().copied().unwrap_or(NONE));
            Went::Once(upload(&once.collect::<Vec<u32>>())?)
        } else {
            let mut starts = vec![0];
            starts.extend(places.iter().scan(0, |end, places| {
                *end += places.len() as u32;
                Some(*end)
            }));
            Went::Often { starts: upload(&starts)?, places: upload(&places.concat())? }
        };
        Ok(Self { rows: upload(rows)?, total, went })
    }

    /// Puts rows back where this one picks them: gathering by it gives [T, C], with zeros elsewhere.
    ///
    /// # Errors
    /// `Error::Internal` where a row is picked several times.
    pub fn reversed(self) -> Result<Self> {
        match self.went {
            Went::Once(places) => {
                let total = self.rows.len();
                Ok(Self { rows: places, total, went: Went::Once(self.rows) })
            }
            Went::Often { .. } => Err(Error::internal(
                "gather_rows",
                "rows that are picked several times go nowhere back",
            )),
        }
    }
}

/// The selected rows of `x` [T, C] in the selection's order: [R, C] of `x`'s dtype. The gradient of a row
/// goes back to where it came from, the sum of those of its places; the others get zero.
pub fn gather_rows(tape: &Tape, x: &Tensor, selection: &RowSelection) -> Result<Tensor> {
    let RowSelection { rows, total, went } = selection.clone();
    let even = x.dtype() == DType::F32 || x.columns().is_multiple_of(2);
    if x.shape().len() != 2 || x.dim(0) != total || !even {
        return Err(Error::internal("gather_rows", format!("rows of {total} selected from {x:?}")));
    }
    let y = gather(x, &rows)?;
    let x_grad = GradTarget::of(x);
    Ok(tape.record("gather_rows", &[x], y, move |dy| match &x_grad {
        Some(target) => target.add(match &went {
            Went::Once(places) => gather(dy, places)?,
            Went::Often { starts, places } => sum_places(dy, starts, places)?,
        }),
        None => Ok(()),
    }))
}

/// The sums of the rows of `dy` [R, C] at the places of each row of the source, [T, C].
fn sum_places(dy: &Tensor, starts: &Tensor, places: &Tensor) -> Result<Tensor> {
    let dx = Tensor::empty(dy.device(), &[starts.len() - 1, dy.columns()], dy.dtype())?;
    KernelCall::new(&SUM_ROWS, &[dy.view(), starts.view(), places.view(), dx.view()])
        .params(Params { rows: dx.dim(0) as u32, columns: dx.columns() as u32 })
        .launch(dy.device(), grid_1d(words(&dx), BLOCK))?;
    Ok(dx)
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

pub(super) const KERNELS: &[&KernelSpec] = &[&GATHER_ROWS, &SUM_ROWS];

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

static SUM_ROWS: KernelSpec = KernelSpec {
    name: "gather_rows_bwd",
    text: &TEXT,
    bindings: &[
        Binding::read("dy", Kind::Float),
        Binding::read("starts", Kind::U32),
        Binding::read("places", Kind::U32),
        Binding::write("dx", Kind::Float),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: sum_reference,
    reference_f64: sum_reference,
    cpu: |call| with_element!(call.dtype(0), T => sum_cpu::<T>(call)),
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

fn sum_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { rows, columns } = call.params();
    let columns = columns as usize;
    let (dy, starts, places) = (call.input(0), call.input_u32(1), call.input_u32(2));
    let dx = call.output(3);
    for row in 0..rows as usize {
        for c in 0..columns {
            let places = &places[starts[row] as usize..starts[row + 1] as usize];
            dx[row * columns + c] =
                places.iter().map(|&place| dy[place as usize * columns + c]).sum();
        }
    }
}

fn sum_cpu<T: Element>(call: &mut HostCall) {
    let columns = call.params::<Params>().columns as usize;
    let (dy, starts, places) = (call.input::<T>(0), call.input::<u32>(1), call.input::<u32>(2));
    let dx = call.output::<T>(3);
    let task = rows_per_task(columns);
    dx.par_chunks_mut(task * columns).enumerate().for_each(|(chunk, dx)| {
        let mut sums = vec![0.0f32; columns];
        for (row, dx) in (chunk * task..).zip(dx.chunks_exact_mut(columns)) {
            sums.fill(0.0);
            for &place in &places[starts[row] as usize..starts[row + 1] as usize] {
                let dy = &dy[place as usize * columns..][..columns];
                sums.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy.to_f32());
            }
            dx.iter_mut().zip(&sums).for_each(|(dx, &sum)| *dx = T::from_f32(sum));
        }
    });
}
