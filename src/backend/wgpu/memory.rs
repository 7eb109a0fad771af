//! Device buffers, handed out and taken back by a pool. Whole buffers only: WebGPU refuses a buffer
//! that is bound readable and writable at once even at disjoint ranges.

use super::Gpu;
use crate::backend::MemoryUse;
use crate::error::{Error, Result};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

/// Bytes behind every buffer of a strict device that no kernel may write.
pub(super) const GUARD_BYTES: u64 = 256;
/// What they hold.
pub(super) const GUARD_WORD: [u8; 4] = [0xa5; 4];

/// The memory of one buffer; goes back to its pool when dropped.
pub(super) struct Memory {
    pub(super) buffer: wgpu::Buffer,
    /// Unique among all buffers of the device, for cache keys.
    pub(super) id: u64,
    /// Bytes for elements, a multiple of four.
    pub(super) usable: u64,
    pool: Weak<Pool>,
}

impl Memory {
    /// What a strict device fills the buffer with: NaN, then the guard.
    pub(super) fn poison(&self) -> Vec<u8> {
        let mut bytes = vec![0xff; self.usable as usize];
        bytes.resize(self.buffer.size() as usize, GUARD_WORD[0]);
        bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.put_back(self.buffer.clone(), self.id);
        }
    }
}

/// Free buffers by size, and the count of what is in use.
pub(super) struct Pool {
    gpu: Rc<Gpu>,
    free: RefCell<BTreeMap<u64, Vec<(wgpu::Buffer, u64)>>>,
    in_use: Cell<u64>,
    free_bytes: Cell<u64>,
    most_in_use: Cell<u64>,
    peak: Cell<u64>,
    next_id: Cell<u64>,
    trims: Cell<u64>,
}

impl Pool {
    pub(super) fn new(gpu: Rc<Gpu>) -> Rc<Self> {
        Rc::new(Self {
            gpu,
            free: RefCell::default(),
            in_use: Cell::new(0),
            free_bytes: Cell::new(0),
            most_in_use: Cell::new(0),
            peak: Cell::new(0),
            next_id: Cell::new(0),
            trims: Cell::new(0),
        })
    }

    /// A buffer for `byte_len` bytes: a free one of that size, or a new one.
    pub(super) fn take(self: &Rc<Self>, byte_len: usize) -> Result<Memory> {
        // Few distinct sizes make the pool find more; binding ranges stay exact.
        let usable = size_class(byte_len.max(4) as u64);
        let size = usable + if self.gpu.strict { GUARD_BYTES } else { 0 };
        self.in_use.set(self.in_use.get() + size);
        self.most_in_use.set(self.most_in_use.get().max(self.in_use.get()));
        let reused = self.free.borrow_mut().get_mut(&size).and_then(Vec::pop);
        let found = match reused {
            Some(free) => {
                self.free_bytes.set(self.free_bytes.get() - size);
                Ok(free)
            }
            None => {
                self.trim(self.most_in_use.get() / SLACK);
                self.create(size).or_else(|_| {
                    self.trim(0);
                    self.create(size)
                })
            }
        };
        let (buffer, id) = found.inspect_err(|_| self.in_use.set(self.in_use.get() - size))?;
        self.peak.set(self.peak.get().max(self.in_use.get() + self.free_bytes.get()));
        Ok(Memory { buffer, id, usable, pool: Rc::downgrade(self) })
    }

    /// Gives free buffers back to the driver, the largest first, until all that is held is at most
    /// `slack` more than was ever in use at once: steps of ever new sizes leave none behind.
    fn trim(&self, slack: u64) {
        let mut free = self.free.borrow_mut();
        let most = self.most_in_use.get() + slack;
        while self.in_use.get() + self.free_bytes.get() > most {
            let Some(mut largest) = free.last_entry() else { break };
            if largest.get_mut().pop().is_some() {
                self.trims.set(self.trims.get() + 1);
                self.free_bytes.set(self.free_bytes.get() - *largest.key());
            }
            if largest.get().is_empty() {
                largest.remove();
            }
        }
    }

    fn create(&self, size: u64) -> Result<(wgpu::Buffer, u64)> {
        let buffer = self.gpu.scoped(
            || {
                self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size,
                    usage: wgpu::BufferUsages::STORAGE
                        | wgpu::BufferUsages::COPY_SRC
                        | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            },
            |error| {
                let message = format!(
                    "the GPU has no room for a buffer of {} MiB ({} MiB are in use); lower \
                     per_device_train_batch_size or max_length, or turn on \
                     gradient_checkpointing: {error}",
                    size >> 20,
                    self.in_use.get() >> 20
                );
                Error::OutOfMemory { message, bytes: size }
            },
        )?;
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        Ok((buffer, id))
    }

    fn put_back(&self, buffer: wgpu::Buffer, id: u64) {
        let size = buffer.size();
        self.in_use.set(self.in_use.get() - size);
        self.free_bytes.set(self.free_bytes.get() + size);
        self.free.borrow_mut().entry(size).or_default().push((buffer, id));
    }

    /// How many buffers were given back: whoever keeps references to buffers must drop them when
    /// this changes.
    pub(super) fn trims(&self) -> u64 {
        self.trims.get()
    }

    pub(super) fn memory_use(&self) -> MemoryUse {
        MemoryUse { in_use: self.in_use.get(), peak: self.peak.get() }
    }
}

/// What is kept free beyond the most ever in use: a sixteenth of that.
const SLACK: u64 = 16;

/// `bytes` rounded up to one of 16 sizes per power of two, multiples of 256.
fn size_class(bytes: u64) -> u64 {
    let step = (bytes.next_power_of_two() / 32).max(256);
    bytes.next_multiple_of(step)
}
