//! Shared memory that `wgmma` or a bulk copy reads, until the reads are known to be over.
//!
//! Such reads are large, so they are kept as ranges. One begins when its instruction is issued and is over, for those
//! that are ordered after it, when a warp waits for the group of the instruction. A warpgroup multiplies as one, so
//! that the wait of any of its four warps will do: hardware has read for all four then.

use std::ops::Range;

use super::clock::Clock;

/// An asynchronous read of shared memory.
#[derive(Debug, Clone)]
pub(crate) struct AsyncRead {
    pub range: Range<u32>,
    /// The warp of a bulk copy, or the first of a warpgroup.
    pub warp: u32,
    /// The lane of a bulk copy; `None` for `wgmma`.
    pub lane: Option<u32>,
    /// Group that a wait must cover.
    pub group: u32,
    pub pc: u32,
    /// Interval in which each warp of the warpgroup (or the one warp) had waited; 0 while it has not.
    done: [u32; 4],
}

impl AsyncRead {
    pub fn new(range: Range<u32>, (warp, lane): (u32, Option<u32>), group: u32, pc: u32) -> Self {
        Self { range, warp, lane, group, pc, done: [0; 4] }
    }

    pub fn is_pending(&self) -> bool {
        self.done == [0; 4]
    }

    fn is_over_for(&self, warp: u32, clock: &Clock) -> bool {
        (self.warp..)
            .zip(self.done)
            .any(|(reader, stamp)| stamp != 0 && (reader == warp || clock.is_after(reader, stamp)))
    }
}

#[derive(Debug, Default)]
pub(crate) struct AsyncReads {
    list: Vec<AsyncRead>,
    /// Encloses all of `list`.
    bounds: Range<u32>,
}

impl AsyncReads {
    pub fn clear(&mut self) {
        self.list.clear();
        self.bounds = 0..0;
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Notes a read; one of the same group and instruction family that touches it grows instead.
    pub fn begin(&mut self, read: AsyncRead) {
        let same = |r: &AsyncRead| (r.warp, r.lane) == (read.warp, read.lane);
        // What this reader read before and finished, it finishes again with this read.
        self.list.retain(|r| {
            !(same(r)
                && !r.is_pending()
                && r.group < read.group
                && read.range.start <= r.range.start
                && r.range.end <= read.range.end)
        });
        self.bounds = match self.list.is_empty() {
            true => read.range.clone(),
            false => self.bounds.start.min(read.range.start)..self.bounds.end.max(read.range.end),
        };
        let touching = |r: &&mut AsyncRead| {
            same(r)
                && r.group == read.group
                && r.is_pending()
                && r.range.start <= read.range.end
                && read.range.start <= r.range.end
        };
        match self.list.iter_mut().find(touching) {
            Some(known) => {
                known.range =
                    known.range.start.min(read.range.start)..known.range.end.max(read.range.end);
            }
            None => self.list.push(read),
        }
    }

    /// `warp` has waited for the groups of its reader (see [`AsyncRead::warp`]) below `groups`, in interval `stamp`.
    pub fn finish(
        &mut self,
        (first, lane): (u32, Option<u32>),
        groups: u32,
        warp: u32,
        stamp: u32,
    ) {
        let mine = |r: &&mut AsyncRead| (r.warp, r.lane) == (first, lane) && r.group < groups;
        for read in self.list.iter_mut().filter(mine) {
            let done = &mut read.done[(warp - first) as usize];
            if *done == 0 {
                *done = stamp;
            }
        }
    }

    /// A read of some of `range` that is not over for a warp that wants to write there.
    pub fn conflict(&self, range: Range<u32>, warp: u32, clock: &Clock) -> Option<&AsyncRead> {
        if range.end <= self.bounds.start || self.bounds.end <= range.start {
            return None;
        }
        self.list.iter().find(|r| {
            r.range.start < range.end && range.start < r.range.end && !r.is_over_for(warp, clock)
        })
    }

    /// Whoever may write all of `range` makes older reads there irrelevant.
    pub fn overwrite(&mut self, range: &Range<u32>) {
        self.list.retain(|r| r.range.start < range.start || range.end < r.range.end);
    }

    /// A bulk copy of one of the lanes that was not waited for.
    pub fn unfinished(&self, warp: u32, lanes: u32) -> Option<&AsyncRead> {
        self.list.iter().find(|r| {
            r.warp == warp && r.is_pending() && r.lane.is_some_and(|lane| lanes >> lane & 1 != 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::TRACKS;

    #[test]
    fn a_read_is_over_for_those_who_are_ordered_after_a_wait() {
        let mut reads = AsyncReads::default();
        let (mut reader, mut writer) = (Clock::new(4, 9), Clock::new(8, 9));
        reads.begin(AsyncRead::new(0..128, (4, None), 0, 7));
        reads.begin(AsyncRead::new(128..256, (4, None), 0, 7));
        assert!(reads.conflict(200..204, 8, &writer).is_some_and(AsyncRead::is_pending));
        assert!(reads.conflict(256..260, 8, &writer).is_none());
        reads.finish((4, None), 1, 4, reader.stamp);
        assert!(reads.conflict(0..4, 4, &reader).is_none(), "its own warp has waited");
        assert!(reads.conflict(0..4, 8, &writer).is_some());
        let mut joined = [0; TRACKS];
        reader.release(4, &mut joined);
        reader.step(20);
        writer.acquire(&joined);
        assert!(reads.conflict(0..4, 8, &writer).is_none());
        // The next read of the same place replaces this one.
        reads.begin(AsyncRead::new(0..256, (4, None), 1, 7));
        assert!(reads.conflict(0..4, 8, &writer).is_some());
        reads.overwrite(&(0..256));
        assert!(reads.is_empty());
    }
}
