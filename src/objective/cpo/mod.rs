//! Contrastive preference optimization (Xu et al., 2024, arXiv:2401.08417) with SimPO (Meng et al., 2024,
//! arXiv:2405.14734) and AlphaPO (Gupta et al., 2025, arXiv:2501.03884): preferences without a reference.
//!
//! ```text
//! a    = log p of an answer: the sum over its tokens, the mean for simpo and ipo
//! r    = a, or (1 - e^(-alpha a)) / alpha where alpha is not 0
//! h    = beta (r_chosen - r_rejected), less simpo_gamma for simpo
//! loss = mean over pairs of -(1 - e) log sigmoid(h) - e log sigmoid(-h), e = label_smoothing
//!        + cpo_alpha * mean over tokens of -log p of the chosen answer
//! ```

mod keys;

use super::answers::{
    self, Answers, Compared, PairMetrics, Selection, Usual, log_sigmoid, sigmoid,
};
use super::{Measures, Objective, Pass, Sum};
use crate::config::{Choice, TrainArgs};
use crate::data::{Batch, Encoder, Format, Group, Rows, Sample};
use crate::error::Result;
use serde_json::{Map, Value};

/// Contrastive preference optimization.
#[derive(Clone, Debug)]
pub struct Cpo {
    loss_type: LossType,
    beta: f64,
    label_smoothing: f64,
    cpo_alpha: f64,
    simpo_gamma: f64,
    alpha: f64,
}

impl Default for Cpo {
    fn default() -> Self {
        Self {
            loss_type: LossType::Sigmoid,
            beta: 0.1,
            label_smoothing: 0.0,
            cpo_alpha: 1.0,
            simpo_gamma: 0.5,
            alpha: 0.0,
        }
    }
}

/// The losses, by TRL's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LossType {
    Sigmoid,
    Hinge,
    Ipo,
    Simpo,
}

impl Choice for LossType {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("sigmoid", Self::Sigmoid),
        ("hinge", Self::Hinge),
        ("ipo", Self::Ipo),
        ("simpo", Self::Simpo),
    ];
}

impl Rows for Cpo {
    fn name(&self) -> &'static str {
        "cpo"
    }

    fn formats(&self) -> &'static [Format] {
        answers::FORMATS
    }

    fn group(&self, sample: &Sample, _: &Map<String, Value>, encoder: &Encoder) -> Result<Group> {
        answers::pair(sample, encoder)
    }
}

impl Objective for Cpo {
    fn doc(&self) -> &'static str {
        "contrastive preference optimization and SimPO: preferences without a reference"
    }

    fn unit(&self) -> &'static str {
        "pairs"
    }

    fn divisor(&self, step: &[Batch]) -> f64 {
        answers::pairs(step)
    }

    fn accumulate(&self, pass: &Pass) -> Result<Measures> {
        let selection = Selection::answers(pass.batch);
        let policy = Answers::of(pass, &selection)?;
        let mut derivative = vec![0.0; selection.len()];
        let (mut loss, mut metrics) = (0.0, PairMetrics::default());
        let is_mean = matches!(self.loss_type, LossType::Ipo | LossType::Simpo);
        for pair in selection.sequences.chunks(2) {
            let places = [0, 1].map(|side| selection.answer(&pair[side]));
            let counts = [0, 1].map(|side| places[side].len().max(1) as f64);
            let scale = counts.map(|count| if is_mean { 1.0 } else { count });
            let logps = [0, 1].map(|side| policy.mean(&places[side]) * scale[side]);
            let scores = logps.map(|logp| self.score(logp));
            let (value, slope) = self.loss(scores[0].0 - scores[1].0);
            loss += value;
            for (side, sign) in [(0, 1.0), (1, -1.0)] {
                let share = sign * slope * scores[side].1 * scale[side] / counts[side];
                places[side].iter().for_each(|&place| derivative[place] = share as f32);
            }
            let rewards = scores.map(|(score, _)| self.beta * score);
            let tokens = [0, 1].map(|side| places[side].len());
            metrics.push(Compared { rewards, logps, tokens });
        }
        // A mean over tokens in a sum over pairs, hence the divisors of the step.
        let share = self.divisor(pass.step) / answers::chosen_tokens(pass.step);
        let factor = self.cpo_alpha * share;
        let mut nll = 0.0;
        let chosen = selection.sequences.iter().step_by(2).flat_map(std::ops::Range::clone);
        for place in chosen {
            nll -= f64::from(policy.logprobs[place]);
            derivative[place] -= factor as f32;
        }
        loss += factor * nll;
        policy.backward(pass, &derivative)?;
        let tokens = answers::chosen_tokens(std::slice::from_ref(pass.batch));
        let measures = metrics.measured(Measures::new(Sum::Known(loss)), &selection, &policy);
        // TRL computes none, and says 0, where it does not count.
        let nll = if self.cpo_alpha == 0.0 { 0.0 } else { nll };
        Ok(measures.mean("nll_loss", Sum::Known(nll), tokens))
    }

    fn drops_out(&self) -> bool {
        false
    }

    fn learning_rate(&self, lora: bool) -> f64 {
        answers::learning_rate(lora)
    }

    fn advise(&self, train: &TrainArgs, lora: bool) -> Vec<String> {
        // Means per token are small, and betas of simpo large.
        let range = if self.loss_type == LossType::Simpo { [0.5, 10.0] } else { [0.01, 1.0] };
        let beta = (Usual { key: "cpo.beta", range }, self.beta);
        answers::advise(&[beta], train.learning_rate, lora)
    }

    fn review(&self, history: &[&Map<String, Value>]) -> Vec<String> {
        answers::review(history)
    }

    fn largest_group(&self, max_length: usize) -> Group {
        answers::largest_pair(max_length)
    }
}

impl Cpo {
    /// The reward of a log-probability, before beta, and its derivative.
    fn score(&self, logp: f64) -> (f64, f64) {
        match self.alpha {
            0.0 => (logp, 1.0),
            alpha => {
                let power = (-alpha * logp).exp();
                ((1.0 - power) / alpha, power)
            }
        }
    }

    /// The loss of a difference of scores and its derivative.
    fn loss(&self, difference: f64) -> (f64, f64) {
        let Self { beta, label_smoothing: e, .. } = *self;
        let logistic = |h: f64| {
            let value = -(1.0 - e) * log_sigmoid(h) - e * log_sigmoid(-h);
            (value, beta * (e * sigmoid(h) - (1.0 - e) * sigmoid(-h)))
        };
        match self.loss_type {
            LossType::Sigmoid => logistic(beta * difference),
            LossType::Simpo => logistic(beta * difference - self.simpo_gamma),
            LossType::Hinge => {
                let short = 1.0 - beta * difference;
                (short.max(0.0), if short > 0.0 { -beta } else { 0.0 })
            }
            LossType::Ipo => {
                let off = difference - 1.0 / (2.0 * beta);
                (off * off, 2.0 * off)
            }
        }
    }
}
