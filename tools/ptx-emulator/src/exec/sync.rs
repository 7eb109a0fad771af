//! Exchange between lanes, and barriers.

use super::Job;
use super::block::BlockState;
use super::warp::{State, Warp};
use crate::fault::{FaultKind, RawFault, Step};
use crate::isa::*;
use crate::memory::{Joined, TRACKS};

/// Most barriers of a block.
pub(super) const BARRIERS: usize = 16;

/// A barrier of the block that threads have arrived at.
#[derive(Debug, Clone)]
pub(super) struct Barrier {
    pub arrived: u32,
    pub expected: u32,
    /// Where the first threads arrived, and from which warp.
    pub first: Option<(Pc, u32)>,
    /// What the arriving warps did is ordered before what the waiting ones do next.
    pub joined: Joined,
    /// Threads whose predicate held, of those that brought one.
    pub held: u32,
    pub voted: u32,
}

impl Default for Barrier {
    fn default() -> Self {
        Self { arrived: 0, expected: 0, first: None, joined: [0; TRACKS], held: 0, voted: 0 }
    }
}

/// Splits the active lanes by member mask: all of each mask must be there. `None` when some are still to come.
fn members(warp: &Warp, mask: u32, masks: Slot) -> Step<Option<Vec<u32>>> {
    let masks = warp.registers.r(masks);
    let (mut rest, mut sets) = (mask, Vec::with_capacity(1));
    while rest != 0 {
        let lane = rest.trailing_zeros();
        let set = masks[lane as usize];
        if set >> lane & 1 == 0 {
            let detail = format!(
                "executes an instruction for the lanes {set:#010x}, which it is not one of"
            );
            return Err(RawFault::new(FaultKind::BadOperand, lane, detail));
        }
        if set & !mask != 0 {
            return Ok(None);
        }
        sets.push(set);
        rest &= !set;
    }
    Ok(Some(sets))
}

/// Gathers lanes at a `.sync` instruction; `None` leaves the group waiting.
pub(super) fn converge(warp: &mut Warp, pc: Pc, masks: Slot) -> Step<Option<Vec<u32>>> {
    warp.gather(pc);
    let sets = members(warp, warp.current.lanes, masks)?;
    if sets.is_none() {
        warp.park(pc, State::Converging);
    }
    Ok(sets)
}

/// Gathers the whole warp; false leaves the group waiting.
pub(super) fn converge_warp(warp: &mut Warp, pc: Pc, required: u32) -> bool {
    warp.gather(pc);
    let complete = warp.current.lanes & required == required;
    if !complete {
        warp.park(pc, State::Converging);
    }
    complete
}

pub(super) fn shuffle(
    warp: &mut Warp,
    set: u32,
    mode: ShuffleMode,
    (d, p): (Slot, Slot),
    [a, b, c]: [Slot; 3],
) -> Step {
    let (mut out, mut inside) = ([0; 32], 0);
    for lane in lanes(set) {
        let l = lane as usize;
        let (b, c) = (warp.registers.r(b)[l] & 31, warp.registers.r(c)[l]);
        // `c` packs the clamp and, above, the mask of the segment.
        let (clamp, segment) = (c & 31, c >> 8 & 31);
        let limit = lane & segment | clamp & !segment;
        let (source, valid) = match mode {
            ShuffleMode::Up => (lane.wrapping_sub(b), lane as i32 - b as i32 >= limit as i32),
            ShuffleMode::Down => (lane + b, lane + b <= limit),
            ShuffleMode::Butterfly => (lane ^ b, lane ^ b <= limit),
            ShuffleMode::Index => {
                let source = lane & segment | b & !segment;
                (source, source <= limit)
            }
        };
        let source = if valid { source & 31 } else { lane };
        if set >> source & 1 == 0 {
            let detail = format!(
                "shuffles from lane {source}, which is not among the lanes {set:#010x} that take part"
            );
            return Err(RawFault::new(FaultKind::UndefinedShuffle, lane, detail));
        }
        out[l] = warp.registers.r(a)[source as usize];
        inside |= u32::from(valid) << lane;
    }
    warp.registers.write32(d, set, &out);
    if p != NONE {
        warp.registers.set_p(p, set, inside);
    }
    Ok(())
}

pub(super) fn vote(warp: &mut Warp, set: u32, mode: VoteMode, d: Slot, a: Slot, negated: bool) {
    let votes = (warp.registers.p(a) ^ if negated { u32::MAX } else { 0 }) & set;
    let held = match mode {
        VoteMode::Ballot => return warp.registers.write32(d, set, &[votes; 32]),
        VoteMode::All => votes == set,
        VoteMode::Any => votes != 0,
        VoteMode::Uniform => votes == set || votes == 0,
    };
    warp.registers.set_p(d, set, if held { set } else { 0 });
}

pub(super) fn match_lanes(
    warp: &mut Warp,
    set: u32,
    all: bool,
    wide: bool,
    (d, p): (Slot, Slot),
    a: Slot,
) {
    let value = |lane: u32| match wide {
        true => warp.registers.x(a)[lane as usize],
        false => u64::from(warp.registers.r(a)[lane as usize]),
    };
    let same =
        |lane: u32| lanes(set).filter(|o| value(*o) == value(lane)).fold(0, |m, o| m | 1u32 << o);
    let mut out = [0; 32];
    let mut held = 0;
    for lane in lanes(set) {
        let equal = same(lane);
        held |= u32::from(equal == set) << lane;
        out[lane as usize] = if all && equal != set { 0 } else { equal };
    }
    warp.registers.write32(d, set, &out);
    if p != NONE {
        warp.registers.set_p(p, set, held);
    }
}

pub(super) fn reduce(warp: &mut Warp, set: u32, op: AtomOp, d: Slot, a: Slot) {
    let values = lanes(set).map(|l| warp.registers.r(a)[l as usize]);
    let combine = |x: u32, y: u32| match op {
        AtomOp::Add => x.wrapping_add(y),
        AtomOp::Min => x.min(y),
        AtomOp::Max => x.max(y),
        AtomOp::MinS => (x as i32).min(y as i32) as u32,
        AtomOp::MaxS => (x as i32).max(y as i32) as u32,
        AtomOp::And => x & y,
        AtomOp::Or => x | y,
        _ => x ^ y,
    };
    let result = values.reduce(combine).unwrap_or(0);
    warp.registers.write32(d, set, &[result; 32]);
}

/// The fields of a block barrier.
#[derive(Clone, Copy)]
pub(super) struct BarrierOperands {
    pub kind: BarrierKind,
    pub aligned: bool,
    pub id: Slot,
    pub count: Slot,
    pub p: Slot,
    pub negated: bool,
}

/// The current group arrives; true when it can go on at once (`bar.arrive`).
#[expect(clippy::too_many_lines, reason = "each rule of a barrier, with its message")]
pub(super) fn arrive(
    job: &Job<'_>,
    state: &mut BlockState,
    warp: &mut Warp,
    pc: Pc,
    operands: BarrierOperands,
) -> Step<bool> {
    let BarrierOperands { kind, aligned, id, count, p, negated } = operands;
    // Without a count every thread of the block must come, so those that left are missed.
    let required = if count == NONE { warp.threads } else { warp.live };
    if aligned && !converge_warp(warp, pc, required) {
        return Ok(false);
    }
    let group = warp.current.lanes;
    let lane = group.trailing_zeros();
    let number = warp.registers.r(id)[lane as usize];
    if number as usize >= BARRIERS {
        return Err(RawFault::new(
            FaultKind::BadOperand,
            lane,
            format!("there is no barrier {number}: 0 to 15 exist"),
        ));
    }
    let expected = if count == NONE { job.threads } else { warp.registers.r(count)[lane as usize] };
    let barrier = &mut state.barriers[number as usize];
    match barrier.first {
        None => {
            barrier.first = Some((pc, warp.index));
            barrier.expected = expected;
        }
        Some((first_pc, first_warp)) => {
            let differs = if barrier.expected != expected {
                format!(
                    "expects {expected} threads at barrier {number}, others expect {}",
                    barrier.expected
                )
            } else if count == NONE && aligned && first_pc != pc {
                format!(
                    "divergent barrier: arrives at barrier {number} here, others arrived elsewhere"
                )
            } else {
                String::new()
            };
            if !differs.is_empty() {
                let mut fault = RawFault::new(FaultKind::DivergentBarrier, lane, differs);
                fault.other = Some((first_warp, None, first_pc));
                return Err(fault);
            }
        }
    }
    // Hardware counts whole warps where a count is given.
    barrier.arrived +=
        if count == NONE { group.count_ones() } else { 32 * u32::from(aligned).max(1) };
    if p != NONE {
        let votes = (warp.registers.p(p) ^ if negated { u32::MAX } else { 0 }) & group;
        barrier.held += votes.count_ones();
        barrier.voted += group.count_ones();
    }
    let index = warp.index as usize;
    warp.clock.release(index, &mut barrier.joined);
    if barrier.arrived >= barrier.expected {
        state.completed |= 1 << number;
    }
    state.stamp += 1;
    warp.clock.advance(index, state.stamp);
    if kind == BarrierKind::Arrive {
        return Ok(true);
    }
    warp.park(pc, State::Barrier(number));
    Ok(false)
}

/// Lets the waiting groups of `warp` go on after barrier `number`.
pub(super) fn release(
    job: &Job<'_>,
    warp: &mut Warp,
    number: u32,
    barrier: &Barrier,
    stamp: &mut u32,
) {
    let mut waited = false;
    for index in 0..warp.groups.len() {
        let group = warp.groups[index];
        if group.state != State::Barrier(number) {
            continue;
        }
        waited = true;
        if let Op::Barrier { kind, d, .. } = job.kernel.code[group.pc as usize].op {
            let registers = warp.registers_of(group.frame);
            match kind {
                BarrierKind::Popc => registers.write32(d, group.lanes, &[barrier.held; 32]),
                BarrierKind::And => {
                    registers.set_p(
                        d,
                        group.lanes,
                        if barrier.held == barrier.voted { u32::MAX } else { 0 },
                    );
                }
                BarrierKind::Or => {
                    registers.set_p(d, group.lanes, if barrier.held > 0 { u32::MAX } else { 0 })
                }
                BarrierKind::Sync | BarrierKind::Arrive => {}
            }
        }
        let group = &mut warp.groups[index];
        group.state = State::Ready;
        group.pc += 1;
    }
    if waited {
        *stamp += 1;
        warp.clock.acquire(&barrier.joined);
        warp.clock.advance(warp.index as usize, *stamp);
    }
}
