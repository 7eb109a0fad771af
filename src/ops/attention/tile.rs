//! Small matrices of f32 on one thread: what the CPU's attention is made of.

use crate::dtype::{DType, Element};
use crate::ops::host::rows_per_task;
use crate::ops::matmul::{Block, Threads, sgemm, small_product};
use rayon::prelude::*;
use std::borrow::Cow;

/// All of `x` in f32: itself, or a widened copy.
pub fn widened<T: Element>(x: &[T]) -> Cow<'_, [f32]> {
    if T::DTYPE == DType::F32 {
        return Cow::Borrowed(bytemuck::cast_slice(x));
    }
    let mut copy = vec![0.0; x.len()];
    let task = rows_per_task(1);
    copy.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(copy, x)| {
        for (copy, x) in copy.iter_mut().zip(x) {
            *copy = x.to_f32();
        }
    });
    Cow::Owned(copy)
}

/// The bf16 numbers whose sum holds a `T`.
pub fn planes<T: Element>() -> usize {
    match T::DTYPE {
        DType::BF16 => 1,
        DType::F16 => 2,
        _ => 3,
    }
}

/// A matrix somewhere in a slice.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// The elements, the first one at 0.
    pub data: &'a [f32],
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub column_stride: usize,
    /// bf16 numbers whose sum an element is: what a product on a bf16 unit must look at.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86 has them"))]
    pub planes: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of contiguous elements, `row_stride` apart.
    pub fn rows(data: &'a [f32], row_stride: usize, planes: usize) -> Self {
        Self { data, row_stride, column_stride: 1, planes }
    }

    /// The same matrix with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self { row_stride: self.column_stride, column_stride: self.row_stride, ..self }
    }

    /// The same matrix as an operand of a product.
    fn block(self) -> Block<'a> {
        let Self { data: elements, row_stride, column_stride, .. } = self;
        Block { elements, row_stride, column_stride }
    }
}

/// Rows up to which reading `b` is all that counts, so that packing it would not pay.
const FEW_ROWS: usize = 4;

/// out [m, n] = a [m, k] · b [k, n], plus what was in `out` if `accumulate`. Single-threaded.
pub fn product([m, n, k]: [usize; 3], a: Matrix, b: Matrix, accumulate: bool, out: &mut [f32]) {
    let b_is_contiguous = b.row_stride == 1 || b.column_stride == 1;
    if m <= FEW_ROWS && a.column_stride == 1 && b_is_contiguous {
        return few_rows([m, n, k], a, b, accumulate, out);
    }
    if small_product([m, n, k], a, b, accumulate, out) {
        return;
    }
    sgemm([m, n, k], [a.block(), b.block()], 1.0, accumulate, out, n, Threads::One);
}

/// [`product`] row by row, along whichever direction of `b` is contiguous.
fn few_rows([m, n, k]: [usize; 3], a: Matrix, b: Matrix, accumulate: bool, out: &mut [f32]) {
    if !accumulate {
        out[..m * n].fill(0.0);
    }
    if b.row_stride == 1 {
        for column in 0..n {
            let b = &b.data[column * b.column_stride..][..k];
            for row in 0..m {
                out[row * n + column] += dot(&a.data[row * a.row_stride..][..k], b);
            }
        }
        return;
    }
    for inner in 0..k {
        for row in 0..m {
            let factor = a.data[row * a.row_stride + inner];
            let b = &b.data[inner * b.row_stride..][..n];
            for (out, b) in out[row * n..][..n].iter_mut().zip(b) {
                *out += factor * b;
            }
        }
    }
}

/// Dot product in 16 partial sums, which the compiler keeps in vector registers.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}
