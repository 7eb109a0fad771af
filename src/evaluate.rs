//! Loss and perplexity on held-out examples.

use crate::data::Batch;
use crate::error::Result;
use crate::model::llama::Model;
use crate::nn::{Context, next_token_loss};
use crate::ops::{Implementation, StepState};
use crate::tape::Tape;
use std::rc::Rc;

/// The loss over some examples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Sum of the cross-entropy of all tokens that carry loss, in nats.
    pub loss_sum: f64,
    /// How many do.
    pub tokens: usize,
}

impl Evaluation {
    /// Cross-entropy per token.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.tokens.max(1) as f64
    }

    /// e to the loss per token.
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }
}

/// The loss of `model` over `batches`, without gradients and without dropout.
pub fn evaluate(
    model: &Model,
    attention: Implementation,
    batches: impl Iterator<Item = Batch>,
) -> Result<Evaluation> {
    let device = model.embed_tokens.device();
    let state = StepState::new(device)?;
    let mut total = Evaluation::default();
    for batch in batches {
        let context =
            Context::of_sequences(device, &batch.positions, &batch.bounds, attention, None)?;
        let tape = Tape::inference();
        let hidden = model.hidden(&tape, &batch.input_ids, &Rc::new(context))?;
        let found = next_token_loss(&tape, &hidden, &model.lm_head, &batch.targets, &state)?;
        total.loss_sum += found.losses.read_f32()?.into_iter().map(f64::from).sum::<f64>();
        total.tokens += batch.num_loss_tokens;
    }
    Ok(total)
}
