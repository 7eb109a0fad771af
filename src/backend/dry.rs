//! A device that computes nothing, counts memory and notes what is launched: what a run would need,
//! before it is run.
//!
//! It hands out buffers of the sizes asked for and recycles them as the other backends' pools do, or in an
//! arena as the CPU does, so that a training step run on it finds the step's peak.

use super::arena::{Arena, LINE, Place};
use super::{Backend, Buffer, Capabilities, KernelCall, LocalFuture, MemoryUse, View};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernels::KernelSpec;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

/// Sizes are rounded up to this, as the pools of real devices do.
const GRANULE: u64 = 256;

/// The counting device.
pub struct Dry {
    capabilities: Capabilities,
    counts: Rc<Counts>,
    launches: Launches,
    scratch_of: fn(&KernelCall) -> [u64; 2],
}

/// A version of a kernel that was launched.
#[derive(Clone)]
pub struct Launch {
    /// The kernel.
    pub spec: &'static KernelSpec,
    /// Its compile-time constants.
    pub constants: Vec<(&'static str, u32)>,
    /// How many times.
    pub times: u64,
}

/// The versions that a device has launched, each once, in the order of their first launch.
pub type Launches = Rc<RefCell<Vec<Launch>>>;

/// The memory of a counting device.
#[derive(Default)]
pub struct Counts {
    /// Of a device whose buffers lie in one.
    arena: Option<RefCell<Arena>>,
    free: RefCell<HashMap<u64, u64>>,
    free_bytes: Cell<u64>,
    in_use: Cell<u64>,
    peak: Cell<u64>,
    scratch: Cell<[u64; 2]>,
}

struct Memory {
    bytes: u64,
    place: Option<Place>,
    counts: Weak<Counts>,
}

impl Counts {
    /// Forgets the peak so far and the buffers that were handed back, as on a device just opened on
    /// which what is in use now was allocated. In an arena the gaps between those stay.
    pub fn start_again(&self) {
        if let Some(arena) = &self.arena {
            arena.borrow_mut().forget_the_ends();
        }
        self.free.borrow_mut().clear();
        self.free_bytes.set(0);
        self.peak.set(self.in_use.get());
    }

    /// The most that one launch held besides buffers, of what is kept and of what is allocated each time.
    pub fn scratch(&self) -> u64 {
        self.scratch.get().iter().sum()
    }

    /// Counts a buffer.
    fn take(&self, bytes: u64) -> Option<Place> {
        if let Some(arena) = &self.arena {
            let mut arena = arena.borrow_mut();
            let place = arena.take(bytes).or_else(|| {
                let region = arena.next_region(bytes);
                arena.add_region(region);
                arena.take(bytes)
            });
            self.in_use.set(arena.in_use());
            self.peak.set(arena.touched());
            return place;
        }
        if let Some(free) = self.free.borrow_mut().get_mut(&bytes).filter(|free| **free > 0) {
            *free -= 1;
            self.free_bytes.set(self.free_bytes.get() - bytes);
        }
        self.in_use.set(self.in_use.get() + bytes);
        self.peak.set(self.peak.get().max(self.in_use.get() + self.free_bytes.get()));
        None
    }

    /// Takes a buffer back.
    fn give_back(&self, memory: &Memory) {
        if let Some((arena, place)) = self.arena.as_ref().zip(memory.place) {
            let mut arena = arena.borrow_mut();
            arena.give_back(place);
            self.in_use.set(arena.in_use());
            return;
        }
        self.in_use.set(self.in_use.get() - memory.bytes);
        self.free_bytes.set(self.free_bytes.get() + memory.bytes);
        *self.free.borrow_mut().entry(memory.bytes).or_default() += 1;
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(counts) = self.counts.upgrade() {
            counts.give_back(self);
        }
    }
}

impl Dry {
    /// A stand-in for a device with these capabilities.
    pub fn new(capabilities: Capabilities) -> Self {
        let arena = capabilities.arena.then(RefCell::default);
        let counts = Rc::new(Counts { arena, ..Counts::default() });
        Self { capabilities, counts, launches: Rc::default(), scratch_of: |_| [0; 2] }
    }

    /// With a function that tells what a launch holds besides buffers: what is kept for the next one, and
    /// what is allocated each time.
    pub fn with_scratch(self, scratch_of: fn(&KernelCall) -> [u64; 2]) -> Self {
        Self { scratch_of, ..self }
    }

    /// Its memory; to be asked for before the device is wrapped.
    pub fn counts(&self) -> Rc<Counts> {
        self.counts.clone()
    }

    /// What is launched from now on; to be asked for before the device is wrapped.
    pub fn launches(&self) -> Launches {
        self.launches.clone()
    }
}

impl Backend for Dry {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        let bytes = match self.capabilities.arena {
            true => {
                let bytes = (len * dtype.size()).max(1) as u64;
                bytes.next_multiple_of(LINE) + self.capabilities.guard_bytes
            }
            false => ((len * dtype.size()).max(4) as u64).next_multiple_of(GRANULE),
        };
        let place = self.counts.take(bytes);
        let counts = Rc::downgrade(&self.counts);
        Ok(Buffer::new(Memory { bytes, place, counts }, dtype, len))
    }

    fn upload(&self, _view: &View, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download<'a>(&'a self, view: &'a View) -> LocalFuture<'a, Result<Vec<u8>>> {
        Box::pin(std::future::ready(Ok(vec![0; view.byte_len()])))
    }

    fn launch(&self, call: &KernelCall) -> Result<()> {
        let (most, now) = (&self.counts.scratch, (self.scratch_of)(call));
        most.set([0, 1].map(|kind| most.get()[kind].max(now[kind])));
        let mut launches = self.launches.borrow_mut();
        let known = launches
            .iter_mut()
            .find(|known| known.spec.name == call.spec.name && known.constants == call.constants);
        match known {
            Some(known) => known.times += 1,
            None => launches.push(Launch {
                spec: call.spec,
                constants: call.constants.clone(),
                times: 1,
            }),
        }
        Ok(())
    }

    fn synchronize(&self) -> LocalFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn computes(&self) -> bool {
        false
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse { in_use: self.counts.in_use.get(), peak: self.counts.peak.get() }
    }
}
