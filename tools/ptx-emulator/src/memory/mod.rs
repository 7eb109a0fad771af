//! Memory: global allocations with poison, shared memory with a race detector, local memory of lanes.

mod async_reads;
mod bulk;
mod clock;
mod fences;
mod global;
mod local;
mod shared;
mod tensor_map;

pub(crate) use async_reads::AsyncRead;
pub(crate) use bulk::Writes;
pub(crate) use clock::{BARRIER_TRACKS, Clock, Joined, TRACKS};
pub(crate) use global::{Allocation, Global};
pub(crate) use local::Local;
pub(crate) use shared::{Accessor, Shared};
pub use tensor_map::{Swizzle, TensorMap};

/// Where shared memory starts in the generic address space.
pub(crate) const SHARED_WINDOW: u64 = 1 << 56;

/// Where local memory starts in the generic address space.
pub(crate) const LOCAL_WINDOW: u64 = 2 << 56;

/// Where the parameters of the kernel start in the generic address space.
pub(crate) const PARAM_WINDOW: u64 = 3 << 56;
