//! Products on the processor's bf16 units: blocking, and writing the sums.
//!
//! The operands are packed as planes of bf16 ([`super::pack`]): hi, mid, low. Products of planes whose
//! numbers add up to more than 2 are below the last bit of an f32 and left out, so bf16 times bf16 takes
//! one and bf16 times f32 three; sums are f32 (Henry, Tang and Heinecke, 2019, arXiv:1904.06376). f32 times
//! f32 would take six, no faster than f32 arithmetic.
//!
//! A task multiplies 2 panels of A with all panels of a block of B, two at a time.

use super::amx::Tiles;
use super::cpu::Scale;
use super::dot;
use super::operand::Operand;
use super::pack::{LINES, Lines, Side, TILE_K, TILE_LEN, available, pack, pack_lines, planes};
use super::scratch::with_scratch;
use crate::dtype::Element;
use crate::ops::attention::tile::Matrix;
use crate::ops::simd::vectorized;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of A, columns of B that one multiplication takes: two panels.
const PAIR: usize = 2 * LINES;
/// Largest packed block of A in values (8 MiB) and of B (1 MiB, for the second-level cache).
const A_BLOCK: usize = 1 << 22;
const B_BLOCK: usize = 1 << 19;
/// Longest packed line of a block, over all planes.
const K_BLOCK: usize = 4608;
/// Products of planes that are still faster than f32 arithmetic.
const FEW_PRODUCTS: usize = 3;

/// The sums of 32 x 32 elements: tiles of 16 x 16, the upper two first.
pub type Sums = [f32; PAIR * PAIR];

/// Where in [`Sums`] 16 sums of a row begin, left or right.
pub fn sums_at(row: usize, half: usize) -> usize {
    (row / LINES * 2 + half) * LINES * LINES + row % LINES * LINES
}

/// How deep a multiplication goes.
pub struct Depth {
    /// Tiles of k.
    pub tiles: usize,
    /// Planes of A and of B.
    pub planes: [usize; 2],
    /// For each plane of B, the planes of A to multiply it with: the first so many.
    pub products: Vec<usize>,
}

impl Depth {
    fn new(k: usize, planes: [usize; 2]) -> Self {
        let [a, b] = planes;
        let products = (0..b).map(|plane| a.min(3 - plane)).collect();
        Self { tiles: k.div_ceil(TILE_K), planes, products }
    }

    /// Values in a panel of A and in one of B.
    pub fn panels(&self) -> [usize; 2] {
        self.planes.map(|planes| planes * self.tiles * TILE_LEN)
    }
}

/// The unit that multiplies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unit {
    /// [`super::amx`].
    Matrix,
    /// [`super::dot`].
    Vector,
}

impl Unit {
    /// The unit that this processor has for `depth`, if one is worth its while.
    fn of(depth: &Depth) -> Option<Self> {
        let few = depth.products.iter().sum::<usize>() <= FEW_PRODUCTS;
        (few && available()).then(|| match super::amx::available() {
            true => Self::Matrix,
            false => Self::Vector,
        })
    }
}

/// The unit for this product, if there is one.
pub fn unit(a: &Operand, b: &Operand) -> Option<Unit> {
    let planes = [planes(&a.elements), planes(&b.elements)];
    Unit::of(&Depth::new(1, planes))
}

/// out [M, N] = alpha · a [M, K] · b [K, N], plus what it held. K is not 0.
pub fn product<Out: Element>(
    unit: Unit,
    [m, n, k]: [usize; 3],
    a: &Operand,
    b: &Operand,
    scale: Scale,
    out: &mut [Out],
) {
    let planes = [planes(&a.elements), planes(&b.elements)];
    let k_block = blocks_of(k, K_BLOCK / planes[0].max(planes[1]), TILE_K);
    let [a_panel, b_panel] = Depth::new(k_block, planes).panels();
    let within = |limit: usize, panel: usize| (limit / panel * LINES).max(PAIR);
    let m_block = blocks_of(m, within(A_BLOCK, a_panel), PAIR);
    let n_block = blocks_of(n, within(B_BLOCK, b_panel), PAIR);
    // With several blocks of k, the sums of a strip of columns wait for the last one.
    let waits = k_block < k;
    let (n_strip, waiting) = match waits {
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
    with_aligned(sizes[0], |a_panels| {
        with_aligned(sizes[1], |b_panels| {
            with_aligned(sizes[2], |sums| {
                let (a_panels, b_panels) =
                    (bytemuck::cast_slice_mut(a_panels), bytemuck::cast_slice_mut(b_panels));
                let sums = sums.as_chunks_mut().0;
                let strips = (0..m).step_by(m_block).flat_map(|i| {
                    (0..n)
                        .step_by(n_strip)
                        .map(move |j| (i..(i + m_block).min(m), j..(j + n_strip).min(n)))
                });
                for (rows, strip) in strips {
                    for k_start in (0..k).step_by(k_block) {
                        let ks = k_start..(k_start + k_block).min(k);
                        let depth = Depth::new(ks.len(), planes);
                        let a = pack_block(a, Side::A, &depth, &rows, &ks, a_panels);
                        for j in strip.clone().step_by(n_block) {
                            let columns = j..(j + n_block).min(strip.end);
                            let b = pack_block(b, Side::B, &depth, &columns, &ks, b_panels);
                            let stage = Stage {
                                first_sums: waits.then_some((j - strip.start) / PAIR),
                                add: k_start > 0,
                                last: ks.end == k,
                            };
                            let block = Block { unit, depth: &depth, b, n, columns, scale, stage };
                            out[rows.start * n..rows.end * n]
                                .par_chunks_mut(PAIR * n)
                                .zip(a.par_chunks(2 * depth.panels()[0]))
                                .zip(sums.par_chunks_mut(waiting))
                                .for_each(|((out, a), sums)| block.multiply_rows(a, sums, out));
                        }
                    }
                }
            });
        });
    });
}

/// `size` cut into equal blocks of at most `limit`, a multiple of `unit`.
fn blocks_of(size: usize, limit: usize, unit: usize) -> usize {
    let limit = (limit / unit * unit).max(unit);
    size.div_ceil(size.div_ceil(limit)).next_multiple_of(unit)
}

/// Packs lines in parallel, in pairs of panels; the panels that hold them.
fn pack_block<'a>(
    operand: &Operand,
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
struct Block<'a> {
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

impl Block<'_> {
    /// Up to 32 rows of out with the columns of the block.
    fn multiply_rows<Out: Element>(&self, a: &[u16], sums: &mut [Sums], out: &mut [Out]) {
        let stage = &self.stage;
        let multiply = multiplier(self.unit);
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

/// The multiplication of two panels of A with two of B, for this thread.
fn multiplier(unit: Unit) -> impl Fn(&Depth, &[u16], &[u16], bool, &mut Sums) {
    let tiles = if unit == Unit::Matrix { Tiles::configure() } else { None };
    move |depth, a, b, add, sums| match &tiles {
        Some(tiles) => tiles.multiply(depth, a, b, add, sums),
        // SAFETY: there is no unit without these features.
        None => unsafe { dot::multiply(depth, a, b, add, sums) },
    }
}

/// out [M, N] = a [M, K] · b [K, N], plus what it held if `add`, on one thread and in one block. False
/// where no unit takes it. Strides of 1 are needed in one direction of each.
pub fn small_product(
    [m, n, k]: [usize; 3],
    a: Matrix,
    b: Matrix,
    add: bool,
    out: &mut [f32],
) -> bool {
    let depth = Depth::new(k, [a.planes, b.planes]);
    let Some(unit) = Unit::of(&depth) else { return false };
    let contiguous = |x: &Matrix| x.row_stride == 1 || x.column_stride == 1;
    if m * n * k == 0 || !contiguous(&a) || !contiguous(&b) {
        return false;
    }
    let [a_panel, b_panel] = depth.panels();
    let [a_len, b_len] = [m.div_ceil(PAIR) * 2 * a_panel, n.div_ceil(PAIR) * 2 * b_panel];
    with_aligned((a_len + b_len) / 2 + PAIR * PAIR, |scratch| {
        let (sums, panels) = scratch.split_at_mut(PAIR * PAIR);
        let Ok(sums) = <&mut Sums>::try_from(sums) else { return };
        let (a_panels, b_panels) = bytemuck::cast_slice_mut(panels).split_at_mut(a_len);
        let (line_stride, k_stride) = (a.row_stride, a.column_stride);
        let a_lines = Lines { elements: a.data, line_stride, k_stride };
        pack_lines(a_lines, Side::A, a.planes, 0..m, 0..k, a_panels);
        let (line_stride, k_stride) = (b.column_stride, b.row_stride);
        let b_lines = Lines { elements: b.data, line_stride, k_stride };
        pack_lines(b_lines, Side::B, b.planes, 0..n, 0..k, &mut b_panels[..b_len]);
        let multiply = multiplier(unit);
        let scale = Scale { alpha: 1.0, accumulate: add };
        for (i, a) in a_panels.chunks_exact(2 * a_panel).enumerate() {
            for (j, b) in b_panels[..b_len].chunks_exact(2 * b_panel).enumerate() {
                multiply(&depth, a, b, false, sums);
                let rows = i * PAIR * n..((i + 1) * PAIR).min(m) * n;
                write(sums, scale, &mut out[rows][j * PAIR..], n, PAIR.min(n - j * PAIR));
            }
        }
    });
    true
}

/// Rows of sums, `width` wide, to rows of out that are `stride` apart.
fn write<Out: Element>(sums: &Sums, scale: Scale, out: &mut [Out], stride: usize, width: usize) {
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

/// Scratch for `len` floats at an address that is a multiple of 64, so that no row of a tile straddles
/// cache lines.
fn with_aligned<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    with_scratch(len + 16, |scratch| {
        let skip = scratch.as_ptr().align_offset(64).min(16);
        work(&mut scratch[skip..][..len])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::matmul::operand::Elements;
    use half::{bf16, f16};

    fn at(operand: &Operand, i: usize, j: usize) -> f64 {
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
        let units = [Unit::of(&Depth::new(1, [1, 1])), available().then_some(Unit::Vector)];
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
                        let a = Operand { elements: a, row_stride: a_row, column_stride: a_column };
                        let b = Operand { elements: b, row_stride: b_row, column_stride: b_column };
                        let mut out = vec![1.0f32; m * n];
                        let scale = Scale { alpha: 0.5, accumulate: true };
                        product(unit, [m, n, k], &a, &b, scale, &mut out);
                        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                            let terms = (0..k).map(|l| at(&a, i, l) * at(&b, l, j));
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
