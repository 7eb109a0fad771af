//! Training: [`prepare`] checks everything, [`memory`] plans, [`build`] puts the model on the device,
//! [`run`] takes the steps that [`trainer`] computes, and records them.

#[cfg(feature = "tokenizers")]
pub mod build;
#[cfg(feature = "tokenizers")]
pub mod checkpoint;
#[cfg(feature = "tokenizers")]
mod explosion;
pub mod log;
#[cfg(feature = "tokenizers")]
pub mod memory;
pub mod metrics;
pub mod observer;
#[cfg(feature = "tokenizers")]
pub mod prepare;
#[cfg(feature = "tokenizers")]
pub mod reference;
#[cfg(feature = "tokenizers")]
pub mod resume;
#[cfg(feature = "tokenizers")]
pub mod run;
#[cfg(feature = "tokenizers")]
pub mod run_state;
pub mod schedule;
#[cfg(feature = "tokenizers")]
pub mod start;
pub mod steps;
pub mod trainer;
pub mod trainer_state;
