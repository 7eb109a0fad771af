//! Whether a loss says that training has failed: a run of such losses ends well, with a model that is
//! worth nothing.

/// A loss of which a run at least this far above its start has exploded: twice as much, and 4 more. Of a
/// loss per token that is a perplexity e^4 times the square of what it was.
fn bound(start: f64) -> f64 {
    2.0 * start.max(0.0) + 4.0
}

/// What to say of the loss `now` of a step, where it has exploded against that of the first.
pub fn against_start(start: f64, now: f64) -> Option<String> {
    (now > bound(start)).then(|| {
        format!(
            "the loss is {now:.4}, and was {start:.4} at first: the training has diverged, and its result is \
             worth nothing; lower learning_rate, or set max_grad_norm"
        )
    })
}

/// What to say of a first loss, in nats per token, that is far above that of guessing among `vocab_size`
/// tokens.
pub fn at_start(loss: f64, vocab_size: usize) -> Option<String> {
    let guessing = (vocab_size as f64).ln();
    (loss > bound(guessing)).then(|| {
        format!(
            "the loss is {loss:.4} at first, far above the {guessing:.4} of guessing: see whether the weights \
             are whole, and whether the tokenizer is the model's"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_that_rise_a_little_are_not_told() {
        for (start, now, is_told) in [
            (2.0, 1.0, false),
            (2.0, 7.9, false),
            (2.0, 8.1, true),
            (0.7, 5.0, false),
            (0.7, 80.0, true),
            (-3.0, 3.0, false),
            (2.0, f64::NAN, false),
        ] {
            assert_eq!(against_start(start, now).is_some(), is_told, "{start} {now}");
        }
        assert!(at_start(11.0, 32_000).is_none());
        assert!(at_start(30.0, 32_000).is_some());
    }
}
