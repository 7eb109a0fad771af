//! Barriers in shared memory (`mbarrier`): arrivals, expected bytes, phases.
//!
//! The state lives here and not in the barrier's eight bytes, which hold nothing that a program may read. An arrival
//! releases what its warp did, an observed end of a phase acquires what all that arrived released; bytes that a copy
//! brought are ordered by the barrier's own track in the clocks.

use super::block::{BlockState, LocatedFault};
use super::memory::{addresses, resolve};
use super::warp::{Group, State, Warp};
use crate::fault::{FaultKind, RawFault, Step};
use crate::isa::*;
use crate::memory::{Accessor, BARRIER_TRACKS, Clock, Joined, Shared, TRACKS};

/// Largest count of arrivals, and of bytes (PTX ISA, "Contents of the mbarrier object").
const MOST: i64 = (1 << 20) - 1;

#[derive(Debug)]
struct Barrier {
    address: u32,
    /// Arrivals that each phase expects; 0 once invalidated.
    count: u32,
    pending: u32,
    /// Bytes expected and not yet arrived; negative when more arrived.
    bytes: i64,
    /// Phases that are complete.
    phase: u32,
    /// What the arrivals so far released, and what those of complete phases did.
    arriving: Joined,
    complete: Joined,
    /// Thread, interval and instruction of the initialisation.
    init: (u32, u32, Pc),
    /// The copy that arrived last: its interval in the barrier's track, warp, lane and instruction.
    newest_copy: Option<(u32, u32, u32, Pc)>,
}

/// The barriers of a block.
#[derive(Debug, Default)]
pub(super) struct Mbarriers {
    list: Vec<Barrier>,
    /// Barriers that completed a phase since the waiting warps were last looked at.
    pub woken: u64,
}

impl Barrier {
    fn settle(&mut self, index: usize, woken: &mut u64) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase += 1;
            self.pending = self.count;
            self.complete = self.arriving;
            *woken |= 1 << index;
        }
    }

    fn add_bytes(&mut self, bytes: i64) -> Result<(), String> {
        self.bytes += bytes;
        match self.bytes.abs() > MOST {
            true => Err(format!("{} pending bytes; at most {MOST} are possible", self.bytes)),
            false => Ok(()),
        }
    }
}

impl Mbarriers {
    pub fn clear(&mut self) {
        self.list.clear();
        self.woken = 0;
    }

    fn find(&self, address: u64) -> Option<usize> {
        self.list.iter().position(|b| u64::from(b.address) == address && b.count > 0)
    }

    /// `full`+8: 1 of 2 arrivals pending ...
    pub fn describe(&self, shared: &Shared, index: usize) -> String {
        let barrier = &self.list[index];
        let bytes = match barrier.bytes {
            0 => "no bytes are pending".to_string(),
            more @ 1.. => format!("{more} expected bytes are pending"),
            less => format!("{} bytes more than expected have arrived", -less),
        };
        format!(
            "mbarrier {} (phase {}: {} of {} arrivals are pending, {bytes})",
            shared.describe(u64::from(barrier.address)),
            barrier.phase,
            barrier.pending,
            barrier.count
        )
    }

    /// The barrier at `address`, whose initialisation must be known to the thread that uses it.
    pub fn locate(
        &self,
        shared: &Shared,
        who: Accessor<'_>,
        lane: u32,
        address: u64,
    ) -> Step<usize> {
        if !address.is_multiple_of(8) {
            let place = shared.describe(address);
            let detail = format!("the address of the mbarrier, {place}, is not a multiple of 8");
            return Err(RawFault::new(FaultKind::Misaligned, lane, detail));
        }
        let Some(index) = self.find(address) else {
            let place = shared.describe(address);
            let detail = format!("no mbarrier has been initialised at {place}");
            return Err(RawFault::new(FaultKind::Uninitialised, lane, detail));
        };
        let (thread, stamp, _) = self.list[index].init;
        if thread != who.warp * 32 + lane && !who.clock.is_after(thread / 32, stamp) {
            let text = "race: uses an mbarrier whose initialisation is not ordered before this";
            return Err(self.init_fault(FaultKind::Race, shared, lane, index, text));
        }
        Ok(index)
    }

    /// Fails where a bulk copy may not see the initialisation of barrier `index`.
    pub fn check_copy(
        &self,
        shared: &mut Shared,
        who: Accessor<'_>,
        lane: u32,
        index: usize,
    ) -> Step {
        let (thread, stamp, _) = self.list[index].init;
        if shared.fences().cover(thread, stamp, (who.warp, who.clock), true) {
            return Ok(());
        }
        let text = "a bulk copy uses an mbarrier, but the thread that initialised it has executed neither \
                    fence.mbarrier_init nor fence.proxy.async since";
        Err(self.init_fault(FaultKind::MissingFence, shared, lane, index, text))
    }

    #[cold]
    fn init_fault(
        &self,
        kind: FaultKind,
        shared: &Shared,
        lane: u32,
        index: usize,
        text: &str,
    ) -> Box<RawFault> {
        let (thread, _, pc) = self.list[index].init;
        let place = shared.describe(u64::from(self.list[index].address));
        let mut fault = RawFault::new(kind, lane, format!("{text}: {place}"));
        fault.other = Some((thread / 32, Some(thread % 32), pc));
        fault
    }

    /// A copy brought `bytes` bytes to barrier `index`; `stamp` is new.
    pub fn complete_copy(
        &mut self,
        index: usize,
        bytes: u32,
        stamp: u32,
        (warp, lane, pc): (u32, u32, Pc),
    ) -> Result<(), String> {
        let barrier = &mut self.list[index];
        barrier.newest_copy = Some((stamp, warp, lane, pc));
        barrier.add_bytes(-i64::from(bytes))?;
        Clock::complete(&mut barrier.arriving, index, stamp);
        barrier.settle(index, &mut self.woken);
        Ok(())
    }

    /// A copy that none of the warps of a block that has ended waited for.
    pub fn lost_copy(&self, warps: &[Warp]) -> Option<LocatedFault> {
        let copies = self.list.iter().enumerate().map(|(index, b)| (index, b.newest_copy));
        copies.into_iter().find_map(|(index, copy)| {
            let (stamp, warp, lane, pc) = copy?;
            let observed = warps.iter().any(|w| w.clock.has_observed(index, stamp));
            (!observed).then(|| LocatedFault::lost_copy(warp, lane, pc))
        })
    }

    fn init(&mut self, barrier: Barrier) -> Result<(), String> {
        if let Some(known) = self.list.iter_mut().find(|b| b.address == barrier.address) {
            *known = barrier;
        } else if self.list.len() < BARRIER_TRACKS {
            self.list.push(barrier);
        } else {
            return Err(format!(
                "more than {BARRIER_TRACKS} mbarriers in a block are not emulated"
            ));
        }
        Ok(())
    }
}

/// Executes an instruction on barriers in the lanes of `mask`; returns the lanes that wait, which are parked.
pub(super) fn execute(
    state: &mut BlockState,
    warp: &mut Warp,
    mask: u32,
    pc: Pc,
    operation: Mbarrier,
) -> Step<u32> {
    let space = if operation.generic { Where::Generic } else { Where::Shared };
    let at = addresses(warp, operation.address).map(|address| resolve(space, address).1);
    match operation.op {
        MbarrierOp::Init { count } => init(state, warp, mask, pc, (&at, count))?,
        MbarrierOp::Invalidate => {
            for lane in lanes(mask) {
                let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
                let index = state.mbarriers.locate(&state.shared, who, lane, at[lane as usize])?;
                state.mbarriers.list[index].count = 0;
                state.shared.end_barrier(state.mbarriers.list[index].address);
            }
        }
        MbarrierOp::Expect { bytes } => {
            for lane in lanes(mask) {
                let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
                let index = state.mbarriers.locate(&state.shared, who, lane, at[lane as usize])?;
                let bytes = i64::from(warp.registers.r(bytes)[lane as usize]);
                expect(state, lane, index, bytes)?;
            }
        }
        MbarrierOp::Arrive { state: token, count, bytes } => {
            let mut tokens = [0; 32];
            for lane in lanes(mask) {
                let l = lane as usize;
                let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
                let index = state.mbarriers.locate(&state.shared, who, lane, at[l])?;
                if bytes != NONE {
                    expect(state, lane, index, i64::from(warp.registers.r(bytes)[l]))?;
                }
                let count = if count == NONE { 1 } else { warp.registers.r(count)[l] };
                tokens[l] = u64::from(state.mbarriers.list[index].phase);
                arrive(state, warp, lane, index, count)?;
            }
            if token != NONE {
                warp.registers.write64(token, mask, &tokens);
            }
            state.stamp += 1;
            warp.clock.step(state.stamp);
        }
        MbarrierOp::Wait { p, phase, by_parity, blocking } => {
            let phases: [u64; 32] = match by_parity {
                true => warp.registers.r(phase).map(u64::from),
                false => *warp.registers.x(phase),
            };
            return wait(state, warp, mask, pc, (&at, &phases), (p, by_parity, blocking));
        }
    }
    Ok(0)
}

fn init(
    state: &mut BlockState,
    warp: &mut Warp,
    mask: u32,
    pc: Pc,
    (at, counts): (&[u64; 32], Slot),
) -> Step {
    for lane in lanes(mask) {
        let (address, count) = (at[lane as usize], warp.registers.r(counts)[lane as usize]);
        let place = || state.shared.describe(address);
        if address % 8 != 0 {
            let detail =
                format!("the address of the mbarrier, {}, is not a multiple of 8", place());
            return Err(RawFault::new(FaultKind::Misaligned, lane, detail));
        }
        if count == 0 || i64::from(count) > MOST {
            let detail = format!("an mbarrier for {count} arrivals; 1 to {MOST} are possible");
            return Err(RawFault::new(FaultKind::BadOperand, lane, detail));
        }
        if state.mbarriers.find(address).is_some() {
            let detail = format!(
                "initialises {}, which is an mbarrier already: mbarrier.inval ends one",
                place()
            );
            return Err(RawFault::new(FaultKind::BadOperand, lane, detail));
        }
        let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
        state.shared.begin_barrier(who, lane, address)?;
        let barrier = Barrier {
            address: address as u32,
            count,
            pending: count,
            bytes: 0,
            phase: 0,
            arriving: [0; TRACKS],
            complete: [0; TRACKS],
            init: (warp.index * 32 + lane, warp.clock.stamp, pc),
            newest_copy: None,
        };
        let added = state.mbarriers.init(barrier);
        added.map_err(|detail| RawFault::new(FaultKind::Limit, lane, detail))?;
    }
    Ok(())
}

fn expect(state: &mut BlockState, lane: u32, index: usize, bytes: i64) -> Step {
    let added = state.mbarriers.list[index].add_bytes(bytes);
    added.map_err(|detail| RawFault::new(FaultKind::BadOperand, lane, detail))
}

fn arrive(state: &mut BlockState, warp: &Warp, lane: u32, index: usize, count: u32) -> Step {
    let Mbarriers { list, woken } = &mut state.mbarriers;
    let barrier = &mut list[index];
    if count == 0 || count > barrier.pending {
        let detail =
            format!("arrives {count} times at {}", state.mbarriers.describe(&state.shared, index));
        return Err(RawFault::new(FaultKind::BadOperand, lane, detail));
    }
    barrier.pending -= count;
    warp.clock.release(warp.index as usize, &mut barrier.arriving);
    barrier.settle(index, woken);
    Ok(())
}

fn wait(
    state: &mut BlockState,
    warp: &mut Warp,
    mask: u32,
    pc: Pc,
    (at, phases): (&[u64; 32], &[u64; 32]),
    (p, by_parity, blocking): (Slot, bool, bool),
) -> Step<u32> {
    let (mut held, mut parked, mut acquired) = (0, 0, usize::MAX);
    for lane in lanes(mask) {
        let l = lane as usize;
        let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
        let index = state.mbarriers.locate(&state.shared, who, lane, at[l])?;
        let barrier = &state.mbarriers.list[index];
        if by_parity && phases[l] > 1 {
            let detail = format!("waits for parity {}; 0 and 1 exist", phases[l]);
            return Err(RawFault::new(FaultKind::BadOperand, lane, detail));
        }
        let complete = match by_parity {
            // The phase before the current one has the other parity.
            true => u64::from(barrier.phase & 1) != phases[l],
            false => u64::from(barrier.phase) > phases[l],
        };
        if complete {
            held |= 1 << lane;
            if acquired != index {
                warp.clock.acquire(&barrier.complete);
                acquired = index;
            }
            warp.impatient &= !(1 << lane);
            continue;
        }
        // `try_wait` may give up after a time: the first time it does so at once, so that a missing loop is noticed.
        if !blocking || warp.impatient >> lane & 1 == 0 {
            warp.impatient |= 1 << lane;
            continue;
        }
        parked |= 1 << lane;
        let waiting = State::Mbarrier(index as u32);
        let same = |g: &&mut Group| (g.pc, g.frame, g.state) == (pc, warp.current.frame, waiting);
        match warp.groups.iter_mut().find(same) {
            Some(group) => group.lanes |= 1 << lane,
            None => {
                warp.groups.push(Group { pc, lanes: 1 << lane, state: waiting, ..warp.current })
            }
        }
    }
    warp.registers.set_p(p, mask & !parked, held);
    warp.current.lanes &= !parked;
    Ok(parked)
}
