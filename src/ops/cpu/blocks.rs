//! Products on the processor's bf16 units: blocking, and writing the sums.
//!
//! The operands are packed as planes of bf16 ([`super::pack`]): hi, mid, low. Products of planes whose
//! numbers add up to more than 2 are below the last bit of an f32 and left out, so bf16 times bf16 takes
//! one and bf16 times f32 three; sums are f32 (Henry, Tang and Heinecke, 2019, arXiv:1904.06376). f32 times
//! f32 would take six, no faster than f32 arithmetic.
//!
//! A task multiplies 2 panels of A with all panels of a block of B, two at a time.

use super::depth::{Depth, LINES, PAIR, Sums, TILE_K, sums_at};
use super::matrix::{Elements, Matrix, Scale};
use super::pack::{Side, pack};
use super::scratch::with_aligned;
use super::unit::Unit;
use crate::dtype::Element;
use crate::ops::simd::vectorized;
use rayon::prelude::*;
use std::ops::Range;

/// Largest packed block of A in values (8 MiB) and of B (1 MiB, for the second-level cache).
const A_BLOCK: usize = 1 << 22;
const B_BLOCK: usize = 1 << 19;
/// Longest packed line of a block, over all planes.
const K_BLOCK: usize = 4608;
/// out [M, N] = alpha · a [M, K] · b [K, N], plus what it held. K is not 0.
pub fn product<Out: Element>(
    unit: Unit,
    [m, n, k]: [usize; 3],
    a: Matrix<Elements>,
    b: Matrix<Elements>,
    scale: Scale,
    out: &mut [Out],
) {
    let planes = [a, b].map(|operand| operand.elements.dtype().bf16_planes());
    // By columns.
    let b = b.transposed();
    let Blocks { k_block, m_block, n_block, n_strip, waiting, sizes } =
        Blocks::new([m, n, k], planes);
    let waits = k_block < k;
    // In one piece: three would each grow to the largest of all sizes.
    with_aligned(sizes.iter().sum(), |scratch| {
        let (a_panels, scratch) = scratch.split_at_mut(sizes[0]);
        let (b_panels, sums) = scratch.split_at_mut(sizes[1]);
        let (a_panels, b_panels) =
            (bytemuck::cast_slice_mut(a_panels), bytemuck::cast_slice_mut(b_panels));
        let sums = sums.as_chunks_mut().0;
        let strips = (0..m).step_by(m_block).flat_map(|i| {
            (0..n).step_by(n_strip).map(move |j| (i..(i + m_block).min(m), j..(j + n_strip).min(n)))
        });
        for (rows, strip) in strips {
            for k_start in (0..k).step_by(k_block) {
                let ks = k_start..(k_start + k_block).min(k);
                let depth = Depth::new(ks.len(), planes);
                let a = pack_lines(a, Side::A, &depth, &rows, &ks, a_panels);
                for j in strip.clone().step_by(n_block) {
                    let columns = j..(j + n_block).min(strip.end);
                    let b = pack_lines(b, Side::B, &depth, &columns, &ks, b_panels);
                    let stage = Stage {
                        first_sums: waits.then_some((j - strip.start) / PAIR),
                        add: k_start > 0,
                        last: ks.end == k,
                    };
                    let right = PackedB { unit, depth: &depth, b, n, columns, scale, stage };
                    out[rows.start * n..rows.end * n]
                        .par_chunks_mut(PAIR * n)
                        .zip(a.par_chunks(2 * depth.panels()[0]))
                        .zip(sums.par_chunks_mut(waiting))
                        .for_each(|((out, a), sums)| right.multiply_rows(a, sums, out));
                }
            }
        }
    });
}

/// How a product is cut.
struct Blocks {
    k_block: usize,
    m_block: usize,
    n_block: usize,
    /// Columns whose sums wait for the last block of k, where there are several, and how many pairs of
    /// panels that is.
    n_strip: usize,
    waiting: usize,
    /// Floats of scratch for the panels of A, those of B, and sums.
    sizes: [usize; 3],
}

impl Blocks {
    fn new([m, n, k]: [usize; 3], planes: [usize; 2]) -> Self {
        let k_block = blocks_of(k, K_BLOCK / planes[0].max(planes[1]), TILE_K);
        let [a_panel, b_panel] = Depth::new(k_block, planes).panels();
        let within = |limit: usize, panel: usize| (limit / panel * LINES).max(PAIR);
        let m_block = blocks_of(m, within(A_BLOCK, a_panel), PAIR);
        let n_block = blocks_of(n, within(B_BLOCK, b_panel), PAIR);
        let (n_strip, waiting) = match k_block < k {
            true => {
                let strip = blocks_of(n, (A_BLOCK / m_block).max(n_block), n_block);
                (strip, strip / PAIR)
            }
            false => (n.next_multiple_of(n_block), 1),
        };
        let sizes = [
            m_block / LINES * a_panel / 2,
            n_block / LINES * b_panel / 2,
            m_block / PAIR * waiting * PAIR * PAIR,
        ];
        Self { k_block, m_block, n_block, n_strip, waiting, sizes }
    }
}

/// Floats of scratch that [`product`] takes.
pub fn scratch(sizes: [usize; 3], planes: [usize; 2]) -> usize {
    Blocks::new(sizes, planes).sizes.iter().sum()
}

/// `size` cut into equal blocks of at most `limit`, a multiple of `unit`.
fn blocks_of(size: usize, limit: usize, unit: usize) -> usize {
    let limit = (limit / unit * unit).max(unit);
    size.div_ceil(size.div_ceil(limit)).next_multiple_of(unit)
}

/// Packs lines in parallel, in pairs of panels; the panels that hold them.
fn pack_lines<'a>(
    operand: Matrix<Elements>,
    side: Side,
    depth: &Depth,
    lines: &Range<usize>,
    k: &Range<usize>,
    panels: &'a mut [u16],
) -> &'a [u16] {
    let [a_panel, b_panel] = depth.panels();
    let (panel, planes) = match side {
        Side::A => (a_panel, depth.planes[0]),
        Side::B => (b_panel, depth.planes[1]),
    };
    let panels = &mut panels[..lines.len().next_multiple_of(PAIR) / LINES * panel];
    panels.par_chunks_mut(4 * panel).enumerate().for_each(|(number, panels)| {
        let first = lines.start + number * 4 * LINES;
        pack(operand, side, planes, first..lines.end.min(first + 4 * LINES), k.clone(), panels);
    });
    panels
}

/// A packed block of B, and what becomes of its products.
struct PackedB<'a> {
    unit: Unit,
    depth: &'a Depth,
    b: &'a [u16],
    n: usize,
    columns: Range<usize>,
    scale: Scale,
    stage: Stage,
}

/// Where a block of k stands among all.
struct Stage {
    /// Where the sums of these columns wait, if they do.
    first_sums: Option<usize>,
    /// Whether there are sums already.
    add: bool,
    /// Whether the sums are complete after this block.
    last: bool,
}

impl PackedB<'_> {
    /// Up to 32 rows of out in these columns.
    fn multiply_rows<Out: Element>(&self, a: &[u16], sums: &mut [Sums], out: &mut [Out]) {
        let stage = &self.stage;
        let multiply = self.unit.multiplier();
        for (number, b) in self.b.chunks_exact(2 * self.depth.panels()[1]).enumerate() {
            let sums = &mut sums[stage.first_sums.map_or(0, |first| first + number)];
            multiply(self.depth, a, b, stage.add, sums);
            if stage.last {
                let start = self.columns.start + number * PAIR;
                let width = PAIR.min(self.columns.end - start);
                write(sums, self.scale, &mut out[start..], self.n, width);
            }
        }
    }
}

/// Rows of sums, `width` wide, to rows of out that are `stride` apart.
pub fn write<Out: Element>(
    sums: &Sums,
    scale: Scale,
    out: &mut [Out],
    stride: usize,
    width: usize,
) {
    vectorized(
        #[inline(always)]
        || {
            for (row, out) in out.chunks_mut(stride).enumerate() {
                let out = &mut out[..width];
                for (half, out) in out.chunks_mut(LINES).enumerate() {
                    let sums = &sums[sums_at(row, half)..][..LINES];
                    match <&mut [Out; LINES]>::try_from(&mut *out) {
                        Ok(out) => (0..LINES).for_each(|i| scale.apply(&mut out[i], sums[i])),
                        Err(_) => {
                            out.iter_mut().zip(sums).for_each(|(out, &sum)| scale.apply(out, sum))
                        }
                    }
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::pack::available;
    use half::{bf16, f16};

    fn at(operand: Matrix<Elements>, i: usize, j: usize) -> f64 {
        let at = i * operand.row_stride + j * operand.column_stride;
        match operand.elements {
            Elements::F32(x) => x[at].into(),
            Elements::BF16(x) => x[at].into(),
            Elements::F16(x) => x[at].into(),
            Elements::Nf4(_) => f64::NAN,
        }
    }

    /// Every unit, all four ways the operands can lie, ragged in every dimension and with several blocks
    /// of k, against plain sums; f32 to the accuracy of f32.
    #[test]
    fn the_units_agree_with_plain_sums() {
        let units = [Unit::of([1, 1]), available().then_some(Unit::Avx512)];
        for unit in units.into_iter().flatten() {
            for [m, n, k] in [[1, 1, 1], [33, 47, 65], [64, 32, 32], [70, 100, 129], [3, 5, 9300]] {
                let values = |count: usize, step: f32| -> Vec<f32> {
                    (0..count).map(|i| (i as f32 * step).sin()).collect()
                };
                let (a, b) = (values(m * k, 0.37), values(n * k, 0.71));
                let a_bf16: Vec<bf16> = a.iter().map(|&x| bf16::from_f32(x)).collect();
                let b_f16: Vec<f16> = b.iter().map(|&x| f16::from_f32(x)).collect();
                let kinds = [
                    (Elements::F32(&a), Elements::F32(&b)),
                    (Elements::BF16(&a_bf16), Elements::F32(&b)),
                    (Elements::BF16(&a_bf16), Elements::F16(&b_f16)),
                    (Elements::BF16(&a_bf16), Elements::BF16(&a_bf16[..(n * k).min(m * k)])),
                ];
                for (a, b) in kinds.into_iter().filter(|(_, b)| match b {
                    Elements::BF16(b) => b.len() == n * k,
                    _ => true,
                }) {
                    for [(a_row, a_column), (b_row, b_column)] in
                        [[(k, 1), (1, k)], [(k, 1), (n, 1)], [(1, m), (n, 1)], [(1, m), (1, k)]]
                    {
                        let a = Matrix { elements: a, row_stride: a_row, column_stride: a_column };
                        let b = Matrix { elements: b, row_stride: b_row, column_stride: b_column };
                        let mut out = vec![1.0f32; m * n];
                        let scale = Scale { alpha: 0.5, accumulate: true };
                        product(unit, [m, n, k], a, b, scale, &mut out);
                        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                            let terms = (0..k).map(|l| at(a, i, l) * at(b, l, j));
                            let (sum, size) =
                                terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
                            let error = (f64::from(out[i * n + j]) - (1.0 + 0.5 * sum)).abs();
                            let limit = 2f64.powi(-24) * (1.0 + 2.0 * (k as f64).sqrt() * size);
                            assert!(error <= limit, "{unit:?} {m}x{n}x{k} at {i}, {j}: {error}");
                        }
                    }
                }
            }
        }
    }
}
