//! Adapters: small trained additions to a frozen model.

pub mod card;
pub mod peft;
pub mod trainable;

pub use peft::{LoraModule, LoraWeights, PeftConfig, TargetModules};
