//! Adapters: small trained additions to a frozen model.

pub mod card;
pub mod peft;

pub use peft::{LoraModule, LoraWeights, PeftConfig, TargetModules};
