//! What an objective computes with: one micro-batch and the model.

use crate::data::Batch;
use crate::dtype::DType;
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
    /// What backward passes start from, in training.
    pub(crate) gradient: Option<Gradient<'a>>,
}

/// Where a backward pass starts.
pub(crate) struct Gradient<'a> {
    /// f32 [1]: a one.
    pub one: &'a Tensor,
    /// The loss scale over the divisor of the step.
    pub scale: f32,
}

impl Pass<'_> {
    /// The final hidden states [T, C] of the batch, on the tape.
    ///
    /// # Errors
    /// What the ops report.
    pub fn hidden(&self) -> Result<Tensor> {
        self.model.hidden(&self.tape, &self.batch.input_ids, &self.context)
    }

    /// The final hidden states [T, C] of `batch`, this one or another, as a policy beside the trained
    /// one has them: the base, or the model under an adapter. Nothing is recorded, nothing drops out,
    /// and there is no second copy of the weights.
    ///
    /// # Errors
    /// What the ops report.
    pub fn reference(&self, adapter: AdapterChoice, batch: &Batch) -> Result<Tensor> {
        let whole = match std::ptr::eq(batch, self.batch) {
            true => (*self.context).clone(),
            false => Context::of_sequences(
                self.model.embed_tokens.device(),
                &batch.positions,
                &batch.bounds,
                self.context.attention,
                None,
            )?,
        };
        let context = Rc::new(Context { adapter, noise: None, ..whole });
        self.model.hidden(&Tape::inference(), &batch.input_ids, &context)
    }

    /// Backward from a loss f32 [1] that has the step's divisor and the loss scale in it. Does
    /// nothing in an evaluation.
    ///
    /// # Errors
    /// What the ops report.
    pub fn minimize(&self, scaled_loss: &Tensor) -> Result<()> {
        match &self.gradient {
            Some(gradient) => self.tape.backward(scaled_loss, gradient.one.clone()),
            None => Ok(()),
        }
    }

    /// Backward from `output`, f32 of any shape, given the derivative of the loss's terms by each of
    /// its elements; the step's divisor and the loss scale come in here. Does nothing in an evaluation.
    ///
    /// # Errors
    /// What the ops report.
    pub fn backward(&self, output: &Tensor, derivative: &[f32]) -> Result<()> {
        let Some(Gradient { scale, .. }) = &self.gradient else { return Ok(()) };
        let dout: Vec<f32> = derivative.iter().map(|d| d * scale).collect();
        let dout = Tensor::from_f32(output.device(), output.shape(), DType::F32, &dout)?;
        self.tape.backward(output, dout)
    }
}
