//! `wgmma`: products of a warpgroup, issued warp by warp.
//!
//! A warp computes its own 16 of the 64 rows when it issues the instruction; that is unobservable, because its
//! registers may not be used before the wait, and the shared memory it reads may not be written before one.

use super::Job;
use super::block::BlockState;
use super::operand::{Layout, widen};
use super::product::{Left, accumulate};
use super::registers::FULL;
use super::warp::{State, Warp};
use crate::fault::{FaultKind, RawFault, Step};
use crate::isa::*;
use crate::memory::{Accessor, AsyncRead, Writes};

/// What unfinished products use of a 32-bit slot: numbers are groups plus one, 0 is none.
#[derive(Debug, Clone, Copy, Default)]
struct InUse {
    accumulator: u32,
    /// Columns of the product that accumulates here.
    n: u16,
    input: u32,
}

/// A warp's unfinished products.
#[derive(Debug, Default)]
pub(super) struct Products {
    slots: Vec<InUse>,
    /// Slots that ordinary instructions used since the last `wgmma.fence`.
    touched: Vec<bool>,
    fenced: bool,
    /// Groups that were committed, and those of them that were waited for.
    committed: u32,
    finished: u32,
    /// A product was issued since the last commit.
    uncommitted: bool,
    /// A hash of the products issued so far.
    issued: u64,
}

/// What the four warps of a warpgroup have committed.
#[derive(Debug, Default)]
pub(super) struct Warpgroup {
    /// Per warp and group, a hash of the products up to it.
    committed: [Vec<u64>; 4],
}

impl Products {
    pub fn reset(&mut self, kernel: &Kernel) {
        if kernel.products.is_empty() {
            return;
        }
        self.slots.clear();
        self.slots.resize(kernel.watched.len(), InUse::default());
        self.touched.clear();
        self.touched.resize(kernel.watched.len(), false);
        (self.fenced, self.committed, self.finished) = (false, 0, 0);
        (self.uncommitted, self.issued) = (false, 0);
    }

    fn note(&mut self, part: u64) {
        self.issued = (self.issued.rotate_left(7) ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Why the warp may not leave the kernel now.
    pub fn unfinished(&self) -> Option<&'static str> {
        if self.uncommitted {
            return Some("leaves the kernel with a wgmma that was not committed");
        }
        let waited = self.finished == self.committed;
        (!waited).then_some("leaves the kernel with a wgmma that was not waited for")
    }

    /// An ordinary instruction uses watched registers.
    pub fn note_use(&mut self, kernel: &Kernel, op: &Op, lane: u32) -> Step {
        if let Op::Mov32 { d, a } = *op {
            return self.note_copy(kernel, usize::from(d), usize::from(a), lane);
        }
        let mut fault = None;
        registers32(kernel, op, &mut |slot, used| {
            let slot = usize::from(slot);
            if slot >= kernel.watched.len() || !kernel.watched[slot] {
                return;
            }
            self.touched[slot] = true;
            let state = self.slots[slot];
            if state.accumulator != 0 {
                fault = Some(match used {
                    Use::Read => "reads an accumulator of a wgmma that was not waited for",
                    Use::Write => "overwrites an accumulator of a wgmma that was not waited for",
                });
            } else if state.input != 0 && used == Use::Write {
                fault = Some("overwrites a register that a wgmma still reads as A");
            }
        });
        match fault {
            Some(detail) => Err(RawFault::new(FaultKind::MatrixInFlight, lane, detail)),
            None => Ok(()),
        }
    }

    /// A copy from register to register, which compilers make where values meet: the copy stands for the original.
    fn note_copy(&mut self, kernel: &Kernel, d: usize, a: usize, lane: u32) -> Step {
        let (from, to) = (self.slots[a], self.slots[d]);
        if to.input != 0 {
            let detail = "overwrites a register that a wgmma still reads as A";
            return Err(RawFault::new(FaultKind::MatrixInFlight, lane, detail));
        }
        if to.accumulator != 0 && from.accumulator == 0 {
            let detail = "overwrites an accumulator of a wgmma that was not waited for";
            return Err(RawFault::new(FaultKind::MatrixInFlight, lane, detail));
        }
        self.slots[d] = InUse { input: 0, ..from };
        if kernel.watched[a] {
            self.touched[d] = self.touched[a];
        }
        Ok(())
    }
}

pub(super) fn fence(warp: &mut Warp) {
    warp.products.touched.fill(false);
    warp.products.fenced = true;
}

pub(super) fn commit(state: &mut BlockState, warp: &mut Warp) {
    let products = &mut warp.products;
    products.committed += 1;
    products.uncommitted = false;
    let (group, member) = (warp.index / 4, warp.index % 4);
    state.warpgroups[group as usize].committed[member as usize].push(products.issued);
    state.woken_groups |= 1 << group;
}

/// Waits until at most `pending` groups are unfinished; false leaves the warp waiting for the others of its warpgroup,
/// which have to issue the same products first.
pub(super) fn wait(
    job: &Job<'_>,
    state: &mut BlockState,
    warp: &mut Warp,
    pc: Pc,
    pending: u32,
) -> Step<bool> {
    let groups = warp.products.committed.saturating_sub(pending);
    if groups <= warp.products.finished {
        return Ok(true);
    }
    let committed = &state.warpgroups[(warp.index / 4) as usize].committed;
    let Some(issued) =
        committed.iter().map(|c| c.get(groups as usize - 1)).collect::<Option<Vec<_>>>()
    else {
        warp.park(pc, State::Warpgroup);
        return Ok(false);
    };
    if issued.iter().any(|hash| *hash != issued[0]) {
        let detail = "the warps of its warpgroup have issued different products, or with different descriptors";
        return Err(RawFault::new(FaultKind::DivergentBarrier, 0, detail));
    }
    warp.products.finished = groups;
    for slot in &job.kernel.watched_slots {
        let slot = &mut warp.products.slots[usize::from(*slot)];
        slot.accumulator = if slot.accumulator <= groups { 0 } else { slot.accumulator };
        slot.input = if slot.input <= groups { 0 } else { slot.input };
    }
    let reader = (warp.index & !3, None);
    state.shared.reads.finish(reader, groups, warp.index, warp.clock.stamp);
    Ok(true)
}

/// A value that is the same in all lanes.
fn uniform(warp: &Warp, slot: Slot, what: &str) -> Step<u64> {
    let values = warp.registers.x(slot);
    match values.iter().position(|v| *v != values[0]) {
        None => Ok(values[0]),
        Some(lane) => {
            let detail = format!("the descriptor of {what} differs between the lanes of the warp");
            Err(RawFault::new(FaultKind::BadOperand, lane as u32, detail))
        }
    }
}

/// Checks the registers of a product and marks them as in use.
fn claim(products: &mut Products, kernel: &Kernel, product: &Wgmma) -> Step {
    let fault = |kind, detail: &str| Err(RawFault::new(kind, 0, detail));
    if !products.fenced {
        return fault(FaultKind::MissingFence, "a wgmma with no wgmma.fence before it");
    }
    let group = products.committed + 1;
    let accumulators = usize::from(product.n) / 2;
    let inputs = if matches!(product.a, WgmmaOperand::Registers) { 4 } else { 0 };
    let slots = &kernel.operands[product.registers as usize..][..accumulators + inputs];
    for (index, slot) in slots.iter().enumerate() {
        let slot = *slot as usize;
        if products.touched[slot] {
            return fault(
                FaultKind::MissingFence,
                match index < accumulators {
                    true => {
                        "accumulators of a wgmma were used by other instructions since the last wgmma.fence"
                    }
                    false => {
                        "registers of A were written by other instructions since the last wgmma.fence"
                    }
                },
            );
        }
        let state = &mut products.slots[slot];
        if index >= accumulators {
            if state.accumulator != 0 {
                let detail = "reads as A an accumulator of a wgmma that was not waited for";
                return fault(FaultKind::MatrixInFlight, detail);
            }
            state.input = group;
            continue;
        }
        if state.accumulator != 0 && state.n != product.n {
            let detail = "accumulates where a wgmma of another shape that was not waited for does";
            return fault(FaultKind::MatrixInFlight, detail);
        }
        if state.input != 0 {
            let detail = "accumulates in a register that a wgmma still reads as A";
            return fault(FaultKind::MatrixInFlight, detail);
        }
        *state = InUse { accumulator: group, n: product.n, input: 0 };
    }
    products.uncommitted = true;
    Ok(())
}

/// `wgmma.mma_async`.
#[expect(clippy::too_many_lines, reason = "the steps of one instruction, in order")]
pub(super) fn issue(
    job: &Job<'_>,
    state: &mut BlockState,
    warp: &mut Warp,
    pc: Pc,
    product: &Wgmma,
) -> Step {
    let first = warp.index & !3;
    if job.threads < (first + 4) * 32 {
        let detail = "a wgmma in a warpgroup that has fewer than 128 threads";
        return Err(RawFault::new(FaultKind::BadOperand, 0, detail));
    }
    let scale = warp.registers.p(product.scale) ^ if product.scale_negated { FULL } else { 0 };
    if scale != 0 && scale != FULL {
        let detail = "the scale of D differs between the lanes of the warp";
        return Err(RawFault::new(FaultKind::BadOperand, 0, detail));
    }
    claim(&mut warp.products, job.kernel, product)?;
    warp.products.note(u64::from(pc));
    let group = warp.products.committed;
    let n = u32::from(product.n);
    let registers = &job.kernel.operands[product.registers as usize..];
    let note_read = |state: &mut BlockState, layout: &Layout, lines| {
        for range in layout.ranges(lines) {
            state.shared.reads.begin(AsyncRead::new(range, (first, None), group, pc));
        }
    };

    // [1] A: this warp's 16 rows.                                      left [16, 2, 32]
    let mut left = Left::default();
    match product.a {
        WgmmaOperand::Registers => {
            for (word, slot) in registers[product.n as usize / 2..][..4].iter().enumerate() {
                // Lane l has row l/4 (odd words: 8 more), k 2(l%4) and the next (words 2, 3: 8 more).
                for (l, value) in warp.registers.r(*slot as Slot).iter().enumerate() {
                    let (row, k) = (l / 4 + word % 2 * 8, l % 4 * 2 + word / 2 * 8);
                    left.set(row, k, widen(product.input, *value as u16));
                    left.set(row, k + 1, widen(product.input, (*value >> 16) as u16));
                }
            }
        }
        WgmmaOperand::Shared { descriptor, transposed } => {
            let descriptor = uniform(warp, descriptor, "A")?;
            warp.products.note(descriptor);
            let layout = Layout::new(descriptor, transposed)?;
            let mut writes = Writes::default();
            let own = warp.index % 4 * 16;
            layout.decode(
                &state.shared,
                own..own + 16,
                product.input,
                &mut writes,
                |row, k, value| left.set(row, k, value),
            )?;
            let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
            state.shared.check_writes(who, 0, &writes)?;
            note_read(state, &layout, 0..64);
        }
    }
    if product.negate {
        left.negate();
    }

    // [2] B, perhaps decoded before for another warp.                  right [16, n]
    let descriptor = uniform(warp, product.b, "B")?;
    warp.products.note(descriptor);
    let layout = Layout::new(descriptor, product.b_transposed)?;
    let tile = state.tiles.find(&state.shared, layout, n, product.input)?;
    let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
    state.shared.check_writes(who, 0, &tile.writes)?;

    // [3] D.                                                           [16, n]
    let slots = &registers[..product.n as usize / 2];
    accumulate(&mut warp.registers, slots, scale == FULL, &left, &tile.values);
    note_read(state, &layout, 0..n);
    Ok(())
}
