//! GGUF, the file format of llama.cpp: one file with a model's shape, its tokenizer and its weights.
//!
//! [`container`] writes the format, [`read`] reads it, [`blocks`] decodes the types that its tensors are
//! stored in, [`quantize`] makes them. What the keys say of a model is the business of
//! [`crate::model::gguf`] and [`crate::export::gguf`].

pub mod blocks;
pub mod container;
pub mod quantize;
pub mod read;

pub use blocks::Kind;
