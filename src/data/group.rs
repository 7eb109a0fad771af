//! What a row becomes: one or more sequences of tokens, with what else the loss must know of them.
//!
//! # A prompt that stands once
//!
//! The sequences of a group may begin alike: an answer and a worse one to the same prompt, several answers
//! to one question. With [`Group::shared`] set to the number of tokens that they have in common, a batch
//! holds these once, and what differs (the completions) after them, one after another:
//!
//! ```text
//! sequences   p0 p1 p2 a0 a1        shared = 3
//!             p0 p1 p2 b0 b1 b2
//! batch       p0 p1 p2 a0 a1 b0 b1 b2
//! positions    0  1  2  3  4  3  4  5
//! sees         a0 sees p0 p1 p2 a0;   b1 sees p0 p1 p2 b0 b1
//! predicts     p2 predicts a0 and b0: its row of the hidden states is wanted twice
//! ```
//!
//! Losses and gradients are those of the sequences written out, for fewer tokens. An objective makes its groups
//! by [`Group::sharing`] in [`Rows::group`](super::Rows::group), and reads what is to be predicted from
//! [`Batch::loss_rows`](super::Batch::loss_rows) and [`Batch::loss_ids`](super::Batch::loss_ids), of which
//! [`GroupSpan::losses`](super::GroupSpan::losses) says what belongs to which sequence, or from
//! [`Batch::predictions`](super::Batch::predictions), sequence by sequence: these hold with and without a
//! shared prompt. `[data] shared_prefix = false` writes all sequences out.

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
    /// How many tokens all sequences begin with in common and are computed once; 0 writes the sequences
    /// out. No more than their common beginning: [`Group::sharing`].
    pub shared: usize,
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

    /// A group of sequences of which what they begin with in common is computed once.
    pub fn sharing(sequences: Vec<Sequence>) -> Self {
        let common = |a: &Sequence, b: &Sequence| {
            let pairs = a.input_ids.iter().zip(&b.input_ids);
            pairs.take_while(|(a, b)| a == b).count()
        };
        let shared = match sequences.as_slice() {
            [first, others @ ..] if !others.is_empty() => {
                others.iter().map(|other| common(first, other)).min().unwrap_or(0)
            }
            _ => 0,
        };
        Self { sequences, shared, ..Self::default() }
    }

    /// The tokens that stand once in a batch: `shared`, or less where sequences were cut.
    pub fn prefix(&self) -> usize {
        let lengths = self.sequences.iter().map(|sequence| sequence.input_ids.len());
        lengths.fold(self.shared, usize::min)
    }

    /// Tokens of all its sequences, as they stand in a batch: the shared ones once.
    pub fn num_tokens(&self) -> usize {
        let prefix = self.prefix();
        let lengths = self.sequences.iter().map(|sequence| sequence.input_ids.len());
        prefix + lengths.map(|length| length - prefix).sum::<usize>()
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
