//! How far a written model is from the model that was meant: their logits on the same tokens.

use std::rc::Rc;

use crate::error::{Error, Result};
use crate::model::transformer::Model;
use crate::nn::Context;
use crate::ops::{self, Implementation};
use crate::tape::Tape;

/// Tokens that the two models are compared on.
pub const TOKENS: usize = 32;

/// The difference between the logits of two models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Largest absolute difference of a logit.
    pub max: f64,
    /// Mean absolute difference.
    pub mean: f64,
    /// Mean Kullback-Leibler divergence from the first model's next-token distribution to the
    /// second's, in nats.
    pub kl: f64,
}

/// The logits [TOKENS, V] of `model` on a fixed sequence of ids spread over the vocabulary.
///
/// # Errors
/// What the ops report.
pub fn logits(model: &Model, max_positions: usize) -> Result<Vec<f32>> {
    let tokens = TOKENS.min(max_positions);
    let vocab = model.config.spec.vocab_size;
    // A prime stride visits common tokens and rare ones.
    let ids: Vec<u32> = (0..tokens).map(|i| ((1 + i * 7919) % vocab) as u32).collect();
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let bounds = vec![[0, tokens as u32]; tokens];
    let device = model.embed_tokens.device();
    let context = Context::of_sequences(device, &positions, &bounds, Implementation::Flash, None)?;
    let tape = Tape::inference();
    let context = Rc::new(context);
    let hidden = model.hidden(&tape, &ids, &context)?;
    // A classifier's head is f32 always.
    let hidden = ops::cast(&tape, &hidden, model.lm_head.dtype())?;
    model.logits(&tape, &hidden, &context)?.read_f32()
}

/// Compares logits [T, vocab] of two models.
///
/// # Errors
/// `Error::Run` for logits that are not finite; `Error::Internal` for different sizes.
pub fn compare(meant: &[f32], written: &[f32], vocab: usize) -> Result<Difference> {
    if meant.len() != written.len() || vocab == 0 || !meant.len().is_multiple_of(vocab) {
        return Err(Error::internal("compare", "logits of different sizes"));
    }
    if meant.iter().chain(written).any(|x| !x.is_finite()) {
        return Err(Error::run(
            "the logits are not finite: the weights are broken, or overflow in this dtype; try \
             --dtype float32",
        ));
    }
    let (mut max, mut sum, mut kl) = (0f64, 0.0, 0.0);
    for (a, b) in meant.chunks_exact(vocab).zip(written.chunks_exact(vocab)) {
        let (log_z_a, log_z_b) = (log_sum_exp(a), log_sum_exp(b));
        for (&a, &b) in a.iter().zip(b) {
            let (a, b) = (f64::from(a), f64::from(b));
            max = max.max((a - b).abs());
            sum += (a - b).abs();
            let log_p = a - log_z_a;
            kl += log_p.exp() * (log_p - (b - log_z_b));
        }
    }
    let rows = (meant.len() / vocab).max(1) as f64;
    Ok(Difference { max, mean: sum / meant.len().max(1) as f64, kl: kl / rows })
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let max = f64::from(max);
    max + row.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_of_all_logits_changes_no_probability() {
        let found = compare(&[1.0, 2.0, 3.0, 4.0], &[2.0, 3.0, 3.0, 4.0], 2).unwrap();
        assert_eq!((found.max, found.mean), (1.0, 0.5));
        assert!(found.kl.abs() < 1e-12);
    }

    #[test]
    fn divergence_is_that_of_the_formula() {
        // p = (1/2, 1/2), q = (1/4, 3/4).
        let found = compare(&[0.0, 0.0], &[0.0, 3f32.ln()], 2).unwrap();
        let expected = 0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln();
        assert!((found.kl - expected).abs() < 1e-7, "{found:?}");
        assert!(compare(&[f32::NAN], &[0.0], 1).is_err());
    }
}
