//! Matrix products on the CPU. What uses them (the linear layer, NF4 weights, attention) is not known
//! here.
//!
//! From the leaves up: [`matrix`], operands of any dtype and two strides; [`depth`], what one
//! multiplication takes; [`scratch`]; [`pack`], operands as sums of bf16 numbers; the units that multiply
//! those, [`amx`] and [`avx512`], behind [`unit`]; [`blocks`], large products on them; [`sgemm`], f32
//! arithmetic; and what chooses among these, [`product`] for large operands and [`small`] for tiles.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod blocks;
#[cfg(target_arch = "x86_64")]
mod depth;
mod matrix;
#[cfg(target_arch = "x86_64")]
mod pack;
mod product;
mod scratch;
mod sgemm;
mod small;
#[cfg(target_arch = "x86_64")]
mod unit;

pub use matrix::{Elements, Matrix, Scale, widened};
pub use product::{product, product_scratch, widened_product};
pub use small::small_product;
