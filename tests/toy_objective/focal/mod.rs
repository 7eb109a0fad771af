//! Focal loss (Lin et al., 2017, arXiv:1708.02002): cross-entropy in which tokens that the model knows
//! already count less. The worked example of an objective.
//!
//! ```text
//! loss = sum over tokens t that carry loss of -w (1 - p_t)^gamma ln p_t, divided by their number
//! ```
//!
//! `w` is the row's own `weight`, 1 where it has none. Measured besides: `confidence`, the mean of p, and
//! `gain`, by how much ln p is above the base model's.

use serde_json::{Map, Value};
use tunesmith::config::key::{Key, Keys, plain};
use tunesmith::data::{Batch, Encoder, Format, Group, Rows, Sample};
use tunesmith::nn::AdapterChoice;
use tunesmith::objective::{Measures, Objective, Pass, Sum};
use tunesmith::ops::{self, LogprobOptions};
use tunesmith::{Error, Result, Tape, Tensor};

/// The settings: the section `[focal]`.
#[derive(Clone, Debug)]
pub struct Focal {
    gamma: f64,
}

impl Default for Focal {
    fn default() -> Self {
        Self { gamma: 2.0 }
    }
}

impl Keys for Focal {
    const KEYS: &'static [Key<Self>] = &[Key {
        section: "focal",
        name: "gamma",
        aliases: &[],
        doc: "how much less a token counts that is likely already; 0 is cross-entropy",
        set: |focal, node, _| node.non_negative().map(|gamma| focal.gamma = gamma),
        show: |focal| plain(focal.gamma),
    }];
}

impl Rows for Focal {
    fn name(&self) -> &'static str {
        "focal"
    }

    fn formats(&self) -> &'static [Format] {
        &[Format::Text, Format::PromptCompletion]
    }

    fn group(&self, sample: &Sample, row: &Map<String, Value>, encoder: &Encoder) -> Result<Group> {
        let mut group = Group::of(encoder.encode(sample)?);
        if let Some(weight) = row.get("weight") {
            let weight = weight
                .as_f64()
                .ok_or_else(|| Error::input(format!("`weight` is {weight}, expected a number")))?;
            group.numbers.push(("weight", weight));
        }
        Ok(group)
    }
}

impl Objective for Focal {
    fn doc(&self) -> &'static str {
        "focal loss: the likelihood of texts and answers, of unlikely tokens most of all"
    }

    fn unit(&self) -> &'static str {
        "tokens"
    }

    fn divisor(&self, step: &[Batch]) -> f64 {
        step.iter().map(Batch::num_loss_tokens).sum::<usize>() as f64
    }

    fn accumulate(&self, pass: &Pass) -> Result<Measures> {
        let Pass { model, batch, .. } = pass;
        let device = model.embed_tokens.device();
        let targets =
            Tensor::from_u32(device, &[batch.num_tokens()], &ops::target_ids(&batch.targets))?;
        let hidden = pass.hidden()?;
        let options = LogprobOptions::default();
        let found = ops::token_logprobs(&pass.tape, &hidden, &model.lm_head, &targets, options)?;

        let logprobs = found.logprobs.read_f32()?;
        // The base's, for comparison: the same weights with the adapter off.
        let base = pass.reference(AdapterChoice::Off, batch)?;
        let base =
            ops::token_logprobs(&Tape::inference(), &base, &model.lm_head, &targets, options)?;
        let base = base.logprobs.read_f32()?;
        let mut derivative = vec![0.0; batch.num_tokens()];
        let (mut loss, mut confidence, mut gain) = (0.0, 0.0, 0.0);
        for group in &batch.groups {
            let weight = group.number("weight").unwrap_or(1.0);
            for t in group.sequences.iter().flat_map(|&[start, end]| start..end) {
                let t = t as usize;
                if batch.targets[t] < 0 {
                    continue;
                }
                let (term, by_logprob) = self.term(f64::from(logprobs[t]));
                loss += weight * term;
                derivative[t] = (weight * by_logprob) as f32;
                confidence += f64::from(logprobs[t]).exp();
                gain += f64::from(logprobs[t] - base[t]);
            }
        }
        pass.backward(&[(&found.logprobs, &derivative)])?;
        let tokens = batch.num_loss_tokens() as f64;
        Ok(Measures::new(Sum::Known(loss)).mean("confidence", Sum::Known(confidence), tokens).mean(
            "gain",
            Sum::Known(gain),
            tokens,
        ))
    }
}

impl Focal {
    /// -(1 - p)^gamma ln p and its derivative by ln p, of ln p.
    fn term(&self, logprob: f64) -> (f64, f64) {
        let p = logprob.exp();
        let factor = (1.0 - p).powf(self.gamma);
        let slope = match self.gamma > 0.0 && p < 1.0 {
            true => self.gamma * p * (1.0 - p).powf(self.gamma - 1.0),
            false => 0.0,
        };
        (-factor * logprob, -factor + slope * logprob)
    }
}
