//! Token embedding: out[t] = weight[ids[t]], and its gradient, a sum per token id in token order.

use super::fill::fill;
use super::grad_target::GradTarget;
use super::host::rows_per_task;
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

/// Rows `ids` of `weight` [V, C], as [T, C] in the weight's dtype.
///
/// # Errors
/// `Error::Input` for an id that the vocabulary does not have.
pub fn embedding(tape: &Tape, weight: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (vocab, columns) = (weight.dim(0), weight.dim(1));
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        return Err(Error::input(format!("token id {id}, but the vocabulary has {vocab} tokens")));
    }
    if weight.dtype() != DType::F32 && columns % 2 != 0 {
        return Err(Error::internal("embedding", format!("odd rows of {weight:?}")));
    }
    let device = weight.device();
    let out = Tensor::empty(device, &[ids.len(), columns], weight.dtype())?;
    let ids_tensor = Tensor::from_u32(device, &[ids.len()], ids)?;
    // A table larger than one binding is looked up slab by slab, each filling in its own rows.
    let slab = slab_rows(weight);
    for first in (0..vocab).step_by(slab) {
        let rows = slab.min(vocab - first);
        let params = params(first, rows, columns, ids.len());
        let words = columns * weight.dtype().size() / 4;
        KernelCall::new(
            &EMBEDDING_FWD,
            &[weight.narrow(first, rows)?.view(), ids_tensor.view(), out.view()],
        )
        .params(params)
        .launch(device, grid_1d(ids.len() * words, BLOCK))?;
    }

    let (weight_grad, ids) = (GradTarget::of(weight), ids.to_vec());
    Ok(tape.record("embedding", &[weight], out, move |dout| match &weight_grad {
        Some(target) => target.write(|adds, dw| {
            if !adds {
                fill(dw, 0.0)?;
            }
            backward(dout, &ids, dw)
        }),
        None => Ok(()),
    }))
}

/// Adds dout's rows to the rows of their ids in `dw` [V, C]. The tokens of each id are listed together, in
/// token order, so that every gradient row has one owner and one order of summation.
fn backward(dout: &Tensor, ids: &[u32], dw: &Tensor) -> Result<()> {
    let (device, vocab, columns) = (dw.device(), dw.dim(0), dw.dim(1));
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.sort_by_key(|&t| ids[t as usize]);
    let mut unique = Vec::new();
    let mut starts = Vec::new();
    for (position, &t) in order.iter().enumerate() {
        if unique.last() != Some(&ids[t as usize]) {
            unique.push(ids[t as usize]);
            starts.push(position as u32);
        }
    }
    starts.push(ids.len() as u32);

    let order = Tensor::from_u32(device, &[order.len()], &order)?;
    let slab = slab_rows(dw);
    for first in (0..vocab).step_by(slab) {
        let rows = slab.min(vocab - first);
        let in_slab = |id: u32| (first..first + rows).contains(&(id as usize));
        let from = unique.partition_point(|&id| (id as usize) < first);
        let count = unique[from..].iter().filter(|&&id| in_slab(id)).count();
        if count == 0 {
            continue;
        }
        let unique = Tensor::from_u32(device, &[count], &unique[from..from + count])?;
        let starts = Tensor::from_u32(device, &[count + 1], &starts[from..=from + count])?;
        let params = params(first, count, columns, ids.len());
        KernelCall::new(
            &EMBEDDING_BWD,
            &[
                dout.view(),
                order.view(),
                starts.view(),
                unique.view(),
                dw.narrow(first, rows)?.view(),
            ],
        )
        .params(params)
        .launch(device, grid_1d(count * columns, BLOCK))?;
    }
    Ok(())
}

/// Rows of `table` that fit one binding, a multiple of 128 so that slabs begin at aligned bytes.
fn slab_rows(table: &Tensor) -> usize {
    let fitting = table.device().capabilities().max_binding_bytes
        / (table.columns() * table.dtype().size()).max(1);
    (fitting / 128 * 128).max(128)
}

const BLOCK: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    /// First table row of the slab.
    first: u32,
    /// Forward: rows of the slab. Backward: ids listed.
    rows: u32,
    columns: u32,
    /// Length of ids.
    tokens: u32,
}

fn params(first: usize, rows: usize, columns: usize, tokens: usize) -> Params {
    let [first, rows, columns, tokens] = [first, rows, columns, tokens].map(|n| n as u32);
    Params { first, rows, columns, tokens }
}

static TEXT: KernelText = kernel_text!("embedding");

pub(super) const KERNELS: &[&KernelSpec] = &[&EMBEDDING_FWD, &EMBEDDING_BWD];

static EMBEDDING_FWD: KernelSpec = KernelSpec {
    name: "embedding_fwd",
    text: &TEXT,
    bindings: &[
        Binding::read("weight", Kind::Float),
        Binding::read("ids", Kind::U32),
        Binding::update("out", Kind::Float),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: fwd_reference,
    reference_f64: fwd_reference,
    cpu: |call| with_element!(call.dtype(0), T => fwd_cpu::<T>(call)),
};

static EMBEDDING_BWD: KernelSpec = KernelSpec {
    name: "embedding_bwd",
    text: &TEXT,
    bindings: &[
        Binding::read("dout", Kind::Float),
        Binding::read("order", Kind::U32),
        Binding::read("starts", Kind::U32),
        Binding::read("unique_ids", Kind::U32),
        Binding::update("dw", Kind::F32),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: bwd_reference,
    reference_f64: bwd_reference,
    cpu: |call| with_element!(call.dtype(0), T => bwd_cpu::<T>(call)),
};

fn fwd_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { first, rows, columns, .. } = call.params();
    let columns = columns as usize;
    let (weight, ids, out) = (call.input(0), call.input_u32(1), call.output(2));
    for (t, &id) in ids.iter().enumerate() {
        if (first..first + rows).contains(&id) {
            for c in 0..columns {
                out[t * columns + c] = weight[(id - first) as usize * columns + c];
            }
        }
    }
}

fn bwd_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { first, rows, columns, .. } = call.params();
    let columns = columns as usize;
    let (dout, order, starts) = (call.input(0), call.input_u32(1), call.input_u32(2));
    let (unique_ids, dw) = (call.input_u32(3), call.output(4));
    for u in 0..rows as usize {
        let row = (unique_ids[u] - first) as usize;
        for &t in &order[starts[u] as usize..starts[u + 1] as usize] {
            for c in 0..columns {
                dw[row * columns + c] += dout[t as usize * columns + c];
            }
        }
    }
}

fn fwd_cpu<T: Element>(call: &mut HostCall) {
    let Params { first, rows, columns, .. } = call.params();
    let columns = columns as usize;
    let (weight, ids, out) = (call.input::<T>(0), call.input::<u32>(1), call.output::<T>(2));
    let task = rows_per_task(columns);
    out.par_chunks_mut(task * columns).zip(ids.par_chunks(task)).for_each(|(out, ids)| {
        for (out, &id) in out.chunks_exact_mut(columns).zip(ids) {
            if (first..first + rows).contains(&id) {
                out.copy_from_slice(&weight[(id - first) as usize * columns..][..columns]);
            }
        }
    });
}

fn bwd_cpu<T: Element>(call: &mut HostCall) {
    let Params { first, columns, .. } = call.params();
    let columns = columns as usize;
    let (dout, order, starts) = (call.input::<T>(0), call.input::<u32>(1), call.input::<u32>(2));
    let (unique_ids, dw) = (call.input::<u32>(3), call.output::<f32>(4));
    for (u, &id) in unique_ids.iter().enumerate() {
        let row = &mut dw[(id - first) as usize * columns..][..columns];
        for &t in &order[starts[u] as usize..starts[u + 1] as usize] {
            for (dw, &dout) in row.iter_mut().zip(&dout[t as usize * columns..][..columns]) {
                *dw += dout.to_f32();
            }
        }
    }
}
