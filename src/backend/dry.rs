//! A device that computes nothing, counts memory and notes what is launched: what a run would need,
//! before it is run.
//!
//! It hands out buffers of the sizes asked for and recycles them as the other backends' pools do,
//! so that a training step run on it finds the step's peak.

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
    free: RefCell<HashMap<u64, u64>>,
    free_bytes: Cell<u64>,
    in_use: Cell<u64>,
    peak: Cell<u64>,
}

struct Memory {
    bytes: u64,
    counts: Weak<Counts>,
}

impl Counts {
    /// Forgets the peak so far and the buffers that were handed back, as on a device just opened on
    /// which what is in use now was allocated.
    pub fn start_again(&self) {
        self.free.borrow_mut().clear();
        self.free_bytes.set(0);
        self.peak.set(self.in_use.get());
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(counts) = self.counts.upgrade() {
            counts.in_use.set(counts.in_use.get() - self.bytes);
            counts.free_bytes.set(counts.free_bytes.get() + self.bytes);
            *counts.free.borrow_mut().entry(self.bytes).or_default() += 1;
        }
    }
}

impl Dry {
    /// A stand-in for a device with these capabilities.
    pub fn new(capabilities: Capabilities) -> Self {
        Self { capabilities, counts: Rc::default(), launches: Rc::default() }
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
        let bytes = ((len * dtype.size()).max(4) as u64).next_multiple_of(GRANULE);
        let counts = &self.counts;
        if let Some(free) = counts.free.borrow_mut().get_mut(&bytes).filter(|free| **free > 0) {
            *free -= 1;
            counts.free_bytes.set(counts.free_bytes.get() - bytes);
        }
        counts.in_use.set(counts.in_use.get() + bytes);
        counts.peak.set(counts.peak.get().max(counts.in_use.get() + counts.free_bytes.get()));
        Ok(Buffer::new(Memory { bytes, counts: Rc::downgrade(counts) }, dtype, len))
    }

    fn upload(&self, _view: &View, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download<'a>(&'a self, view: &'a View) -> LocalFuture<'a, Result<Vec<u8>>> {
        Box::pin(std::future::ready(Ok(vec![0; view.byte_len()])))
    }

    fn launch(&self, call: &KernelCall) -> Result<()> {
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

    fn memory(&self) -> MemoryUse {
        MemoryUse { in_use: self.counts.in_use.get(), peak: self.counts.peak.get() }
    }
}
