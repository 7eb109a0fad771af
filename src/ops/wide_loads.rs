//! When a kernel's version takes 16 bytes at a time: on NVIDIA GPUs, for whole chunks of 8 elements.

use crate::kernels::{Requires, TENSOR_CORES};
use crate::tensor::Tensor;

/// Elements that a thread owns together.
pub(super) const CHUNK: usize = 8;
/// What such a version needs: conversions of pairs.
pub(super) const REQUIRES: Requires = Requires::Sm(TENSOR_CORES);

/// The chunks of a tensor; `None` where the portable kernel must do.
pub(super) fn chunks(tensor: &Tensor) -> Option<usize> {
    let has_pairs = tensor.device().capabilities().has_tensor_cores();
    let whole = tensor.len().is_multiple_of(CHUNK) && has_pairs;
    whole.then(|| tensor.len() / CHUNK)
}
