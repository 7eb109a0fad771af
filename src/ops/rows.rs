//! Copying rows between tensors: into a KV cache, and out of the last hidden states.

use super::host::words;
use crate::backend::KernelCall;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel_text;
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

/// Overwrites the entries of `target` from `start` on (outermost dimension) with those of `source`;
/// both of one dtype and entry shape. For data without gradient.
pub fn write_rows(source: &Tensor, target: &Tensor, start: usize) -> Result<()> {
    let row: usize = target.shape()[1..].iter().product();
    if source.shape()[1..] != target.shape()[1..] || start + source.dim(0) > target.dim(0) {
        return Err(Error::internal("write_rows", format!("{source:?} to {start} of {target:?}")));
    }
    copy(source, 0, target, start * row, source.len())
}

/// Row `index` of `x` [T, C], as [1, C]. For data without gradient.
pub fn take_row(x: &Tensor, index: usize) -> Result<Tensor> {
    let out = Tensor::empty(x.device(), &[1, x.columns()], x.dtype())?;
    copy(x, index * x.columns(), &out, 0, x.columns())?;
    Ok(out)
}

/// Copies `count` elements, at element offsets that need no alignment but to whole words.
fn copy(source: &Tensor, from: usize, target: &Tensor, to: usize, count: usize) -> Result<()> {
    let per_word = if source.dtype() == DType::F32 { 1 } else { 2 };
    if source.dtype() != target.dtype() || [from, to, count].iter().any(|n| n % per_word != 0) {
        let what = format!("{count} elements from {from} of {source:?} to {to} of {target:?}");
        return Err(Error::internal("copy_rows", what));
    }
    let [from, to, count] = [from, to, count].map(|n| n as u32);
    KernelCall::new(&COPY_ROWS, &[source.view(), target.view()])
        .params(Params { first: from, to, count })
        .launch(source.device(), grid_1d(words(source).min(count as usize), BLOCK))
}

const BLOCK: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    /// First element of the source.
    first: u32,
    /// First element of the target.
    to: u32,
    count: u32,
}

static TEXT: KernelText = kernel_text!("rows");

pub(super) const KERNELS: &[&KernelSpec] = &[&COPY_ROWS];

static COPY_ROWS: KernelSpec = KernelSpec {
    name: "copy_rows",
    text: &TEXT,
    bindings: &[Binding::read("source", Kind::Float), Binding::update("target_rows", Kind::Float)],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference,
    reference_f64: reference,
    cpu,
};

fn reference<F: Real>(call: &mut RefCall<F>) {
    let Params { first: from, to, count } = call.params();
    let (source, target) = (call.input(0), call.output(1));
    for i in 0..count as usize {
        target[to as usize + i] = source[from as usize + i];
    }
}

fn cpu(call: &mut HostCall) {
    let Params { first: from, to, count } = call.params();
    let size = call.dtype(0).size();
    let [from, to, count] = [from, to, count].map(|n| n as usize * size);
    let (source, target) = (call.input::<u8>(0), call.output::<u8>(1));
    target[to..to + count].copy_from_slice(&source[from..from + count]);
}
