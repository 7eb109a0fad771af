//! Direct preference optimization (Rafailov et al., 2023, arXiv:2305.18290): a policy learns from pairs of
//! answers to prefer the chosen one more than a reference does.
//!
//! ```text
//! log p(y | x) = sum over the tokens of y, end of sequence included
//! u    = log p(y | x) - log p_ref(y | x)          of the chosen answer and of the rejected one
//! loss = mean over the pairs of the step of -log sigmoid(beta (u_chosen - u_rejected)), or another of
//!        `loss_type`; rewards are beta u
//! ```
//!
//! The reference is the model with its adapter off, or another policy; its pass records nothing.

mod keys;
mod loss;

use super::answers::{self, Answers, Compared, PairMetrics, Selection, Usual, reference_logprobs};
use super::{Measures, Objective, Pass, ReferenceOptions, Sum};
use crate::config::TrainArgs;
use crate::data::{Batch, Encoder, Format, Group, Rows, Sample};
use crate::error::{Error, Result};
use loss::{Divergence, LossType, Numbers, Ratios};
use serde_json::{Map, Value};

/// Direct preference optimization.
#[derive(Clone, Debug)]
pub struct Dpo {
    beta: f64,
    /// The losses that are added, with their weights.
    losses: Vec<(LossType, f64)>,
    label_smoothing: f64,
    divergence: Divergence,
    alpha: f64,
    ld_alpha: Option<f64>,
    use_weighting: bool,
    discopop_tau: f64,
    reference: ReferenceOptions,
}

impl Default for Dpo {
    fn default() -> Self {
        Self {
            beta: 0.1,
            losses: vec![(LossType::Sigmoid, 1.0)],
            label_smoothing: 0.0,
            divergence: Divergence::ReverseKl,
            alpha: 0.5,
            ld_alpha: None,
            use_weighting: false,
            discopop_tau: 0.05,
            reference: ReferenceOptions::default(),
        }
    }
}

impl Rows for Dpo {
    fn name(&self) -> &'static str {
        "dpo"
    }

    fn formats(&self) -> &'static [Format] {
        answers::FORMATS
    }

    fn group(&self, sample: &Sample, _: &Map<String, Value>, encoder: &Encoder) -> Result<Group> {
        answers::pair(sample, encoder)
    }
}

impl Objective for Dpo {
    fn doc(&self) -> &'static str {
        "direct preference optimization: chosen answers over rejected ones, held to a reference"
    }

    fn unit(&self) -> &'static str {
        "pairs"
    }

    fn divisor(&self, step: &[Batch]) -> f64 {
        answers::pairs(step)
    }

    fn reference(&self) -> Option<&ReferenceOptions> {
        Some(&self.reference)
    }

    fn precompute(&self, pass: &Pass) -> Result<Vec<(u64, Vec<f64>)>> {
        let selection = Selection::answers(pass.batch);
        let logprobs = reference_logprobs(pass, pass.batch, &selection)?;
        let sums = selection.sequences.chunks(2).map(|pair| self.sums(&logprobs, pair));
        let keys = pass.batch.groups.iter().map(|group| pass.batch.fingerprint(group));
        Ok(keys.zip(sums.map(Vec::from)).collect())
    }

    fn accumulate(&self, pass: &Pass) -> Result<Measures> {
        let selection = Selection::answers(pass.batch);
        let reference = self.reference_sums(pass, &selection)?;
        let policy = Answers::of(pass, &selection)?;
        let weights = self.weights(&selection, &policy);
        let mut derivative = vec![0.0; selection.len()];
        let (mut loss, mut metrics) = (0.0, PairMetrics::default());
        for (number, pair) in selection.sequences.chunks(2).enumerate() {
            let logps = self.sums(&policy.logprobs, pair);
            let u = [0, 1].map(|side| logps[side] - reference[number][side]);
            let tokens = [0, 1].map(|side| pair[side].len());
            let (value, by_u) = self.loss(u, tokens);
            loss += weights[number] * value;
            for side in 0..2 {
                for (place, share) in pair[side].clone().zip(self.shares(pair, side)) {
                    derivative[place] = (weights[number] * by_u[side] * share) as f32;
                }
            }
            let rewards = u.map(|u| self.beta * u);
            metrics.push(Compared { rewards, logps, tokens });
        }
        let (factor, likelihood) = self.likelihood(pass, &selection, &policy, &weights);
        loss += likelihood;
        for chosen in selection.sequences.iter().step_by(2) {
            chosen.clone().for_each(|place| derivative[place] -= factor as f32);
        }
        policy.backward(pass, &derivative)?;
        Ok(metrics.measured(Measures::new(Sum::Known(loss)), &selection, &policy))
    }

    fn drops_out(&self) -> bool {
        false
    }

    fn learning_rate(&self, lora: bool) -> f64 {
        answers::learning_rate(lora)
    }

    fn advise(&self, train: &TrainArgs, lora: bool) -> Vec<String> {
        let beta = (Usual { key: "dpo.beta", range: [0.01, 0.5] }, self.beta);
        answers::advise(&[beta], train.learning_rate, lora)
    }

    fn review(&self, history: &[&Map<String, Value>]) -> Vec<String> {
        answers::review(history)
    }

    fn largest_group(&self, max_length: usize) -> Group {
        answers::largest_pair(max_length)
    }
}

impl Dpo {
    /// How much each token of an answer counts: `ld_alpha` beyond the length of the shorter answer.
    fn shares(&self, pair: &[std::ops::Range<usize>], side: usize) -> impl Iterator<Item = f64> {
        let shared = pair[0].len().min(pair[1].len());
        let beyond = self.ld_alpha.unwrap_or(1.0);
        (0..pair[side].len()).map(move |at| if at < shared { 1.0 } else { beyond })
    }

    /// The log-probabilities of the two answers.
    fn sums(&self, logprobs: &[f32], pair: &[std::ops::Range<usize>]) -> [f64; 2] {
        [0, 1].map(|side| {
            let tokens = logprobs[pair[side].clone()].iter().zip(self.shares(pair, side));
            tokens.map(|(&logprob, share)| share * f64::from(logprob)).sum()
        })
    }

    /// Those of the reference, of each pair.
    fn reference_sums(&self, pass: &Pass, selection: &Selection) -> Result<Vec<[f64; 2]>> {
        let Pass { batch, frozen, .. } = pass;
        let known = |group| match frozen.known.get(&batch.fingerprint(group)).map(Vec::as_slice) {
            Some(&[chosen, rejected]) => Some([chosen, rejected]),
            _ => None,
        };
        if !frozen.known.is_empty() {
            let missing = || Error::internal("dpo", "a pair that the reference has not seen");
            return batch.groups.iter().map(known).collect::<Option<_>>().ok_or_else(missing);
        }
        let logprobs = reference_logprobs(pass, batch, selection)?;
        Ok(selection.sequences.chunks(2).map(|pair| self.sums(&logprobs, pair)).collect())
    }

    /// The weight of each pair: e^(a_chosen + a_rejected), a the mean over an answer's tokens of
    /// log p - log sum_v p_v², without gradient (Zhou et al., 2024, arXiv:2406.11827); else 1.
    fn weights(&self, selection: &Selection, policy: &Answers) -> Vec<f64> {
        let of_answer = |answer: &std::ops::Range<usize>| {
            let token = |t| f64::from(policy.logprobs[t]) - f64::from(policy.log_sum_squares[t]);
            answer.clone().map(token).sum::<f64>() / answer.len().max(1) as f64
        };
        let of_pair = |pair: &[std::ops::Range<usize>]| match self.use_weighting {
            true => pair.iter().map(of_answer).sum::<f64>().exp(),
            false => 1.0,
        };
        selection.sequences.chunks(2).map(of_pair).collect()
    }

    /// The weighted losses of a pair together, and their derivatives by its log-ratios.
    fn loss(&self, u: [f64; 2], tokens: [usize; 2]) -> (f64, [f64; 2]) {
        let scores = u.map(|u| self.divergence.score(u, self.alpha));
        let pair =
            Ratios { u, s: scores.map(|(score, _)| score), tokens: tokens.map(|n| n as f64) };
        let &Self { beta, label_smoothing, discopop_tau, .. } = self;
        let numbers = Numbers { beta, label_smoothing, discopop_tau };
        let (mut value, mut by_u) = (0.0, [0.0; 2]);
        for (loss, weight) in &self.losses {
            let term = loss.of(numbers, &pair);
            value += weight * term.value;
            for side in 0..2 {
                by_u[side] += weight * (term.by_u[side] + term.by_s[side] * scores[side].1);
            }
        }
        (value, by_u)
    }

    /// The `sft` loss: what minus the log-probability of a chosen token is multiplied with, and the terms
    /// of this micro-batch. It is a mean over tokens in a sum over pairs, hence the divisors of the step.
    fn likelihood(
        &self,
        pass: &Pass,
        selection: &Selection,
        policy: &Answers,
        weights: &[f64],
    ) -> (f64, f64) {
        let sft = self.losses.iter().find(|(loss, _)| *loss == LossType::Sft);
        let Some((_, weight)) = sft else { return (0.0, 0.0) };
        let mean_weight = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
        let share = self.divisor(pass.step) / answers::chosen_tokens(pass.step);
        let factor = weight * mean_weight * share;
        let chosen = selection.sequences.iter().step_by(2).flat_map(std::ops::Range::clone);
        let sum: f64 = chosen.map(|t| -f64::from(policy.logprobs[t])).sum();
        (factor, factor * sum)
    }
}
