//! Adapters: small trained additions to a frozen model.

mod attach;
pub mod card;
pub mod peft;
mod targets;
pub mod trainable;

pub use attach::{PeftAdapter, attach, attach_as, detach};
pub use peft::{LoraWeights, PeftConfig};
pub use targets::{LoraModule, TargetModules};
