//! Kahneman-Tversky optimization (Ethayarajh et al., 2024, arXiv:2402.01306): from answers that are each
//! labelled good or bad, without pairs.
//!
//! ```text
//! u    = log p(y | x) - log p_ref(y | x)
//! KL   = max(0, mean over the micro-batch of u of the answer of the row before, after this row's prompt)
//! loss = mean over rows of  w_d (1 - sigmoid(beta (u - KL)))    where the label is true
//!                           w_u (1 - sigmoid(beta (KL - u)))    where it is false
//! ```
//!
//! KL has no gradient. It is of a micro-batch by definition, so that this loss, unlike all others, depends on
//! how a step is cut. `apo_zero_unpaired` has none: KL is 0.

mod keys;

use super::answers::{
    self, Answers, Selection, Usual, policy_logprobs, reference_logprobs, sigmoid,
};
use super::{Measures, Objective, Pass, ReferenceOptions, Sum};
use crate::config::TrainArgs;
use crate::data::{Batch, Encoder, Format, Group, Rows, Sample, Sequence};
use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// The number of a group that says whether its answer is a good one.
const LABEL: &str = "label";

/// Kahneman-Tversky optimization.
#[derive(Clone, Debug)]
pub struct Kto {
    beta: f64,
    desirable_weight: f64,
    undesirable_weight: f64,
    loss_type: LossType,
    reference: ReferenceOptions,
}

/// The losses, by TRL's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LossType {
    Kto,
    ApoZeroUnpaired,
}

impl Default for Kto {
    fn default() -> Self {
        Self {
            beta: 0.1,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
            loss_type: LossType::Kto,
            reference: ReferenceOptions::default(),
        }
    }
}

impl Rows for Kto {
    fn name(&self) -> &'static str {
        "kto"
    }

    fn formats(&self) -> &'static [Format] {
        &[Format::PromptCompletion]
    }

    fn group(&self, sample: &Sample, row: &Map<String, Value>, encoder: &Encoder) -> Result<Group> {
        let label = match row.get(LABEL) {
            Some(Value::Bool(label)) => *label,
            Some(Value::Number(number)) if number.as_u64().is_some_and(|n| n < 2) => {
                number.as_u64() == Some(1)
            }
            other => {
                let found = other.map_or("missing".to_owned(), ToString::to_string);
                return Err(Error::input(format!(
                    "`label` is {found}; expected true for a good answer, false for a bad one"
                )));
            }
        };
        let mut group = Group::of(encoder.answer(sample)?);
        group.numbers.push((LABEL, f64::from(u8::from(label))));
        Ok(group)
    }
}

impl Objective for Kto {
    fn doc(&self) -> &'static str {
        "Kahneman-Tversky optimization: answers labelled good or bad, held to a reference"
    }

    fn unit(&self) -> &'static str {
        "rows"
    }

    fn divisor(&self, step: &[Batch]) -> f64 {
        answers::pairs(step)
    }

    fn reference(&self) -> Option<&ReferenceOptions> {
        Some(&self.reference)
    }

    fn accumulate(&self, pass: &Pass) -> Result<Measures> {
        let kl = self.kl(pass)?;
        let selection = Selection::answers(pass.batch);
        let reference = reference_logprobs(pass, pass.batch, &selection)?;
        let policy = Answers::of(pass, &selection)?;
        let mut derivative = vec![0.0; selection.len()];
        let mut sides = [Side::default(), Side::default()];
        let mut loss = 0.0;
        for (group, places) in pass.batch.groups.iter().zip(&selection.sequences) {
            let sum = |logprobs: &[f32]| -> f64 {
                logprobs[places.clone()].iter().map(|&logprob| f64::from(logprob)).sum()
            };
            let logp = sum(&policy.logprobs);
            let u = logp - sum(&reference);
            let is_good = group.number(LABEL) == Some(1.0);
            let (sign, weight) = match is_good {
                true => (1.0, self.desirable_weight),
                false => (-1.0, self.undesirable_weight),
            };
            let h = sign * self.beta * (u - kl);
            loss += weight * sigmoid(-h);
            let by_u = -sign * weight * self.beta * sigmoid(h) * sigmoid(-h);
            derivative[places.clone()].fill(by_u as f32);
            sides[usize::from(!is_good)].push(
                self.beta * u,
                logp,
                &policy.mean_logit[places.clone()],
            );
        }
        policy.backward(pass, &derivative)?;
        let measures = Measures::new(Sum::Known(loss)).mean("kl", Sum::Known(kl), 1.0);
        let entropy = policy.entropy.iter().map(|&nats| f64::from(nats)).sum();
        Ok(measured(measures, &sides).mean("entropy", Sum::Known(entropy), selection.len() as f64))
    }

    fn drops_out(&self) -> bool {
        false
    }

    fn learning_rate(&self, lora: bool) -> f64 {
        answers::learning_rate(lora)
    }

    fn advise(&self, train: &TrainArgs, lora: bool) -> Vec<String> {
        let beta = (Usual { key: "kto.beta", range: [0.01, 0.5] }, self.beta);
        let mut found = answers::advise(&[beta], train.learning_rate, lora);
        if self.loss_type == LossType::Kto && train.per_device_train_batch_size == 1 {
            found.push(
                "kto estimates its KL from the other answers of a micro-batch, and \
                 per_device_train_batch_size = 1 has none: take at least 4, or loss_type = \
                 \"apo_zero_unpaired\""
                    .into(),
            );
        }
        found
    }

    fn review(&self, history: &[&Map<String, Value>]) -> Vec<String> {
        answers::review(history)
    }
}

impl Kto {
    /// The estimate of KL(policy, reference) from prompts with other rows' answers.
    fn kl(&self, pass: &Pass) -> Result<f64> {
        if self.loss_type == LossType::ApoZeroUnpaired {
            return Ok(0.0);
        }
        let batch = mismatched(pass.batch, pass.model.max_positions());
        let selection = Selection::answers(&batch);
        let policy = policy_logprobs(pass, &batch, &selection)?;
        let reference = reference_logprobs(pass, &batch, &selection)?;
        let ratios = policy.iter().zip(&reference).map(|(&a, &b)| f64::from(a) - f64::from(b));
        Ok((ratios.sum::<f64>() / batch.groups.len().max(1) as f64).max(0.0))
    }
}

/// Each row's prompt with the answer of the row before it, the first with that of the last; cut at
/// `max_length`.
fn mismatched(batch: &Batch, max_length: usize) -> Batch {
    let rows: Vec<[usize; 3]> = batch
        .groups
        .iter()
        .map(|group| {
            let [start, end] = group.sequences[0].map(|t| t as usize);
            let first = (start..end).find(|&t| batch.targets[t] >= 0);
            [start, first.map_or(end, |t| t + 1), end]
        })
        .collect();
    let before = rows.iter().cycle().skip(rows.len().saturating_sub(1));
    let joined = rows.iter().zip(before).map(|(&[start, prompt_end, _], &[_, from, to])| {
        let input_ids = [&batch.input_ids[start..prompt_end], &batch.input_ids[from..to]].concat();
        let prompt = std::iter::repeat_n(false, prompt_end - start);
        let carries = (from..to).map(|t| batch.label(t) >= 0);
        let mut sequence = Sequence::new(input_ids, prompt.chain(carries));
        sequence.truncate(max_length);
        Group::of(sequence)
    });
    Batch::of(&joined.collect::<Vec<_>>(), 0)
}

/// The rows of one label in a micro-batch.
#[derive(Default)]
struct Side {
    rows: f64,
    reward: f64,
    logp: f64,
    tokens: f64,
    logits: f64,
}

impl Side {
    fn push(&mut self, reward: f64, logp: f64, logits: &[f32]) {
        self.rows += 1.0;
        self.reward += reward;
        self.logp += logp;
        self.tokens += logits.len() as f64;
        self.logits += logits.iter().map(|&logit| f64::from(logit)).sum::<f64>();
    }
}

/// Means over a micro-batch's rows of a label, and over the micro-batches that have some: as TRL.
fn measured(mut measures: Measures, sides: &[Side; 2]) -> Measures {
    for (name, of) in [
        ("rewards", (|side: &Side| side.reward / side.rows) as fn(&Side) -> f64),
        ("logps", |side| side.logp / side.rows),
        ("logits", |side| side.logits / side.tokens.max(1.0)),
    ] {
        for (side, which) in sides.iter().zip(["chosen", "rejected"]) {
            let (value, weight) = if side.rows > 0.0 { (of(side), 1.0) } else { (0.0, 0.0) };
            measures = measures.mean(format!("{name}/{which}"), Sum::Known(value), weight);
        }
        if name == "rewards" && sides.iter().all(|side| side.rows > 0.0) {
            let margin = of(&sides[0]) - of(&sides[1]);
            measures = measures.mean("rewards/margins", Sum::Known(margin), 1.0);
        }
    }
    measures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_move_on_by_one_row() {
        let group = |ids: &[u32], prompt: usize| {
            Group::of(Sequence::new(ids.to_vec(), (0..ids.len()).map(|t| t >= prompt)))
        };
        let batch = Batch::of(&[group(&[1, 2, 3], 2), group(&[4, 5, 6, 7], 1)], 0);
        let found = mismatched(&batch, 16);
        assert_eq!(found.input_ids, [1, 2, 5, 6, 7, 4, 3]);
        let labels: Vec<i32> = (0..7).map(|t| found.label(t)).collect();
        assert_eq!(labels, [-100, -100, 5, 6, 7, -100, 3]);
        assert_eq!(mismatched(&batch, 4).input_ids, [1, 2, 5, 6, 4, 3]);
        // A row alone has its own answer.
        let one = Batch::of(&[group(&[1, 2, 3], 2)], 0);
        assert_eq!(mismatched(&one, 16).input_ids, [1, 2, 3]);
    }
}
