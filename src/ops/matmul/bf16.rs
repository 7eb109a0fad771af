//! bf16 products on the processor's matrix unit: packing, blocking, and writing the sums.
//!
//! Both operands are packed into panels of 16 rows of A or 16 columns of B, a tile of 32 values of k after
//! the other, padded with zeros, in the order that the unit reads:
//!
//!   a tile of A   [16 rows, 32 of k]
//!   a tile of B   [16 pairs of k, 16 columns, 2]: the two values of a pair adjacent
//!
//! A task multiplies 2 panels of A with all panels of the block of B, two at a time.

use super::amx::{TILE, TILE_K, Tiles};
use super::cpu::Scale;
use super::operand::{Elements, Operand};
use super::scratch::with_scratch;
use crate::dtype::Element;
use half::bf16;
use rayon::prelude::*;

/// Values in a packed tile of A or B.
const TILE_LEN: usize = TILE * TILE_K;
/// Rows of A, columns of B that one multiplication takes: two panels.
const PAIR: usize = 2 * TILE;
/// Largest packed block of A in values (8 MiB) and of B (1 MiB, for the second-level cache).
const A_BLOCK: usize = 1 << 22;
const B_BLOCK: usize = 1 << 19;

/// Whether this processor takes the product: bf16 times bf16, or times NF4 decoded to bf16.
pub fn takes(a: &Operand, b: &Operand) -> bool {
    let a_fits = matches!(a.elements, Elements::BF16(_));
    let b_fits = match b.elements {
        Elements::BF16(_) => true,
        Elements::Nf4(weight) => weight.dtype == bf16::DTYPE,
        _ => false,
    };
    a_fits && b_fits && super::amx::available()
}

/// out [M, N] = alpha · a [M, K] · b [K, N], plus what it held. K is not 0.
pub fn product<Out: Element>(
    [m, n, k]: [usize; 3],
    a: &Operand,
    b: &Operand,
    scale: Scale,
    out: &mut [Out],
) {
    let tiles = k.div_ceil(TILE_K);
    let panel = tiles * TILE_LEN;
    let rows_within = |limit: usize| (limit / (tiles * TILE_K)).next_multiple_of(PAIR).max(PAIR);
    let m_block = rows_within(A_BLOCK).min(m.next_multiple_of(PAIR));
    let n_block = rows_within(B_BLOCK).min(n.next_multiple_of(PAIR));
    with_panels(m_block / TILE * panel, |a_panels| {
        with_panels(n_block / TILE * panel, |b_panels| {
            for i in (0..m).step_by(m_block) {
                let rows = m_block.min(m - i);
                let a_panels = &mut a_panels[..rows.next_multiple_of(PAIR) / TILE * panel];
                a_panels.par_chunks_exact_mut(panel).enumerate().for_each(|(number, panel)| {
                    pack_a(a, i + number * TILE, m, k, panel);
                });
                for j in (0..n).step_by(n_block) {
                    let columns = n_block.min(n - j);
                    let b_panels = &mut b_panels[..columns.next_multiple_of(PAIR) / TILE * panel];
                    b_panels.par_chunks_exact_mut(panel).enumerate().for_each(|(number, panel)| {
                        pack_b(b, j + number * TILE, n, k, panel);
                    });
                    let out = &mut out[i * n..(i + rows) * n];
                    let tasks = out.par_chunks_mut(PAIR * n).zip(a_panels.par_chunks(2 * panel));
                    tasks.for_each(|(out, a)| {
                        multiply_rows(a, b_panels, panel, scale, out, n, j..j + columns);
                    });
                }
            }
        });
    });
}

/// Up to 32 rows of out with the columns of a block of B.
fn multiply_rows<Out: Element>(
    a: &[u16],
    b: &[u16],
    panel: usize,
    scale: Scale,
    out: &mut [Out],
    n: usize,
    columns: std::ops::Range<usize>,
) {
    let Some(tiles) = Tiles::configure() else {
        unreachable!("`takes` has asked for the tiles");
    };
    let mut sums = [0.0; 4 * TILE * TILE];
    let (a0, a1) = a.split_at(panel);
    for (number, b) in b.chunks_exact(2 * panel).enumerate() {
        let (b0, b1) = b.split_at(panel);
        tiles.multiply([a0, a1], [b0, b1], &mut sums);
        for half in 0..2 {
            let start = columns.start + number * PAIR + half * TILE;
            let width = TILE.min(columns.end.saturating_sub(start));
            if width == 0 {
                continue;
            }
            for (row, out) in out.chunks_exact_mut(n).enumerate() {
                let at = (row / TILE * 2 + half) * TILE * TILE + row % TILE * TILE;
                for (out, &sum) in out[start..start + width].iter_mut().zip(&sums[at..]) {
                    scale.apply(out, sum);
                }
            }
        }
    }
}

/// 16 rows of A from `first` on; rows from `end` on and columns from `k` on are zeros.
fn pack_a(a: &Operand, first: usize, end: usize, k: usize, panel: &mut [u16]) {
    panel.fill(0);
    let count = TILE.min(end.saturating_sub(first));
    if count == 0 {
        return;
    }
    if a.column_stride == 1 {
        for row in 0..count {
            with_line(a, (first + row) * a.row_stride, k, |line| {
                for (tile, run) in line.chunks(TILE_K).enumerate() {
                    panel[tile * TILE_LEN + row * TILE_K..][..run.len()].copy_from_slice(run);
                }
            });
        }
    } else {
        for l in 0..k {
            with_line(a, l * a.column_stride + first, count, |line| {
                let at = l / TILE_K * TILE_LEN + l % TILE_K;
                for (row, &value) in line.iter().enumerate() {
                    panel[at + row * TILE_K] = value;
                }
            });
        }
    }
}

/// 16 columns of B from `first` on; columns from `end` on and rows from `k` on are zeros.
fn pack_b(b: &Operand, first: usize, end: usize, k: usize, panel: &mut [u16]) {
    panel.fill(0);
    let count = TILE.min(end.saturating_sub(first));
    if count == 0 {
        return;
    }
    if b.row_stride == 1 {
        for column in 0..count {
            with_line(b, (first + column) * b.column_stride, k, |line| {
                let (pairs, last) = line.as_chunks::<2>();
                for (pair, values) in pairs.iter().enumerate() {
                    panel[pair * PAIR + 2 * column..][..2].copy_from_slice(values);
                }
                if let [last] = last {
                    panel[pairs.len() * PAIR + 2 * column] = *last;
                }
            });
        }
    } else {
        for l in 0..k {
            with_line(b, l * b.row_stride + first, count, |line| {
                let at = l / 2 * PAIR + l % 2;
                for (column, &value) in line.iter().enumerate() {
                    panel[at + 2 * column] = value;
                }
            });
        }
    }
}

/// Shows `work` the bits of `count` adjacent elements from `start` on.
fn with_line(operand: &Operand, start: usize, count: usize, work: impl FnOnce(&[u16])) {
    match operand.elements {
        Elements::BF16(elements) => work(bytemuck::cast_slice(&elements[start..start + count])),
        Elements::Nf4(weight) => with_scratch(count + count.div_ceil(2), |scratch| {
            let (decoded, bits) = scratch.split_at_mut(count);
            weight.decode(start, decoded);
            let bits: &mut [u16] = &mut bytemuck::cast_slice_mut(bits)[..count];
            // Decoded values are bf16 already.
            for (bits, value) in bits.iter_mut().zip(decoded.iter()) {
                *bits = (value.to_bits() >> 16) as u16;
            }
            work(bits);
        }),
        _ => unreachable!("`takes` has looked at the elements"),
    }
}

/// Scratch for `len` bf16 values at an address that is a multiple of 64, so that no row of a tile
/// straddles cache lines.
fn with_panels<R>(len: usize, work: impl FnOnce(&mut [u16]) -> R) -> R {
    with_scratch(len.div_ceil(2) + 16, |scratch| {
        let skip = scratch.as_ptr().align_offset(64).min(16);
        work(&mut bytemuck::cast_slice_mut(&mut scratch[skip..])[..len])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All four ways the operands can lie, ragged in every dimension, against plain sums.
    #[test]
    fn the_matrix_unit_agrees_with_plain_sums() {
        for [m, n, k] in [[1, 1, 1], [33, 47, 65], [64, 32, 32], [70, 100, 129]] {
            let values = |count: usize, step: f32| -> Vec<bf16> {
                (0..count).map(|i| bf16::from_f32((i as f32 * step).sin())).collect()
            };
            let (a, b) = (values(m * k, 0.37), values(n * k, 0.71));
            for [a_strides, b_strides] in
                [[(k, 1), (1, k)], [(k, 1), (n, 1)], [(1, m), (n, 1)], [(1, m), (1, k)]]
            {
                let operand = |elements, (row_stride, column_stride)| Operand {
                    elements: Elements::BF16(elements),
                    row_stride,
                    column_stride,
                };
                let (a, b) = (operand(&a, a_strides), operand(&b, b_strides));
                if !takes(&a, &b) {
                    return;
                }
                let mut out = vec![1.0f32; m * n];
                product([m, n, k], &a, &b, Scale { alpha: 0.5, accumulate: true }, &mut out);
                for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                    let at = |o: &Operand, r: usize, c: usize| match o.elements {
                        Elements::BF16(x) => x[r * o.row_stride + c * o.column_stride].to_f64(),
                        _ => f64::NAN,
                    };
                    let sum: f64 = (0..k).map(|l| at(&a, i, l) * at(&b, l, j)).sum();
                    let error = f64::from(out[i * n + j]) - (1.0 + 0.5 * sum);
                    assert!(error.abs() < 1e-6 * (1.0 + k as f64), "{m}x{n}x{k} at {i}, {j}");
                }
            }
        }
    }
}
