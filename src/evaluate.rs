//! What an objective measures on held-out examples.

use crate::data::Batch;
use crate::error::Result;
use crate::model::transformer::Model;
use crate::nn::{AdapterChoice, Context};
use crate::objective::{Objective, Pass, Reference, Totals};
use crate::ops::{Implementation, StepState};
use crate::tape::Tape;
use std::rc::Rc;

/// The measures over some examples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// The sum of the loss's terms, and the other metrics.
    pub totals: Totals,
    /// What the loss is divided by.
    pub divisor: f64,
}

impl Evaluation {
    /// The mean loss.
    pub fn loss(&self) -> f64 {
        self.totals.loss / self.divisor.max(1.0)
    }

    /// The loss, what `objective` derives from it, and the other metrics, in the order in which they
    /// are printed.
    pub fn metrics(&self, objective: &dyn Objective) -> Vec<(String, f64)> {
        let loss = self.loss();
        let mut found = vec![("loss".to_owned(), loss)];
        let derived = objective.derive(loss);
        found.extend(derived.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let means = self.totals.means.iter();
        found.extend(means.map(|(name, value)| (name.to_owned(), value)));
        found
    }

    /// Adds what `objective` measures on one batch, under an adapter of the model or none, without
    /// gradients and without dropout.
    ///
    /// # Errors
    /// What the ops report.
    pub fn add(
        &mut self,
        objective: &dyn Objective,
        model: &Model,
        attention: Implementation,
        adapter: AdapterChoice,
        frozen: &Reference,
        batch: &Batch,
    ) -> Result<()> {
        let device = model.embed_tokens.device();
        let context = Context::of_batch(device, batch, attention, None)?;
        let measures = objective.accumulate(&Pass {
            model,
            batch,
            step: std::slice::from_ref(batch),
            step_state: &StepState::new(device)?,
            context: Rc::new(Context { adapter, ..context }),
            frozen,
            tape: Tape::inference(),
            gradient: None,
        })?;
        self.divisor += objective.divisor(std::slice::from_ref(batch));
        self.totals.add(&measures)
    }
}

/// What `objective` measures on `batches`, with the adapter of the model if it has one.
///
/// # Errors
/// What the ops report.
pub fn evaluate(
    objective: &dyn Objective,
    model: &Model,
    attention: Implementation,
    batches: impl Iterator<Item = Batch>,
) -> Result<Evaluation> {
    evaluate_beside(objective, model, attention, &Reference::default(), batches)
}

/// [`evaluate`] with a policy to compare with.
///
/// # Errors
/// What the ops report.
pub fn evaluate_beside(
    objective: &dyn Objective,
    model: &Model,
    attention: Implementation,
    frozen: &Reference,
    batches: impl Iterator<Item = Batch>,
) -> Result<Evaluation> {
    let mut found = Evaluation::default();
    for batch in batches {
        found.add(objective, model, attention, AdapterChoice::default(), frozen, &batch)?;
    }
    Ok(found)
}
