//! 4-bit NormalFloat (NF4), as bitsandbytes computes and stores it.
//!
//! Dettmers et al., 2023, QLoRA, <https://arxiv.org/abs/2305.14314>. A weight is flattened and cut
//! into blocks of 64; each block is scaled by its largest magnitude and every element becomes the
//! nearest of 16 codes. With double quantization the scales are themselves quantized to 8 bits.
//!
//! ```
//! use tunesmith::DType;
//! use tunesmith::quant::Nf4Weight;
//!
//! let weight = Nf4Weight::quantize(&[0.5, -1.0, 0.0, 0.25], [2, 2])?;
//! // The largest magnitude is exact, and so is zero.
//! let values = weight.dequantize(DType::F32);
//! assert_eq!((values[1], values[2]), (-1.0, 0.0));
//! assert!((values[0] - 0.5).abs() < 0.1);
//! # Ok::<(), tunesmith::Error>(())
//! ```

mod decode;
pub mod dynamic8;
pub mod nf4;

pub(crate) use decode::Nf4View;
pub use nf4::{Absmax, Nf4Weight};
