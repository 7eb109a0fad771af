//! When a kernel's version takes 16 bytes at a time: on NVIDIA GPUs, for whole chunks of 8 elements.

use super::matmul::mma;
use crate::kernels::Requires;
use crate::tensor::Tensor;

/// Elements that a thread owns together.
pub(super) const CHUNK: usize = 8;
/// What such a version needs: conversions of pairs.
pub(super) const REQUIRES: Requires = Requires::Sm(mma::CAPABILITY);

/// The chunks of a tensor; `None` where the portable kernel must do.
pub(super) fn chunks(tensor: &Tensor) -> Option<usize> {
    let whole = tensor.len().is_multiple_of(CHUNK) && mma::is_on(tensor.device());
    whole.then(|| tensor.len() / CHUNK)
}
