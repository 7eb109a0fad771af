//! Log-probabilities of the tokens of answers.

use crate::data::Batch;
use crate::error::Result;
use crate::objective::Pass;
use crate::ops::{self, Head, LogprobOptions, RowSelection, TokenLogprobs};
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::ops::Range;

/// Tokens of a batch, sequence by sequence: those before what is predicted.
pub struct Selection {
    /// Rows of the hidden states; a shared prompt's last one is there once for each sequence.
    rows: Vec<u32>,
    /// The token that each predicts.
    targets: Vec<u32>,
    /// Whether that token carries loss: is one of the answer.
    pub is_answer: Vec<bool>,
    /// Where each sequence's are in the lists.
    pub sequences: Vec<Range<usize>>,
}

impl Selection {
    /// The answers: what carries loss.
    pub fn answers(batch: &Batch) -> Self {
        Self::with_prompts(batch, |_| false)
    }

    /// The answers, and of sequences (counted through the batch) that are `whole` every token but the
    /// first.
    pub fn with_prompts(batch: &Batch, whole: impl Fn(usize) -> bool) -> Self {
        let mut found = Self {
            rows: Vec::new(),
            targets: Vec::new(),
            is_answer: Vec::new(),
            sequences: Vec::new(),
        };
        for group in &batch.groups {
            for sequence in 0..group.sequences.len() {
                let (first, whole) = (found.rows.len(), whole(found.sequences.len()));
                let tokens = batch.predictions(group, sequence);
                for token in tokens.filter(|token| whole || token.carries_loss) {
                    found.rows.push(token.row);
                    found.targets.push(token.id);
                    found.is_answer.push(token.carries_loss);
                }
                found.sequences.push(first..found.rows.len());
            }
        }
        found
    }

    /// Where the answer's tokens of a sequence are in the lists.
    pub fn answer(&self, sequence: &Range<usize>) -> Vec<usize> {
        sequence.clone().filter(|&place| self.is_answer[place]).collect()
    }

    /// Tokens that are selected.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The log-probabilities of the selected tokens, f32 in the order of the lists, from the final
    /// hidden states [T, C] of the batch and the head for them.
    ///
    /// # Errors
    /// What the ops report.
    fn logprobs(
        &self,
        tape: &Tape,
        (hidden, head): (Tensor, Head),
        details: bool,
    ) -> Result<TokenLogprobs> {
        let device = hidden.device();
        let selection = RowSelection::new(device, hidden.rows(), &self.rows)?;
        let targets = Tensor::from_u32(device, &[self.targets.len()], &self.targets)?;
        let hidden = ops::gather_rows(tape, &hidden, &selection)?;
        let head = head.of_rows(tape, &selection)?;
        let options = LogprobOptions { details, ..LogprobOptions::default() };
        ops::token_logprobs(tape, &hidden, head, &targets, options)
    }
}

/// What the trained policy says of the selected tokens.
pub struct Answers {
    /// f32 [selected], on the tape: what backward passes start from.
    tensor: Tensor,
    /// The same on the host.
    pub logprobs: Vec<f32>,
    /// The entropy of each token's distribution, in nats.
    pub entropy: Vec<f32>,
    /// 1 where the token is the most likely one.
    pub is_most_likely: Vec<f32>,
    /// The logarithm of the sum of the squared probabilities.
    pub log_sum_squares: Vec<f32>,
    /// The mean of the logits.
    pub mean_logit: Vec<f32>,
}

impl Answers {
    /// Forward.
    ///
    /// # Errors
    /// What the ops report.
    pub fn of(pass: &Pass, selection: &Selection) -> Result<Self> {
        let found = selection.logprobs(&pass.tape, pass.hidden_and_head()?, true)?;
        let logprobs = found.logprobs.read_f32()?;
        let mut details = Vec::new();
        for told in found.details.iter() {
            let told =
                [&told.entropy, &told.is_most_likely, &told.log_sum_squares, &told.mean_logit];
            details = told.into_iter().map(Tensor::read_f32).collect::<Result<_>>()?;
        }
        let mut details = details.into_iter();
        let mut next = || details.next().unwrap_or_default();
        Ok(Self {
            tensor: found.logprobs,
            logprobs,
            entropy: next(),
            is_most_likely: next(),
            log_sum_squares: next(),
            mean_logit: next(),
        })
    }

    /// The mean log-probability of the tokens at these places.
    pub fn mean(&self, places: &[usize]) -> f64 {
        let sum: f64 = places.iter().map(|&place| f64::from(self.logprobs[place])).sum();
        sum / places.len().max(1) as f64
    }

    /// Backward from the derivative of the loss's terms by each selected token's log-probability.
    ///
    /// # Errors
    /// What the ops report.
    pub fn backward(&self, pass: &Pass, derivative: &[f32]) -> Result<()> {
        pass.backward(&[(&self.tensor, derivative)])
    }
}

/// What the policy to compare with says of the selected tokens of `batch`.
///
/// # Errors
/// What the ops report.
pub fn reference_logprobs(pass: &Pass, batch: &Batch, selection: &Selection) -> Result<Vec<f32>> {
    if selection.is_empty() {
        return Ok(Vec::new());
    }
    let policy = pass.of_reference(batch)?;
    selection.logprobs(&Tape::inference(), policy, false)?.logprobs.read_f32()
}

/// What the trained policy, under the adapter of the pass, says of the selected tokens of another batch,
/// without recording.
///
/// # Errors
/// What the ops report.
pub fn policy_logprobs(pass: &Pass, batch: &Batch, selection: &Selection) -> Result<Vec<f32>> {
    if selection.is_empty() {
        return Ok(Vec::new());
    }
    let policy = pass.under(pass.context.adapter, batch)?;
    selection.logprobs(&Tape::inference(), policy, false)?.logprobs.read_f32()
}
