//! Collation: examples laid end to end, with what the kernels need to keep them apart.

use super::encode::NO_LOSS;
use super::{Dataset, Example};

/// One micro-batch without padding: the concatenation of its examples, T tokens in all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// [T] token ids.
    pub input_ids: Vec<u32>,
    /// [T] labels shifted left by one: `targets[t]` is the label of token t + 1 of the same
    /// example, -100 where there is no loss and at each example's last token.
    pub targets: Vec<i32>,
    /// [T] positions, from 0 in every example.
    pub positions: Vec<u32>,
    /// [T] start and end (one past the last) of the token's own example in this batch: attention
    /// looks at nothing outside it.
    pub bounds: Vec<[u32; 2]>,
    /// [T] the ordinal of the token's example within the optimizer step, so that random bits do
    /// not depend on how a step is cut into micro-batches and rows.
    pub ordinals: Vec<u32>,
    /// Start and end of each row (several examples when packed) in this batch.
    pub rows: Vec<[u32; 2]>,
    /// Targets that carry loss.
    pub num_loss_tokens: usize,
}

impl Batch {
    /// Collates `rows` of examples; `ordinal` is that of the first one.
    pub(super) fn collate<'a>(
        data: &Dataset,
        rows: impl Iterator<Item = &'a [u32]>,
        mut ordinal: u32,
    ) -> Self {
        let mut batch = Self::default();
        for row in rows {
            let start = batch.num_tokens() as u32;
            for &index in row {
                batch.push(&data.examples[index as usize], ordinal);
                ordinal += 1;
            }
            batch.rows.push([start, batch.num_tokens() as u32]);
        }
        batch
    }

    fn push(&mut self, example: &Example, ordinal: u32) {
        let start = self.num_tokens() as u32;
        let length = example.input_ids.len();
        let end = start + length as u32;
        self.input_ids.extend(&example.input_ids);
        let shifted = example.labels.iter().skip(1).copied();
        self.targets.extend(shifted.chain(std::iter::once(NO_LOSS)).take(length));
        self.positions.extend(0..length as u32);
        self.bounds.extend(std::iter::repeat_n([start, end], length));
        self.ordinals.extend(std::iter::repeat_n(ordinal, length));
        self.num_loss_tokens += example.num_loss_tokens();
    }

    /// T, the tokens of this batch.
    pub fn num_tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// The unshifted label of token `t`: the target of the token before it in the same example.
    pub fn label(&self, t: usize) -> i32 {
        if self.bounds[t][0] as usize == t { NO_LOSS } else { self.targets[t - 1] }
    }
}
