//! The product on tensor cores: when it can be had, and its tiles.

use super::layout::{LAYOUTS, PRODUCT};
use super::specs::splitting;
use crate::DType;
use crate::backend::Device;
use crate::cuda_text;
use crate::kernels::{KernelSpec, KernelText, MMA, Requires, SLAB_K, TENSOR_CORES};
use crate::tensor::Tensor;

/// Elements of 16 bits that are copied at once; rows of operands are whole multiples.
pub(crate) const CHUNK: usize = 8;
/// Blocks below which a large GPU has multiprocessors without work.
const FEW_BLOCKS: usize = 96;

/// The version of the product that the device has for these operands, if any.
pub(crate) fn version(a: &Tensor, b: &Tensor) -> Option<Version> {
    let aligned = [a, b].iter().all(|operand| operand.columns().is_multiple_of(CHUNK));
    if !a.device().capabilities().has_tensor_cores() || !aligned {
        return None;
    }
    match (a.dtype(), b.dtype()) {
        // Six products of planes: worth it where tensor cores are made for f32 sums.
        (DType::F32, DType::F32) if !is_data_center(a.device()) => None,
        (left, right) if left == right && left != DType::F32 => Some(Version::Mma),
        _ => Some(Version::F32Mma),
    }
}

/// Whether tensor cores add in f32 at full rate; on other GPUs plain f32 arithmetic is as fast.
fn is_data_center(device: &Device) -> bool {
    matches!(device.capabilities().compute_capability, Some(80 | 90 | 100 | 103))
}

/// A version of the product on tensor cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// 16-bit operands of one dtype.
    Mma,
    /// Operands that are cut into planes of bf16.
    F32Mma,
}

impl Version {
    /// Its kernel, and the dynamic shared memory that it needs for these operands.
    pub(super) fn kernel(self, a: DType, b: DType, tile: usize) -> (&'static KernelSpec, u32) {
        let slab = slab_bytes(tile);
        match self {
            // Slabs of both operands.
            Self::Mma => (&MATMUL_MMA, STAGES * 2 * slab),
            // Slabs of all planes.
            Self::F32Mma => {
                let planes = a.bf16_planes() + b.bf16_planes();
                (&MATMUL_F32_MMA, F32_STAGES * planes as u32 * slab)
            }
        }
    }

    /// The tile for an [m, n] result; the smaller one where the sums of planes take the registers.
    pub(crate) fn tile(self, m: usize, n: usize) -> usize {
        match self {
            Self::Mma => tile(m, n),
            Self::F32Mma => 64,
        }
    }
}

/// The tile for an [m, n] result: the smaller one where the larger would leave a GPU half empty. The
/// bits of the result do not depend on it.
pub(crate) fn tile(m: usize, n: usize) -> usize {
    if m.div_ceil(128) * n.div_ceil(128) >= FEW_BLOCKS { 128 } else { 64 }
}

/// Bytes of an operand's slab, of 16 bits each.
pub(crate) fn slab_bytes(tile: usize) -> u32 {
    SLAB_K * 2 * tile as u32
}

/// Slabs that are on their way or in use.
pub(crate) const STAGES: u32 = 4;
/// The same where they come by way of registers.
const F32_STAGES: u32 = 2;

static TEXT: KernelText =
    cuda_text!("matmul_mma", MMA, PRODUCT).with_constants(&[LAYOUTS, &[("STAGES", STAGES)]]);
static F32_TEXT: KernelText = cuda_text!("matmul_f32_mma", MMA, PRODUCT)
    .with_constants(&[LAYOUTS, &[("STAGES", F32_STAGES)]]);

pub(super) static MATMUL_MMA: KernelSpec = KernelSpec {
    constants: &["LAYOUT", "ACCUMULATE", "TILE", "SHARED_BYTES"],
    requires: Requires::Sm(TENSOR_CORES),
    ..splitting("matmul_mma", &TEXT)
};

pub(super) static MATMUL_F32_MMA: KernelSpec = KernelSpec {
    constants: &["LAYOUT", "ACCUMULATE", "TILE", "SHARED_BYTES"],
    requires: Requires::Sm(TENSOR_CORES),
    ..splitting("matmul_f32_mma", &F32_TEXT)
};
