//! The parameters of the kernels of NF4 weights.

use bytemuck::{Pod, Zeroable};

/// Threads of a block.
pub const THREADS: usize = 256;

/// Of quantizing and decoding.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    pub count: u32,
    pub blocksize: u32,
    pub nested_blocksize: u32,
    pub zero: u32,
}

impl Params {
    pub fn new(count: usize, blocksize: usize, nested_blocksize: usize) -> Self {
        Self {
            count: count as u32,
            blocksize: blocksize as u32,
            nested_blocksize: nested_blocksize as u32,
            zero: 0,
        }
    }
}

/// Of a product.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct ProductParams {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub blocksize: u32,
    pub nested_blocksize: u32,
    pub zero: u32,
}
