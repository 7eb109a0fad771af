//! The arithmetic of `wgmma` for one warp: 16 rows, n columns, 16 of k.
//!
//! Products of halves are exact in f32; they are added in f32 in order of k, starting from the accumulator. A fused
//! multiply-add gives the same, so the copies of the loop for processors that have one use it.
//!
//! Lane l of accumulator 4j + 2h + p has row l/4 + 8h and column 8j + 2(l%4) + p (PTX ISA, "wgmma register fragments").
//! Both operands are kept in that order, so that the loop over lanes needs no gathering.

use std::ops::Range;

use super::operand::Layout;
use super::registers::Registers;
use crate::fault::Step;
use crate::isa::{HalfFormat, Slot};
use crate::memory::{Shared, Writes};

const K: usize = 16;

/// 16 rows of A: for each k and each half of the rows, one value per lane.
pub(super) struct Left([[[f32; 32]; 2]; K]);

impl Default for Left {
    fn default() -> Self {
        Self([[[0.0; 32]; 2]; K])
    }
}

impl Left {
    #[inline(always)]
    pub fn set(&mut self, row: usize, k: usize, value: f32) {
        let first = row % 8 * 4;
        self.0[k][row / 8][first..first + 4].fill(value);
    }

    pub fn negate(&mut self) {
        self.0.iter_mut().flatten().flatten().for_each(|value| *value = -*value);
    }
}

/// A decoded B: for each k and each (j, p), the four columns 8j + 2q + p.
#[derive(Debug)]
pub(super) struct Tile {
    layout: Layout,
    n: u32,
    input: HalfFormat,
    ranges: Vec<Range<u32>>,
    epoch: u64,
    pub writes: Writes,
    pub values: Vec<[f32; 4]>,
}

/// Decoded tiles: the warps of a block use the same ones.
#[derive(Debug, Default)]
pub(super) struct Tiles {
    list: Vec<Tile>,
    next: usize,
}

/// Tiles that are kept.
const KEPT: usize = 32;

impl Tiles {
    pub fn clear(&mut self) {
        self.list.clear();
    }

    /// The tile that `layout` describes, decoded anew when its memory has changed.
    pub fn find(
        &mut self,
        shared: &Shared,
        layout: Layout,
        n: u32,
        input: HalfFormat,
    ) -> Step<&Tile> {
        let known = self.list.iter().position(|t| (t.layout, t.n, t.input) == (layout, n, input));
        if let Some(index) = known {
            let tile = &self.list[index];
            if tile.ranges.iter().all(|range| shared.is_unchanged(range, tile.epoch)) {
                return Ok(&self.list[index]);
            }
        }
        let index = match known {
            Some(index) => index,
            None if self.list.len() < KEPT => self.list.len(),
            None => {
                self.next = (self.next + 1) % KEPT;
                self.next
            }
        };
        let quarter = n as usize / 4;
        let mut values = match self.list.get_mut(index) {
            Some(old) => std::mem::take(&mut old.values),
            None => Vec::new(),
        };
        values.resize(K * quarter, [0.0; 4]);
        let mut writes = Writes::default();
        let (epoch, ranges) = (shared.epoch(), layout.ranges(0..n));
        layout.decode(shared, 0..n, input, &mut writes, |column, k, value| {
            let (j, q, p) = (column / 8, column % 8 / 2, column % 2);
            values[k * quarter + 2 * j + p][q] = value;
        })?;
        let tile = Tile { layout, n, input, ranges, epoch, writes, values };
        match self.list.get_mut(index) {
            Some(old) => *old = tile,
            None => self.list.push(tile),
        }
        Ok(&self.list[index])
    }
}

/// `d = a * b + d`, or `d = a * b` where the accumulators do not count.
pub(super) fn accumulate(
    registers: &mut Registers,
    slots: &[u32],
    add: bool,
    left: &Left,
    right: &[[f32; 4]],
) {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the functions are called only where the processor has what they were compiled for.
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            return unsafe { accumulate_avx512(registers, slots, add, left, right) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return unsafe { accumulate_avx2(registers, slots, add, left, right) };
        }
    }
    multiply::<false>(registers, slots, add, left, right);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
fn accumulate_avx512(
    registers: &mut Registers,
    slots: &[u32],
    add: bool,
    left: &Left,
    right: &[[f32; 4]],
) {
    multiply::<true>(registers, slots, add, left, right);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn accumulate_avx2(
    registers: &mut Registers,
    slots: &[u32],
    add: bool,
    left: &Left,
    right: &[[f32; 4]],
) {
    multiply::<true>(registers, slots, add, left, right);
}

#[inline(always)]
fn multiply<const FUSED: bool>(
    registers: &mut Registers,
    slots: &[u32],
    add: bool,
    left: &Left,
    right: &[[f32; 4]],
) {
    let quarter = slots.len() / 2;
    for (j, four) in slots.chunks_exact(4).enumerate() {
        // sums[p][h] is accumulator 4j + 2h + p.
        let mut sums = [[[0f32; 32]; 2]; 2];
        if add {
            for (i, slot) in four.iter().enumerate() {
                let from = registers.r(*slot as Slot);
                for l in 0..32 {
                    sums[i % 2][i / 2][l] = f32::from_bits(from[l]);
                }
            }
        }
        for (k, left) in left.0.iter().enumerate() {
            for (p, sums) in sums.iter_mut().enumerate() {
                let b = right[k * quarter + 2 * j + p];
                for (a, sums) in left.iter().zip(sums) {
                    for l in 0..32 {
                        sums[l] = match FUSED {
                            true => a[l].mul_add(b[l % 4], sums[l]),
                            false => a[l] * b[l % 4] + sums[l],
                        };
                    }
                }
            }
        }
        for (i, slot) in four.iter().enumerate() {
            let to = &mut registers.narrow[*slot as usize].0;
            for l in 0..32 {
                to[l] = sums[i % 2][i / 2][l].to_bits();
            }
        }
    }
}
