//! The interpreter's loop: one warp, until its time is up or it waits.
//!
//! The loop is compiled once for each instruction set, so that lane loops become wide vector instructions and
//! `mul_add` one hardware instruction, whatever the program around was compiled for.

use super::block::BlockState;
use super::memory::Memories;
use super::registers::FULL;
use super::warp::{Group, State, Warp};
use super::{Job, bulk, float, integer, matrix, mbarrier, sync, wgmma};
use crate::fault::{FaultKind, RawFault, Step};
use crate::isa::*;
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};

/// Deepest nesting of calls.
const MAX_DEPTH: u32 = 256;

/// Runs `warp` for about `budget` instructions.
pub(super) fn run(job: &Job<'_>, state: &mut BlockState, warp: &mut Warp, budget: u32) -> Step {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the functions are called only where the processor has what they were compiled for.
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            return unsafe { run_avx512(job, state, warp, budget) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return unsafe { run_avx2(job, state, warp, budget) };
        }
    }
    interpret(job, state, warp, budget)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
fn run_avx512(job: &Job<'_>, state: &mut BlockState, warp: &mut Warp, budget: u32) -> Step {
    interpret(job, state, warp, budget)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(job: &Job<'_>, state: &mut BlockState, warp: &mut Warp, budget: u32) -> Step {
    interpret(job, state, warp, budget)
}

/// What follows an instruction.
enum Next {
    Continue,
    /// The current group changed: look again which one runs.
    Select,
}

#[inline(always)]
fn interpret(job: &Job<'_>, state: &mut BlockState, warp: &mut Warp, budget: u32) -> Step {
    let code = job.kernel.code.as_slice();
    let mut left = budget;
    while warp.select() {
        let mut pc = warp.current.pc;
        let mut horizon = warp.horizon();
        loop {
            if pc >= horizon || left == 0 {
                warp.park(pc, State::Ready);
                break;
            }
            left -= 1;
            warp.current.pc = pc;
            let inst = &code[pc as usize];
            let active = warp.current.lanes;
            let mask = match inst.guard {
                NONE => active,
                guard => active & (warp.registers.p(guard) ^ if inst.negated { FULL } else { 0 }),
            };
            if mask == 0 {
                pc += 1;
                continue;
            }
            if inst.watched {
                let lane = mask.trailing_zeros();
                warp.products.note_use(job.kernel, &inst.op, lane)?;
            }
            if let Op::Branch { target } = inst.op {
                if mask == active {
                    pc = target;
                } else {
                    warp.groups.push(Group {
                        pc: target,
                        lanes: mask,
                        state: State::Ready,
                        ..warp.current
                    });
                    warp.current.lanes &= !mask;
                    horizon = horizon.min(target);
                    pc += 1;
                }
                continue;
            }
            if arithmetic(job, warp, &inst.op, mask) {
                pc += 1;
                continue;
            }
            match effect(job, state, warp, &inst.op, mask, pc)? {
                Next::Continue => pc += 1,
                Next::Select => break,
            }
        }
        if left == 0 || state.completed != 0 {
            break;
        }
    }
    warp.executed += u64::from(budget - left);
    Ok(())
}

/// Instructions on registers alone; false for the others.
#[inline(always)]
#[expect(clippy::too_many_lines, reason = "an arm for each instruction")]
fn arithmetic(job: &Job<'_>, warp: &mut Warp, op: &Op, mask: u32) -> bool {
    let r = &mut warp.registers;
    match *op {
        Op::Mov32 { d, a } => r.map1(mask, d, a, |a| a),
        Op::Mov64 { d, a } => r.wide_map1(mask, d, a, |a| a),
        Op::Pack64 { d, lo, hi } => {
            let mut out = [0; 32];
            let (lo, hi) = (r.r(lo), r.r(hi));
            for l in 0..32 {
                out[l] = u64::from(hi[l]) << 32 | u64::from(lo[l]);
            }
            r.write64(d, mask, &out);
        }
        Op::Unpack64 { lo, hi, a } => {
            let a = *r.x(a);
            r.write32(lo, mask, &a.map(|v| v as u32));
            r.write32(hi, mask, &a.map(|v| (v >> 32) as u32));
        }
        Op::Widen { d, a, signed } => {
            let mut out = [0; 32];
            let a = r.r(a);
            for l in 0..32 {
                out[l] = if signed { a[l] as i32 as u64 } else { u64::from(a[l]) };
            }
            r.write64(d, mask, &out);
        }
        Op::Truncate { d, a } => {
            let mut out = [0; 32];
            let a = r.x(a);
            for l in 0..32 {
                out[l] = a[l] as u32;
            }
            r.write32(d, mask, &out);
        }
        Op::Int32 { op, d, a, b } => integer::binary32(r, mask, op, d, a, b),
        Op::Int64 { op, d, a, b } => integer::binary64(r, mask, op, d, a, b),
        Op::IntUnary32 { op, d, a } => integer::unary32(r, mask, op, d, a),
        Op::IntUnary64 { op, d, a } => integer::unary64(r, mask, op, d, a),
        Op::Mad32 { d, a, b, c } => {
            r.map3(mask, d, [a, b, c], |a, b, c| a.wrapping_mul(b).wrapping_add(c))
        }
        Op::Mad64 { d, a, b, c } => {
            r.wide_map3(mask, d, [a, b, c], |a, b, c| a.wrapping_mul(b).wrapping_add(c))
        }
        Op::MulWide { signed, d, a, b } => {
            let mut out = [0; 32];
            let (a, b) = (r.r(a), r.r(b));
            for l in 0..32 {
                out[l] = wide_product(signed, a[l], b[l]);
            }
            r.write64(d, mask, &out);
        }
        Op::MadWide { signed, d, a, b, c } => {
            let mut out = [0; 32];
            let (a, b, c) = (r.r(a), r.r(b), r.x(c));
            for l in 0..32 {
                out[l] = wide_product(signed, a[l], b[l]).wrapping_add(c[l]);
            }
            r.write64(d, mask, &out);
        }
        Op::Bfi32 { d, a, b, c, e } => {
            let mut out = [0; 32];
            for (l, value) in out.iter_mut().enumerate() {
                let (a, b) = (u64::from(r.r(a)[l]), u64::from(r.r(b)[l]));
                *value = integer::insert_bits(a, b, r.r(c)[l], r.r(e)[l], 32) as u32;
            }
            r.write32(d, mask, &out);
        }
        Op::Lop3 { d, a, b, c, table } => {
            r.map3(mask, d, [a, b, c], |a, b, c| integer::lop3(a, b, c, table))
        }
        Op::Prmt { d, a, b, c } => r.map3(mask, d, [a, b, c], integer::permute_bytes),
        Op::Funnel { left, clamp, d, a, b, c } => {
            r.map3(mask, d, [a, b, c], |a, b, c| integer::funnel_shift(a, b, c, left, clamp));
        }
        Op::Pred { op, d, a, b } => {
            let (a, b) = (r.p(a), r.p(b));
            let value = match op {
                PredOp::And => a & b,
                PredOp::Or => a | b,
                PredOp::Xor => a ^ b,
                PredOp::AndNot => a & !b,
            };
            r.set_p(d, mask, value);
        }
        Op::CmpI32 { cmp, signed, d, a, b } => integer::compare32(r, mask, cmp, signed, d, a, b),
        Op::CmpI64 { cmp, signed, d, a, b } => integer::compare64(r, mask, cmp, signed, d, a, b),
        Op::CmpF32 { cmp, ftz, d, a, b } => float::compare(r, mask, cmp, ftz, d, a, b),
        Op::Select32 { d, a, b, p } => {
            let p = r.p(p);
            let mut out = [0; 32];
            let (a, b) = (r.r(a), r.r(b));
            for l in 0..32 {
                out[l] = if p >> l & 1 != 0 { a[l] } else { b[l] };
            }
            r.write32(d, mask, &out);
        }
        Op::Select64 { d, a, b, p } => {
            let p = r.p(p);
            let mut out = [0; 32];
            let (a, b) = (r.x(a), r.x(b));
            for l in 0..32 {
                out[l] = if p >> l & 1 != 0 { a[l] } else { b[l] };
            }
            r.write64(d, mask, &out);
        }
        Op::F32 { op, d, a, b } => float::binary(r, mask, op, d, a, b),
        Op::Fma32 { d, a, b, c } => float::fma(r, mask, d, [a, b, c]),
        Op::F32Mode { op, mode, d, a, b } => float::binary_mode(r, mask, op, mode, d, a, b),
        Op::Fma32Mode { mode, d, a, b, c } => float::fma_mode(r, mask, mode, d, [a, b, c]),
        Op::F32Unary { op, ftz, d, a } => float::unary(r, mask, op, ftz, d, a),
        Op::Fma64 { d, a, b, c } => r.wide_map3(mask, d, [a, b, c], |a, b, c| {
            f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits()
        }),
        Op::Convert { index, d, a } => {
            float::convert(r, mask, job.kernel.converts[index as usize], d, a)
        }
        Op::ConvertPair { index, d, a, b } => {
            float::convert_pair(r, mask, job.kernel.converts[index as usize], d, a, b);
        }
        Op::LoadParam { d, offset, bytes, signed, wide } => {
            let value = job.param(offset, bytes, signed);
            if wide {
                r.write64(d, mask, &[value; 32]);
            } else {
                r.write32(d, mask, &[value as u32; 32]);
            }
        }
        _ => return rare_arithmetic(warp, op, mask),
    }
    true
}

#[inline(always)]
fn wide_product(signed: bool, a: u32, b: u32) -> u64 {
    match signed {
        true => (i64::from(a as i32) * i64::from(b as i32)) as u64,
        false => u64::from(a) * u64::from(b),
    }
}

/// The part of [`arithmetic`] that is not worth a copy for each instruction set.
#[inline(never)]
#[expect(clippy::too_many_lines, reason = "an arm for each instruction")]
fn rare_arithmetic(warp: &mut Warp, op: &Op, mask: u32) -> bool {
    let r = &mut warp.registers;
    match *op {
        Op::Clock { d } => {
            let now = warp.executed as u32;
            warp.registers.write32(d, mask, &[now; 32]);
        }
        Op::ActiveMask { d } => {
            let active = warp.current.lanes;
            warp.registers.write32(d, mask, &[active; 32]);
        }
        Op::Carry32 { d, a, b, take, set, subtract } => {
            integer::carry32(r, mask, integer::Carry { take, set, subtract }, d, a, b);
        }
        Op::Carry64 { d, a, b, take, set, subtract } => {
            integer::carry64(r, mask, integer::Carry { take, set, subtract }, d, a, b);
        }
        Op::Bfe32 { signed, d, a, b, c } => r.map3(mask, d, [a, b, c], |a, b, c| {
            integer::extract_bits(u64::from(a), b, c, 32, signed) as u32
        }),
        Op::Bfe64 { signed, d, a, b, c } => {
            let out = std::array::from_fn(|l| {
                integer::extract_bits(r.x(a)[l], r.r(b)[l], r.r(c)[l], 64, signed)
            });
            r.write64(d, mask, &out);
        }
        Op::Bfi64 { d, a, b, c, e } => {
            let out = std::array::from_fn(|l| {
                integer::insert_bits(r.x(a)[l], r.x(b)[l], r.r(c)[l], r.r(e)[l], 64)
            });
            r.write64(d, mask, &out);
        }
        Op::DotBytes { a_signed, b_signed, d, a, b, c } => {
            r.map3(mask, d, [a, b, c], |a, b, c| integer::dot_bytes(a, b, c, a_signed, b_signed));
        }
        Op::CmpF64 { cmp, d, a, b } => {
            r.compare64(mask, d, a, b, |a, b| {
                float::holds(cmp, f64::from_bits(a), f64::from_bits(b))
            });
        }
        Op::F64 { op, d, a, b } => float::binary64(r, mask, op, d, a, b),
        Op::F64Unary { op, d, a } => float::unary64(r, mask, op, d, a),
        Op::Half { op, kind, d, a, b, c } => float::half(r, mask, op, kind, d, [a, b, c]),
        Op::LocalAddress { d, offset } => {
            let address = u64::from(warp.frames[warp.current.frame].local_base + offset);
            warp.registers.write64(d, mask, &[address; 32]);
        }
        Op::IsSpace { d, a, space } => {
            let held = r.x(a).iter().enumerate().fold(0, |held, (l, address)| {
                let found = match *address {
                    PARAM_WINDOW.. => Where::Param,
                    LOCAL_WINDOW.. => Where::Local,
                    SHARED_WINDOW.. => Where::Shared,
                    _ => Where::Global,
                };
                held | u32::from(found == space) << l
            });
            r.set_p(d, mask, held);
        }
        Op::Fence => {}
        _ => return false,
    }
    true
}

/// Memory, communication, control.
#[inline(never)]
#[expect(clippy::too_many_lines, reason = "an arm for each instruction")]
fn effect(
    job: &Job<'_>,
    state: &mut BlockState,
    warp: &mut Warp,
    op: &Op,
    mask: u32,
    pc: Pc,
) -> Step<Next> {
    let mut memories = Memories { job, shared: &mut state.shared, tag: state.tag };
    match *op {
        Op::Load(ref access) => memories.load(warp, mask, pc, access)?,
        Op::Store(ref access) => memories.store(warp, mask, pc, access)?,
        Op::LoadFrame { d, offset, bytes, signed, wide } => {
            warp.load_frame_memory(job, mask, d, (offset, bytes), (signed, wide));
        }
        Op::StoreFrame { a, offset, bytes, wide } => {
            warp.store_frame_memory(job, mask, a, (offset, bytes), wide)
        }
        Op::Atom { op, space, wide, address, d, b, c } => {
            memories.atom(warp, mask, (op, space, wide), address, d, (b, c))?;
        }
        Op::AsyncCopy { bytes, to, from, source_bytes } => {
            memories.async_copy(warp, mask, pc, bytes, (to, from), source_bytes)?;
        }
        Op::AsyncCommit => {
            for lane in lanes(mask) {
                warp.committed[lane as usize] += 1;
            }
        }
        Op::AsyncWait { pending } => memories.async_wait(warp, mask, pc, pending),
        Op::Mbarrier(operation) => {
            if mbarrier::execute(state, warp, mask, pc, operation)? != 0 {
                warp.park(pc + 1, State::Ready);
                return Ok(Next::Select);
            }
        }
        Op::BulkCopy { index } => {
            let copy = &job.kernel.bulk_copies[index as usize];
            bulk::issue(job, state, warp, mask, pc, copy)?;
        }
        Op::BulkCommit => lanes(mask).for_each(|lane| warp.bulk_committed[lane as usize] += 1),
        Op::BulkWait { pending } => bulk::wait(job, state, warp, mask, pending)?,
        Op::ProxyFence { barriers_only } => {
            state.stamp += 1;
            warp.clock.step(state.stamp);
            state.shared.fences().note(warp.index, mask, state.stamp, barriers_only);
        }
        Op::Return => {
            warp.return_from(job.kernel, mask);
            warp.park(pc + 1, State::Ready);
            return Ok(Next::Select);
        }
        Op::Exit => {
            check_exit(state, warp, mask)?;
            warp.exit(mask);
            warp.park(pc + 1, State::Ready);
            return Ok(Next::Select);
        }
        Op::Trap => return Err(RawFault::new(FaultKind::Trap, mask.trailing_zeros(), "trap")),
        Op::BranchIndexed { index, table, length } => {
            return branch_indexed(job, warp, mask, pc, (index, table, length));
        }
        _ => {
            // What remains acts on several lanes at once: those that the guard leaves out go on alone.
            let skipped = warp.current.lanes & !mask;
            if skipped != 0 {
                warp.groups.push(Group {
                    pc: pc + 1,
                    lanes: skipped,
                    state: State::Ready,
                    ..warp.current
                });
                warp.current.lanes = mask;
            }
            let next = together(job, state, warp, op, pc)?;
            if skipped != 0 && matches!(next, Next::Continue) {
                warp.park(pc + 1, State::Ready);
                return Ok(Next::Select);
            }
            return Ok(next);
        }
    }
    Ok(Next::Continue)
}

/// Threads may not leave what they began behind.
fn check_exit(state: &BlockState, warp: &Warp, mask: u32) -> Step {
    let lane = mask.trailing_zeros();
    if let Some(detail) = warp.products.unfinished() {
        return Err(RawFault::new(FaultKind::MatrixInFlight, lane, detail));
    }
    if let Some(read) = state.shared.reads.unfinished(warp.index, mask) {
        let place = state.shared.describe(u64::from(read.range.start));
        let detail = format!(
            "leaves the kernel with a bulk copy from {place} that was not committed and waited for"
        );
        let mut fault = RawFault::new(FaultKind::AsyncInFlight, read.lane.unwrap_or(lane), detail);
        fault.other = Some((read.warp, read.lane, read.pc));
        return Err(fault);
    }
    Ok(())
}

fn branch_indexed(
    job: &Job<'_>,
    warp: &mut Warp,
    mask: u32,
    pc: Pc,
    (index, table, length): (Slot, u32, u32),
) -> Step<Next> {
    for lane in lanes(mask) {
        let entry = warp.registers.r(index)[lane as usize];
        if entry >= length {
            let detail = format!("entry {entry} of a branch table of {length}");
            return Err(RawFault::new(FaultKind::BadOperand, lane, detail));
        }
        let pc = job.kernel.operands[(table + entry) as usize];
        warp.groups.push(Group { pc, lanes: 1 << lane, state: State::Ready, ..warp.current });
    }
    warp.current.lanes &= !mask;
    warp.park(pc + 1, State::Ready);
    Ok(Next::Select)
}

/// Instructions that the current group executes as one.
fn together(job: &Job<'_>, state: &mut BlockState, warp: &mut Warp, op: &Op, pc: Pc) -> Step<Next> {
    let member_masks = match *op {
        Op::Shuffle { mask, .. }
        | Op::Vote { mask, .. }
        | Op::Match { mask, .. }
        | Op::Reduce { mask, .. }
        | Op::Elect { mask, .. }
        | Op::WarpBarrier { mask } => mask,
        _ => return whole_warp(job, state, warp, op, pc),
    };
    let before = warp.current.lanes;
    let Some(sets) = sync::converge(warp, pc, member_masks)? else { return Ok(Next::Select) };
    for set in sets {
        match *op {
            Op::Shuffle { mode, d, p, a, b, c, .. } => {
                sync::shuffle(warp, set, mode, (d, p), [a, b, c])?
            }
            Op::Vote { mode, negated, d, a, .. } => sync::vote(warp, set, mode, d, a, negated),
            Op::Match { all, wide, d, p, a, .. } => {
                sync::match_lanes(warp, set, all, wide, (d, p), a)
            }
            Op::Reduce { op, d, a, .. } => sync::reduce(warp, set, op, d, a),
            Op::Elect { d, p, .. } => {
                let leader = set.trailing_zeros();
                warp.registers.write32(d, set, &[leader; 32]);
                if p != NONE {
                    warp.registers.set_p(p, set, 1 << leader);
                }
            }
            _ => {
                state.stamp += 1;
                warp.clock.advance(warp.index as usize, state.stamp);
            }
        }
    }
    if warp.current.lanes == before {
        return Ok(Next::Continue);
    }
    // Lanes were gathered from other groups: look again where the others are.
    warp.park(pc + 1, State::Ready);
    Ok(Next::Select)
}

#[expect(clippy::too_many_lines, reason = "an arm for each instruction")]
fn whole_warp(
    job: &Job<'_>,
    state: &mut BlockState,
    warp: &mut Warp,
    op: &Op,
    pc: Pc,
) -> Step<Next> {
    match *op {
        Op::Barrier { kind, aligned, id, count, p, negated, .. } => {
            let operands = sync::BarrierOperands { kind, aligned, id, count, p, negated };
            if !sync::arrive(job, state, warp, pc, operands)? {
                return Ok(Next::Select);
            }
        }
        Op::Call { site } => {
            let depth = warp.frames[warp.current.frame].depth;
            if depth >= MAX_DEPTH {
                let detail = format!("calls are nested more than {MAX_DEPTH} deep");
                return Err(RawFault::new(
                    FaultKind::Limit,
                    warp.current.lanes.trailing_zeros(),
                    detail,
                ));
            }
            let start =
                warp.call(job.kernel, site as usize, pc + 1, &state.position, job.variables);
            warp.park(start, State::Ready);
            return Ok(Next::Select);
        }
        _ => {
            if !sync::converge_warp(warp, pc, FULL) {
                return Ok(Next::Select);
            }
            let mut memories = Memories { job, shared: &mut state.shared, tag: state.tag };
            match *op {
                Op::LoadMatrix { count, transposed, address, generic, registers } => {
                    memories.load_matrix(
                        warp,
                        pc,
                        (count, transposed),
                        address,
                        generic,
                        registers,
                    )?;
                }
                Op::StoreMatrix { count, transposed, address, generic, registers } => {
                    memories.store_matrix(
                        warp,
                        pc,
                        (count, transposed),
                        address,
                        generic,
                        registers,
                    )?;
                }
                Op::Mma(mma) => matrix::multiply(job, warp, mma),
                Op::WgmmaFence => wgmma::fence(warp),
                Op::WgmmaCommit => wgmma::commit(state, warp),
                Op::WgmmaWait { pending } => {
                    if !wgmma::wait(job, state, warp, pc, pending)? {
                        return Ok(Next::Select);
                    }
                }
                Op::Wgmma { index } => {
                    let product = &job.kernel.products[index as usize];
                    wgmma::issue(job, state, warp, pc, product)?;
                }
                _ => {
                    let detail = "an instruction that the interpreter does not carry out";
                    return Err(RawFault::new(
                        FaultKind::BadOperand,
                        warp.current.lanes.trailing_zeros(),
                        detail,
                    ));
                }
            }
        }
    }
    warp.park(pc + 1, State::Ready);
    Ok(Next::Select)
}
