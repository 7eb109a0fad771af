//! Matrix fragments: which lane holds which element, and the product.
//!
//! Layouts are those of the PTX ISA, "Matrix Fragments for mma.m16n8k16" and its neighbours.

use half::f16;

use super::Job;
use super::memory::{Memories, addresses};
use super::registers::FULL;
use super::warp::Warp;
use crate::fault::{FaultKind, RawFault, Step};
use crate::isa::{Address, MatrixInput, Mma, Pc, Slot};
use crate::memory::{Accessor, SHARED_WINDOW};

impl Memories<'_, '_> {
    /// Row addresses: lanes 8i..8i+8 give the rows of matrix i.
    fn rows(warp: &Warp, address: Address, generic: bool, count: u8) -> Step<Vec<u64>> {
        let addresses = addresses(warp, address);
        let mut rows = Vec::with_capacity(usize::from(count) * 8);
        for (lane, address) in addresses[..usize::from(count) * 8].iter().enumerate() {
            let address = if generic { address.wrapping_sub(SHARED_WINDOW) } else { *address };
            if address % 16 != 0 {
                let detail = format!("the row address {address:#x} is not a multiple of 16");
                return Err(RawFault::new(FaultKind::Misaligned, lane as u32, detail));
            }
            rows.push(address);
        }
        Ok(rows)
    }

    /// `ldmatrix`: lane l receives elements 2(l%4), 2(l%4)+1 of row l/4, or of that column when transposed.
    pub fn load_matrix(
        &mut self,
        warp: &mut Warp,
        pc: Pc,
        (count, transposed): (u8, bool),
        address: Address,
        generic: bool,
        registers: u32,
    ) -> Step {
        let rows = Self::rows(warp, address, generic, count)?;
        for matrix in 0..usize::from(count) {
            let mut elements = [[0u16; 8]; 8];
            for (row, values) in elements.iter_mut().enumerate() {
                let lane = matrix * 8 + row;
                let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
                *values = self.shared.load_row(who, lane as u32, rows[lane])?;
            }
            let words = std::array::from_fn(|l| {
                let (row, column) = (l / 4, l % 4 * 2);
                let (low, high) = match transposed {
                    false => (elements[row][column], elements[row][column + 1]),
                    true => (elements[column][row], elements[column + 1][row]),
                };
                u32::from(high) << 16 | u32::from(low)
            });
            let d = self.job.kernel.operands[registers as usize + matrix] as Slot;
            warp.registers.write32(d, FULL, &words);
        }
        Ok(())
    }

    /// `stmatrix`, the inverse.
    pub fn store_matrix(
        &mut self,
        warp: &mut Warp,
        pc: Pc,
        (count, transposed): (u8, bool),
        address: Address,
        generic: bool,
        registers: u32,
    ) -> Step {
        let rows = Self::rows(warp, address, generic, count)?;
        for matrix in 0..usize::from(count) {
            let a = self.job.kernel.operands[registers as usize + matrix] as Slot;
            for l in 0..32 {
                let word = warp.registers.r(a)[l];
                for (half, value) in [(0, word & 0xffff), (1, word >> 16)] {
                    let (row, column) = if transposed {
                        (l % 4 * 2 + half, l / 4)
                    } else {
                        (l / 4, l % 4 * 2 + half)
                    };
                    let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
                    let at = rows[matrix * 8 + row] + 2 * column as u64;
                    self.shared.store(who, l as u32, at, 2, u64::from(value))?;
                }
            }
        }
        Ok(())
    }
}

/// Widens the elements of one operand word: two halves or one tf32.
fn elements(input: MatrixInput, word: u32) -> [f32; 2] {
    match input {
        MatrixInput::F16 => [word as u16, (word >> 16) as u16].map(|h| f16::from_bits(h).to_f32()),
        MatrixInput::Bf16 => [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)],
        // The hardware ignores the low 13 bits.
        MatrixInput::Tf32 => [f32::from_bits(word & 0xffff_e000), 0.0],
    }
}

/// `d = a * b + c`. Products are exact in f32; they are summed in f32 in order of k, starting from c. (The hardware
/// keeps a few more bits inside one step and does not document its order.)
pub(super) fn multiply(job: &Job<'_>, warp: &mut Warp, mma: Mma) {
    let words = if mma.input == MatrixInput::Tf32 { mma.k / 2 } else { mma.k / 4 } as usize;
    let per_word = if mma.input == MatrixInput::Tf32 { 1 } else { 2 };
    let accumulators = if mma.half_accumulator { 2 } else { 4 };
    let slot = |i: usize| job.kernel.operands[mma.registers as usize + i] as Slot;
    let (a_at, b_at, c_at) = (accumulators, accumulators + words, accumulators + words + words / 2);

    // a[row][k], b[k][column]: in each register lane l holds row or column l/4, and `per_word` neighbouring k from
    // (l%4) * per_word; odd registers of A hold rows 8..16, the next pair the next 4 * per_word of k.
    let mut a = [[0f32; 16]; 16];
    let mut b = [[0f32; 8]; 16];
    for word in 0..words {
        let register = warp.registers.r(slot(a_at + word));
        for (l, value) in register.iter().enumerate() {
            let k = (l % 4 + word / 2 * 4) * per_word;
            let values = elements(mma.input, *value);
            a[l / 4 + word % 2 * 8][k..k + per_word].copy_from_slice(&values[..per_word]);
        }
    }
    for word in 0..words / 2 {
        let register = warp.registers.r(slot(b_at + word));
        for (l, value) in register.iter().enumerate() {
            let k = (l % 4 + word * 4) * per_word;
            let values = elements(mma.input, *value);
            for (i, value) in values[..per_word].iter().enumerate() {
                b[k + i][l / 4] = *value;
            }
        }
    }
    let mut sums = [[0f32; 8]; 16];
    for (l, row, column, index) in accumulator_places() {
        sums[row][column] = match mma.half_accumulator {
            false => f32::from_bits(warp.registers.r(slot(c_at + index))[l]),
            true => {
                let word = warp.registers.r(slot(c_at + index / 2))[l];
                f16::from_bits((word >> (index % 2 * 16)) as u16).to_f32()
            }
        };
    }
    for (row, sums) in sums.iter_mut().enumerate() {
        for k in 0..usize::from(mma.k) {
            for column in 0..8 {
                sums[column] += a[row][k] * b[k][column];
            }
        }
    }
    let mut out = [[0u32; 32]; 4];
    for (l, row, column, index) in accumulator_places() {
        match mma.half_accumulator {
            false => out[index][l] = sums[row][column].to_bits(),
            true => {
                out[index / 2][l] |=
                    u32::from(f16::from_f32(sums[row][column]).to_bits()) << (index % 2 * 16);
            }
        }
    }
    for (index, values) in out[..accumulators].iter().enumerate() {
        warp.registers.write32(slot(index), FULL, values);
    }
}

/// (lane, row, column, register) of each element of C and D.
fn accumulator_places() -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..32).flat_map(|l| (0..4).map(move |i| (l, l / 4 + i / 2 * 8, l % 4 * 2 + i % 2, i)))
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn words_hold_two_halves_low_first() {
        let word = |lo: u16, hi: u16| u32::from(hi) << 16 | u32::from(lo);
        let b = |x: f32| bf16::from_f32(x).to_bits();
        let h = |x: f32| f16::from_f32(x).to_bits();
        assert_eq!(elements(MatrixInput::Bf16, word(b(1.5), b(-2.0))), [1.5, -2.0]);
        assert_eq!(elements(MatrixInput::F16, word(h(0.5), h(3.0))), [0.5, 3.0]);
        assert_eq!(elements(MatrixInput::Tf32, 1.0f32.to_bits() | 0x1fff)[0], 1.0);
    }
}
