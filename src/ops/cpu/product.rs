//! Large products: of operands of any float dtype and of NF4 weights, over all threads.
//!
//! Products with bf16 go to the processor's bf16 units where it has them ([`super::blocks`]). Else f32
//! goes through [`sgemm`] as it lies, and 16-bit operands are widened to f32 part by part, so that
//! scratch stays small whatever the size of the weights; NF4 weights are decoded in the same places. For up
//! to four rows of `a` (generation) the product is bound by reading `b`, and goes row by row through it.
//!
//! Work is cut by sizes alone, and [`sgemm`] cuts only M and N among threads: same bits at any number.

use super::matrix::{Elements, FEW_ROWS, Matrix, Scale};
use super::scratch::with_scratch;
use super::sgemm::{Threads, packed, sgemm};
use crate::dtype::{DType, Element};
use crate::ops::host::rows_per_task;
use crate::ops::vector::dot_wide;
use rayon::prelude::*;
use std::ops::Range;

/// Largest widened part of an operand, in elements: 4 MiB of f32.
const WIDENED: usize = 1 << 20;

/// out [M, N] = alpha · a [M, K] · b [K, N], plus what it held if the scale says so.
pub fn product<Out: Element>(
    sizes: [usize; 3],
    a: Matrix<Elements>,
    b: Matrix<Elements>,
    scale: Scale,
    out: &mut [Out],
) {
    let [m, n, k] = sizes;
    // A linear layer's weight [N, K], transposed.
    let is_weight = b.row_stride == 1 && b.column_stride >= k;
    let planes = [a, b].map(|operand| operand.elements.dtype().bf16_planes());
    if is_weight && m <= FEW_ROWS {
        few_rows(sizes, a, b, scale, out);
    } else if !on_bf16_unit(planes, sizes, a, b, scale, out) {
        widened_product([m, n], 0..k, a, b, scale, out);
    }
}

/// The product on a unit for bf16; false where no unit takes it.
#[cfg(target_arch = "x86_64")]
fn on_bf16_unit<Out: Element>(
    planes: [usize; 2],
    sizes: [usize; 3],
    a: Matrix<Elements>,
    b: Matrix<Elements>,
    scale: Scale,
    out: &mut [Out],
) -> bool {
    let unit = super::unit::Unit::of(planes).filter(|_| !sizes.contains(&0));
    if let Some(unit) = unit {
        super::blocks::product(unit, sizes, a, b, scale, out);
    }
    unit.is_some()
}

#[cfg(not(target_arch = "x86_64"))]
fn on_bf16_unit<Out: Element>(
    _: [usize; 2],
    _: [usize; 3],
    _: Matrix<Elements>,
    _: Matrix<Elements>,
    _: Scale,
    _: &mut [Out],
) -> bool {
    false
}

/// By f32 arithmetic: parts of M and N, so small that a widened part stays within [`WIDENED`] elements;
/// sums over the k of `k_range`.
pub fn widened_product<Out: Element>(
    [m, n]: [usize; 2],
    k_range: Range<usize>,
    a: Matrix<Elements>,
    b: Matrix<Elements>,
    scale: Scale,
    out: &mut [Out],
) {
    let k = k_range.len();
    let direct = Out::DTYPE == DType::F32;
    let Parts { m_part, n_part, scratch: [a_scratch, b_scratch, out_scratch] } =
        Parts::new([m, n, k], [a.is_f32(), b.is_f32(), direct]);
    // In one piece: three would each grow to the largest of all sizes.
    with_scratch(a_scratch + b_scratch + out_scratch, |scratch| {
        let (a_scratch, scratch) = scratch.split_at_mut(a_scratch);
        let (b_scratch, sums) = scratch.split_at_mut(b_scratch);
        for i in (0..m).step_by(m_part.max(1)) {
            let rows = i..(i + m_part).min(m);
            let a = a.part(rows.clone(), k_range.clone(), a_scratch);
            for j in (0..n).step_by(n_part.max(1)) {
                let columns = j..(j + n_part).min(n);
                let b = b.part(k_range.clone(), columns.clone(), b_scratch);
                let sizes = [rows.len(), columns.len(), k];
                let out = &mut out[rows.start * n + j..];
                if direct {
                    let out = Matrix::rows(bytemuck::cast_slice_mut(out), n);
                    sgemm(sizes, a, b, scale, out, Threads::All);
                } else {
                    let plain = Scale { alpha: 1.0, accumulate: false };
                    let width = columns.len();
                    sgemm(sizes, a, b, plain, Matrix::rows(&mut *sums, width), Threads::All);
                    store(sums, width, scale, out, n);
                }
            }
        }
    });
}

/// How a product by f32 arithmetic is cut.
struct Parts {
    m_part: usize,
    n_part: usize,
    /// Floats of scratch for the widened parts of A and B, and for sums.
    scratch: [usize; 3],
}

impl Parts {
    /// `is_f32`: whether A, B and the result are f32 as they lie.
    fn new([m, n, k]: [usize; 3], is_f32: [bool; 3]) -> Self {
        let fit = |limit: usize, other: usize| (limit / other.max(1)).next_multiple_of(64).max(64);
        let [a_is_f32, b_is_f32, direct] = is_f32;
        let m_part = if a_is_f32 && direct { m } else { fit(4 * WIDENED, k).min(m) };
        let mut n_part = if b_is_f32 { n } else { fit(WIDENED, k).min(n) };
        if !direct {
            n_part = n_part.min(fit(WIDENED, m_part));
        }
        let or = |none: bool, floats: usize| if none { 0 } else { floats };
        let scratch =
            [or(a_is_f32, m_part * k), or(b_is_f32, n_part * k), or(direct, m_part * n_part)];
        Self { m_part, n_part, scratch }
    }
}

/// Bytes that [`product`] takes besides its operands, for a plan: those that threads keep, and those that
/// are allocated each time. Of operands and a result of these dtypes, of which an NF4 weight is 4-bit.
pub fn product_scratch(
    sizes: [usize; 3],
    dtypes: [DType; 3],
    nf4: bool,
    is_weight: bool,
) -> [u64; 2] {
    let [m, n, k] = sizes;
    if sizes.contains(&0) {
        return [0; 2];
    }
    let floats = match unit_scratch(sizes, [dtypes[0], dtypes[1]].map(DType::bf16_planes)) {
        _ if is_weight && m <= FEW_ROWS => m * k + n * m,
        Some(floats) => floats,
        None => {
            let is_f32 = |index: usize| dtypes[index] == DType::F32 && !(nf4 && index == 1);
            let parts = Parts::new(sizes, [is_f32(0), is_f32(1), is_f32(2)]);
            let packed = packed([parts.m_part, parts.n_part, k]);
            return [4 * parts.scratch.iter().sum::<usize>() as u64, packed];
        }
    };
    [4 * floats as u64, 0]
}

#[cfg(target_arch = "x86_64")]
fn unit_scratch(sizes: [usize; 3], planes: [usize; 2]) -> Option<usize> {
    super::unit::Unit::of(planes).map(|_| super::blocks::scratch(sizes, planes))
}

#[cfg(not(target_arch = "x86_64"))]
fn unit_scratch(_: [usize; 3], _: [usize; 2]) -> Option<usize> {
    None
}

/// Writes f32 sums, `width` wide, into rows `stride` apart.
fn store<Out: Element>(sums: &[f32], width: usize, scale: Scale, out: &mut [Out], stride: usize) {
    out.par_chunks_mut(stride)
        .with_min_len(rows_per_task(width))
        .zip(sums.par_chunks(width))
        .for_each(|(out, sums)| {
            for (out, &sum) in out.iter_mut().zip(sums) {
                scale.apply(out, sum);
            }
        });
}

/// Dot products of each row of `w` (b's columns) with the rows of `x`.
fn few_rows<Out: Element>(
    [m, n, k]: [usize; 3],
    x: Matrix<Elements>,
    w: Matrix<Elements>,
    scale: Scale,
    out: &mut [Out],
) {
    with_scratch(m * k + n * m, |scratch| {
        let (x_scratch, sums) = scratch.split_at_mut(m * k);
        let x = x.part(0..m, 0..k, x_scratch).elements;
        match w.elements {
            Elements::F32(w) => {
                each_row(m, k, sums, |row, _, sums| dots(x, &w[row * k..][..k], sums));
            }
            Elements::BF16(w) => {
                each_row(m, k, sums, |row, _, sums| dots(x, &w[row * k..][..k], sums));
            }
            Elements::F16(w) => {
                each_row(m, k, sums, |row, _, sums| dots(x, &w[row * k..][..k], sums));
            }
            Elements::Nf4(w) => each_row(m, k, sums, |row, decoded, sums| {
                w.decode(row * k, decoded);
                dots(x, decoded, sums);
            }),
        }
        for (i, out) in out.chunks_exact_mut(n.max(1)).enumerate() {
            for (out, sums) in out.iter_mut().zip(sums.chunks_exact(m)) {
                scale.apply(out, sums[i]);
            }
        }
    });
}

/// Fills sums [N, M] by `work(row of w, scratch of K floats, its M sums)`, a few rows to a task.
fn each_row(
    m: usize,
    k: usize,
    sums: &mut [f32],
    work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let task = rows_per_task(k);
    sums.par_chunks_mut((task * m).max(1)).enumerate().for_each(|(number, sums)| {
        with_scratch(k, |scratch| {
            for (i, sums) in sums.chunks_exact_mut(m).enumerate() {
                work(number * task + i, scratch, sums);
            }
        });
    });
}

/// The products of one row of w [K] with the rows of `x` [M, K].
fn dots<W: Element>(x: &[f32], w: &[W], sums: &mut [f32]) {
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = dot_wide(&x[i * w.len()..][..w.len()], w);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919) as f32 * 0.37).sin()).collect()
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        for [m, n, k] in [[37, 65, 300], [512, 576, 1536], [3, 1000, 64], [130, 16, 2000]] {
            let (a, b) = (values(m * k), values(n * k));
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let mut out = vec![0.0f32; m * n];
                let a = Matrix::rows(Elements::F32(&a), k);
                let b = Matrix::rows(Elements::F32(&b), k).transposed();
                let scale = Scale { alpha: 0.5, accumulate: false };
                pool.expect("threads")
                    .install(|| widened_product([m, n], 0..k, a, b, scale, &mut out));
                out
            };
            let one = run(1);
            assert!(run(2) == one && run(3) == one, "{m} x {n} x {k}");
        }
    }
}
