//! The transformer ([`transformer`], [`cache`]), how it gets onto a device ([`load`]), and what is on disk
//! for it: its directory, `config.json`, weights (those in 4 bits as bitsandbytes writes them), and
//! the tables that follow from them.
//!
//! The disk side knows no device: weights are read as bytes, in Hugging Face's names and shapes.

pub mod bnb;
pub mod cache;
mod check;
pub mod config;
mod family;
mod fingerprint;
pub mod float;
pub mod gguf;
pub(crate) mod json;
pub mod load;
pub mod quantization;
pub mod resolve;
pub mod rope;
pub mod save;
pub mod spec;
mod tensor_file;
pub mod transformer;
pub mod weights;

pub use check::check;
pub use config::ModelConfig;
pub use family::Family;
pub use fingerprint::Fingerprint;
pub use quantization::BnbConfig;
pub use resolve::{ModelSource, resolve};
pub use rope::{RopeConfig, RopeScaling, RopeTables};
pub use spec::Spec;
pub use weights::{TensorSlice, Weights};

pub(crate) use float::{from_torch_name, widen};
pub(crate) use json::{Object, parse_object, shorten};
