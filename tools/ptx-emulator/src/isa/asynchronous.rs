//! Hopper's asynchronous instructions: barriers in shared memory, bulk copies, warpgroup products.

use super::{Address, HalfFormat, Slot};

/// What an instruction does with a barrier in shared memory.
#[derive(Debug, Clone, Copy)]
#[rustfmt::skip]
pub(crate) enum MbarrierOp {
    Init { count: Slot },
    Invalidate,
    /// `state` is a 64-bit slot; `count` and `bytes` are [`super::NONE`] where the instruction has none.
    Arrive { state: Slot, count: Slot, bytes: Slot },
    Expect { bytes: Slot },
    /// `phase` is a 32-bit slot with the parity, or a 64-bit one with the state that an arrival returned.
    Wait { p: Slot, phase: Slot, by_parity: bool, blocking: bool },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Mbarrier {
    pub op: MbarrierOp,
    pub address: Address,
    pub generic: bool,
}

/// `cp.async.bulk`, of a tensor's box or of plain bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BulkCopy {
    pub shared: Address,
    /// Of the global bytes, or of the tensor map (generic).
    pub global: Address,
    /// Where a load completes; a store belongs to a bulk group.
    pub barrier: Option<Address>,
    /// Dimensions of the tensor; 0 for plain bytes.
    pub rank: u8,
    /// Slots of the coordinates in [`super::Kernel::operands`], innermost first.
    pub coordinates: u32,
    /// How many plain bytes.
    pub bytes: Slot,
}

/// Where a matrix operand is: shared memory, through a 64-bit descriptor, or four registers.
#[derive(Debug, Clone, Copy)]
#[rustfmt::skip]
pub(crate) enum WgmmaOperand {
    Shared { descriptor: Slot, transposed: bool },
    Registers,
}

/// `wgmma.mma_async.m64nNk16` with f32 accumulators.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wgmma {
    pub n: u16,
    pub input: HalfFormat,
    /// One of the two operands is negated.
    pub negate: bool,
    pub a: WgmmaOperand,
    pub b: Slot,
    pub b_transposed: bool,
    /// Predicate: whether the accumulators count; its complement where `scale_negated`.
    pub scale: Slot,
    pub scale_negated: bool,
    /// n/2 accumulators, then the registers of A, in [`super::Kernel::operands`].
    pub registers: u32,
}
