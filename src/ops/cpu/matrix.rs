//! Matrices in host memory, of any float dtype and any two strides, and what becomes of a sum.

use crate::dtype::{DType, Element};
use crate::kernels::HostCall;
use crate::ops::host::rows_per_task;
use crate::quant::Nf4View;
use half::{bf16, f16};
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// Rows of the left operand of a product up to which reading the right one is all that counts.
pub const FEW_ROWS: usize = 4;

/// A matrix whose element (i, j) is at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
pub struct Matrix<E> {
    /// The elements, the first one at 0.
    pub elements: E,
    /// From one row to the next.
    pub row_stride: usize,
    /// From one column to the next.
    pub column_stride: usize,
}

impl<E> Matrix<E> {
    /// Rows of contiguous elements, `row_stride` apart.
    pub fn rows(elements: E, row_stride: usize) -> Self {
        Self { elements, row_stride, column_stride: 1 }
    }

    /// The same matrix with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self { row_stride: self.column_stride, column_stride: self.row_stride, ..self }
    }

    /// Elements that a matrix of this size reaches over.
    pub fn reach(&self, rows: usize, columns: usize) -> usize {
        match rows.min(columns) {
            0 => 0,
            _ => (rows - 1) * self.row_stride + (columns - 1) * self.column_stride + 1,
        }
    }

    /// Whether the elements of a row or of a column lie without gaps.
    pub fn is_contiguous(&self) -> bool {
        self.row_stride == 1 || self.column_stride == 1
    }
}

/// Elements of any dtype.
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

    /// Their dtype; of NF4 the one that it decodes to.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::BF16(_) => DType::BF16,
            Self::F16(_) => DType::F16,
            Self::Nf4(weight) => weight.dtype,
        }
    }
}

impl<'a> Matrix<Elements<'a>> {
    /// Whether parts of it need no conversion.
    pub fn is_f32(&self) -> bool {
        matches!(self.elements, Elements::F32(_))
    }

    /// A part of it in f32: its own memory, or `scratch` (of at least the part's size) filled with it.
    pub fn part<'b>(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        scratch: &'b mut [f32],
    ) -> Matrix<&'b [f32]>
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
                return Matrix { elements: &elements[start..], row_stride, column_stride };
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
        let part = Matrix::rows(elements, width);
        if by_rows { part } else { part.transposed() }
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

/// All of `x` in f32: itself, or a widened copy.
pub fn widened<T: Element>(x: &[T]) -> Cow<'_, [f32]> {
    if T::DTYPE == DType::F32 {
        return Cow::Borrowed(bytemuck::cast_slice(x));
    }
    let mut copy = vec![0.0; x.len()];
    let task = rows_per_task(1);
    copy.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(copy, x)| convert(x, copy));
    Cow::Owned(copy)
}

/// What happens to a finished sum: out = alpha · sum, plus what was there if `accumulate`.
#[derive(Clone, Copy)]
pub struct Scale {
    /// Factor of the sum.
    pub alpha: f32,
    /// Whether to add.
    pub accumulate: bool,
}

impl Scale {
    /// Writes one element.
    #[inline(always)]
    pub fn apply<T: Element>(self, out: &mut T, sum: f32) {
        let earlier = if self.accumulate { out.to_f32() } else { 0.0 };
        *out = T::from_f32(earlier + self.alpha * sum);
    }
}
