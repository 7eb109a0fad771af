//! Memory: global allocations with poison, shared memory with a race detector, local memory of lanes.

mod clock;
mod global;
mod local;
mod shared;

pub(crate) use clock::{Clock, WARPS};
pub(crate) use global::{Allocation, Global};
pub(crate) use local::Local;
pub(crate) use shared::{Accessor, Shared};

/// Where shared memory starts in the generic address space.
pub(crate) const SHARED_WINDOW: u64 = 1 << 56;

/// Where local memory starts in the generic address space.
pub(crate) const LOCAL_WINDOW: u64 = 2 << 56;
