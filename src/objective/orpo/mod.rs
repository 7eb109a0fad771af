//! Odds-ratio preference optimization (Hong et al., 2024, arXiv:2403.07691): imitation of the chosen
//! answer, and odds that prefer it to the rejected one. There is no reference.
//!
//! ```text
//! a    = mean of log p over the tokens of an answer          odds = e^a / (1 - e^a)
//! loss = mean over tokens of -log p of prompt and chosen answer
//!        - beta * mean over pairs of log sigmoid(log odds_chosen - log odds_rejected)
//! ```

use super::answers::{
    self, Answers, Compared, PairMetrics, Selection, Usual, log_sigmoid, sigmoid,
};
use super::{Measures, Objective, Pass, Sum};
use crate::config::TrainArgs;
use crate::config::key::{Key, Keys, plain};
use crate::data::{Batch, Encoder, Format, Group, Rows, Sample};
use crate::error::Result;
use serde_json::{Map, Value};

/// Odds-ratio preference optimization.
#[derive(Clone, Debug)]
pub struct Orpo {
    beta: f64,
}

impl Default for Orpo {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

impl Keys for Orpo {
    const KEYS: &'static [Key<Self>] = &[Key {
        section: "orpo",
        name: "beta",
        aliases: &["orpo_alpha", "pref_beta", "rl_beta"],
        doc: "what the odds count beside the likelihood",
        set: |orpo, node, _| node.above_zero().map(|beta| orpo.beta = beta),
        show: |orpo| plain(orpo.beta),
    }];
}

impl Rows for Orpo {
    fn name(&self) -> &'static str {
        "orpo"
    }

    fn formats(&self) -> &'static [Format] {
        answers::FORMATS
    }

    fn group(&self, sample: &Sample, _: &Map<String, Value>, encoder: &Encoder) -> Result<Group> {
        answers::pair(sample, encoder)
    }
}

impl Objective for Orpo {
    fn doc(&self) -> &'static str {
        "odds-ratio preference optimization: imitation and preference in one, without a reference"
    }

    fn unit(&self) -> &'static str {
        "pairs"
    }

    fn divisor(&self, step: &[Batch]) -> f64 {
        answers::pairs(step)
    }

    fn accumulate(&self, pass: &Pass) -> Result<Measures> {
        let selection = Selection::with_prompts(pass.batch, |number| number % 2 == 0);
        let policy = Answers::of(pass, &selection)?;
        let mut derivative = vec![0.0; selection.len()];
        let mut metrics = PairMetrics::default();
        let (mut loss, mut ratios, mut odds) = (0.0, 0.0, 0.0);
        for pair in selection.sequences.chunks(2) {
            let places = [0, 1].map(|side| selection.answer(&pair[side]));
            let logps = [0, 1].map(|side| policy.mean(&places[side]));
            let [chosen, rejected] = logps.map(log_odds);
            let ratio = chosen.0 - rejected.0;
            loss -= self.beta * log_sigmoid(ratio);
            ratios += log_sigmoid(ratio);
            odds += ratio;
            let slope = -self.beta * sigmoid(-ratio);
            for (places, by_mean) in places.iter().zip([slope * chosen.1, -slope * rejected.1]) {
                let share = (by_mean / places.len().max(1) as f64) as f32;
                places.iter().for_each(|&place| derivative[place] = share);
            }
            let rewards = logps.map(|mean| self.beta * mean);
            let tokens = [0, 1].map(|side| places[side].len());
            metrics.push(Compared { rewards, logps, tokens });
        }
        // A mean over tokens in a sum over pairs, hence the divisors of the step.
        let factor = self.divisor(pass.step) / whole_tokens(pass.step);
        let mut nll = 0.0;
        let whole = selection.sequences.iter().step_by(2).flat_map(std::ops::Range::clone);
        for place in whole {
            nll -= f64::from(policy.logprobs[place]);
            derivative[place] -= factor as f32;
        }
        loss += factor * nll;
        policy.backward(pass, &derivative)?;
        let pairs = pass.batch.groups.len() as f64;
        let tokens = whole_tokens(std::slice::from_ref(pass.batch));
        let measures = metrics.measured(Measures::new(Sum::Known(loss)), &selection, &policy);
        Ok(measures
            .mean("nll_loss", Sum::Known(nll), tokens)
            .mean("log_odds_ratio", Sum::Known(ratios), pairs)
            .mean("log_odds_chosen", Sum::Known(odds), pairs))
    }

    fn drops_out(&self) -> bool {
        false
    }

    fn learning_rate(&self, lora: bool) -> f64 {
        answers::learning_rate(lora)
    }

    fn advise(&self, train: &TrainArgs, lora: bool) -> Vec<String> {
        let beta = (Usual { key: "orpo.beta", range: [0.05, 1.0] }, self.beta);
        // It imitates as well, at the rates of that.
        answers::advise_at(
            &[beta],
            train.learning_rate,
            if lora { [1e-6, 3e-4] } else { [1e-7, 2e-5] },
        )
    }

    fn review(&self, history: &[&Map<String, Value>]) -> Vec<String> {
        answers::review(history)
    }

    fn largest_group(&self, max_length: usize) -> Group {
        answers::largest_pair(max_length)
    }
}

/// log(e^a / (1 - e^a)) and its derivative.
fn log_odds(a: f64) -> (f64, f64) {
    let rest = -a.exp_m1();
    (a - rest.ln(), 1.0 / rest)
}

/// Tokens of the chosen sequences of a step, prompts included, that something predicts.
fn whole_tokens(step: &[Batch]) -> f64 {
    let groups = step.iter().flat_map(|batch| &batch.groups);
    let length = |[start, end]: [u32; 2]| end - start;
    let tokens = groups.map(|group| length(group.prefix) + length(group.sequences[0]) - 1);
    f64::from(tokens.sum::<u32>())
}
