//! What a run optimizes: each objective is a folder here and one line of [`OBJECTIVES`].
//!
//! An objective says what a row becomes, what the loss of a step is divided by, how a micro-batch is
//! computed, and what is measured on the way. It holds its settings and nothing else.

mod chosen;
mod measures;
mod pass;
pub mod sft;

pub use chosen::{Chosen, all, register};
pub use measures::{Means, Measures, Sum, Totals};
pub use pass::Pass;

use crate::config::key::Settings;
use crate::data::{Batch, Group, NO_LOSS, Rows, Sequence};
use crate::error::Result;
use chosen::{BoxedCopy, Make, make};
use std::fmt::Debug;

/// Every objective, the default one first.
const OBJECTIVES: &[Make] = &[make::<sft::Sft>];

/// Names that the field has for objectives which are refused because they are not there yet.
pub(crate) const COMING: &[&str] = &[
    "dpo",
    "ipo",
    "kto",
    "orpo",
    "simpo",
    "cpo",
    "grpo",
    "rloo",
    "ppo",
    "rlhf",
    "reward",
    "rm",
    "distill",
    "distillation",
    "gkd",
    "pretrain",
];

/// What a run optimizes. Its keys in the config are its [`Keys`](crate::config::key::Keys), and what it
/// makes of rows is in [`Rows`].
pub trait Objective: Rows + Settings + BoxedCopy + Debug + Send + Sync {
    /// One line for people.
    fn doc(&self) -> &'static str;

    /// What the divisor counts, in the plural.
    fn unit(&self) -> &'static str;

    /// What the loss of a step is divided by, counted over all its micro-batches, so that the loss
    /// does not depend on how a step is cut.
    fn divisor(&self, step: &[Batch]) -> f64;

    /// Computes one micro-batch: forward, backward where the pass is one of training (the gradients
    /// add to those of the step's other micro-batches), and what is measured.
    ///
    /// # Errors
    /// What the ops report.
    fn accumulate(&self, pass: &Pass) -> Result<Measures>;

    /// What follows from the mean loss of an evaluation: names and values, printed after it.
    fn derive(&self, _loss: f64) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// The largest group there may be, to plan memory with where there are no rows: sequences of
    /// `max_length` tokens, all of which carry loss.
    fn largest_group(&self, max_length: usize) -> Group {
        let labels = (0..max_length).map(|t| if t == 0 { NO_LOSS } else { 0 }).collect();
        Group::of(Sequence { input_ids: vec![0; max_length], labels })
    }
}
