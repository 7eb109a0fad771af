//! What both implementations of attention take: who sees whom, the parameters of their kernels, and
//! where things lie.

use crate::backend::{Device, KernelCall, View};
use crate::error::Result;
use crate::kernel_header;
use crate::kernels::{Header, KernelSpec};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};
use std::ops::Range;

/// Who sees whom. Query t is key index i = t + `q_offset`; it sees the keys j of its own sequence with
/// j <= i and, with a window, j > i - window.
#[derive(Clone, Debug)]
pub struct AttentionLayout {
    /// u32 [S, 2]: for each key token the first token of its sequence, and the one past the last.
    /// Sequences follow one another without gaps.
    pub bounds: Tensor,
    /// The key index of query 0: the tokens already in a KV cache. 0 in training, where S = T.
    pub q_offset: usize,
    /// How many keys a query sees at most, its own included.
    pub window: Option<u32>,
    /// Factor of the scores, usually 1/sqrt(HD).
    pub scale: f32,
}

/// `kernels-cuda/attention.cuh` and its twin: these parameters, and who sees whom.
pub const ATTENTION: Header = kernel_header!("attention");

/// The parameters of every kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    pub tokens: u32,
    pub keys: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub q_offset: u32,
    /// `u32::MAX` without a window.
    pub window: u32,
    pub scale: f32,
}

impl Params {
    /// The first key that key index `i` sees; it sees all from there through itself.
    pub fn lowest_key(&self, bounds: &[u32], i: usize) -> usize {
        let first = bounds[2 * i] as usize;
        first.max((i + 1).saturating_sub(self.window as usize))
    }
}

/// The sizes of a call, as indices.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub tokens: usize,
    pub keys: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub width: usize,
    /// Query heads that share a kv-head.
    pub group: usize,
    /// The key index of query 0.
    pub offset: usize,
}

impl Sizes {
    /// Of a call with these parameters and the constant `HEAD_WIDTH`.
    pub fn new(params: &Params, width: u32) -> Self {
        Self {
            tokens: params.tokens as usize,
            keys: params.keys as usize,
            heads: params.heads as usize,
            kv_heads: params.kv_heads as usize,
            width: width as usize,
            group: (params.heads / params.kv_heads) as usize,
            offset: params.q_offset as usize,
        }
    }

    /// Where head `h` of query `t` starts in q, out and their gradients.
    pub fn query(&self, t: usize, h: usize) -> usize {
        (t * self.heads + h) * self.width
    }

    /// Where the kv-head that query head `h` reads starts at key `j`.
    pub fn key(&self, j: usize, h: usize) -> usize {
        (j * self.kv_heads + h / self.group) * self.width
    }

    /// Where the weights of head `h` and query `t` start in [NH, T, S].
    pub fn row(&self, h: usize, t: usize) -> usize {
        (h * self.tokens + t) * self.keys
    }

    /// The keys that query `t` sees.
    pub fn seen(&self, params: &Params, bounds: &[u32], t: usize) -> Range<usize> {
        params.lowest_key(bounds, t + self.offset)..t + self.offset + 1
    }
}

/// Launches a kernel of either implementation.
pub fn launch(
    spec: &'static KernelSpec,
    views: &[&View],
    params: Params,
    width: usize,
    device: &Device,
    grid: [u32; 3],
) -> Result<()> {
    KernelCall::new(spec, views)
        .constant("HEAD_WIDTH", width as u32)
        .params(params)
        .launch(device, grid)
}
