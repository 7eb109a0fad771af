//! Adapters: small trained additions to a frozen model.

mod attach;
pub mod card;
mod config;
mod patterns;
pub mod peft;
mod select;
mod targets;
pub mod trainable;

pub use attach::{PeftAdapter, attach, attach_as, detach};
pub use config::PeftConfig;
pub use patterns::ModuleNames;
pub use peft::LoraWeights;
pub use targets::{LoraModule, ModuleKind, TargetModules};
