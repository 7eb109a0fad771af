//! Tunesmith fine-tunes Llama-family language models with LoRA, QLoRA and full training,
//! on kernels written by hand in CUDA C++ and in WGSL.

pub mod adapter;
pub mod backend;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
pub mod data;
pub mod dtype;
pub mod error;
pub mod evaluate;
pub mod export;
pub mod files;
pub mod generate;
pub mod kernels;
pub mod model;
pub mod nn;
pub mod ops;
pub mod optim;
#[cfg(feature = "cli")]
pub mod programs;
pub mod quant;
pub mod random;
pub mod tape;
pub mod tensor;
pub mod tokenizer;
pub mod train;

pub use backend::Device;
pub use dtype::DType;
pub use error::{Error, Result};
pub use tape::Tape;
pub use tensor::Tensor;
