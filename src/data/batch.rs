//! Collation: sequences laid end to end, with what the kernels need to keep them apart.

use super::group::{Group, NO_LOSS, Sequence};

/// One micro-batch without padding: the concatenation of its sequences, T tokens in all.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// `[T]` token ids.
    pub input_ids: Vec<u32>,
    /// `[T]` labels shifted left by one: `targets[t]` is the label of token t + 1 of the same
    /// sequence, -100 where there is no loss and at each sequence's last token.
    pub targets: Vec<i32>,
    /// The tokens, ascending, whose target carries loss.
    pub loss_rows: Vec<u32>,
    /// `[T]` positions, from 0 in every sequence.
    pub positions: Vec<u32>,
    /// `[T]` start and end (one past the last) of the token's own sequence in this batch: attention
    /// looks at nothing outside it.
    pub bounds: Vec<[u32; 2]>,
    /// `[T]` the ordinal of the token's sequence within the optimizer step, so that random bits do
    /// not depend on how a step is cut into micro-batches and rows.
    pub ordinals: Vec<u32>,
    /// The groups, in order.
    pub groups: Vec<GroupSpan>,
    /// Start and end of each row (several groups when packed) in this batch.
    pub rows: Vec<[u32; 2]>,
}

/// Where a group lies in a batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GroupSpan {
    /// Start and end of each of its sequences.
    pub sequences: Vec<[u32; 2]>,
    /// The numbers that came with it.
    pub numbers: Vec<(&'static str, f64)>,
}

impl GroupSpan {
    /// The number of that name.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.numbers.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
    }
}

impl Batch {
    /// Collates `groups`, one to a row; `ordinal` is that of the first sequence.
    pub fn of(groups: &[Group], ordinal: u32) -> Self {
        Self::collate(groups.iter().map(std::iter::once), ordinal)
    }

    /// Collates `rows` of groups; `ordinal` is that of the first sequence.
    pub(super) fn collate<'a, R: IntoIterator<Item = &'a Group>>(
        rows: impl Iterator<Item = R>,
        mut ordinal: u32,
    ) -> Self {
        let mut batch = Self::default();
        for row in rows {
            let start = batch.num_tokens() as u32;
            for group in row {
                let mut span = GroupSpan { numbers: group.numbers.clone(), ..GroupSpan::default() };
                for sequence in &group.sequences {
                    span.sequences.push(batch.push(sequence, ordinal));
                    ordinal += 1;
                }
                batch.groups.push(span);
            }
            batch.rows.push([start, batch.num_tokens() as u32]);
        }
        batch
    }

    /// Appends a sequence; returns its start and end.
    fn push(&mut self, sequence: &Sequence, ordinal: u32) -> [u32; 2] {
        let start = self.num_tokens() as u32;
        let length = sequence.input_ids.len();
        let bounds = [start, start + length as u32];
        self.input_ids.extend(&sequence.input_ids);
        let shifted = sequence.labels.iter().skip(1).copied();
        self.targets.extend(shifted.chain(std::iter::once(NO_LOSS)).take(length));
        let targets = (start..).zip(&self.targets[start as usize..]);
        self.loss_rows
            .extend(targets.filter(|(_, target)| **target != NO_LOSS).map(|(row, _)| row));
        self.positions.extend(0..length as u32);
        self.bounds.extend(std::iter::repeat_n(bounds, length));
        self.ordinals.extend(std::iter::repeat_n(ordinal, length));
        bounds
    }

    /// T, the tokens of this batch.
    pub fn num_tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// Targets that carry loss.
    pub fn num_loss_tokens(&self) -> usize {
        self.loss_rows.len()
    }

    /// The unshifted label of token `t`: the target of the token before it in the same sequence.
    pub fn label(&self, t: usize) -> i32 {
        if self.bounds[t][0] as usize == t { NO_LOSS } else { self.targets[t - 1] }
    }
}
