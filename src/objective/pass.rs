//! What an objective computes with: one micro-batch and the model.

use super::reference::{Policy, REFERENCE_ADAPTER, Reference};
use crate::data::Batch;
use crate::dtype::DType;
use crate::error::Result;
use crate::model::transformer::Model;
use crate::nn::{AdapterChoice, Context};
use crate::ops::{self, Head, LogprobOptions, RowSelection, StepState, TokenLogprobs};
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
    /// The policy to compare with, for objectives that ask for one.
    pub frozen: &'a Reference,
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
        let context = self.quiet(adapter, batch)?;
        self.model.hidden(&Tape::inference(), &batch.input_ids, &context)
    }

    /// The final hidden states [T, C] of `batch`, this one or another, and the head for them, of the
    /// policy to compare with. Nothing is recorded, nothing drops out.
    ///
    /// # Errors
    /// What the ops report.
    pub fn of_reference(&self, batch: &Batch) -> Result<(Tensor, Head)> {
        match &self.frozen.policy {
            Policy::Adapter(adapter) => self.under(*adapter, batch),
            Policy::Model(model) => {
                let context = self.quiet(AdapterChoice::Named(REFERENCE_ADAPTER), batch)?;
                with_head(model, &Tape::inference(), batch, &context)
            }
        }
    }

    /// The same of the model under an adapter, or none.
    ///
    /// # Errors
    /// What the ops report.
    pub fn under(&self, adapter: AdapterChoice, batch: &Batch) -> Result<(Tensor, Head)> {
        with_head(self.model, &Tape::inference(), batch, &self.quiet(adapter, batch)?)
    }

    /// The final hidden states [T, C] of the batch and the head for them, on the tape.
    ///
    /// # Errors
    /// What the ops report.
    pub fn hidden_and_head(&self) -> Result<(Tensor, Head)> {
        with_head(self.model, &self.tape, self.batch, &self.context)
    }

    /// Where the tokens of `batch` stand, without noise.
    fn quiet(&self, adapter: AdapterChoice, batch: &Batch) -> Result<Rc<Context>> {
        let whole = match std::ptr::eq(batch, self.batch) {
            true => (*self.context).clone(),
            false => Context::of_batch(
                self.model.embed_tokens.device(),
                batch,
                self.context.attention,
                None,
            )?,
        };
        Ok(Rc::new(Context { adapter, noise: None, ..whole }))
    }

    /// The log-probabilities `[R]` of what carries loss in `batch`, in the order of
    /// [`Batch::loss_rows`]: of its hidden states [T, C] only the rows that predict something meet the
    /// head, a shared prompt's last one once for each sequence.
    ///
    /// # Errors
    /// What the ops report.
    pub fn loss_logprobs(
        &self,
        tape: &Tape,
        hidden: &Tensor,
        batch: &Batch,
        options: LogprobOptions,
    ) -> Result<TokenLogprobs> {
        let device = hidden.device();
        let selection = RowSelection::new(device, hidden.dim(0), &batch.loss_rows)?;
        let ids = Tensor::from_u32(device, &[batch.loss_ids.len()], &batch.loss_ids)?;
        let rows = ops::gather_rows(tape, hidden, &selection)?;
        let head = self.model.head(tape, hidden, &self.context)?.of_rows(tape, &selection)?;
        ops::token_logprobs(tape, &rows, head, &ids, options)
    }

    /// Backward from a loss f32 `[1]` that has the step's divisor and the loss scale in it. Does
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

    /// Backward from outputs of the tape, f32 of any shape, each with the derivative of the loss's terms
    /// by its elements; the step's divisor and the loss scale come in here. Does nothing in an
    /// evaluation.
    ///
    /// # Errors
    /// What the ops report.
    pub fn backward(&self, outputs: &[(&Tensor, &[f32])]) -> Result<()> {
        let Some(Gradient { scale, .. }) = &self.gradient else { return Ok(()) };
        let upload = |(output, derivative): &(&Tensor, &[f32])| {
            let dout: Vec<f32> = derivative.iter().map(|d| d * scale).collect();
            Tensor::from_f32(output.device(), output.shape(), DType::F32, &dout)
        };
        let douts = outputs.iter().map(upload).collect::<Result<Vec<_>>>()?;
        self.tape.backward_from(outputs.iter().map(|(output, _)| *output).zip(douts))
    }
}

fn with_head(
    model: &Model,
    tape: &Tape,
    batch: &Batch,
    context: &Rc<Context>,
) -> Result<(Tensor, Head)> {
    let hidden = model.hidden(tape, &batch.input_ids, context)?;
    let head = model.head(tape, &hidden, context)?;
    Ok((hidden, head))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Device, cpu::Cpu};
    use crate::data::{Group, Sequence};
    use crate::model::load::{LoadOptions, Source, load};
    use crate::model::{ModelConfig, Weights};
    use crate::nn::Noise;
    use crate::ops::Implementation;
    use std::path::Path;

    fn batch(ids: &[u32]) -> Batch {
        let sequence = Sequence::new(ids.to_vec(), std::iter::repeat(true));
        Batch::of(&[Group::of(sequence)], 0)
    }

    /// In training, with noise on the embeddings, a reference has none, on this batch or on another.
    #[test]
    fn a_reference_is_not_of_the_training_pass() -> Result<()> {
        let device = Device::new(Cpu::poisoned());
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama");
        let (config, weights) = (ModelConfig::open(&dir)?, Weights::open(&dir)?);
        let options =
            LoadOptions { dtype: DType::F32, nf4: None, train_all: false, max_positions: 8 };
        let (model, _) = load(&device, &config, &Source::Weights(&weights), options)?;
        let (step_state, attention) = (StepState::new(&device)?, Implementation::Flash);
        let (this, other) = (batch(&[3, 5, 7, 11]), batch(&[2, 4, 6]));
        let context = |batch: &Batch, noise| Context::of_batch(&device, batch, attention, noise);
        let plain = |batch: &Batch| {
            let context = Rc::new(context(batch, None)?);
            model.hidden(&Tape::inference(), &batch.input_ids, &context)?.read_f32()
        };
        let noise = Noise {
            seed: 1,
            ordinals: Tensor::from_u32(&device, &[4], &this.ordinals)?,
            step_state: step_state.clone(),
            neftune_alpha: 5.0,
            dropout: true,
        };
        let pass = Pass {
            model: &model,
            batch: &this,
            step: std::slice::from_ref(&this),
            step_state: &step_state,
            context: Rc::new(context(&this, Some(noise))?),
            frozen: &Reference::default(),
            tape: Tape::recording(),
            gradient: None,
        };
        assert!(pass.hidden()?.read_f32()? != plain(&this)?);
        for batch in [&this, &other] {
            let found = pass.reference(AdapterChoice::Off, batch)?;
            assert!(!found.needs_grad() && found.read_f32()? == plain(batch)?);
        }
        Ok(())
    }
}
