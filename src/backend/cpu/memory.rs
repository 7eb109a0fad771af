//! Host memory in 64-byte lines, handed out and taken back by a pool, so that the steps of a
//! training run allocate nothing after the first.

use crate::backend::MemoryUse;
use crate::backend::arena::{Arena, LINE, Place, smallest_region};
use crate::error::{Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;

/// What tests fill new memory with (a NaN in every float type), and what stands behind it.
const POISON: u8 = 0xff;
const GUARD: u8 = 0xa5;

/// The memory of one buffer; goes back to its pool when dropped.
pub struct Memory {
    start: NonNull<u8>,
    byte_len: usize,
    place: Place,
    // Keeps the region alive that `start` lies in.
    pool: Rc<Pool>,
}

impl Memory {
    /// # Safety
    /// No slice from `bytes_mut` may be alive.
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: the place is this buffer's alone and lies in a region that the pool keeps.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.byte_len) }
    }

    /// # Safety
    /// No other slice of this memory may be alive.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn bytes_mut(&self) -> &mut [u8] {
        // SAFETY: as above, and the caller promises that nothing else looks.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.byte_len) }
    }

    /// The whole place: what was asked for, the rest of the last line and, for tests, the guard line.
    ///
    /// # Safety
    /// As [`Memory::bytes_mut`].
    #[allow(clippy::mut_from_ref)]
    unsafe fn whole(&self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.place.bytes as usize) }
    }

    /// Whether the guard line, if there is one, and the rest of the last line are as they were.
    pub fn guard_intact(&self) -> bool {
        if !self.pool.poison {
            return true;
        }
        // SAFETY: launches have finished, so nobody writes or looks.
        let whole = unsafe { self.whole() };
        let (tail, guard) =
            whole[self.byte_len..].split_at(whole.len() - self.byte_len - LINE as usize);
        tail.iter().all(|&byte| byte == POISON) && guard.iter().all(|&byte| byte == GUARD)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.pool.arena.borrow_mut().give_back(self.place);
    }
}

/// A run of memory from the system, zero where it was not written yet.
struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

impl Region {
    /// `bytes` and what it takes to begin at a line; `None` where the system has not so much.
    fn new(bytes: u64) -> Option<Self> {
        // With the alignment of the system itself it maps zeros, which cost nothing until they are touched.
        let bytes = usize::try_from(bytes).ok()?.checked_add(LINE as usize)?;
        let layout = Layout::from_size_align(bytes, align_of::<u64>()).ok()?;
        // SAFETY: the layout has more than no bytes.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { start, layout })
    }

    /// The address of a place in this region.
    fn at(&self, offset: u64) -> NonNull<u8> {
        let skip = self.start.as_ptr().align_offset(LINE as usize);
        // SAFETY: the arena's places end within the bytes that the region was made for.
        unsafe { self.start.add(skip + offset as usize) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it came from `alloc_zeroed` with this layout, and every buffer in it is gone, as buffers
        // keep their pool.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// The memory of a device.
pub struct Pool {
    arena: RefCell<Arena>,
    regions: RefCell<Vec<Region>>,
    poison: bool,
}

impl Pool {
    /// An empty pool.
    pub fn new(poison: bool) -> Rc<Self> {
        Rc::new(Self { arena: RefCell::default(), regions: RefCell::default(), poison })
    }

    /// Memory for `byte_len` bytes.
    pub fn take(self: &Rc<Self>, byte_len: usize) -> Result<Memory> {
        let guard = if self.poison { LINE } else { 0 };
        let bytes = (byte_len as u64).next_multiple_of(LINE).max(LINE) + guard;
        let taken = self.arena.borrow_mut().take(bytes);
        let place = match taken {
            Some(place) => place,
            None => self.take_from_new_region(bytes)?,
        };
        let start = self.regions.borrow()[place.region()].at(place.offset());
        let memory = Memory { start, byte_len, place, pool: self.clone() };
        if self.poison {
            // SAFETY: nobody else has it yet.
            let whole = unsafe { memory.whole() };
            let behind = whole.len() - LINE as usize;
            whole[..behind].fill(POISON);
            whole[behind..].fill(GUARD);
        }
        Ok(memory)
    }

    fn take_from_new_region(&self, bytes: u64) -> Result<Place> {
        let mut arena = self.arena.borrow_mut();
        let sizes = [arena.next_region(bytes), smallest_region(bytes)];
        let mut made = sizes.into_iter().filter_map(|size| Some((size, Region::new(size)?)));
        let found = made.next().and_then(|(size, region)| {
            arena.add_region(size);
            self.regions.borrow_mut().push(region);
            arena.take(bytes)
        });
        found.ok_or_else(|| {
            let message = format!(
                "out of memory: {} MiB more cannot be allocated; lower per_device_train_batch_size \
                 or max_length, or turn on gradient_checkpointing",
                bytes >> 20
            );
            Error::OutOfMemory { message, bytes }
        })
    }

    /// Bytes in use now and at most.
    pub fn memory_use(&self) -> MemoryUse {
        let arena = self.arena.borrow();
        MemoryUse { in_use: arena.in_use(), peak: arena.touched() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_kept_while_any_buffer_lives_and_what_cannot_be_had_is_an_error() -> Result<()> {
        let pool = Pool::new(false);
        let first = pool.take(100)?;
        let second = pool.take(200 << 20)?;
        // SAFETY: nothing else looks at them.
        unsafe {
            first.bytes_mut().fill(1);
            second.bytes_mut()[(200 << 20) - 1] = 2;
        }
        assert_eq!(first.start.as_ptr().align_offset(64), 0);
        assert_eq!(pool.memory_use().in_use, 128 + (200 << 20));
        let error = pool.take(1 << 60).err();
        assert!(matches!(error, Some(Error::OutOfMemory { .. })));
        drop(pool);
        // SAFETY: as above.
        assert!(unsafe { first.bytes().iter().all(|&byte| byte == 1) });
        Ok(())
    }

    #[test]
    fn writes_past_the_end_are_seen() -> Result<()> {
        let pool = Pool::new(true);
        for past in [100, 127, 128, 191] {
            let memory = pool.take(100)?;
            assert!(memory.guard_intact());
            // SAFETY: nothing else looks at it.
            unsafe {
                assert_eq!(memory.bytes()[99], POISON);
                memory.whole()[past] = 0;
            }
            assert!(!memory.guard_intact(), "{past}");
        }
        Ok(())
    }
}
