//! Supervised fine-tuning: the cross-entropy of the next tokens, over those that carry loss.
//!
//! ```text
//! loss = sum over tokens t that carry loss of -log p(x_t | x_<t), divided by their number in the step
//! ```
//!
//! The fused op of output layer and loss is used, in which the logits never exist at once.

use super::{Measures, Objective, Pass, Sum};
use crate::config::key::{Key, Keys};
use crate::data::{Batch, Encoder, Format, Group, Rows, Sample};
use crate::error::Result;
use crate::nn::{Targets, next_token_loss};
use serde_json::{Map, Value};

/// Supervised fine-tuning. It has no settings: what carries loss is said by `[data]`.
#[derive(Clone, Debug, Default)]
pub struct Sft;

impl Keys for Sft {
    const KEYS: &'static [Key<Self>] = &[];
}

impl Rows for Sft {
    fn name(&self) -> &'static str {
        "sft"
    }

    fn formats(&self) -> &'static [Format] {
        use Format::{Alpaca, Messages, PromptCompletion, Sharegpt, Text};
        &[Text, Messages, PromptCompletion, Alpaca, Sharegpt]
    }

    fn group(&self, sample: &Sample, _: &Map<String, Value>, encoder: &Encoder) -> Result<Group> {
        encoder.encode(sample).map(Group::of)
    }
}

impl Objective for Sft {
    fn doc(&self) -> &'static str {
        "supervised fine-tuning: the likelihood of texts, answers or assistant turns"
    }

    fn unit(&self) -> &'static str {
        "tokens"
    }

    fn divisor(&self, step: &[Batch]) -> f64 {
        step.iter().map(Batch::num_loss_tokens).sum::<usize>() as f64
    }

    fn accumulate(&self, pass: &Pass) -> Result<Measures> {
        let Pass { model, batch, .. } = pass;
        let targets = Targets::new(model.embed_tokens.device(), batch)?;
        let hidden = pass.hidden()?;
        let head = model.head(&pass.tape, &hidden, &pass.context)?;
        let found = next_token_loss(&pass.tape, &hidden, head, &targets, pass.step_state)?;
        pass.minimize(&found.scaled_loss)?;
        Ok(Measures::new(Sum::Of(found.losses)))
    }

    fn derive(&self, loss: f64) -> Vec<(&'static str, f64)> {
        vec![("perplexity", loss.exp())]
    }
}
