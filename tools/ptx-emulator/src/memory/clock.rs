//! Happens-before between the warps of a block.

/// Most warps that a block has.
const WARPS: usize = 32;

/// Most mbarriers of a block; bulk copies that complete on one are ordered like the work of one more warp.
pub(crate) const BARRIER_TRACKS: usize = 64;

/// Warps and mbarriers.
pub(crate) const TRACKS: usize = WARPS + BARRIER_TRACKS;

/// Per track, the last of its intervals that someone knows of.
pub(crate) type Joined = [u32; TRACKS];

/// What one warp knows of the others. A stamp names an interval between two synchronisations of one warp; stamps are
/// unique in a block and grow with time.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    /// The interval that the warp is in.
    pub stamp: u32,
    /// Per warp, the last of its intervals that is ordered before what this warp does now. The own entry tells which
    /// own intervals are ordered between lanes too.
    seen: Joined,
    /// Everything up to this stamp is ordered before what this warp does now: the minimum of `seen`.
    pub floor: u32,
    warps: usize,
}

impl Clock {
    pub fn new(warp: usize, warps: usize) -> Self {
        Self { stamp: warp as u32 + 1, seen: [0; TRACKS], floor: 0, warps }
    }

    /// Whether what `warp` did in its interval `stamp` is ordered before what this warp does now.
    pub fn is_after(&self, warp: u32, stamp: u32) -> bool {
        stamp <= self.floor || stamp <= self.seen[warp as usize]
    }

    /// Whether a copy that completed on barrier `track` with `stamp` is known to have arrived.
    pub fn has_observed(&self, track: usize, stamp: u32) -> bool {
        stamp <= self.seen[WARPS + track]
    }

    /// The last interval of `warp` that is ordered before what this warp does now.
    pub fn horizon(&self, warp: u32) -> u32 {
        self.seen[warp as usize].max(self.floor)
    }

    /// A new interval that orders nothing between the lanes.
    pub fn step(&mut self, stamp: u32) {
        self.stamp = stamp;
    }

    /// The lanes of the warp synchronise; `stamp` is new.
    pub fn advance(&mut self, warp: usize, stamp: u32) {
        self.seen[warp] = self.stamp;
        self.stamp = stamp;
        self.refresh();
    }

    /// Everything that the releasing warps did is ordered before what this one does next.
    pub fn acquire(&mut self, joined: &Joined) {
        for (mine, theirs) in self.seen.iter_mut().zip(joined) {
            *mine = (*mine).max(*theirs);
        }
        self.refresh();
    }

    /// Adds what this warp (number `warp`) did and knows to `joined`.
    pub fn release(&self, warp: usize, joined: &mut Joined) {
        for (theirs, mine) in joined.iter_mut().zip(&self.seen) {
            *theirs = (*theirs).max(*mine);
        }
        joined[warp] = joined[warp].max(self.stamp);
    }

    /// Notes in `joined` that a copy completed on barrier `track` with `stamp`.
    pub fn complete(joined: &mut Joined, track: usize, stamp: u32) {
        joined[WARPS + track] = stamp;
    }

    fn refresh(&mut self) {
        self.floor = self.seen[..self.warps].iter().copied().min().unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_of_two_orders_those_two_only() {
        let mut clocks: Vec<_> = (0..3).map(|w| Clock::new(w, 3)).collect();
        let mut joined = [0; TRACKS];
        clocks[0].release(0, &mut joined);
        clocks[1].release(1, &mut joined);
        for (warp, stamp) in [(0, 10), (1, 11)] {
            clocks[warp].acquire(&joined);
            clocks[warp].advance(warp, stamp);
        }
        assert!(clocks[1].is_after(0, 1) && clocks[0].is_after(1, 2));
        assert!(!clocks[2].is_after(0, 1) && !clocks[1].is_after(2, 3));
        assert!(!clocks[1].is_after(0, 10), "what follows the barrier is not ordered");
    }
}
