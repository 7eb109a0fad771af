//! The one place that calls the crate `gemm-f32`: products of f32 matrices as they lie in memory.

use super::matrix::{Matrix, Scale};
use gemm_common::Parallelism;

/// Who works on a product.
#[derive(Clone, Copy)]
pub enum Threads {
    /// All of rayon's; they share M and N, so the bits are the same at any number.
    All,
    /// The caller's.
    One,
}

/// The tile that the crate's widest kernels compute; with narrower ones [`packed`] is a little off.
const TILE: [usize; 2] = [96, 4];

/// Bytes that [`sgemm`] holds while it works, for a plan: the crate copies a block of its right operand, as
/// large as the third-level cache at most, and each thread blocks of the left one.
pub fn packed([m, n, k]: [usize; 3]) -> u64 {
    // Computed transposed where the result lies by rows, as here it does.
    let sizes = gemm_common::cache::kernel_params(n, m, k, TILE[0], TILE[1], size_of::<f32>());
    let threads = rayon::current_num_threads();
    (size_of::<f32>() * sizes.kc * (sizes.nc + threads * sizes.mc)) as u64
}

/// out [M, N] (rows `out_stride` apart) = alpha · a [M, K] · b [K, N], plus what it held.
///
/// Panics: a matrix that its slice does not hold.
pub fn sgemm(
    [m, n, k]: [usize; 3],
    a: Matrix<&[f32]>,
    b: Matrix<&[f32]>,
    scale: Scale,
    out: Matrix<&mut [f32]>,
    threads: Threads,
) {
    assert!(a.reach(m, k) <= a.elements.len());
    assert!(b.reach(k, n) <= b.elements.len());
    assert!(out.reach(m, n) <= out.elements.len());
    let parallelism = match threads {
        Threads::All => Parallelism::Rayon(rayon::current_num_threads()),
        Threads::One => Parallelism::None,
    };
    // The crate's kernels write columns: where rows are contiguous, outᵀ = bᵀ aᵀ is computed.
    let is_by_rows = out.column_stride < out.row_stride;
    let ([m, n], a, b) =
        if is_by_rows { ([n, m], b.transposed(), a.transposed()) } else { ([m, n], a, b) };
    let out = if is_by_rows { out.transposed() } else { out };
    // SAFETY: the three assertions hold every element that sizes and strides reach inside its slice,
    // and `out` is borrowed exclusively.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            m,
            n,
            k,
            out.elements.as_mut_ptr(),
            out.column_stride as isize,
            out.row_stride as isize,
            scale.accumulate,
            a.elements.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.elements.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            scale.alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}
