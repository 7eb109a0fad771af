//! A matrix in host memory: any float dtype, any two strides.

use crate::dtype::{DType, Element};
use crate::kernels::HostCall;
use crate::ops::host::rows_per_task;
use crate::ops::nf4::Nf4View;
use half::{bf16, f16};
use rayon::prelude::*;
use std::ops::Range;

/// The elements of an operand.
#[derive(Clone, Copy)]
pub enum Elements<'a> {
    F32(&'a [f32]),
    BF16(&'a [bf16]),
    F16(&'a [f16]),
    Nf4(Nf4View<'a>),
}

impl<'a> Elements<'a> {
    /// Binding `index` of a call.
    pub fn of(call: &HostCall<'a>, index: usize) -> Self {
        match call.dtype(index) {
            DType::BF16 => Self::BF16(call.input(index)),
            DType::F16 => Self::F16(call.input(index)),
            _ => Self::F32(call.input(index)),
        }
    }
}

/// A matrix whose element (i, j) is at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    /// The elements.
    pub elements: Elements<'a>,
    /// From one row to the next.
    pub row_stride: usize,
    /// From one column to the next.
    pub column_stride: usize,
}

/// A block of f32, with its strides.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    /// The elements, from the block's first on.
    pub elements: &'a [f32],
    /// From one row to the next.
    pub row_stride: usize,
    /// From one column to the next.
    pub column_stride: usize,
}

impl<'a> Operand<'a> {
    /// Whether blocks need no conversion.
    pub fn is_f32(&self) -> bool {
        matches!(self.elements, Elements::F32(_))
    }

    /// A block in f32: the operand's own memory, or `scratch` (of at least its size) filled with it.
    pub fn block<'b>(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        scratch: &'b mut [f32],
    ) -> Block<'b>
    where
        'a: 'b,
    {
        let start = rows.start * self.row_stride + columns.start * self.column_stride;
        let by_rows = self.column_stride == 1;
        let (lines, width, stride) = match by_rows {
            true => (rows.len(), columns.len(), self.row_stride),
            false => (columns.len(), rows.len(), self.column_stride),
        };
        let elements = match self.elements {
            Elements::F32(elements) => {
                let (row_stride, column_stride) = (self.row_stride, self.column_stride);
                let start = start.min(elements.len());
                return Block { elements: &elements[start..], row_stride, column_stride };
            }
            Elements::BF16(elements) => fill(lines, width, scratch, |line, out| {
                convert(&elements[start + line * stride..], out);
            }),
            Elements::F16(elements) => fill(lines, width, scratch, |line, out| {
                convert(&elements[start + line * stride..], out);
            }),
            Elements::Nf4(weight) => fill(lines, width, scratch, |line, out| {
                weight.decode(start + line * stride, out);
            }),
        };
        let (row_stride, column_stride) = if by_rows { (width, 1) } else { (1, width) };
        Block { elements, row_stride, column_stride }
    }
}

/// Fills `scratch` with `lines` runs of `width` elements, each written by `write(line, run)`.
fn fill(
    lines: usize,
    width: usize,
    scratch: &mut [f32],
    write: impl Fn(usize, &mut [f32]) + Sync,
) -> &[f32] {
    let scratch = &mut scratch[..lines * width];
    if !scratch.is_empty() {
        let runs = scratch.par_chunks_exact_mut(width).with_min_len(rows_per_task(width));
        runs.enumerate().for_each(|(line, run)| write(line, run));
    }
    scratch
}

fn convert<T: Element>(elements: &[T], out: &mut [f32]) {
    for (out, element) in out.iter_mut().zip(elements) {
        *out = element.to_f32();
    }
}
