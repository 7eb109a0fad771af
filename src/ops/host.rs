//! Help for the ops' host side: how work is cut for threads.
//!
//! The CPU's cut depends on sizes alone and no sum crosses it, so results have the same bits at any
//! thread count.

use crate::tensor::Tensor;

/// Elements below which a loop is not worth a second thread.
const GRAIN: usize = 8 * 1024;

/// How many rows of `columns` elements one CPU task takes.
pub fn rows_per_task(columns: usize) -> usize {
    GRAIN.div_ceil(columns.max(1))
}

/// The 32-bit words that hold a tensor: element-wise kernels give each one a thread.
pub fn words(tensor: &Tensor) -> usize {
    (tensor.len() * tensor.dtype().size()).div_ceil(4)
}
