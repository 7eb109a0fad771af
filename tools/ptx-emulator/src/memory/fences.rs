//! Which writes have been made known to the asynchronous proxy.
//!
//! Bulk copies and `wgmma` reach shared memory through another proxy than ordinary instructions. A thread's write is
//! visible there once that thread has executed `fence.proxy.async` after it, and the reader is ordered after the fence
//! (PTX ISA, "Proxies" and "Async proxy").

use super::clock::Clock;

#[derive(Debug, Clone, Copy)]
struct Fence {
    /// The interval that begins with the fence: writes with smaller stamps come before it.
    stamp: u32,
    lanes: u32,
    /// Orders the initialisation of barriers only.
    barriers_only: bool,
}

/// Fences remembered per warp; older ones are of no use to readers that keep up.
const REMEMBERED: usize = 256;

/// The proxy fences of each warp, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Fences {
    by_warp: Vec<Vec<Fence>>,
}

impl Fences {
    pub fn new(warps: usize) -> Self {
        Self { by_warp: vec![Vec::new(); warps] }
    }

    pub fn reset(&mut self) {
        self.by_warp.iter_mut().for_each(Vec::clear);
    }

    /// The lanes of `warp` execute a fence, with which the interval `stamp` begins.
    pub fn note(&mut self, warp: u32, lanes: u32, stamp: u32, barriers_only: bool) {
        let fences = &mut self.by_warp[warp as usize];
        if fences.len() == REMEMBERED {
            fences.drain(..REMEMBERED / 2);
        }
        fences.push(Fence { stamp, lanes, barriers_only });
    }

    /// Whether thread `writer` executed a fence after its interval `stamp` that is ordered before what the warp
    /// `reader` does now.
    pub fn cover(
        &self,
        writer: u32,
        stamp: u32,
        (reader, clock): (u32, &Clock),
        for_barrier: bool,
    ) -> bool {
        let (warp, lane) = (writer / 32, writer % 32);
        let horizon = if warp == reader { u32::MAX } else { clock.horizon(warp) };
        let newest = self.by_warp[warp as usize].iter().rev().find(|f| {
            f.stamp <= horizon && f.lanes >> lane & 1 != 0 && (for_barrier || !f.barriers_only)
        });
        newest.is_some_and(|f| f.stamp > stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_counts_when_it_follows_the_write_and_is_ordered_before_the_reader() {
        let mut fences = Fences::new(2);
        let (mut writer, mut reader) = (Clock::new(0, 2), Clock::new(1, 2));
        fences.note(0, 1, 10, false);
        writer.step(10);
        assert!(!fences.cover(0, 1, (1, &reader), false), "not ordered yet");
        let mut joined = [0; crate::memory::TRACKS];
        writer.release(0, &mut joined);
        reader.acquire(&joined);
        assert!(fences.cover(0, 1, (1, &reader), false));
        assert!(!fences.cover(0, 10, (1, &reader), false), "a write after the fence");
        assert!(!fences.cover(1, 1, (1, &reader), false), "a lane that did not fence");
        assert!(fences.cover(0, 1, (0, &writer), false));
    }
}
