//! What an objective computes with: one micro-batch and the model.

use crate::data::Batch;
use crate::error::Result;
use crate::model::llama::Model;
use crate::nn::{AdapterChoice, Context};
use crate::ops::StepState;
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::rc::Rc;

/// One micro-batch before the model, in training or in an evaluation.
pub struct Pass<'a> {
    /// The model.
    pub model: &'a Model,
    /// The micro-batch.
    pub batch: &'a Batch,
    /// All micro-batches of the step: what a mean over the step counts.
    pub step: &'a [Batch],
    /// The divisor of the step, the loss scale, and its number, on the device.
    pub step_state: &'a StepState,
    /// Where the tokens stand, and the random draws.
    pub context: Rc<Context>,
    /// What is differentiated: recording in training only.
    pub tape: Tape,
    /// f32 [1]: a one, where the loss is differentiated.
    pub(crate) one: Option<&'a Tensor>,
}

impl Pass<'_> {
    /// The final hidden states [T, C] of the batch, on the tape.
    ///
    /// # Errors
    /// What the ops report.
    pub fn hidden(&self) -> Result<Tensor> {
        self.model.hidden(&self.tape, &self.batch.input_ids, &self.context)
    }

    /// The final hidden states [T, C] of the batch as another policy has them: the base, or the model
    /// under another adapter. Nothing is recorded, nothing drops out, and there is no second copy of
    /// the weights.
    ///
    /// # Errors
    /// What the ops report.
    pub fn reference(&self, adapter: AdapterChoice) -> Result<Tensor> {
        let context = Context { adapter, noise: None, ..(*self.context).clone() };
        self.model.hidden(&Tape::inference(), &self.batch.input_ids, &Rc::new(context))
    }

    /// Backward from a loss f32 [1] that has the step's divisor and the loss scale in it. Does
    /// nothing in an evaluation.
    ///
    /// # Errors
    /// What the ops report.
    pub fn minimize(&self, scaled_loss: &Tensor) -> Result<()> {
        match self.one {
            Some(one) => self.tape.backward(scaled_loss, one.clone()),
            None => Ok(()),
        }
    }
}
