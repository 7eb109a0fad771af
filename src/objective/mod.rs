//! What a run optimizes: each objective is a folder here and one line of `OBJECTIVES`.
//!
//! An objective says what a row becomes, what the loss of a step is divided by, how a micro-batch is
//! computed, and what is measured on the way. It holds its settings and nothing else; the trainer, the
//! loader, checkpoints, the memory plan and the programs know this trait and no objective.
//!
//! A micro-batch on its way, with who does it:
//!
//! ```text
//! row -> Rows::group -> Group -> Plan -> Batch          the folder, then data
//! Objective::divisor(all batches of the step)           the folder; into the step state
//! Pass -> Objective::accumulate -> Measures             the folder; forward, backward, sums
//! optimizer, metrics.jsonl, trainer_state.json          train
//! ```
//!
//! # What objectives are made of
//!
//! - Losses of whole answers: [`answers`] has the log-probabilities of their tokens, read to the host; the
//!   loss and its derivative by each of them are computed there in f64, and [`Pass::backward`] begins with
//!   them. What the numbers are of is in [`Batch::groups`].
//! - Terms with another divisor than the loss (a likelihood per token beside a loss per pair):
//!   [`Pass::step`] has all batches of the step to count in.
//! - A policy to compare with: [`Objective::reference`] asks for it, `train/reference.rs` makes it, and
//!   [`Pass::of_reference`] computes with it, on this batch or on one of other sequences.
//! - A score in the place of the head: [`Objective::has_score`].
//!
//! # What carries the objectives to come
//!
//! Where these are needed, the trait grows a method with a default of "nothing", and the place that asks
//! for it is this:
//!
//! - Further models (a teacher) and adapters (a value model): declared, and made in `train/build.rs` as
//!   references and scores are, which makes them on the counting device too, so that the memory plan has
//!   them; a [`Pass`] hands them out. Trained ones join the trainer's parameters, and by that optimizer,
//!   checkpoints and resuming.
//! - Sampling before a step: groups of prompts to groups of completions, in `train/steps.rs` between
//!   plan and collation. How many rows a micro-batch holds is asked there as well.
//! - Numbers that live through a run: in `run_state.json`, beside the loss scale.

pub mod answers;
mod chosen;
pub mod cpo;
pub mod dpo;
pub mod kto;
mod measures;
pub mod orpo;
mod pass;
mod reference;
pub mod reward;
pub mod sft;

pub use chosen::{Chosen, all, register};
pub(crate) use measures::exact;
pub use measures::{Means, Measures, Sum, Totals};
pub(crate) use pass::Gradient;
pub use pass::Pass;
pub use reference::{Policy, REFERENCE_ADAPTER, Reference, ReferenceOptions};

use crate::config::TrainArgs;
use crate::config::key::Settings;
use crate::data::{Batch, Group, NO_LOSS, Rows, Sequence};
use crate::error::Result;
use chosen::{BoxedCopy, Make, make};
use serde_json::{Map, Value};
use std::fmt::Debug;

/// Every objective, the default one first.
const OBJECTIVES: &[Make] = &[
    make::<sft::Sft>,
    make::<dpo::Dpo>,
    make::<orpo::Orpo>,
    make::<cpo::Cpo>,
    make::<kto::Kto>,
    make::<reward::Reward>,
];

/// Names that the field has for objectives which are refused because they are not there yet.
pub(crate) const COMING: &[&str] =
    &["grpo", "rloo", "ppo", "rlhf", "distill", "distillation", "gkd", "pretrain"];

/// What other tools call objectives, and what they are here.
pub(crate) const OTHERWISE: &[(&str, &str)] = &[
    ("ipo", "objective = \"dpo\" with loss_type = \"ipo\""),
    ("rm", "objective = \"reward\""),
    ("simpo", "objective = \"cpo\" with loss_type = \"simpo\""),
];

/// How evaluations compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Best {
    /// The metric, by its name in `metrics.jsonl`.
    pub metric: &'static str,
    /// Its direction.
    pub greater_is_better: bool,
}

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

    /// The policy that the trained one is compared with, if it is compared.
    fn reference(&self) -> Option<&ReferenceOptions> {
        None
    }

    /// What the policy to compare with says of the groups of a batch, to be kept in
    /// [`Reference::known`] where it is computed once: fingerprints, and a number for each sequence.
    ///
    /// # Errors
    /// What the ops report.
    fn precompute(&self, _pass: &Pass) -> Result<Vec<(u64, Vec<f64>)>> {
        Ok(Vec::new())
    }

    /// Whether the model has a score for a head: one number a text, and no logits.
    fn has_score(&self) -> bool {
        false
    }

    /// The scores of the sequences of a batch, in order; `None` where texts have none.
    ///
    /// # Errors
    /// What the ops report.
    fn scores(&self, _pass: &Pass) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }

    /// Whether dropout applies.
    fn drops_out(&self) -> bool {
        true
    }

    /// The learning rate where none is given.
    fn learning_rate(&self, lora: bool) -> f64 {
        if lora { 2e-4 } else { 2e-5 }
    }

    /// Warnings about settings far outside what is common.
    fn advise(&self, _train: &TrainArgs, _lora: bool) -> Vec<String> {
        Vec::new()
    }

    /// Warnings about a run that is done, from what it logged.
    fn review(&self, _history: &[&Map<String, Value>]) -> Vec<String> {
        Vec::new()
    }

    /// What follows from the mean loss of an evaluation: names and values, printed after it.
    fn derive(&self, _loss: f64) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// Which evaluation is the best, for `load_best_model_at_end` and early stopping.
    fn best(&self) -> Best {
        Best { metric: "eval_loss", greater_is_better: false }
    }

    /// The largest group there may be, to plan memory with where there are no rows: sequences of
    /// `max_length` tokens, all of which carry loss.
    fn largest_group(&self, max_length: usize) -> Group {
        let labels = (0..max_length).map(|t| if t == 0 { NO_LOSS } else { 0 }).collect();
        Group::of(Sequence { input_ids: vec![0; max_length], labels, ..Sequence::default() })
    }
}
