//! Global memory: allocations with bounds, poison per byte, and the block that wrote each word last.
//!
//! Blocks run on several threads, so the bytes are relaxed atomics; on common machines these are plain moves.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::fault::{FaultKind, RawFault, Step};

/// Unmapped bytes between allocations.
const GUARD: u64 = 4096;
const ALIGN: u64 = 256;
const FIRST: u64 = 0x7f00_0000_0000;
/// Freed ranges that messages can still name.
const REMEMBERED: usize = 4096;

/// Bytes that several threads may touch.
#[derive(Debug)]
pub(crate) struct Bytes {
    words: Box<[AtomicU64]>,
    len: usize,
}

impl Bytes {
    fn new(len: usize) -> Self {
        Self { words: (0..len.div_ceil(8)).map(|_| AtomicU64::new(0)).collect(), len }
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        let size = size_of::<T>();
        assert!(
            offset.checked_add(size).is_some_and(|end| end <= self.words.len() * 8)
                && offset.is_multiple_of(size)
        );
        self.words.as_ptr().cast::<u8>().cast_mut().wrapping_add(offset).cast()
    }

    /// Reads `bytes` (1, 2, 4 or 8) at an aligned offset.
    #[inline(always)]
    pub fn load(&self, offset: usize, bytes: u32) -> u64 {
        // SAFETY: `at` checked that the value lies inside `words` and is aligned; the memory is atomics and lives as
        // long as `self`.
        unsafe {
            match bytes {
                1 => u64::from(AtomicU8::from_ptr(self.at(offset)).load(Relaxed)),
                2 => u64::from(AtomicU16::from_ptr(self.at(offset)).load(Relaxed)),
                4 => u64::from(AtomicU32::from_ptr(self.at(offset)).load(Relaxed)),
                _ => AtomicU64::from_ptr(self.at(offset)).load(Relaxed),
            }
        }
    }

    /// Writes `bytes` (1, 2, 4 or 8) at an aligned offset.
    #[inline(always)]
    pub fn store(&self, offset: usize, bytes: u32, value: u64) {
        // SAFETY: as in `load`.
        unsafe {
            match bytes {
                1 => AtomicU8::from_ptr(self.at(offset)).store(value as u8, Relaxed),
                2 => AtomicU16::from_ptr(self.at(offset)).store(value as u16, Relaxed),
                4 => AtomicU32::from_ptr(self.at(offset)).store(value as u32, Relaxed),
                _ => AtomicU64::from_ptr(self.at(offset)).store(value, Relaxed),
            }
        }
    }

    /// The bytes as a slice; no other thread runs while the owner is borrowed exclusively.
    fn slice_mut(&mut self) -> &mut [u8] {
        // SAFETY: `&mut self` excludes every other access, the words are contiguous, and any bytes are a valid `u8`.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.len) }
    }

    fn copy_to(&self, offset: usize, out: &mut [u8]) {
        let mut done = 0;
        if offset.is_multiple_of(8) {
            // Whole words, without the arithmetic that parts of words need.
            for (word, out) in self.words[offset / 8..].iter().zip(out.chunks_exact_mut(8)) {
                out.copy_from_slice(&word.load(Relaxed).to_le_bytes());
            }
            done = out.len() / 8 * 8;
        }
        while done < out.len() {
            let (word, skip) = ((offset + done) / 8, (offset + done) % 8);
            let bytes = self.words[word].load(Relaxed).to_le_bytes();
            let count = (8 - skip).min(out.len() - done);
            out[done..done + count].copy_from_slice(&bytes[skip..skip + count]);
            done += count;
        }
    }
}

#[derive(Debug)]
pub(crate) struct Allocation {
    pub base: u64,
    pub len: usize,
    data: Bytes,
    /// 1 for each byte that has been written.
    valid: Bytes,
    /// Every byte is valid: nothing to look up.
    complete: AtomicBool,
    /// A kernel has written since `complete` was last worked out.
    dirty: AtomicBool,
    /// Per four bytes, launch << 32 | block of the last write by a kernel; 0 where that is not known.
    writers: OnceLock<Box<[AtomicU64]>>,
    pub read_only: bool,
}

impl Allocation {
    fn new(base: u64, len: usize, read_only: bool) -> Self {
        Self {
            base,
            len,
            data: Bytes::new(len),
            valid: Bytes::new(len),
            complete: AtomicBool::new(len == 0),
            dirty: AtomicBool::new(false),
            writers: OnceLock::new(),
            read_only,
        }
    }

    /// Whether `bytes` bytes at `address` lie inside.
    #[inline(always)]
    pub fn contains(&self, address: u64, bytes: u32) -> bool {
        let offset = address.wrapping_sub(self.base);
        offset < self.len as u64 && offset + u64::from(bytes) <= self.len as u64
    }

    /// Reads up to 8 bytes that [`Allocation::contains`] holds for; `None` when some are poison.
    #[inline(always)]
    pub fn load(&self, address: u64, bytes: u32) -> Option<u64> {
        let offset = (address - self.base) as usize;
        if !self.complete.load(Relaxed) {
            let ones = 0x0101_0101_0101_0101u64 >> (64 - 8 * bytes);
            if self.valid.load(offset, bytes) != ones {
                return None;
            }
        }
        Some(self.data.load(offset, bytes))
    }

    /// Whether nothing but the bytes matters to a read: none is poison, and no kernel's writes were noted.
    pub fn is_plain(&self, check_blocks: bool) -> bool {
        self.complete.load(Relaxed) && (!check_blocks || self.writers.get().is_none())
    }

    /// Reads an aligned word of an allocation that [`Allocation::is_plain`] holds for.
    #[inline(always)]
    pub fn load_plain(&self, address: u64) -> u32 {
        self.data.load((address - self.base) as usize, 4) as u32
    }

    /// Writes up to 8 bytes that [`Allocation::contains`] holds for.
    #[inline(always)]
    pub fn store(&self, address: u64, bytes: u32, value: u64) {
        let offset = (address - self.base) as usize;
        self.data.store(offset, bytes, value);
        if !self.complete.load(Relaxed) {
            self.valid.store(offset, bytes, 0x0101_0101_0101_0101u64);
            self.dirty.store(true, Relaxed);
        }
    }

    /// The block, other than that of `tag`, which wrote here in the same launch.
    #[inline(always)]
    pub fn foreign_writer(&self, address: u64, tag: u64) -> Option<u32> {
        let writers = self.writers.get()?;
        let known = writers[(address - self.base) as usize / 4].load(Relaxed);
        (known >> 32 == tag >> 32 && known != tag).then_some(known as u32)
    }

    /// Notes that the block of `tag` wrote `bytes` bytes; narrower writes than a word leave no trace.
    #[inline(always)]
    pub fn note_writer(&self, address: u64, bytes: u32, tag: u64) {
        let writers = self
            .writers
            .get_or_init(|| (0..self.len.div_ceil(4)).map(|_| AtomicU64::new(0)).collect());
        let word = (address - self.base) as usize / 4;
        writers[word].store(if bytes < 4 { 0 } else { tag }, Relaxed);
        if bytes == 8 {
            writers[word + 1].store(tag, Relaxed);
        }
    }

    /// Reads bytes that [`Allocation::contains`] holds for; the place of the first that is poison, if any is.
    pub fn load_bytes(&self, address: u64, out: &mut [u8]) -> Option<usize> {
        let offset = (address - self.base) as usize;
        let poison = self.first_poison(offset, out.len());
        self.data.copy_to(offset, out);
        poison
    }

    fn first_poison(&self, offset: usize, len: usize) -> Option<usize> {
        if self.complete.load(Relaxed) {
            return None;
        }
        let mut valid = vec![0; len];
        self.valid.copy_to(offset, &mut valid);
        valid.iter().position(|v| *v == 0)
    }
}

#[derive(Debug)]
pub(crate) struct Global {
    /// In order of address.
    allocations: Vec<Allocation>,
    freed: VecDeque<(u64, usize)>,
    next: u64,
}

impl Default for Global {
    fn default() -> Self {
        Self { allocations: Vec::new(), freed: VecDeque::new(), next: FIRST }
    }
}

impl Global {
    /// Addresses are never used twice, so a stale pointer is always found out.
    pub fn allocate(&mut self, len: usize, read_only: bool) -> u64 {
        let base = self.next;
        self.next = (base + len as u64 + GUARD).next_multiple_of(ALIGN);
        self.allocations.push(Allocation::new(base, len, read_only));
        base
    }

    pub fn free(&mut self, base: u64) -> Result<(), String> {
        let at = self
            .allocations
            .binary_search_by_key(&base, |a| a.base)
            .map_err(|_| self.describe(base))?;
        let allocation = self.allocations.remove(at);
        if self.freed.len() == REMEMBERED {
            self.freed.pop_front();
        }
        self.freed.push_back((base, allocation.len));
        Ok(())
    }

    #[inline(always)]
    pub fn find(&self, address: u64) -> Option<&Allocation> {
        let after = self.allocations.partition_point(|a| a.base <= address);
        self.allocations.get(after.checked_sub(1)?)
    }

    /// What lies at an address, in words.
    pub fn describe(&self, address: u64) -> String {
        if let Some((base, len)) =
            self.freed.iter().find(|(b, l)| (*b..*b + *l as u64).contains(&address))
        {
            return format!(
                "{address:#x} is byte {} of a buffer of {len} that was freed",
                address - base
            );
        }
        let before = self.find(address);
        match before {
            _ if address < 4096 => format!("{address:#x} is a null pointer"),
            Some(a) if address < a.base + a.len as u64 => {
                format!("{address:#x} is byte {} of a buffer of {}", address - a.base, a.len)
            }
            Some(a) if address - a.base < 2 * a.len as u64 + GUARD => {
                let past = address - a.base - a.len as u64;
                format!("{address:#x} is {past} bytes past the end of a buffer of {} bytes", a.len)
            }
            _ => format!("{address:#x} belongs to no buffer"),
        }
    }

    /// Checks bounds and alignment for a lane; `hint` is a likely allocation.
    #[inline(always)]
    pub fn locate<'g>(
        &'g self,
        hint: Option<&'g Allocation>,
        lane: u32,
        address: u64,
        bytes: u32,
        align: u32,
    ) -> Step<&'g Allocation> {
        let found = match hint {
            Some(allocation) if allocation.contains(address, bytes) => Some(allocation),
            _ => self.find(address).filter(|a| a.contains(address, bytes)),
        };
        let Some(allocation) = found else {
            let detail = format!(
                "access of {bytes} bytes outside global memory: {}",
                self.describe(address)
            );
            return Err(RawFault::new(FaultKind::OutOfBounds, lane, detail));
        };
        if address & u64::from(align - 1) != 0 {
            let detail = format!("the address {address:#x} is not a multiple of {align}");
            return Err(RawFault::new(FaultKind::Misaligned, lane, detail));
        }
        Ok(allocation)
    }

    fn range(&self, address: u64, len: usize) -> Result<(usize, usize), String> {
        let outside =
            || format!("{len} bytes at {} are not inside one buffer", self.describe(address));
        let after = self.allocations.partition_point(|a| a.base <= address);
        let index = after.checked_sub(1).ok_or_else(outside)?;
        let offset = (address - self.allocations[index].base) as usize;
        if offset.checked_add(len).is_none_or(|end| end > self.allocations[index].len) {
            return Err(outside());
        }
        Ok((index, offset))
    }

    /// Host write; the bytes become valid.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), String> {
        let (index, offset) = self.range(address, bytes.len())?;
        self.allocations[index].data.slice_mut()[offset..offset + bytes.len()]
            .copy_from_slice(bytes);
        self.mark(address, bytes.len(), true)
    }

    pub fn fill(&mut self, address: u64, len: usize, value: u8) -> Result<(), String> {
        let (index, offset) = self.range(address, len)?;
        self.allocations[index].data.slice_mut()[offset..offset + len].fill(value);
        self.mark(address, len, true)
    }

    /// Makes bytes valid or poison.
    pub fn mark(&mut self, address: u64, len: usize, valid: bool) -> Result<(), String> {
        let (index, offset) = self.range(address, len)?;
        let allocation = &mut self.allocations[index];
        let was_complete = *allocation.complete.get_mut();
        if was_complete && valid {
            return Ok(());
        }
        if valid && len == allocation.len {
            *allocation.complete.get_mut() = true;
            return Ok(());
        }
        // A complete allocation does not keep its map up to date.
        if was_complete {
            allocation.valid.slice_mut().fill(1);
        }
        allocation.valid.slice_mut()[offset..offset + len].fill(u8::from(valid));
        *allocation.complete.get_mut() = false;
        *allocation.dirty.get_mut() = true;
        self.settle();
        Ok(())
    }

    /// Host read; poison is an error.
    pub fn read(&self, address: u64, len: usize) -> Result<Vec<u8>, String> {
        let (index, offset) = self.range(address, len)?;
        let allocation = &self.allocations[index];
        if let Some(at) = allocation.first_poison(offset, len) {
            return Err(format!(
                "read of uninitialised memory: byte {} of a buffer of {} was never written",
                offset + at,
                allocation.len
            ));
        }
        let mut out = vec![0; len];
        allocation.data.copy_to(offset, &mut out);
        Ok(out)
    }

    /// After a launch: finds out which allocations have become wholly valid.
    pub fn settle(&mut self) {
        for allocation in &mut self.allocations {
            if std::mem::take(allocation.dirty.get_mut())
                && allocation.valid.slice_mut().iter().all(|v| *v == 1)
            {
                *allocation.complete.get_mut() = true;
            }
        }
    }
}
