//! What a row becomes: one or more sequences of tokens, with what else the loss must know of them.

use super::mask::Mask;

/// The label of a token that carries no loss.
pub const NO_LOSS: i32 = -100;

/// Token ids with their unshifted labels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sequence {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// One label per token: its own id, or [`NO_LOSS`]. The first is always [`NO_LOSS`]: nothing
    /// predicts it.
    pub labels: Vec<i32>,
    /// How it was told which tokens carry loss.
    pub mask: Mask,
}

impl Sequence {
    /// `trained[t]` says whether token t is to be learned.
    pub fn new(input_ids: Vec<u32>, trained: impl Iterator<Item = bool>) -> Self {
        let mut labels: Vec<i32> = input_ids
            .iter()
            .zip(trained)
            .map(|(&id, trained)| if trained { id as i32 } else { NO_LOSS })
            .collect();
        if let Some(first) = labels.first_mut() {
            *first = NO_LOSS;
        }
        Self { input_ids, labels, mask: Mask::Everything }
    }

    /// Tokens that carry loss.
    pub fn num_loss_tokens(&self) -> usize {
        self.labels.iter().filter(|&&label| label != NO_LOSS).count()
    }

    /// Cuts the end off what is longer than `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        self.input_ids.truncate(length);
        self.labels.truncate(length);
    }
}

/// One row of a data set, tokenized: what an objective looks at together, and what a batch never
/// splits. Text to imitate is one sequence; an answer and a worse one are two.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Group {
    /// The sequences, at least one, in an order that the objective knows.
    pub sequences: Vec<Sequence>,
    /// What the row says in numbers (a weight, a margin), under names that the objective chooses.
    pub numbers: Vec<(&'static str, f64)>,
    /// File (its index) and line (from 1) that the row comes from.
    pub source: (u32, u32),
}

impl Group {
    /// A group of one sequence.
    pub fn of(sequence: Sequence) -> Self {
        Self { sequences: vec![sequence], ..Self::default() }
    }

    /// Tokens of all its sequences.
    pub fn num_tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.input_ids.len()).sum()
    }

    /// Tokens that carry loss, in all its sequences.
    pub fn num_loss_tokens(&self) -> usize {
        self.sequences.iter().map(Sequence::num_loss_tokens).sum()
    }

    /// Tokens of its longest sequence.
    pub fn longest(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.input_ids.len()).max().unwrap_or(0)
    }
}
