//! A model, merged with its adapter, in other forms: [`merge`] gives the weights one tensor at a time,
//! [`directory`] writes them as a Hugging Face directory (floats or NF4), [`gguf`] as llama.cpp's file,
//! [`mod@compare`] tells how far the written model is from the one that was meant.

pub mod compare;
pub mod directory;
pub mod gguf;
pub mod merge;

pub use compare::{Difference, compare, logits};
pub use merge::{Base, Merge};
