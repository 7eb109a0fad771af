//! Adapters: small trained additions to a frozen model.

mod attach;
pub mod card;
pub mod peft;
pub mod trainable;

pub use attach::{PeftAdapter, attach, attach_as, detach};
pub use peft::{LoraModule, LoraWeights, PeftConfig, TargetModules};
