//! Host memory in 64-byte lines, handed out and taken back by a pool, so that the steps of a
//! training run allocate nothing after the first.

use crate::backend::MemoryUse;
use crate::error::{Error, Result};
use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

/// One cache line: the unit and alignment of all memory.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

const POISON: Line = Line([0xff; 64]); // a NaN in every float type
const GUARD: Line = Line([0xa5; 64]);

/// The memory of one buffer; goes back to its pool when dropped.
pub struct Memory {
    lines: UnsafeCell<Vec<Line>>,
    byte_len: usize,
    pool: Weak<Pool>,
    guarded: bool,
}

impl Memory {
    /// # Safety
    /// No slice from `bytes_mut` may be alive.
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: the vector lives as long as `self` and is never resized; `Line` is plain bytes.
        unsafe {
            let lines = &*self.lines.get();
            std::slice::from_raw_parts(lines.as_ptr().cast(), self.byte_len)
        }
    }

    /// # Safety
    /// No other slice of this memory may be alive.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn bytes_mut(&self) -> &mut [u8] {
        // SAFETY: as above, and the caller promises that nothing else looks.
        unsafe {
            let lines = &mut *self.lines.get();
            std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), self.byte_len)
        }
    }

    /// Whether the guard line, if there is one, and the rest of the last line are as they were.
    pub fn guard_intact(&self) -> bool {
        if !self.guarded {
            return true;
        }
        // SAFETY: launches have finished, so nobody writes; the vector is read as plain bytes.
        let bytes = unsafe {
            let lines = &*self.lines.get();
            std::slice::from_raw_parts(lines.as_ptr().cast::<u8>(), lines.len() * 64)
        };
        let (tail, guard) = bytes[self.byte_len..].split_at(bytes.len() - self.byte_len - 64);
        tail.iter().all(|&byte| byte == 0xff) && guard.iter().all(|&byte| byte == 0xa5)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.put_back(std::mem::take(self.lines.get_mut()));
        }
    }
}

/// Free memory by size, and the count of what is in use.
pub struct Pool {
    free: RefCell<BTreeMap<usize, Vec<Vec<Line>>>>,
    in_use: Cell<u64>,
    free_bytes: Cell<u64>,
    most_in_use: Cell<u64>,
    peak: Cell<u64>,
    poison: bool,
}

impl Pool {
    /// An empty pool.
    pub fn new(poison: bool) -> Rc<Self> {
        Rc::new(Self {
            free: RefCell::default(),
            in_use: Cell::new(0),
            free_bytes: Cell::new(0),
            most_in_use: Cell::new(0),
            peak: Cell::new(0),
            poison,
        })
    }

    /// Memory for `byte_len` bytes: a free one of that size, or a new one.
    pub fn take(self: &Rc<Self>, byte_len: usize) -> Result<Memory> {
        let count = size_class(byte_len.div_ceil(64)) + usize::from(self.poison);
        let bytes = count as u64 * 64;
        self.in_use.set(self.in_use.get() + bytes);
        self.most_in_use.set(self.most_in_use.get().max(self.in_use.get()));
        let reused = self.free.borrow_mut().get_mut(&count).and_then(Vec::pop);
        let lines = match reused {
            Some(lines) => {
                self.free_bytes.set(self.free_bytes.get() - bytes);
                Ok(lines)
            }
            None => {
                self.trim(self.most_in_use.get() / SLACK);
                new_lines(count).or_else(|error| {
                    self.trim(0);
                    new_lines(count).map_err(|_| error)
                })
            }
        };
        let mut lines = lines.inspect_err(|_| self.in_use.set(self.in_use.get() - bytes))?;
        if self.poison {
            lines.fill(POISON);
            lines[count - 1] = GUARD;
        }
        self.peak.set(self.peak.get().max(self.in_use.get() + self.free_bytes.get()));
        Ok(Memory {
            lines: UnsafeCell::new(lines),
            byte_len,
            pool: Rc::downgrade(self),
            guarded: self.poison,
        })
    }

    /// Gives free memory back to the system, the largest first, until all that is held is at most
    /// `slack` more than was ever in use at once. Without this, steps of ever new sizes would each
    /// leave buffers that no later step can use.
    fn trim(&self, slack: u64) {
        let mut free = self.free.borrow_mut();
        let most = self.most_in_use.get() + slack;
        while self.in_use.get() + self.free_bytes.get() > most {
            let Some(mut largest) = free.last_entry() else { break };
            if largest.get_mut().pop().is_some() {
                let bytes = *largest.key() as u64 * 64;
                self.free_bytes.set(self.free_bytes.get() - bytes);
            }
            if largest.get().is_empty() {
                largest.remove();
            }
        }
    }

    fn put_back(&self, lines: Vec<Line>) {
        let bytes = lines.len() as u64 * 64;
        self.in_use.set(self.in_use.get() - bytes);
        self.free_bytes.set(self.free_bytes.get() + bytes);
        self.free.borrow_mut().entry(lines.len()).or_default().push(lines);
    }

    /// Bytes in use now and at most.
    pub fn memory_use(&self) -> MemoryUse {
        MemoryUse { in_use: self.in_use.get(), peak: self.peak.get() }
    }
}

/// What is kept free beyond the most ever in use: a sixteenth of that.
const SLACK: u64 = 16;

/// `count` rounded up to one of 16 sizes per power of two, so that batches of nearly one size share
/// buffers; at most 6 percent are lost.
fn size_class(count: usize) -> usize {
    let step = (count.next_power_of_two() / 32).max(1);
    count.next_multiple_of(step)
}

fn new_lines(count: usize) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    lines.try_reserve_exact(count).map_err(|_| {
        let bytes = count as u64 * 64;
        let message = format!(
            "out of memory: {} MiB more cannot be allocated; lower per_device_train_batch_size or \
             max_length, or turn on gradient_checkpointing",
            bytes >> 20
        );
        Error::OutOfMemory { message, bytes }
    })?;
    lines.resize(count, Line([0; 64]));
    Ok(lines)
}
