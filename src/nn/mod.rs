//! The building blocks of the transformer: a linear layer that may be 4-bit and may carry LoRA, and
//! what every layer of one forward pass needs to know.

mod context;
mod linear;
mod parameter;

pub use context::{Context, Noise};
pub use linear::{Linear, Lora, Weight};
pub use parameter::Parameter;
