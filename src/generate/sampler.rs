//! From logits to a token.
//!
//! The filters and their order are those of Transformers (`generation/logits_process.py`): repetition
//! penalty (Keskar et al., 2019, arXiv:1909.05858), temperature, top-k, top-p (Holtzman et al., 2019,
//! arXiv:1904.09751), min-p (Nguyen et al., 2024, arXiv:2407.01082). Each sees what the one before
//! left.

use std::cmp::Ordering;

use crate::error::{Error, Result};
use crate::random::Rng;

/// How a token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; 0 takes the likeliest token (greedy).
    pub temperature: f64,
    /// Keep the `top_k` likeliest tokens, and those as likely as the last of them; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of likeliest tokens with together at least this probability.
    pub top_p: f64,
    /// Keep tokens that are at least `min_p` times as probable as the likeliest.
    pub min_p: f64,
    /// What positive logits of tokens seen before are divided by, and negative ones multiplied.
    pub repetition_penalty: f64,
}

impl Sampling {
    /// The likeliest token, always.
    pub const GREEDY: Self =
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 };

    /// Whether the likeliest token is taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Applies every filter to `logits` `[V]`; what is removed becomes negative infinity. `so_far` are
    /// the tokens of prompt and output.
    pub fn filter(&self, logits: &mut [f32], so_far: &[u32]) {
        self.penalize(logits, so_far);
        if self.is_greedy() {
            return;
        }
        if self.temperature != 1.0 {
            let temperature = self.temperature as f32;
            logits.iter_mut().for_each(|x| *x /= temperature);
        }
        if (1..logits.len()).contains(&self.top_k) {
            self.keep_top_k(logits);
        }
        if self.top_p < 1.0 {
            self.keep_top_p(logits);
        }
        if self.min_p > 0.0 {
            self.keep_min_p(logits);
        }
    }

    fn penalize(&self, logits: &mut [f32], so_far: &[u32]) {
        if self.repetition_penalty == 1.0 {
            return;
        }
        let penalty = self.repetition_penalty as f32;
        let mut seen = so_far.to_vec();
        // Once for each token, however often it was seen.
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            if let Some(x) = logits.get_mut(id as usize) {
                *x = if *x < 0.0 { *x * penalty } else { *x / penalty };
            }
        }
    }

    fn keep_top_k(&self, logits: &mut [f32]) {
        let mut values = logits.to_vec();
        let (_, &mut last, _) =
            values.select_nth_unstable_by(self.top_k - 1, |a, b| b.total_cmp(a));
        remove(logits, |x| x < last);
    }

    fn keep_top_p(&self, logits: &mut [f32]) {
        let probabilities = softmax(logits);
        let mut order: Vec<usize> = (0..logits.len()).filter(|&i| logits[i].is_finite()).collect();
        order.sort_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        // From the unlikeliest up, drop while the tail is at most 1 - top_p; never the likeliest.
        let budget = (1.0 - self.top_p) as f32;
        let mut tail = 0.0;
        order.pop();
        for i in order {
            tail += f64::from(probabilities[i]);
            if tail as f32 > budget {
                break;
            }
            logits[i] = f32::NEG_INFINITY;
        }
    }

    fn keep_min_p(&self, logits: &mut [f32]) {
        let probabilities = softmax(logits);
        let best = argmax(logits);
        let threshold = self.min_p as f32 * probabilities[best];
        for (i, x) in logits.iter_mut().enumerate() {
            if probabilities[i] < threshold && i != best {
                *x = f32::NEG_INFINITY;
            }
        }
    }
}

/// Chooses tokens, with a random number for each.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: Rng,
}

impl Sampler {
    /// A sampler whose choices follow from `seed`.
    pub fn new(sampling: Sampling, seed: u64) -> Self {
        Self { sampling, rng: Rng::new(seed, "generate.sample", 0) }
    }

    /// The next token after `so_far`, from its `logits` `[V]`.
    ///
    /// # Errors
    /// `Error::Run` for logits that are not finite.
    pub fn choose(&mut self, mut logits: Vec<f32>, so_far: &[u32]) -> Result<u32> {
        if logits.is_empty() || !logits.iter().all(|x| x.is_finite()) {
            return Err(Error::run(
                "the model's logits are not finite: its weights are broken, or overflow in this \
                 dtype; try --dtype float32",
            ));
        }
        self.sampling.filter(&mut logits, so_far);
        if self.sampling.is_greedy() {
            return Ok(argmax(&logits) as u32);
        }
        // The token whose share of [0, 1) the draw falls into, shares in the order of the ids.
        let draw = f64::from(self.rng.next_f32());
        let probabilities = softmax(&logits);
        let total: f64 = probabilities.iter().map(|&p| f64::from(p)).sum();
        let mut end = 0.0;
        for (id, &p) in probabilities.iter().enumerate() {
            end += f64::from(p) / total;
            if draw < end {
                return Ok(id as u32);
            }
        }
        // Rounding left the sum of the shares just below the draw.
        Ok(argmax(&logits) as u32)
    }
}

/// The index of the largest value; of equal ones, the first.
fn argmax(values: &[f32]) -> usize {
    let larger = |best: usize, i: usize| match values[i].partial_cmp(&values[best]) {
        Some(Ordering::Greater) => i,
        _ => best,
    };
    (0..values.len()).fold(0, larger)
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut values: Vec<f32> = logits.iter().map(|&x| (x - max).exp()).collect();
    let sum = values.iter().map(|&x| f64::from(x)).sum::<f64>() as f32;
    values.iter_mut().for_each(|x| *x /= sum);
    values
}

fn remove(logits: &mut [f32], is_out: impl Fn(f32) -> bool) {
    for x in logits.iter_mut().filter(|x| is_out(**x)) {
        *x = f32::NEG_INFINITY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 3.0, -2.0, 0.0];

    fn kept(sampling: Sampling) -> Vec<usize> {
        let mut logits = LOGITS.to_vec();
        sampling.filter(&mut logits, &[]);
        (0..LOGITS.len()).filter(|&i| logits[i].is_finite()).collect()
    }

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        let mut sampler = Sampler::new(Sampling::GREEDY, 0);
        assert_eq!(sampler.choose(LOGITS.to_vec(), &[]).unwrap(), 1);
        let penalized = Sampling { repetition_penalty: 1.5, ..Sampling::GREEDY };
        assert_eq!(Sampler::new(penalized, 0).choose(LOGITS.to_vec(), &[1, 1]).unwrap(), 2);
    }

    #[test]
    fn filters_keep_at_least_the_likeliest() {
        let all = Sampling { temperature: 1.0, ..Sampling::GREEDY };
        assert_eq!(kept(all).len(), 5);
        assert_eq!(kept(Sampling { top_k: 1, ..all }), [1, 2], "equal logits stay together");
        assert_eq!(kept(Sampling { top_k: 9, ..all }).len(), 5);
        assert_eq!(kept(Sampling { top_p: 0.0, ..all }).len(), 1);
        assert_eq!(kept(Sampling { min_p: 1.0, ..all }), [1, 2]);
        assert_eq!(kept(Sampling { top_k: 3, min_p: 0.2, ..all }), [1, 2]);
    }

    #[test]
    fn samples_follow_the_probabilities_and_the_seed() {
        let sampling = Sampling { temperature: 2.0, ..Sampling::GREEDY };
        let draws = |seed| {
            let mut sampler = Sampler::new(sampling, seed);
            let draw = |_| sampler.choose(LOGITS.to_vec(), &[]).unwrap() as usize;
            (0..4000).map(draw).collect::<Vec<_>>()
        };
        let found = draws(1);
        assert_eq!(found, draws(1));
        assert_ne!(found, draws(2));
        let weights = LOGITS.map(|x| f64::from(x / 2.0).exp());
        let total: f64 = weights.iter().sum();
        for (id, weight) in weights.iter().enumerate() {
            let p = weight / total;
            let count = found.iter().filter(|&&found| found == id).count() as f64;
            // Five standard deviations of a binomial count.
            let slack = 5.0 * (4000.0 * p * (1.0 - p)).sqrt();
            assert!((count - 4000.0 * p).abs() < slack, "{id}: {count} of 4000, p {p}");
        }
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        for bad in [f32::NAN, f32::INFINITY] {
            let error = Sampler::new(Sampling::GREEDY, 0).choose(vec![0.0, bad], &[]).unwrap_err();
            assert_eq!(error.exit_status(), 1);
        }
    }
}
