//! Nobody can go on: who waits where, and for what.

use super::Job;
use super::block::{BlockState, LocatedFault};
use super::warp::{Group, State, Warp, thread_index};
use crate::fault::{FaultKind, RawFault};

/// Places named in a message.
const NAMED: usize = 6;

fn thread(job: &Job<'_>, warp: &Warp, lanes: u32) -> String {
    let [x, y, z] = thread_index(warp.index * 32 + lanes.trailing_zeros(), job.block_dim);
    format!("({x},{y},{z})")
}

pub(super) fn explain(job: &Job<'_>, state: &BlockState, warps: &[Warp]) -> LocatedFault {
    let waiting: Vec<(&Warp, &Group)> =
        warps.iter().flat_map(|w| w.groups.iter().map(move |g| (w, g))).collect();
    // Lanes that wait for others of their warp tell more than warps at a barrier.
    let converging = waiting.iter().find(|(_, g)| g.state == State::Converging);
    let asynchronous =
        waiting.iter().find(|(_, g)| matches!(g.state, State::Mbarrier(_) | State::Warpgroup));
    let Some((warp, group)) = converging.or(asynchronous).or(waiting.first()) else {
        let raw = RawFault::new(FaultKind::Deadlock, 0, "no thread can go on");
        return LocatedFault { raw, warp: 0, pc: 0 };
    };
    let (kind, detail) = match asynchronous {
        Some(_) => (FaultKind::Deadlock, deadlock(job, state, &waiting, (warp, group))),
        None => (FaultKind::DivergentBarrier, divergence(job, warps, &waiting, group)),
    };
    let raw = RawFault::new(kind, group.lanes.trailing_zeros(), detail);
    LocatedFault { raw, warp: warp.index, pc: group.pc }
}

/// What a group of lanes waits for.
fn reason(state: &BlockState, group: &Group) -> String {
    match group.state {
        State::Mbarrier(index) => state.mbarriers.describe(&state.shared, index as usize),
        State::Warpgroup => "the other warps of its warpgroup to issue the same wgmma".into(),
        State::Barrier(number) => format!("barrier {number}"),
        State::Converging | State::Ready => "more lanes of its warp".into(),
    }
}

fn deadlock(
    job: &Job<'_>,
    state: &BlockState,
    waiting: &[(&Warp, &Group)],
    (first_warp, first): (&Warp, &Group),
) -> String {
    let mut detail = format!(
        "deadlock: nobody can go on and no copy is under way; thread {} waits here for {}",
        thread(job, first_warp, first.lanes),
        reason(state, first)
    );
    let mut named = vec![(first.pc, first.state)];
    for (warp, group) in waiting {
        if named.contains(&(group.pc, group.state)) {
            continue;
        }
        if named.len() == NAMED {
            detail += "; and more";
            break;
        }
        named.push((group.pc, group.state));
        detail += &format!(
            "; thread {} waits at {} for {}",
            thread(job, warp, group.lanes),
            job.describe_code(group.pc),
            reason(state, group)
        );
    }
    detail
}

fn divergence(job: &Job<'_>, warps: &[Warp], waiting: &[(&Warp, &Group)], group: &Group) -> String {
    let here = waiting.iter().filter(|(_, g)| g.pc == group.pc);
    let count = here.map(|(_, g)| g.lanes.count_ones()).sum::<u32>();
    let mut detail = format!("divergent barrier: {count} of {} threads wait here", job.threads);
    if let Some((warp, other)) = waiting.iter().find(|(_, g)| g.pc != group.pc) {
        let at = job.describe_code(other.pc);
        detail += &format!("; thread {} waits at {at}", thread(job, warp, other.lanes));
    }
    if let Some(gone) = warps.iter().find(|w| w.threads != w.live) {
        let who = thread(job, gone, gone.threads & !gone.live);
        detail += &format!("; thread {who} has left the kernel");
    }
    detail
}
