//! Tunesmith fine-tunes Llama-family language models with LoRA, QLoRA and full training,
//! on kernels written by hand in CUDA C++ and in WGSL.

pub mod error;

pub use error::{Error, Result};
