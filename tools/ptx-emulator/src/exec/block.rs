//! Runs one block: warps take turns in an order drawn from the seed.

use super::Job;
use super::bulk::{self, Copy};
use super::mbarrier::Mbarriers;
use super::product::Tiles;
use super::sync::{self, BARRIERS, Barrier};
use super::warp::{Position, State, Warp};
use super::wgmma::Warpgroup;
use super::{step, stuck};
use crate::fault::{FaultKind, RawFault};
use crate::memory::Shared;

/// What the warps of a block share.
pub(super) struct BlockState {
    pub shared: Shared,
    pub barriers: [Barrier; BARRIERS],
    /// Barriers that everyone has reached, to be released.
    pub completed: u32,
    pub mbarriers: Mbarriers,
    /// Bulk copies that are under way.
    pub copies: Vec<Copy>,
    pub warpgroups: [Warpgroup; 8],
    /// Warpgroups that committed products since their waiting warps were last looked at.
    pub woken_groups: u32,
    pub tiles: Tiles,
    /// The newest stamp of any warp's clock.
    pub stamp: u32,
    pub position: Position,
    /// Launch and block.
    pub tag: u64,
}

/// A small generator (SplitMix64): schedules need variety, not quality.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Instructions until the next change: mostly many, for speed, sometimes few, for surprise.
    fn slice(&mut self) -> u32 {
        let draw = self.next();
        match draw & 3 {
            0 => 1 + (draw >> 8 & 15) as u32,
            _ => 64 + (draw >> 8 & 511) as u32,
        }
    }
}

/// A fault with the warp and instruction where it happened.
pub(super) struct LocatedFault {
    pub raw: Box<RawFault>,
    pub warp: u32,
    pub pc: u32,
}

impl LocatedFault {
    /// A bulk load that was not waited for when the block ended.
    pub fn lost_copy(warp: u32, lane: u32, pc: u32) -> Self {
        let detail = "the block ended without any thread having waited for this copy";
        Self { raw: RawFault::new(FaultKind::AsyncInFlight, lane, detail), warp, pc }
    }
}

/// State that one thread of the host keeps from block to block.
pub(super) struct Runner {
    state: BlockState,
    warps: Vec<Warp>,
}

impl Runner {
    pub fn new(job: &Job<'_>) -> Self {
        let count = job.threads.div_ceil(32);
        Self {
            state: BlockState {
                shared: Shared::new(job.kernel, job.dynamic_bytes, count as usize),
                barriers: Default::default(),
                completed: 0,
                mbarriers: Mbarriers::default(),
                copies: Vec::new(),
                warpgroups: Default::default(),
                woken_groups: 0,
                tiles: Tiles::default(),
                stamp: 0,
                position: Position {
                    grid: job.grid,
                    block_dim: job.block_dim,
                    block: [0; 3],
                    dynamic_bytes: job.dynamic_bytes,
                    static_bytes: job.kernel.static_bytes,
                },
                tag: 0,
            },
            warps: (0..count).map(|w| Warp::new(w, job.kernel)).collect(),
        }
    }

    /// Runs block number `block`; returns the instructions that its warps executed.
    #[expect(clippy::too_many_lines, reason = "one loop over warps, whose state its steps share")]
    pub fn run(&mut self, job: &Job<'_>, block: u32) -> Result<u64, LocatedFault> {
        let state = &mut self.state;
        state.position.block = job.block_index(block);
        state.tag = job.launch << 32 | u64::from(block);
        state.shared.reset();
        state.barriers = Default::default();
        state.completed = 0;
        state.mbarriers.clear();
        state.copies.clear();
        state.warpgroups = Default::default();
        state.woken_groups = 0;
        state.tiles.clear();
        state.stamp = self.warps.len() as u32 + 1;
        for warp in &mut self.warps {
            warp.reset(job.kernel, &state.position, job.variables);
        }
        let mut random = Random(
            job.seed ^ (job.launch << 32 | u64::from(block)).wrapping_mul(0xd6e8_feb8_6659_fd93),
        );
        let mut executed = 0;
        loop {
            let ready = self.warps.iter().enumerate().filter(|(_, w)| w.is_ready());
            let ready = ready.fold(0u32, |mask, (index, _)| mask | 1 << index);
            if ready == 0 && !self.state.copies.is_empty() {
                let finished = self.warps.iter().all(|w| w.live == 0);
                let lost = self.state.copies.iter().find_map(Copy::unfinished_load);
                if let Some(fault) = lost.filter(|_| finished) {
                    return Err(fault);
                }
                self.finish_copy(job, random.next())?;
                continue;
            }
            if ready == 0 {
                if self.warps.iter().all(|w| w.live == 0) {
                    let lost = self.state.mbarriers.lost_copy(&self.warps);
                    return lost.map_or(Ok(executed), Err);
                }
                return Err(stuck::explain(job, &self.state, &self.warps));
            }
            let index = pick(ready, random.next());
            let warp = &mut self.warps[index];
            let before = warp.executed;
            // The last warp that can run needs no turns.
            let alone = ready.count_ones() == 1 && self.state.copies.is_empty();
            let slice = if alone { 4096 } else { random.slice() };
            let result = step::run(job, &mut self.state, warp, slice);
            executed += warp.executed - before;
            if let Err(raw) = result {
                return Err(LocatedFault { raw, warp: index as u32, pc: warp.current.pc });
            }
            // Half of the stamps tell the writes of copies.
            if executed > job.instruction_limit || self.state.stamp >= 1 << 31 {
                let detail = format!(
                    "the block ran more than {} instructions, or synchronised 2^31 times: an endless loop?",
                    job.instruction_limit
                );
                let raw = RawFault::new(FaultKind::Limit, warp.live.trailing_zeros() & 31, detail);
                return Err(LocatedFault { raw, warp: index as u32, pc: warp.current.pc });
            }
            self.release_barriers(job);
            self.wake();
            while !self.state.copies.is_empty() && random.next() & 1 == 0 {
                self.finish_copy(job, random.next())?;
            }
        }
    }

    /// Carries out one of the copies that are under way.
    fn finish_copy(&mut self, job: &Job<'_>, draw: u64) -> Result<(), LocatedFault> {
        let index = (draw % self.state.copies.len() as u64) as usize;
        bulk::complete(job, &mut self.state, index)?;
        self.wake();
        Ok(())
    }

    /// Lets those look again that wait for what has happened since.
    fn wake(&mut self) {
        let barriers = std::mem::take(&mut self.state.mbarriers.woken);
        let groups = std::mem::take(&mut self.state.woken_groups);
        if barriers == 0 && groups == 0 {
            return;
        }
        for warp in &mut self.warps {
            let own = groups >> (warp.index / 4) & 1 != 0;
            warp.wake(|state| match state {
                State::Mbarrier(number) => barriers >> number & 1 != 0,
                State::Warpgroup => own,
                _ => false,
            });
        }
    }

    fn release_barriers(&mut self, job: &Job<'_>) {
        while self.state.completed != 0 {
            let number = self.state.completed.trailing_zeros();
            self.state.completed &= self.state.completed - 1;
            let barrier = std::mem::take(&mut self.state.barriers[number as usize]);
            for warp in &mut self.warps {
                sync::release(job, warp, number, &barrier, &mut self.state.stamp);
            }
        }
    }
}

/// One of the set bits.
fn pick(mask: u32, draw: u64) -> usize {
    let mut nth = (draw % u64::from(mask.count_ones())) as u32;
    let mut rest = mask;
    while nth > 0 {
        rest &= rest - 1;
        nth -= 1;
    }
    rest.trailing_zeros() as usize
}
