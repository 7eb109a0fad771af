//! Tunesmith fine-tunes language models with LoRA, QLoRA and full training,
//! on kernels written by hand in CUDA C++ and in WGSL.
//!
//! # An op, forward and backward
//!
//! ```
//! use tunesmith::{DType, Device, Tape, Tensor, ops};
//!
//! let device = Device::open("cpu")?;
//! let x = Tensor::from_f32(&device, &[1, 2], DType::F32, &[3.0, -1.0])?;
//! let w = Tensor::from_f32(&device, &[2, 2], DType::F32, &[1.0, 2.0, 0.5, 0.0])?;
//! let w = w.with_grad("w", DType::F32);
//!
//! let tape = Tape::recording();
//! let y = ops::matmul(&tape, &x, &w)?; // x wᵀ
//! assert_eq!(y.read_f32()?, [1.0, 1.5]);
//!
//! let dy = Tensor::from_f32(&device, &[1, 2], DType::F32, &[1.0, 10.0])?;
//! tape.backward(&y, dy)?;
//! assert_eq!(w.grad().unwrap().read_f32()?, [3.0, -1.0, 30.0, -10.0]); // dyᵀ x
//! # Ok::<(), tunesmith::Error>(())
//! ```
//!
//! `examples/train.rs` is a fine-tune in about fifty lines.
//!
//! # Map
//!
//! From the metal up; each module knows those above it, and `tests/tidy.rs` holds the borders.
//!
//! - [`dtype`], [`error`], [`random`], [`files`]: element types, errors, random bits, whole files
//! - [`gguf`]: llama.cpp's file format
//! - [`kernels`]: what a kernel is, as data
//! - [`backend`]: memory and launches on the CPU, wgpu and CUDA; a [`Device`] is a handle on one
//! - [`tensor`], [`tape`]: a handle on memory; differentiation
//! - [`ops`]: one file per op, with definition, fast CPU version, launch and backward
//! - [`conformance`]: what kernels and devices are held to; [`gradients`]: the same of a whole model
//! - [`quant`] holds NF4 and its decoding; it knows no file and no device
//! - [`nn`], [`model`], [`adapter`]: layers, model directories and the network, LoRA
//! - [`tokenizer`], [`data`]: from JSON Lines to rows of tokens
//! - [`objective`], [`optim`], [`train`], [`evaluate`], [`generate`]: what is done with a model
//! - [`config`], and with the feature `cli` `cli` and `programs`: settings and command lines
//!
//! # Reading order
//!
//! `examples/qlora_by_hand.rs`, then [`tensor`], [`tape`], `src/ops/rms_norm.rs` with its two kernels,
//! [`quant`], `src/model/transformer.rs`, `src/train/trainer.rs`. The README has a longer tour.
//!
//! # Invariants
//!
//! - Tensors are contiguous and row-major. A batch is padding-free: activations are [T, C], T counting
//!   the tokens of all its sequences.
//! - A launch is checked against its kernel's spec before it runs: a wrong one is an error.
//! - A tensor that wants a gradient and meets an op without a backward is an error, never a silent cut.
//! - What changes between steps of equal shape is in a device buffer, the [`ops::StepState`].
//! - No float atomics, sums in a fixed order, work cut by sizes alone: equal inputs give equal bits.
//! - What a user can cause is an [`Error`] that says where and what to do, never a panic.

// Without tokenizers there is no run to plan, and what only plans use is idle.
#![cfg_attr(not(feature = "tokenizers"), allow(dead_code, unused_imports))]

pub mod adapter;
pub mod backend;
#[cfg(feature = "cli")]
#[doc(hidden)]
#[allow(rustdoc::broken_intra_doc_links, reason = "help texts are not Markdown")]
pub mod cli;
pub mod config;
pub mod conformance;
pub mod data;
pub mod dtype;
pub mod error;
pub mod evaluate;
pub mod export;
pub mod files;
pub mod generate;
pub mod gguf;
pub mod gradients;
pub mod kernels;
pub mod model;
pub mod nn;
pub mod objective;
pub mod ops;
pub mod optim;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod programs;
pub mod quant;
pub mod random;
mod suggest;
pub mod tape;
pub mod tensor;
pub mod tokenizer;
pub mod train;

pub use backend::Device;
pub use dtype::DType;
pub use error::{Error, Result};
pub use tape::Tape;
pub use tensor::Tensor;
