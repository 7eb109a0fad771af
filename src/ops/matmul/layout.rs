//! What every version of the product has: layouts, parameters, and the widths that a result may have.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel_header;
use crate::kernels::{Constants, Header};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};

/// How the operands of out [M, N] = A [M, K] · B [K, N] lie in memory: N as written here, T transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// a [M, K], b [N, K]: the forward product.
    NT,
    /// a [M, K], b [K, N]: the gradient of x.
    NN,
    /// a [K, M], b [K, N]: the gradient of w.
    TN,
}

/// The layouts by name, for kernel text.
pub(crate) const LAYOUTS: Constants =
    &[("NT", Layout::NT as u32), ("NN", Layout::NN as u32), ("TN", Layout::TN as u32)];

/// `kernels-cuda/product.cuh` and its twin: the parameters below.
pub const PRODUCT: Header = kernel_header!("product");

/// Threads of a block of the portable versions.
pub const THREADS: usize = 256;

/// The parameters of a version that does not split K.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub alpha: f32,
}

/// Of the versions that can split K: block z of the grid sums k from z · depth, for an [M, N] of its own.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct SplitParams {
    pub product: Params,
    pub depth: u32,
}

/// Refuses 16-bit rows of odd width: two elements share a word, and a thread owns whole words.
pub(crate) fn check_width(op: &'static str, out: &Tensor) -> Result<()> {
    if out.dtype() != DType::F32 && !out.columns().is_multiple_of(2) {
        return Err(Error::Unsupported {
            op,
            backend: out.device().capabilities().description.clone(),
            why: format!(
                "rows of {} {} elements; an odd width needs float32",
                out.columns(),
                out.dtype().name()
            ),
        });
    }
    Ok(())
}
