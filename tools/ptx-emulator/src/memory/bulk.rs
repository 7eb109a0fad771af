//! Shared memory as the asynchronous proxy uses it: bulk copies and the operands of `wgmma`.

use std::ops::Range;

use super::fences::Fences;
use super::shared::{ASYNC, Accessor, BARRIER, COPIES, IN_FLIGHT, OUTSIDE, PAGE, Shared};
use crate::fault::{FaultKind, RawFault, Step};
use crate::isa::lanes;

/// The different writes that left a piece of shared memory as it is: stamp, writer, a granule of each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Writes(Vec<(u32, u16, u32)>);

impl Shared {
    /// The granules of a range that lies inside shared memory as a whole.
    fn granules(&self, lane: u32, range: &Range<u64>) -> Step<Range<usize>> {
        let size = self.size() as u64;
        if range.end > size || range.start >= range.end {
            let bytes = (range.end - range.start) as u32;
            return Err(self.outside(lane, range.start.max(size.min(range.end)), bytes));
        }
        Ok(range.start as usize >> self.shift..(range.end as usize).div_ceil(1 << self.shift))
    }

    /// A bulk copy into `range` begins: nobody may touch it until they have observed the copy's end.
    pub fn begin_bulk(&mut self, who: Accessor<'_>, lane: u32, range: Range<u64>) -> Step {
        let granules = self.granules(lane, &range)?;
        let mut known = (0, 0);
        for granule in granules.clone() {
            let write = (self.written[granule], self.writer[granule]);
            if self.read[granule] == 0 && (write == known || write.0 <= who.clock.floor) {
                continue;
            }
            self.note_write_slowly(who, lane, granule, (0, &[]))?;
            known = write;
        }
        let range = range.start as u32..range.end as u32;
        self.check_reads(who, lane, range.clone())?;
        self.reads.overwrite(&range);
        self.written[granules.clone()].fill(IN_FLIGHT);
        self.writer[granules.clone()].fill((who.warp * 32 + lane) as u16);
        self.written_at[granules.clone()].fill(who.pc);
        self.read[granules].fill(0);
        self.touch(range);
        Ok(())
    }

    /// A bulk copy has arrived: its bytes are `data`; those who observe barrier number `track` at `stamp` may use them.
    pub fn finish_bulk(&mut self, at: u32, data: &[u8], (track, stamp): (usize, u32), issuer: u32) {
        let start = at as usize;
        self.bytes[start..start + data.len()].copy_from_slice(data);
        let granules = start >> self.shift..(start + data.len()).div_ceil(1 << self.shift);
        self.written[granules.clone()].fill(ASYNC | stamp);
        self.writer[granules].fill(COPIES + track as u16);
        self.issuers[track] = issuer;
        self.touch(at..at + data.len() as u32);
    }

    /// The bytes of a range that was checked when its copy began.
    pub fn bulk_bytes(&self, range: &Range<u32>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    /// Adds the writers of `range` to `writes`; memory that no one may read now is a fault.
    pub fn survey(&self, lane: u32, range: Range<u64>, writes: &mut Writes) -> Step {
        for granule in self.granules(lane, &range)? {
            let (stamp, writer) = (self.written[granule], self.writer[granule]);
            let known = writes.0.last().is_some_and(|w| (w.0, w.1) == (stamp, writer));
            if known {
                continue;
            }
            if stamp >= BARRIER {
                return Err(self.bad_read(lane, granule));
            }
            if writes.0.len() > 32 || !writes.0.iter().any(|w| (w.0, w.1) == (stamp, writer)) {
                writes.0.push((stamp, writer, granule as u32));
            }
        }
        Ok(())
    }

    /// Whether all of `writes` are ordered before an asynchronous read by `who`, and visible to its proxy.
    pub fn check_writes(&self, who: Accessor<'_>, lane: u32, writes: &Writes) -> Step {
        for &(stamp, writer, granule) in &writes.0 {
            if !self.is_ordered(who, stamp, writer) {
                return Err(self.bad_read(lane, granule as usize));
            }
            let is_copy = stamp & ASYNC != 0;
            let reader = (who.warp, who.clock);
            if !is_copy && !self.fences.cover(u32::from(writer), stamp, reader, false) {
                let text = "reads {} through the asynchronous proxy, but the thread that wrote it has executed no \
                            fence.proxy.async between its write and the barrier";
                let (kind, granule) = (FaultKind::MissingFence, granule as usize);
                return Err(self.conflict(kind, text, lane, granule, self.last_write(granule)));
            }
        }
        Ok(())
    }

    /// Whether a write is ordered before what `who` does.
    pub(super) fn is_ordered(&self, who: Accessor<'_>, stamp: u32, writer: u16) -> bool {
        match stamp & ASYNC {
            0 => who.clock.is_after(u32::from(writer) / 32, stamp),
            _ => who.clock.has_observed(usize::from(writer - COPIES), stamp & !ASYNC),
        }
    }

    /// Fails where an asynchronous read of `range` may not be over.
    pub(super) fn check_reads(&self, who: Accessor<'_>, lane: u32, range: Range<u32>) -> Step {
        let Some(read) = self.reads.conflict(range.clone(), who.warp, who.clock) else {
            return Ok(());
        };
        let place = self.describe(u64::from(range.start.max(read.range.start)));
        let reader = if read.lane.is_some() { "a bulk copy" } else { "wgmma" };
        let state = match read.is_pending() {
            true => "still reads: its group was not waited for",
            false => "reads: nothing orders the wait for it before this",
        };
        let detail = format!("race in shared memory: writes {place}, which {reader} {state}");
        let mut fault = RawFault::new(FaultKind::Race, lane, detail);
        fault.other = Some((read.warp, read.lane, read.pc));
        Err(fault)
    }

    /// [`Shared::check_reads`] for a word of each lane; mostly no read is anywhere near.
    pub(super) fn check_reads_of_words(
        &self,
        who: Accessor<'_>,
        mask: u32,
        addresses: &[u64; 32],
        step: u64,
    ) -> Step {
        if self.reads.is_empty() {
            return Ok(());
        }
        let own = || lanes(mask).map(|lane| (addresses[lane as usize] + step) as u32);
        let (Some(first), Some(last)) = (own().min(), own().max()) else { return Ok(()) };
        if self.reads.conflict(first..last + 4, who.warp, who.clock).is_none() {
            return Ok(());
        }
        for (lane, at) in lanes(mask).zip(own()) {
            self.check_reads(who, lane, at..at + 4)?;
        }
        Ok(())
    }

    /// Turns eight bytes into a barrier; ordinary accesses to them are faults from now on.
    pub fn begin_barrier(&mut self, who: Accessor<'_>, lane: u32, address: u64) -> Step {
        let granules = self.granules(lane, &(address..address + 8))?;
        self.check_reads(who, lane, address as u32..address as u32 + 8)?;
        for granule in granules {
            if self.written[granule] == OUTSIDE {
                return Err(self.outside(lane, address, 8));
            }
            self.note_write(who, lane, granule, (0, &[]))?;
            self.written[granule] = BARRIER;
        }
        Ok(())
    }

    /// The bytes of an invalidated barrier are ordinary memory again, with nothing in it.
    pub fn end_barrier(&mut self, address: u32) {
        let granules = address as usize >> self.shift..(address as usize + 8) >> self.shift;
        self.written[granules].fill(super::shared::POISON);
    }

    /// Remembers that `range` changed.
    #[inline(always)]
    pub(super) fn touch(&mut self, range: Range<u32>) {
        self.epoch += 1;
        for page in range.start >> PAGE..=(range.end - 1) >> PAGE {
            self.pages[page as usize] = self.epoch;
        }
    }

    /// A number that grows with every change.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether `range` is as it was at `epoch`.
    pub fn is_unchanged(&self, range: &Range<u32>, epoch: u64) -> bool {
        let pages = (range.start >> PAGE) as usize..=((range.end - 1) >> PAGE) as usize;
        self.pages.get(pages).is_some_and(|pages| pages.iter().all(|page| *page <= epoch))
    }

    /// The proxy fences, and the asynchronous reads, of this block.
    pub fn fences(&mut self) -> &mut Fences {
        &mut self.fences
    }
}
