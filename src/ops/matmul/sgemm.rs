//! The one place that calls the crate `gemm`: products of f32 matrices as they lie in memory.

use super::operand::Block;
use gemm::Parallelism;

/// Who computes a product.
#[derive(Clone, Copy)]
pub enum Threads {
    /// The calling thread.
    One,
    /// The threads of the pool. They share M and N alone, so the bits are the same at any number.
    All,
}

/// out [M, N] (rows `out_stride` apart) = alpha · a [M, K] · b [K, N], plus what it held if `accumulate`.
pub fn sgemm(
    [m, n, k]: [usize; 3],
    [a, b]: [Block; 2],
    alpha: f32,
    accumulate: bool,
    out: &mut [f32],
    out_stride: usize,
    threads: Threads,
) {
    let end = |rows: usize, columns: usize, row_stride: usize, column_stride: usize| match rows
        .min(columns)
    {
        0 => 0,
        _ => (rows - 1) * row_stride + (columns - 1) * column_stride + 1,
    };
    assert!(end(m, k, a.row_stride, a.column_stride) <= a.elements.len());
    assert!(end(k, n, b.row_stride, b.column_stride) <= b.elements.len());
    assert!(end(m, n, out_stride, 1) <= out.len());
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(rayon::current_num_threads()),
    };
    // SAFETY: the three assertions hold every element that sizes and strides reach inside its slice,
    // and `out` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            accumulate,
            a.elements.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.elements.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}
