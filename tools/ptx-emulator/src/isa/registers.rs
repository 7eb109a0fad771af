//! Which 32-bit registers an operation uses.

use super::{Access, Address, IntOp, Kernel, MbarrierOp, NONE, Op, Slot, WgmmaOperand};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
}

fn address(address: Address, note: &mut impl FnMut(Slot, Use)) {
    if address.narrow {
        note(address.base, Use::Read);
    }
}

/// Calls `note` for every 32-bit slot that `op` reads or writes (optional ones may be [`NONE`]).
#[rustfmt::skip]
#[expect(clippy::too_many_lines, reason = "an arm for each instruction")]
pub(crate) fn registers32(kernel: &Kernel, op: &Op, note: &mut impl FnMut(Slot, Use)) {
    let slot = |index: usize| kernel.operands[index] as Slot;
    let (mut reads, mut writes): ([Slot; 4], [Slot; 2]) = ([NONE; 4], [NONE; 2]);
    match *op {
        Op::Mov32 { d, a } | Op::IntUnary32 { d, a, .. } | Op::F32Unary { d, a, .. } | Op::Convert { d, a, .. } => {
            // A side of 64 bits is in the other file.
            let (mut from, mut to) = (a, d);
            if let Op::Convert { index, .. } = *op {
                let convert = kernel.converts[index as usize];
                if convert.from.bytes() == 8 { from = NONE }
                if convert.to.bytes() == 8 { to = NONE }
            }
            (reads[0], writes[0]) = (from, to);
        }
        Op::Pack64 { lo, hi, .. } => reads[..2].copy_from_slice(&[lo, hi]),
        Op::Unpack64 { lo, hi, .. } => writes = [lo, hi],
        Op::Widen { a, .. } => reads[0] = a,
        Op::Truncate { d, .. } | Op::Clock { d } | Op::ActiveMask { d } => writes[0] = d,
        Op::Int32 { d, a, b, .. } | Op::Carry32 { d, a, b, .. } | Op::F32 { d, a, b, .. }
        | Op::F32Mode { d, a, b, .. } | Op::ConvertPair { d, a, b, .. } | Op::Select32 { d, a, b, .. } => {
            reads[..2].copy_from_slice(&[a, b]);
            writes[0] = d;
        }
        Op::Int64 { op: IntOp::Shl | IntOp::ShrU | IntOp::ShrS, b, .. } => reads[0] = b,
        Op::IntUnary64 { op, d, .. } => {
            use super::IntUnary::*;
            if matches!(op, Popc | Clz | BfindU | BfindS | BfindShiftU | BfindShiftS) { writes[0] = d }
        }
        Op::Mad32 { d, a, b, c } | Op::Bfe32 { d, a, b, c, .. } | Op::Lop3 { d, a, b, c, .. } | Op::Prmt { d, a, b, c }
        | Op::Funnel { d, a, b, c, .. } | Op::DotBytes { d, a, b, c, .. } | Op::Fma32 { d, a, b, c }
        | Op::Fma32Mode { d, a, b, c, .. } | Op::Half { d, a, b, c, .. } => {
            reads[..3].copy_from_slice(&[a, b, c]);
            writes[0] = d;
        }
        Op::MulWide { a, b, .. } | Op::MadWide { a, b, .. } | Op::CmpI32 { a, b, .. } | Op::CmpF32 { a, b, .. } => {
            reads[..2].copy_from_slice(&[a, b]);
        }
        Op::Bfe64 { b, c, .. } => reads[..2].copy_from_slice(&[b, c]),
        Op::Bfi32 { d, a, b, c, e } => (reads, writes[0]) = ([a, b, c, e], d),
        Op::Bfi64 { c, e, .. } => reads[..2].copy_from_slice(&[c, e]),
        Op::Load(ref access) | Op::Store(ref access) => {
            let Access { count, wide, registers, .. } = *access;
            let how = if matches!(op, Op::Load(_)) { Use::Write } else { Use::Read };
            address(access.address, note);
            for index in 0..if wide { 0 } else { usize::from(count) } {
                note(slot(registers as usize + index), how);
            }
        }
        Op::LoadParam { d, wide: false, .. } | Op::LoadFrame { d, wide: false, .. } => writes[0] = d,
        Op::StoreFrame { a, wide: false, .. } => reads[0] = a,
        Op::Atom { wide, address: at, d, b, c, .. } => {
            address(at, note);
            if !wide { (reads[0], reads[1], writes[0]) = (b, c, d) }
        }
        Op::AsyncCopy { to, from, source_bytes, .. } => {
            address(to, note);
            address(from, note);
            reads[0] = source_bytes;
        }
        Op::LoadMatrix { count, address: at, registers, .. } | Op::StoreMatrix { count, address: at, registers, .. } => {
            address(at, note);
            let how = if matches!(op, Op::LoadMatrix { .. }) { Use::Write } else { Use::Read };
            for index in 0..usize::from(count) {
                note(slot(registers as usize + index), how);
            }
        }
        Op::Mma(mma) => {
            let words = if mma.input == super::MatrixInput::Tf32 { mma.k / 2 } else { mma.k / 4 };
            let accumulators = if mma.half_accumulator { 2 } else { 4 };
            let inputs = usize::from(words) * 3 / 2 + accumulators;
            for index in 0..accumulators + inputs {
                let how = if index < accumulators { Use::Write } else { Use::Read };
                note(slot(mma.registers as usize + index), how);
            }
        }
        Op::Shuffle { d, a, b, c, mask, .. } => (reads, writes[0]) = ([a, b, c, mask], d),
        Op::Vote { mode, d, mask, .. } => {
            reads[0] = mask;
            if mode == super::VoteMode::Ballot { writes[0] = d }
        }
        Op::Match { wide, d, a, mask, .. } => {
            (reads[0], writes[0]) = (mask, d);
            if !wide { reads[1] = a }
        }
        Op::Reduce { d, a, mask, .. } => {
            reads[..2].copy_from_slice(&[a, mask]);
            writes[0] = d;
        }
        Op::Elect { d, mask, .. } => (reads[0], writes[0]) = (mask, d),
        Op::WarpBarrier { mask } => reads[0] = mask,
        Op::Barrier { kind, id, count, d, .. } => {
            reads[..2].copy_from_slice(&[id, count]);
            if kind == super::BarrierKind::Popc { writes[0] = d }
        }
        Op::Mbarrier(barrier) => {
            address(barrier.address, note);
            match barrier.op {
                MbarrierOp::Init { count } => reads[0] = count,
                MbarrierOp::Arrive { count, bytes, .. } => reads[..2].copy_from_slice(&[count, bytes]),
                MbarrierOp::Expect { bytes } => reads[0] = bytes,
                MbarrierOp::Wait { phase, by_parity: true, .. } => reads[0] = phase,
                _ => {}
            }
        }
        Op::BulkCopy { index } => {
            let copy = kernel.bulk_copies[index as usize];
            for at in [Some(copy.shared), Some(copy.global), copy.barrier].into_iter().flatten() {
                address(at, note);
            }
            reads[0] = copy.bytes;
            for index in 0..usize::from(copy.rank) {
                note(slot(copy.coordinates as usize + index), Use::Read);
            }
        }
        Op::Wgmma { index } => {
            let product = kernel.products[index as usize];
            let accumulators = usize::from(product.n) / 2;
            let inputs = if matches!(product.a, WgmmaOperand::Registers) { 4 } else { 0 };
            for index in 0..accumulators + inputs {
                let how = if index < accumulators { Use::Write } else { Use::Read };
                note(slot(product.registers as usize + index), how);
            }
        }
        Op::BranchIndexed { index, .. } => reads[0] = index,
        _ => {}
    }
    reads.into_iter().for_each(|a| note(a, Use::Read));
    writes.into_iter().for_each(|d| note(d, Use::Write));
}
