//! What is measured of pairs, under TRL's names.

use super::logprobs::{Answers, Selection};
use crate::objective::{Measures, Sum};
use std::ops::Range;

/// One pair, in numbers.
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    /// The implicit rewards of the chosen and of the rejected answer.
    pub rewards: [f64; 2],
    /// Their log-probabilities, as the objective weighs them.
    pub logps: [f64; 2],
    /// Their tokens.
    pub tokens: [usize; 2],
}

/// The sums over the pairs of a micro-batch.
#[derive(Default)]
pub struct PairMetrics {
    pairs: Vec<Compared>,
}

impl PairMetrics {
    /// Takes in a pair.
    pub fn push(&mut self, pair: Compared) {
        self.pairs.push(pair);
    }

    fn sum(&self, of: impl Fn(&Compared) -> f64) -> Sum {
        Sum::Known(self.pairs.iter().map(of).sum())
    }

    /// The metrics of the pairs, and of the tokens of their answers, after those of `measures`.
    pub fn measured(
        &self,
        measures: Measures,
        selection: &Selection,
        answers: &Answers,
    ) -> Measures {
        let pairs = self.pairs.len() as f64;
        let longer = |pair: &Compared| pair.tokens[0] as f64 - pair.tokens[1] as f64;
        let margin = |pair: &Compared| pair.rewards[0] - pair.rewards[1];
        let more = |[chosen, rejected]: [f64; 2]| f64::from(u8::from(chosen > rejected));
        let points = self.pairs.iter().map(|pair| [longer(pair), margin(pair)]);
        let found = measures
            .mean("rewards/chosen", self.sum(|pair| pair.rewards[0]), pairs)
            .mean("rewards/rejected", self.sum(|pair| pair.rewards[1]), pairs)
            .mean("rewards/accuracies", self.sum(|pair| more(pair.rewards)), pairs)
            .mean("rewards/margins", self.sum(margin), pairs)
            .correlation("rewards/length_correlation", points)
            .mean("logps/chosen", self.sum(|pair| pair.logps[0]), pairs)
            .mean("logps/rejected", self.sum(|pair| pair.logps[1]), pairs)
            .mean("logps/accuracies", self.sum(|pair| more(pair.logps)), pairs);
        let of = |side: usize| selection.sequences.iter().skip(side).step_by(2);
        let [chosen, rejected] = [of(0), of(1)].map(|side| token_places(selection, side));
        let both: Vec<usize> = chosen.iter().chain(&rejected).copied().collect();
        let mean = |measures: Measures, name: &str, values: &[f32], places: &[usize]| {
            let sum = places.iter().map(|&i| f64::from(values[i])).sum();
            measures.mean(name, Sum::Known(sum), places.len() as f64)
        };
        let found = mean(found, "logits/chosen", &answers.mean_logit, &chosen);
        let found = mean(found, "logits/rejected", &answers.mean_logit, &rejected);
        let found = mean(found, "entropy", &answers.entropy, &both);
        mean(found, "mean_token_accuracy", &answers.is_most_likely, &chosen)
    }
}

/// Where the tokens of answers are in the lists of a selection.
fn token_places<'a>(
    selection: &Selection,
    sequences: impl Iterator<Item = &'a Range<usize>>,
) -> Vec<usize> {
    sequences.flat_map(Range::clone).filter(|&place| selection.is_answer[place]).collect()
}
