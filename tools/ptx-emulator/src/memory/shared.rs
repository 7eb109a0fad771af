//! Shared memory of a block, with poison and a race detector.
//!
//! The shadow is kept per granule, the smallest access that the kernel makes (1, 2 or 4 bytes), so that neighbouring
//! halves written by different threads do not look like a conflict. Each granule remembers its last write and who
//! read it since; an access is a race when one of them is not ordered before it by a barrier (see [`Clock`]). Between
//! lanes of one warp `bar.warp.sync` orders too.

use super::async_reads::AsyncReads;
use super::clock::{BARRIER_TRACKS, Clock};
use super::fences::Fences;
use crate::fault::{FaultKind, RawFault, Step};
use crate::isa::{Kernel, SharedVariable, lanes};

/// Write stamps that are not times.
pub(super) const POISON: u32 = u32::MAX;
pub(super) const OUTSIDE: u32 = u32::MAX - 1;
pub(super) const IN_FLIGHT: u32 = u32::MAX - 2;
/// The bytes of an mbarrier; the smallest stamp that is no time.
pub(super) const BARRIER: u32 = u32::MAX - 3;

/// Flag in the stamp of a write by a bulk copy: its writer is a barrier, not a thread.
pub(super) const ASYNC: u32 = 1 << 31;
/// Writers of granules from here on are barriers: a copy that completed on barrier `writer - COPIES`.
pub(super) const COPIES: u16 = 1024;

/// Changes are noted per kibibyte.
pub(super) const PAGE: u32 = 10;

/// Flag of a read by several lanes of the newest reader.
const MANY: u64 = 0x80;

/// Who accesses: warp, lane, instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accessor<'c> {
    pub clock: &'c Clock,
    pub warp: u32,
    pub pc: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(super) bytes: Vec<u8>,
    pub(super) shift: u32,
    /// Per granule: stamp, thread (warp * 32 + lane) and instruction of the last write.
    pub(super) written: Vec<u32>,
    pub(super) writer: Vec<u16>,
    pub(super) written_at: Vec<u32>,
    /// Per granule: the newest reader as `stamp << 16 | warp << 8 | lane`, 0 for none, and its instruction.
    pub(super) read: Vec<u64>,
    read_at: Vec<u32>,
    /// Per granule and warp: stamp of the warp's last read since the last write, 0 for none. Meaningless while the
    /// granule has no newest reader.
    readers: Vec<u32>,
    warps: usize,
    variables: Vec<SharedVariable>,
    dynamic: std::ops::Range<u32>,
    /// Reads by the asynchronous proxy, and the fences before them.
    pub reads: AsyncReads,
    pub(super) fences: Fences,
    /// Per barrier, the thread whose copy completed there last.
    pub(super) issuers: Vec<u32>,
    /// The last change of each page, counted by `epoch`; without pages changes are not noted.
    pub(super) pages: Vec<u64>,
    pub(super) epoch: u64,
}

impl Shared {
    pub fn new(kernel: &Kernel, dynamic_bytes: u32, warps: usize) -> Self {
        let end = kernel.dynamic_start + dynamic_bytes;
        let shift = kernel.shared_granule.trailing_zeros();
        let granules = (end as usize).div_ceil(1 << shift);
        Self {
            bytes: vec![0; end as usize + 16],
            shift,
            written: vec![OUTSIDE; granules],
            writer: vec![0; granules],
            written_at: vec![0; granules],
            read: vec![0; granules],
            read_at: vec![0; granules],
            readers: vec![0; granules * warps],
            warps,
            variables: kernel.shared.clone(),
            dynamic: kernel.dynamic_start..end,
            reads: AsyncReads::default(),
            fences: Fences::new(warps),
            issuers: vec![0; BARRIER_TRACKS],
            pages: vec![0; (end >> PAGE) as usize + 1],
            epoch: 0,
        }
    }

    /// A new block: everything is poison.
    pub fn reset(&mut self) {
        let own = self.variables.iter().map(|v| v.start..v.start + v.bytes);
        for range in own.chain([self.dynamic.clone()]) {
            let range =
                range.start as usize >> self.shift..(range.end as usize).div_ceil(1 << self.shift);
            self.written[range].fill(POISON);
        }
        self.read.fill(0);
        self.reads.clear();
        self.fences.reset();
        self.epoch += 1;
        self.pages.fill(self.epoch);
    }

    /// Bytes, guard gaps included.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() - 16
    }

    /// `tile+12`: the variable that an address belongs to.
    pub fn describe(&self, address: u64) -> String {
        let inside = |v: &&SharedVariable| {
            (u64::from(v.start)..u64::from(v.start + v.bytes)).contains(&address)
        };
        let before = |v: &&SharedVariable| u64::from(v.start) <= address;
        if let Some(v) = self.variables.iter().find(inside) {
            return format!("`{}`+{}", v.name, address - u64::from(v.start));
        }
        if (u64::from(self.dynamic.start)..u64::from(self.dynamic.end)).contains(&address) {
            return format!("dynamic shared memory+{}", address - u64::from(self.dynamic.start));
        }
        if address >= u64::from(self.dynamic.start) && address < 1 << 32 {
            let (at, size) = (address - u64::from(self.dynamic.start), self.dynamic.len());
            return format!("byte {at} of {size} bytes of dynamic shared memory");
        }
        match self.variables.iter().filter(before).max_by_key(|v| v.start) {
            Some(v) if address < 1 << 32 => {
                format!(
                    "byte {} of `{}`, which has {}",
                    address - u64::from(v.start),
                    v.name,
                    v.bytes
                )
            }
            _ => format!("shared address {address:#x}"),
        }
    }

    /// Checks bounds and alignment of `bytes` bytes.
    #[inline(always)]
    fn check(&self, lane: u32, address: u64, bytes: u32) -> Step<usize> {
        if address > u64::from(u32::MAX)
            || address as usize + bytes as usize + 16 > self.bytes.len()
        {
            return Err(self.outside(lane, address, bytes));
        }
        if address as u32 & (bytes - 1) != 0 {
            let detail =
                format!("the address of {} is not a multiple of {bytes}", self.describe(address));
            return Err(RawFault::new(FaultKind::Misaligned, lane, detail));
        }
        Ok(address as usize)
    }

    #[cold]
    pub(super) fn outside(&self, lane: u32, address: u64, bytes: u32) -> Box<RawFault> {
        let detail =
            format!("access of {bytes} bytes outside shared memory: {}", self.describe(address));
        RawFault::new(FaultKind::OutOfBounds, lane, detail)
    }

    /// Reads up to 8 bytes, zero-extended.
    #[inline(always)]
    pub fn load(&mut self, who: Accessor<'_>, lane: u32, address: u64, bytes: u32) -> Step<u64> {
        let at = self.check(lane, address, bytes)?;
        let mut granule = at >> self.shift;
        let end = (at + bytes as usize) >> self.shift;
        while granule < end {
            self.note_read(who, lane, granule)?;
            granule += 1;
        }
        let word = u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap_or_default());
        Ok(if bytes == 8 { word } else { word & ((1 << (8 * bytes)) - 1) })
    }

    /// End of the bytes where word accesses need no more checks than those for races; 0 where granules are no words.
    pub fn word_limit(&self) -> u64 {
        if self.shift == 2 { self.bytes.len() as u64 - 16 } else { 0 }
    }

    /// Writes an aligned word in each lane, below [`Shared::word_limit`].
    pub fn store_words(
        &mut self,
        who: Accessor<'_>,
        mask: u32,
        addresses: &[u64; 32],
        step: u64,
        values: &[u32; 32],
    ) -> Step {
        self.check_reads_of_words(who, mask, addresses, step)?;
        for lane in lanes(mask) {
            let at = (addresses[lane as usize] + step) as usize;
            let value = values[lane as usize].to_le_bytes();
            self.note_write(who, lane, at >> 2, (at, &value))?;
            self.bytes[at..at + 4].copy_from_slice(&value);
        }
        Ok(())
    }

    /// Reads an aligned word in each lane, below [`Shared::word_limit`].
    pub fn load_words(
        &mut self,
        who: Accessor<'_>,
        mask: u32,
        addresses: &[u64; 32],
        step: u64,
    ) -> Step<[u32; 32]> {
        let mut out = [0; 32];
        let stamp = u64::from(who.clock.stamp);
        for lane in lanes(mask) {
            let at = (addresses[lane as usize] + step) as usize;
            let newest = &mut self.read[at >> 2];
            if *newest >> 16 == stamp {
                *newest |= if *newest & 0xff == u64::from(lane) { 0 } else { MANY };
            } else {
                self.note_new_read(who, lane, at >> 2)?;
            }
            let bytes = self.bytes[at..at + 4].first_chunk().copied().unwrap_or_default();
            out[lane as usize] = u32::from_le_bytes(bytes);
        }
        Ok(out)
    }

    /// Reads 16 bytes for `ldmatrix`, on behalf of all lanes.
    pub fn load_row(&mut self, who: Accessor<'_>, lane: u32, address: u64) -> Step<[u16; 8]> {
        let at = self.check(lane, address, 16)?;
        for granule in at >> self.shift..(at + 16) >> self.shift {
            self.note_read(who, lane, granule)?;
            self.read[granule] |= MANY;
        }
        Ok(std::array::from_fn(|i| {
            u16::from_le_bytes([self.bytes[at + 2 * i], self.bytes[at + 2 * i + 1]])
        }))
    }

    /// Writes up to 8 bytes.
    #[inline(always)]
    pub fn store(
        &mut self,
        who: Accessor<'_>,
        lane: u32,
        address: u64,
        bytes: u32,
        value: u64,
    ) -> Step {
        let at = self.check(lane, address, bytes)?;
        self.check_reads(who, lane, at as u32..at as u32 + bytes)?;
        let value = &value.to_le_bytes()[..bytes as usize];
        for granule in at >> self.shift..(at + bytes as usize) >> self.shift {
            self.note_write(who, lane, granule, (at, value))?;
        }
        self.bytes[at..at + bytes as usize].copy_from_slice(value);
        Ok(())
    }

    /// An asynchronous copy begins: its target is poison until [`Shared::finish_copy`].
    pub fn begin_copy(&mut self, who: Accessor<'_>, lane: u32, address: u64, bytes: u32) -> Step {
        let at = self.check(lane, address, bytes)?;
        self.check_reads(who, lane, at as u32..at as u32 + bytes)?;
        for granule in at >> self.shift..(at + bytes as usize) >> self.shift {
            self.note_write(who, lane, granule, (at, &[]))?;
            self.written[granule] = IN_FLIGHT;
        }
        Ok(())
    }

    /// The copy has arrived, as far as the thread that waited for it knows.
    pub fn finish_copy(&mut self, who: Accessor<'_>, lane: u32, address: u32, data: &[u8]) {
        let at = address as usize;
        self.bytes[at..at + data.len()].copy_from_slice(data);
        self.touch(address..address + data.len() as u32);
        for granule in at >> self.shift..(at + data.len()) >> self.shift {
            self.written[granule] = who.clock.stamp;
            self.writer[granule] = (who.warp * 32 + lane) as u16;
        }
    }

    /// Reads and writes one word in one step, for atomics: ordered with one another, so only poison is checked.
    pub fn exchange(
        &mut self,
        lane: u32,
        address: u64,
        bytes: u32,
        update: impl FnOnce(u64) -> u64,
    ) -> Step<u64> {
        let at = self.check(lane, address, bytes)?;
        for granule in at >> self.shift..(at + bytes as usize) >> self.shift {
            if self.written[granule] >= BARRIER {
                return Err(self.bad_read(lane, granule));
            }
        }
        let mut old = [0; 8];
        old[..bytes as usize].copy_from_slice(&self.bytes[at..at + bytes as usize]);
        let old = u64::from_le_bytes(old);
        let new = update(old).to_le_bytes();
        self.touch(at as u32..at as u32 + bytes);
        self.bytes[at..at + bytes as usize].copy_from_slice(&new[..bytes as usize]);
        Ok(old)
    }

    #[inline(always)]
    fn note_read(&mut self, who: Accessor<'_>, lane: u32, granule: usize) -> Step {
        let newest = self.read[granule];
        // This warp has read it in this interval, and nobody has written since: nothing is new.
        if newest >> 16 != u64::from(who.clock.stamp) {
            return self.note_new_read(who, lane, granule);
        }
        self.read[granule] |= if newest & 0xff == u64::from(lane) { 0 } else { MANY };
        Ok(())
    }

    fn note_new_read(&mut self, who: Accessor<'_>, lane: u32, granule: usize) -> Step {
        let stamp = self.written[granule];
        if stamp > who.clock.floor {
            let writer = u32::from(self.writer[granule]);
            let own = writer == who.warp * 32 + lane;
            if stamp >= BARRIER || (!own && !self.is_ordered(who, stamp, writer as u16)) {
                return Err(self.bad_read(lane, granule));
            }
            // Until the write is ordered for others too, it is what their accesses conflict with.
            if own && stamp == who.clock.stamp {
                return Ok(());
            }
        }
        let newest = self.read[granule];
        let readers = &mut self.readers[granule * self.warps..][..self.warps];
        if newest == 0 {
            readers.fill(0);
        }
        readers[who.warp as usize] = who.clock.stamp;
        self.read[granule] =
            u64::from(who.clock.stamp) << 16 | u64::from(who.warp) << 8 | u64::from(lane);
        self.read_at[granule] = who.pc;
        Ok(())
    }

    #[inline(always)]
    pub(super) fn note_write(
        &mut self,
        who: Accessor<'_>,
        lane: u32,
        granule: usize,
        value: (usize, &[u8]),
    ) -> Step {
        let stamp = self.written[granule];
        let thread = (who.warp * 32 + lane) as u16;
        if stamp > who.clock.floor || self.read[granule] != 0 {
            self.note_write_slowly(who, lane, granule, value)?;
        }
        let start = (granule << self.shift) as u32;
        self.touch(start..start + 1);
        self.written[granule] = who.clock.stamp;
        self.writer[granule] = thread;
        self.written_at[granule] = who.pc;
        self.read[granule] = 0;
        Ok(())
    }

    #[inline(never)]
    #[expect(clippy::too_many_lines, reason = "one check of the access after the other")]
    pub(super) fn note_write_slowly(
        &self,
        who: Accessor<'_>,
        lane: u32,
        granule: usize,
        (at, value): (usize, &[u8]),
    ) -> Step {
        let stamp = self.written[granule];
        let readers = &self.readers[granule * self.warps..][..self.warps];
        if stamp <= who.clock.floor && readers.iter().all(|s| *s <= who.clock.floor) {
            return Ok(());
        }
        // An asynchronous copy brings no value yet, so it is never the same.
        let same = !value.is_empty() && value.iter().eq(&self.bytes[at..at + value.len()]);
        let writer = u32::from(self.writer[granule]);
        let own = writer == who.warp * 32 + lane;
        // Lanes of one warp that store the same value in one place do no harm.
        let benign = own || (same && writer / 32 == who.warp);
        match stamp {
            POISON => {}
            OUTSIDE => {
                return Err(self.outside(lane, (granule as u64) << self.shift, 1 << self.shift));
            }
            IN_FLIGHT => {
                let text =
                    "writes {}, which an asynchronous copy that was not waited for also writes";
                return Err(self.conflict(
                    FaultKind::AsyncInFlight,
                    text,
                    lane,
                    granule,
                    self.last_write(granule),
                ));
            }
            BARRIER => return Err(self.barrier_access(lane, granule)),
            _ if !benign && stamp & ASYNC != 0 && !self.is_ordered(who, stamp, writer as u16) => {
                let text =
                    "writes {}, which an asynchronous copy writes whose barrier was not waited for";
                return Err(self.conflict(
                    FaultKind::AsyncInFlight,
                    text,
                    lane,
                    granule,
                    self.last_write(granule),
                ));
            }
            _ if !benign && !self.is_ordered(who, stamp, writer as u16) => {
                let text = "race in shared memory: writes {}, which another thread has written with no barrier between";
                return Err(self.conflict(
                    FaultKind::Race,
                    text,
                    lane,
                    granule,
                    self.last_write(granule),
                ));
            }
            _ => {}
        }
        let newest = self.read[granule];
        if newest == 0 {
            return Ok(());
        }
        let text = "race in shared memory: writes {}, which another thread has read with no barrier between";
        let (newest_warp, newest_lane) = ((newest >> 8 & 0xff) as u32, newest & 0xff);
        for (warp, stamp) in (0..).zip(readers) {
            if *stamp == 0 || who.clock.is_after(warp, *stamp) {
                continue;
            }
            let is_newest = warp == newest_warp;
            // Lanes are known of the newest reader only. A lane may overwrite what it alone has read, and storing
            // the value that is there changes nothing for the other lanes.
            if warp == who.warp && (!is_newest || newest_lane == u64::from(lane) || same) {
                continue;
            }
            let reader = (is_newest && newest_lane & MANY == 0).then_some(newest_lane as u32);
            let other = (warp, reader, self.read_at[granule]);
            return Err(self.conflict(FaultKind::Race, text, lane, granule, other));
        }
        Ok(())
    }

    pub(super) fn last_write(&self, granule: usize) -> (u32, Option<u32>, u32) {
        let thread = match self.writer[granule] {
            copy @ COPIES.. => self.issuers[usize::from(copy - COPIES)],
            thread => u32::from(thread),
        };
        (thread / 32, Some(thread % 32), self.written_at[granule])
    }

    #[cold]
    fn barrier_access(&self, lane: u32, granule: usize) -> Box<RawFault> {
        let place = self.describe((granule as u64) << self.shift);
        let detail = format!("an ordinary access to {place}, which is part of an mbarrier");
        RawFault::new(FaultKind::BadOperand, lane, detail)
    }

    #[cold]
    pub(super) fn bad_read(&self, lane: u32, granule: usize) -> Box<RawFault> {
        let address = (granule as u64) << self.shift;
        match self.written[granule] {
            POISON => {
                let detail =
                    format!("read of uninitialised memory: shared {}", self.describe(address));
                RawFault::new(FaultKind::Uninitialised, lane, detail)
            }
            OUTSIDE => self.outside(lane, address, 1 << self.shift),
            BARRIER => self.barrier_access(lane, granule),
            stamp if stamp == IN_FLIGHT || stamp & ASYNC != 0 => {
                let text = "reads {}, which an asynchronous copy that was not waited for writes";
                self.conflict(
                    FaultKind::AsyncInFlight,
                    text,
                    lane,
                    granule,
                    self.last_write(granule),
                )
            }
            _ => {
                let text = "race in shared memory: reads {}, which another thread has written with no barrier between";
                self.conflict(FaultKind::Race, text, lane, granule, self.last_write(granule))
            }
        }
    }

    #[cold]
    pub(super) fn conflict(
        &self,
        kind: FaultKind,
        text: &str,
        lane: u32,
        granule: usize,
        other: (u32, Option<u32>, u32),
    ) -> Box<RawFault> {
        let detail = text.replace("{}", &self.describe((granule as u64) << self.shift));
        let mut fault = RawFault::new(kind, lane, detail);
        fault.other = Some(other);
        fault
    }
}
