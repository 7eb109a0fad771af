//! The policy that a trained one is compared with.

use crate::model::transformer::Model;
use crate::nn::AdapterChoice;
use std::collections::HashMap;
use std::path::PathBuf;

/// The name of the adapter that a reference is, where it is one.
pub const REFERENCE_ADAPTER: &str = "reference";

/// Which policy an objective compares with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReferenceOptions {
    /// A directory with a model or an adapter; without one the policy as training finds it.
    pub directory: Option<PathBuf>,
    /// Its log-probabilities are computed once, before the first step, and kept.
    pub precompute: bool,
}

/// A policy that does not change.
pub enum Policy {
    /// The trained model with its adapter off, or under another one.
    Adapter(AdapterChoice),
    /// A model of its own.
    Model(Box<Model>),
}

/// The reference of a run, as a pass uses it.
pub struct Reference {
    /// The policy.
    pub policy: Policy,
    /// What it says of groups, by [`fingerprint`](crate::data::Batch::fingerprint): a number for each
    /// sequence, where they are computed once.
    pub known: HashMap<u64, Vec<f64>>,
    /// Bytes of weights that are there for it alone.
    pub bytes: u64,
}

impl Default for Reference {
    /// The base: the adapter off.
    fn default() -> Self {
        Self { policy: Policy::Adapter(AdapterChoice::Off), known: HashMap::new(), bytes: 0 }
    }
}
