//! Runs one block: warps take turns in an order drawn from the seed.

use super::Job;
use super::step;
use super::sync::{self, BARRIERS, Barrier};
use super::warp::{Position, State, Warp, thread_index};
use crate::fault::{FaultKind, RawFault};
use crate::memory::Shared;

/// What the warps of a block share.
pub(super) struct BlockState {
    pub shared: Shared,
    pub barriers: [Barrier; BARRIERS],
    /// Barriers that everyone has reached, to be released.
    pub completed: u32,
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
    pub fn run(&mut self, job: &Job<'_>, block: u32) -> Result<u64, LocatedFault> {
        let state = &mut self.state;
        state.position.block = job.block_index(block);
        state.tag = job.launch << 32 | u64::from(block);
        state.shared.reset();
        state.barriers = Default::default();
        state.completed = 0;
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
            if ready == 0 {
                if self.warps.iter().all(|w| w.live == 0) {
                    return Ok(executed);
                }
                return Err(self.stuck(job));
            }
            let index = pick(ready, random.next());
            let warp = &mut self.warps[index];
            let before = warp.executed;
            // The last warp that can run needs no turns.
            let slice = if ready.count_ones() == 1 { 4096 } else { random.slice() };
            let result = step::run(job, &mut self.state, warp, slice);
            executed += warp.executed - before;
            if let Err(raw) = result {
                return Err(LocatedFault { raw, warp: index as u32, pc: warp.current.pc });
            }
            if executed > job.instruction_limit {
                let detail = format!(
                    "the block ran more than {} instructions: an endless loop?",
                    job.instruction_limit
                );
                let raw = RawFault::new(FaultKind::Limit, warp.live.trailing_zeros() & 31, detail);
                return Err(LocatedFault { raw, warp: index as u32, pc: warp.current.pc });
            }
            self.release_barriers(job);
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

    /// Nobody can go on: explains who waits where.
    fn stuck(&self, job: &Job<'_>) -> LocatedFault {
        let waiting = || self.warps.iter().flat_map(|w| w.groups.iter().map(move |g| (w, g)));
        // Lanes that wait for others of their warp tell more than warps at a barrier.
        let first =
            waiting().find(|(_, g)| g.state == State::Converging).or_else(|| waiting().next());
        let Some((warp, group)) = first else {
            let raw = RawFault::new(FaultKind::Deadlock, 0, "no thread can go on");
            return LocatedFault { raw, warp: 0, pc: 0 };
        };
        let thread = |warp: &Warp, lanes: u32| {
            let [x, y, z] = thread_index(warp.index * 32 + lanes.trailing_zeros(), job.block_dim);
            format!("({x},{y},{z})")
        };
        let count = waiting()
            .filter(|(_, g)| g.pc == group.pc)
            .map(|(_, g)| g.lanes.count_ones())
            .sum::<u32>();
        let mut detail = format!("divergent barrier: {count} of {} threads wait here", job.threads);
        if let Some((other_warp, other)) = waiting().find(|(_, g)| g.pc != group.pc) {
            let at = job.describe_code(other.pc);
            detail += &format!("; thread {} waits at {at}", thread(other_warp, other.lanes));
        }
        if let Some(gone) = self.warps.iter().find(|w| w.threads != w.live) {
            detail += &format!(
                "; thread {} has left the kernel",
                thread(gone, gone.threads & !gone.live)
            );
        }
        let raw = RawFault::new(FaultKind::DivergentBarrier, group.lanes.trailing_zeros(), detail);
        LocatedFault { raw, warp: warp.index, pc: group.pc }
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
