//! Adapters: small trained additions to a frozen model.

mod attach;
pub mod card;
mod config;
mod init;
mod mix;
mod patterns;
pub mod peft;
mod select;
mod start;
mod svd;
mod targets;
pub mod trainable;
mod weights;

pub use attach::{PeftAdapter, attach, attach_as, detach};
pub use config::PeftConfig;
pub use init::InitLoraWeights;
pub use mix::load_mixed;
pub use patterns::ModuleNames;
pub use targets::{LoraModule, ModuleKind, TargetModules};
pub use weights::{AdapterWeights, LoraWeights, RowWeights, SavedWeights};
