//! The product on tensor cores: when it can be had, and its tiles.

use super::{BINDINGS, BLOCK, KernelSpec, KernelText, Requires, cpu, reference};
use crate::DType;
use crate::backend::Device;
use crate::tensor::Tensor;

/// Compute capability, times ten, from which kernels may use `mma.sync` on 16-bit operands.
pub(crate) const CAPABILITY: u32 = 80;
/// Elements of 16 bits that are copied at once; rows of operands are whole multiples.
pub(crate) const CHUNK: usize = 8;
/// Blocks below which a large GPU has multiprocessors without work.
const FEW_BLOCKS: usize = 96;

/// Whether a device has tensor cores that the kernels can use.
pub(crate) fn is_on(device: &Device) -> bool {
    device.capabilities().compute_capability >= Some(CAPABILITY)
}

/// Whether the device and the operands are such that [`MATMUL_MMA`] can multiply them.
pub(crate) fn fits(a: &Tensor, b: &Tensor) -> bool {
    let aligned = [a, b].iter().all(|operand| operand.columns().is_multiple_of(CHUNK));
    is_on(a.device()) && a.dtype() != DType::F32 && a.dtype() == b.dtype() && aligned
}

/// The tile for an [m, n] result: the smaller one where the larger would leave a GPU half empty. The
/// bits of the result do not depend on it.
pub(crate) fn tile(m: usize, n: usize) -> usize {
    if m.div_ceil(128) * n.div_ceil(128) >= FEW_BLOCKS { 128 } else { 64 }
}

/// Dynamic shared memory: four stages of a slab of 32 k of both operands.
pub(super) fn shared_bytes(tile: usize) -> u32 {
    512 * tile as u32
}

static TEXT: KernelText = crate::cuda_text!("matmul_mma");

pub(super) static MATMUL_MMA: KernelSpec = KernelSpec {
    name: "matmul_mma",
    text: &TEXT,
    bindings: BINDINGS,
    constants: &["LAYOUT", "ACCUMULATE", "TILE"],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Sm(CAPABILITY),
    reference_f32: reference,
    reference_f64: reference,
    cpu: cpu::matmul,
};
