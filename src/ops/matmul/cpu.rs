//! The product on the CPU.
//!
//! Products with bf16 go to the processor's bf16 units where it has them ([`super::blocks`]). Else f32
//! goes through [`sgemm`] as it lies, and 16-bit operands are widened to f32 block by block, so that
//! scratch stays small whatever the size of the weights; NF4 weights are decoded in the same places. For up
//! to four rows of `x` (generation) the product is bound by reading `w`, and goes row by row through it.
//!
//! Work is cut by sizes alone, and [`sgemm`] cuts only M and N among threads: same bits at any number.

use super::operand::{Elements, Operand};
use super::scratch::with_scratch;
use super::sgemm::{Threads, sgemm};
use super::{Layout, Params, SplitParams};
use crate::dtype::{DType, Element};
use crate::kernels::HostCall;
#[cfg(not(target_arch = "x86_64"))]
use crate::ops::attention::tile::Matrix;
use crate::ops::host::rows_per_task;
use crate::ops::nf4::Nf4View;
use crate::with_element;
use rayon::prelude::*;
use std::ops::Range;

/// Largest block of a widened operand, in elements: 4 MiB of f32.
const WIDENED: usize = 1 << 20;
/// Up to so many rows of `x`, reading `w` once is all that counts.
const FEW_ROWS: usize = 4;

/// The `cpu` function of the rungs that do not split K.
pub fn matmul(call: &mut HostCall) {
    let Params { m, n, k, alpha } = call.params();
    let sizes = [m, n, k].map(|size| size as usize);
    let (a, b) = operands(call, sizes);
    run(call, sizes, &a, &b, alpha, 2);
}

/// The `cpu` function of the rungs that may split K. Ops do not ask for that here: it serves GPUs.
pub fn matmul_split(call: &mut HostCall) {
    let SplitParams { product: Params { m, n, k, alpha }, depth } = call.params();
    let sizes @ [m, n, k] = [m, n, k].map(|size| size as usize);
    let depth = depth as usize;
    let (a, b) = operands(call, sizes);
    if depth >= k {
        return run(call, sizes, &a, &b, alpha, 2);
    }
    let scale = Scale { alpha, accumulate: call.constant("ACCUMULATE") == 1 };
    with_element!(call.dtype(2), Out => {
        let splits = call.output::<Out>(2).chunks_exact_mut((m * n).max(1));
        for (k_first, out) in (0..k).step_by(depth).zip(splits) {
            product([m, n], k_first..(k_first + depth).min(k), &a, &b, scale, out);
        }
    });
}

/// A [M, K] and B [K, N] as they lie in memory.
fn operands<'a>(call: &HostCall<'a>, [m, n, k]: [usize; 3]) -> (Operand<'a>, Operand<'a>) {
    let layout = call.constant("LAYOUT");
    let (a, b) = (Elements::of(call, 0), Elements::of(call, 1));
    let (a_strides, b_strides) = match layout {
        _ if layout == Layout::NT as u32 => ((k, 1), (1, k)),
        _ if layout == Layout::NN as u32 => ((k, 1), (n, 1)),
        _ => ((1, m), (n, 1)),
    };
    (
        Operand { elements: a, row_stride: a_strides.0, column_stride: a_strides.1 },
        Operand { elements: b, row_stride: b_strides.0, column_stride: b_strides.1 },
    )
}

/// The product with an NF4 weight, for the ops that decode one: `a` is binding 0, `out` binding `out`.
pub fn nf4(call: &mut HostCall, [m, n, k]: [usize; 3], weight: Nf4View, out: usize) {
    let a = Operand { elements: Elements::of(call, 0), row_stride: k, column_stride: 1 };
    let transposed = call.constant("LAYOUT") == Layout::NT as u32;
    let (row_stride, column_stride) = if transposed { (1, k) } else { (n, 1) };
    let b = Operand { elements: Elements::Nf4(weight), row_stride, column_stride };
    run(call, [m, n, k], &a, &b, 1.0, out);
}

fn run(
    call: &mut HostCall,
    [m, n, k]: [usize; 3],
    a: &Operand,
    b: &Operand,
    alpha: f32,
    out: usize,
) {
    let scale = Scale { alpha, accumulate: call.constant("ACCUMULATE") == 1 };
    let rows_of_w = call.constant("LAYOUT") == Layout::NT as u32;
    with_element!(call.dtype(out), Out => {
        let out = call.output::<Out>(out);
        if rows_of_w && m <= FEW_ROWS {
            few_rows([m, n, k], a, b, scale, out);
        } else if !on_bf16_unit([m, n, k], a, b, scale, out) {
            product([m, n], 0..k, a, b, scale, out);
        }
    });
}

/// The product on a unit for bf16, if this processor has one that takes it.
#[cfg(target_arch = "x86_64")]
fn on_bf16_unit<Out: Element>(
    sizes: [usize; 3],
    a: &Operand,
    b: &Operand,
    scale: Scale,
    out: &mut [Out],
) -> bool {
    let unit = super::blocks::unit(a, b).filter(|_| !sizes.contains(&0));
    if let Some(unit) = unit {
        super::blocks::product(unit, sizes, a, b, scale, out);
    }
    unit.is_some()
}

#[cfg(not(target_arch = "x86_64"))]
fn on_bf16_unit<Out: Element>(
    _: [usize; 3],
    _: &Operand,
    _: &Operand,
    _: Scale,
    _: &mut [Out],
) -> bool {
    false
}

/// As the one of [`super::blocks`].
#[cfg(not(target_arch = "x86_64"))]
pub fn small_product(_: [usize; 3], _: Matrix, _: Matrix, _: bool, _: &mut [f32]) -> bool {
    false
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

/// Blocks of M and N, so small that a widened block stays within [`WIDENED`] elements; sums over the k of
/// `k_range`.
fn product<Out: Element>(
    [m, n]: [usize; 2],
    k_range: Range<usize>,
    a: &Operand,
    b: &Operand,
    scale: Scale,
    out: &mut [Out],
) {
    let k = k_range.len();
    let fit = |limit: usize, other: usize| (limit / other.max(1)).next_multiple_of(64).max(64);
    let direct = Out::DTYPE == DType::F32;
    let m_block = if a.is_f32() && direct { m } else { fit(4 * WIDENED, k).min(m) };
    let mut n_block = if b.is_f32() { n } else { fit(WIDENED, k).min(n) };
    if !direct {
        n_block = n_block.min(fit(WIDENED, m_block));
    }
    let a_scratch = if a.is_f32() { 0 } else { m_block * k };
    let b_scratch = if b.is_f32() { 0 } else { n_block * k };
    let out_scratch = if direct { 0 } else { m_block * n_block };
    with_scratch(a_scratch, |a_scratch| {
        with_scratch(b_scratch, |b_scratch| {
            with_scratch(out_scratch, |sums| {
                for i in (0..m).step_by(m_block.max(1)) {
                    let rows = i..(i + m_block).min(m);
                    let a = a.block(rows.clone(), k_range.clone(), a_scratch);
                    for j in (0..n).step_by(n_block.max(1)) {
                        let columns = j..(j + n_block).min(n);
                        let b = b.block(k_range.clone(), columns.clone(), b_scratch);
                        let sizes = [rows.len(), columns.len(), k];
                        if direct {
                            let out = bytemuck::cast_slice_mut(&mut out[rows.start * n + j..]);
                            let Scale { alpha, accumulate } = scale;
                            sgemm(sizes, [a, b], alpha, accumulate, out, n, Threads::All);
                        } else {
                            sgemm(sizes, [a, b], 1.0, false, sums, columns.len(), Threads::All);
                            store(sums, columns.len(), scale, &mut out[rows.start * n + j..], n);
                        }
                    }
                }
            });
        });
    });
}

/// Writes a block of f32 sums, `width` wide, into rows `stride` apart.
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
    x: &Operand,
    w: &Operand,
    scale: Scale,
    out: &mut [Out],
) {
    with_scratch(m * k, |x_scratch| {
        with_scratch(n * m, |sums| {
            let x = x.block(0..m, 0..k, x_scratch).elements;
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
        *sum = dot(&x[i * w.len()..][..w.len()], w);
    }
}

/// Dot product in 32 partial sums, which the compiler keeps in vector registers.
fn dot<W: Element>(x: &[f32], w: &[W]) -> f32 {
    const LANES: usize = 32;
    let mut sums = [0.0f32; LANES];
    let (x_blocks, x_tail) = x.as_chunks::<LANES>();
    let (w_blocks, w_tail) = w.as_chunks::<LANES>();
    for (x, w) in x_blocks.iter().zip(w_blocks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * w[lane].to_f32();
        }
    }
    let tail: f32 = x_tail.iter().zip(w_tail).map(|(x, w)| x * w.to_f32()).sum();
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0] + tail
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
                let a = Operand { elements: Elements::F32(&a), row_stride: k, column_stride: 1 };
                let b = Operand { elements: Elements::F32(&b), row_stride: 1, column_stride: k };
                let scale = Scale { alpha: 0.5, accumulate: false };
                pool.expect("threads").install(|| product([m, n], 0..k, &a, &b, scale, &mut out));
                out
            };
            let one = run(1);
            assert!(run(2) == one && run(3) == one, "{m} x {n} x {k}");
        }
    }
}
