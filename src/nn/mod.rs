//! The building blocks of the transformer: a linear layer that may be 4-bit and may carry LoRA, what
//! every layer of one forward pass needs to know, and the loss.

mod context;
mod linear;
mod loss;
mod norm;
mod outer;
mod parameter;

pub use context::{AdapterChoice, Context, DEFAULT_ADAPTER, Noise, Place};
pub use linear::{Linear, LinearUpdate, Lora, Magnitude, Saved, Weight};
pub use loss::{Targets, next_token_loss};
pub use norm::RmsNorm;
pub use outer::{EmbeddingLora, EmbeddingUpdate, HeadUpdate, TrainedRows};
pub use parameter::Parameter;
