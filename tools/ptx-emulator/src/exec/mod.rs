//! Execution: a launch, its blocks, their warps.

mod block;
mod bulk;
mod float;
mod global;
mod integer;
mod matrix;
mod mbarrier;
mod memory;
mod operand;
mod product;
mod registers;
mod step;
mod stuck;
mod sync;
mod warp;
mod wgmma;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::fault::{CodePosition, Fault, OtherAccess};
use crate::isa::Kernel;
use crate::memory::Global;
use crate::module::Module;
use block::{LocatedFault, Runner};
use warp::thread_index;

/// Everything about a launch that its blocks share.
pub(crate) struct Job<'j> {
    pub module: &'j Module,
    pub kernel: &'j Kernel,
    pub global: &'j Global,
    /// Addresses of the module's variables.
    pub variables: &'j [u64],
    pub params: &'j [u8],
    pub grid: [u32; 3],
    pub block_dim: [u32; 3],
    /// Threads per block.
    pub threads: u32,
    pub dynamic_bytes: u32,
    pub seed: u64,
    /// Number of the launch on its device.
    pub launch: u64,
    pub check_blocks: bool,
    pub instruction_limit: u64,
}

impl Job<'_> {
    pub fn block_index(&self, number: u32) -> [u32; 3] {
        thread_index(number, self.grid)
    }

    /// A parameter value, the same in all lanes.
    #[inline(always)]
    fn param(&self, offset: u16, bytes: u8, signed: bool) -> u64 {
        let (at, bytes) = (usize::from(offset), usize::from(bytes));
        let mut raw = [0; 8];
        raw[..bytes].copy_from_slice(&self.params[at..at + bytes]);
        let (value, shift) = (u64::from_le_bytes(raw), 64 - 8 * bytes as u32);
        if signed { ((value << shift) as i64 >> shift) as u64 } else { value }
    }

    fn describe_code(&self, pc: u32) -> CodePosition {
        self.module.code_position(self.kernel.origins[pc as usize])
    }

    fn fault(&self, block: u32, located: LocatedFault) -> Fault {
        let LocatedFault { raw, warp, pc } = located;
        let thread = |warp: u32, lane: u32| thread_index(warp * 32 + lane, self.block_dim);
        Fault {
            kind: raw.kind,
            detail: raw.detail,
            kernel: self.kernel.name.clone(),
            block: self.block_index(block),
            thread: thread(warp, raw.lane),
            at: self.describe_code(pc),
            other: raw.other.map(|(warp, lane, pc)| OtherAccess {
                thread: lane.map(|lane| thread(warp, lane)),
                warp,
                at: self.describe_code(pc),
            }),
        }
    }
}

/// Runs all blocks on up to `workers` threads; returns the instructions executed.
///
/// Blocks are handed out in one fixed order, so the fault that is reported (the first in that order) is the same at
/// any number of threads.
pub(crate) fn run(job: &Job<'_>, workers: usize) -> Result<u64, Box<Fault>> {
    let blocks: u32 = job.grid.iter().product();
    let (next, executed) = (AtomicU32::new(0), AtomicU64::new(0));
    let first_fault = AtomicU32::new(u32::MAX);
    let fault: Mutex<Option<(u32, LocatedFault)>> = Mutex::new(None);
    let work = || {
        let mut runner = Runner::new(job);
        loop {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            if turn >= blocks || turn > first_fault.load(Ordering::Relaxed) {
                return;
            }
            match runner.run(job, shuffled(turn, blocks, job.seed)) {
                Ok(count) => {
                    executed.fetch_add(count, Ordering::Relaxed);
                }
                Err(located) => {
                    first_fault.fetch_min(turn, Ordering::Relaxed);
                    let mut held = fault.lock().unwrap_or_else(|e| e.into_inner());
                    if held.as_ref().is_none_or(|(known, _)| turn < *known) {
                        *held = Some((turn, located));
                    }
                    return;
                }
            }
        }
    };
    let workers = if job.kernel.has_global_atomics { 1 } else { workers.min(blocks as usize) };
    if workers <= 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(work);
            }
            work();
        });
    }
    match fault.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some((turn, located)) => {
            Err(Box::new(job.fault(shuffled(turn, blocks, job.seed), located)))
        }
        None => Ok(executed.into_inner()),
    }
}

/// The block that runs in turn `turn`: a step through all blocks that the seed chooses.
fn shuffled(turn: u32, blocks: u32, seed: u64) -> u32 {
    // Any stride without a common factor with the count visits every block once.
    let count = u64::from(blocks);
    let mut stride = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % count;
    while greatest_common_divisor(stride, count) != 1 {
        stride += 1;
    }
    ((u64::from(turn) * stride + seed % count) % count) as u32
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_has_its_turn() {
        for (blocks, seed) in [(1, 0), (7, 3), (12, u64::MAX), (1000, 42)] {
            let mut seen: Vec<_> = (0..blocks).map(|turn| shuffled(turn, blocks, seed)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..blocks).collect::<Vec<_>>());
        }
    }
}
