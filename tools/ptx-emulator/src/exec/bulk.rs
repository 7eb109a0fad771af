//! Bulk copies (`cp.async.bulk`), of plain bytes and of boxes of tensors.
//!
//! A copy begins when it is issued: both sides are checked, and what a load reads is taken. It is carried out at a
//! moment that the seed decides, or when its thread waits for it.

use std::ops::Range;

use super::Job;
use super::block::{BlockState, LocatedFault};
use super::global::GlobalView;
use super::memory::{addresses, resolve};
use super::warp::Warp;
use crate::fault::{FaultKind, RawFault, Step};
use crate::isa::*;
use crate::memory::{Accessor, AsyncRead, Swizzle, TensorMap, Writes};

/// Neighbouring bytes of global memory, and where they are in the box.
#[derive(Debug, Clone, Copy)]
struct Row {
    global: u64,
    at: u64,
    bytes: u64,
}

/// What a copy moves.
#[derive(Debug)]
struct Plan {
    bytes: u64,
    rows: Vec<Row>,
    swizzle: Swizzle,
}

/// A copy that was issued and not yet carried out.
#[derive(Debug)]
pub(super) struct Copy {
    warp: u32,
    lane: u32,
    pc: Pc,
    shared: Range<u32>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// The bytes of the box as they will lie in shared memory, and the number of the barrier.
    Load { image: Vec<u8>, barrier: usize },
    /// Where the bytes go, and the bulk group.
    Store { plan: Plan, group: u32 },
}

impl Copy {
    /// A load that no one can have seen arrive.
    pub fn unfinished_load(&self) -> Option<LocatedFault> {
        let is_load = matches!(self.work, Work::Load { .. });
        is_load.then(|| LocatedFault::lost_copy(self.warp, self.lane, self.pc))
    }
}

fn bad(lane: u32, detail: String) -> Box<RawFault> {
    RawFault::new(FaultKind::BadOperand, lane, detail)
}

fn check_aligned(lane: u32, what: &str, value: u64, align: u64) -> Step {
    if value.is_multiple_of(align) {
        return Ok(());
    }
    let detail = format!("{what} of a bulk copy is {value:#x}, which is not a multiple of {align}");
    Err(RawFault::new(FaultKind::Misaligned, lane, detail))
}

/// Reads the tensor map at a generic address.
fn read_map(job: &Job<'_>, global: GlobalView<'_>, lane: u32, address: u64) -> Step<TensorMap> {
    check_aligned(lane, "the address of the tensor map", address, 64)?;
    let mut bytes = [0; 128];
    match resolve(Where::Generic, address) {
        (Where::Param, at) => {
            let found = usize::try_from(at).ok().and_then(|at| job.params.get(at..at + 128));
            let Some(found) = found else {
                return Err(bad(lane, format!("no tensor map fits byte {at} of the parameters")));
            };
            bytes.copy_from_slice(found);
        }
        (Where::Global, at) => global.load_bytes(lane, at, &mut bytes)?,
        _ => {
            let detail = "a tensor map that is neither a parameter nor in global memory";
            return Err(bad(lane, detail.into()));
        }
    }
    TensorMap::decode(&bytes).ok_or_else(|| {
        bad(lane, format!("the 128 bytes at {address:#x} are not an encoded tensor map"))
    })
}

/// The rows of the box at `first` that lie inside the tensor.
fn box_rows(map: &TensorMap, first: &[i64]) -> Vec<Row> {
    let element = i64::from(map.element_bytes);
    let inside = |dim: usize, index: i64| (0..map.dims[dim] as i64).contains(&index);
    let width = i64::from(map.box_dims[0]);
    let (from, to) = (first[0].max(0), (first[0] + width).min(map.dims[0] as i64));
    let count: u32 = map.box_dims[1..].iter().product();
    let mut rows = Vec::new();
    for number in 0..if from < to { count } else { 0 } {
        let (mut rest, mut address, mut valid) = (number, map.address.0, true);
        for (dim, (first, stride)) in (1..).zip(first[1..].iter().zip(&map.strides)) {
            let index = first + i64::from(rest % map.box_dims[dim]);
            rest /= map.box_dims[dim];
            valid &= inside(dim, index);
            address = address.wrapping_add_signed(index * *stride as i64);
        }
        if valid {
            rows.push(Row {
                global: address + (from * element) as u64,
                at: ((i64::from(number) * width + from - first[0]) * element) as u64,
                bytes: ((to - from) * element) as u64,
            });
        }
    }
    rows
}

/// Issues the copies of the lanes in `mask`.
pub(super) fn issue(
    job: &Job<'_>,
    state: &mut BlockState,
    warp: &mut Warp,
    mask: u32,
    pc: Pc,
    copy: &BulkCopy,
) -> Step {
    let view = GlobalView { job, tag: state.tag };
    let (shared, global) = (addresses(warp, copy.shared), addresses(warp, copy.global));
    let barriers = copy.barrier.map(|at| addresses(warp, at));
    for lane in lanes(mask) {
        let l = lane as usize;
        let (_, at) = resolve(Where::Generic, shared[l]);
        let plan = match copy.rank {
            0 => {
                let bytes = u64::from(warp.registers.r(copy.bytes)[l]);
                check_aligned(lane, "the size", bytes, 16)?;
                check_aligned(lane, "the global address", global[l], 16)?;
                check_aligned(lane, "the shared address", at, 16)?;
                let rows = vec![Row { global: global[l], at: 0, bytes }];
                Plan { bytes, rows, swizzle: Swizzle::None }
            }
            rank => {
                let map = read_map(job, view, lane, global[l])?;
                if map.dims.len() != usize::from(rank) {
                    let dims = map.dims.len();
                    return Err(bad(lane, format!("a tensor map of {dims} dimensions for {rank}")));
                }
                check_aligned(lane, "the shared address", at, 128)?;
                let slots = &job.kernel.operands[copy.coordinates as usize..][..rank.into()];
                let coordinates: Vec<_> = slots
                    .iter()
                    .map(|slot| i64::from(warp.registers.r(*slot as Slot)[l] as i32))
                    .collect();
                let plan = Plan {
                    bytes: map.box_bytes(),
                    rows: box_rows(&map, &coordinates),
                    swizzle: map.swizzle,
                };
                check_aligned(lane, "the swizzled size", plan.bytes, map.swizzle.span().into())?;
                plan
            }
        };
        if plan.bytes == 0 {
            continue;
        }
        let barrier = barriers.map(|at| resolve(Where::Generic, at[l]).1);
        begin(state, warp, (lane, pc), view, (at, barrier), plan)?;
    }
    Ok(())
}

fn begin(
    state: &mut BlockState,
    warp: &Warp,
    (lane, pc): (u32, Pc),
    view: GlobalView<'_>,
    (at, barrier): (u64, Option<u64>),
    plan: Plan,
) -> Step {
    let who = Accessor { clock: &warp.clock, warp: warp.index, pc };
    let range = at..at + plan.bytes;
    let place = range.start as u32..range.end as u32;
    let work = match barrier {
        Some(barrier) => {
            let index = state.mbarriers.locate(&state.shared, who, lane, barrier)?;
            state.mbarriers.check_copy(&mut state.shared, who, lane, index)?;
            state.shared.begin_bulk(who, lane, range)?;
            let mut plain = vec![0; plan.bytes as usize];
            for row in &plan.rows {
                let (start, end) = (row.at as usize, (row.at + row.bytes) as usize);
                view.load_bytes(lane, row.global, &mut plain[start..end])?;
            }
            let image = permute(plan.swizzle, at, plain);
            Work::Load { image, barrier: index }
        }
        None => {
            let mut writes = Writes::default();
            let stored: u64 = plan.rows.iter().map(|r| r.bytes).sum();
            if stored == plan.bytes {
                state.shared.survey(lane, range, &mut writes)?;
            } else {
                // What lies outside the tensor is not read.
                for row in &plan.rows {
                    for chunk in (row.at / 16..(row.at + row.bytes).div_ceil(16)).map(|c| c * 16) {
                        let start = plan.swizzle.apply(at + chunk);
                        state.shared.survey(lane, start..start + 16, &mut writes)?;
                    }
                }
            }
            state.shared.check_writes(who, lane, &writes)?;
            for row in &plan.rows {
                view.check_store(lane, row.global, row.bytes)?;
            }
            let group = warp.bulk_committed[lane as usize];
            let reader = (warp.index, Some(lane));
            state.shared.reads.begin(AsyncRead::new(place.clone(), reader, group, pc));
            Work::Store { plan, group }
        }
    };
    state.copies.push(Copy { warp: warp.index, lane, pc, shared: place, work });
    Ok(())
}

/// Moves the chunks of a box at shared address `at` between their plain and their swizzled order; it is its own inverse.
fn permute(swizzle: Swizzle, at: u64, from: Vec<u8>) -> Vec<u8> {
    if swizzle == Swizzle::None {
        return from;
    }
    let mut to = vec![0; from.len()];
    for (chunk, bytes) in from.chunks_exact(16).enumerate() {
        let place = (swizzle.apply(at + 16 * chunk as u64) - at) as usize;
        to[place..place + 16].copy_from_slice(bytes);
    }
    to
}

/// Carries out copy number `index`.
pub(super) fn complete(
    job: &Job<'_>,
    state: &mut BlockState,
    index: usize,
) -> Result<(), LocatedFault> {
    let copy = state.copies.swap_remove(index);
    let located = |raw| LocatedFault { raw, warp: copy.warp, pc: copy.pc };
    match copy.work {
        Work::Load { image, barrier } => {
            state.stamp += 1;
            let issuer = copy.warp * 32 + copy.lane;
            let stamp = state.stamp;
            state.shared.finish_bulk(copy.shared.start, &image, (barrier, stamp), issuer);
            let added = state.mbarriers.complete_copy(
                barrier,
                image.len() as u32,
                stamp,
                (copy.warp, copy.lane, copy.pc),
            );
            added.map_err(|detail| located(bad(copy.lane, detail)))
        }
        Work::Store { plan, .. } => {
            let view = GlobalView { job, tag: state.tag };
            let at = u64::from(copy.shared.start);
            let image = permute(plan.swizzle, at, state.shared.bulk_bytes(&copy.shared).to_vec());
            for row in &plan.rows {
                let bytes = &image[row.at as usize..(row.at + row.bytes) as usize];
                view.store_bytes(copy.lane, row.global, bytes).map_err(located)?;
            }
            Ok(())
        }
    }
}

/// `cp.async.bulk.wait_group`: all but the newest `pending` groups of each lane are carried out.
pub(super) fn wait(
    job: &Job<'_>,
    state: &mut BlockState,
    warp: &mut Warp,
    mask: u32,
    pending: u32,
) -> Step {
    for lane in lanes(mask) {
        let groups = warp.bulk_committed[lane as usize].saturating_sub(pending);
        let mine = |c: &Copy| {
            (c.warp, c.lane) == (warp.index, lane)
                && matches!(c.work, Work::Store { group, .. } if group < groups)
        };
        while let Some(index) = state.copies.iter().position(mine) {
            complete(job, state, index).map_err(|located| located.raw)?;
        }
        let reader = (warp.index, Some(lane));
        state.shared.reads.finish(reader, groups, warp.index, warp.clock.stamp);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DevicePtr;

    #[test]
    fn boxes_are_clipped_in_every_dimension() {
        let map = TensorMap {
            address: DevicePtr(4096),
            element_bytes: 2,
            dims: vec![20, 3, 2],
            strides: vec![48, 160],
            box_dims: vec![8, 2, 2],
            swizzle: Swizzle::None,
        };
        let places = |first: [i64; 3]| -> Vec<_> {
            box_rows(&map, &first).iter().map(|r| (r.global - 4096, r.at, r.bytes)).collect()
        };
        // Rows follow dimension 1, then 2; each has 16 bytes in the box.
        assert_eq!(places([8, 0, 0]), [(16, 0, 16), (64, 16, 16), (176, 32, 16), (224, 48, 16)]);
        assert_eq!(places([-3, 2, 1]), [(160 + 96, 6, 10)]);
        assert_eq!(places([16, -1, -1]), [(32, 48, 8)]);
        assert_eq!(places([20, 0, 0]), []);
        assert_eq!(places([-8, 0, 0]), []);
    }
}
