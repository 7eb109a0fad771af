//! Collation: sequences laid end to end, with what the kernels need to keep them apart.

use super::group::{Group, NO_LOSS, Sequence};
use std::ops::Range;

/// One micro-batch without padding: the concatenation of its sequences, T tokens in all.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// `[T]` token ids.
    pub input_ids: Vec<u32>,
    /// `[T]` labels shifted left by one: `targets[t]` is the label of token t + 1 of the same
    /// sequence, -100 where there is no loss and at each sequence's last token. (What a shared prompt's
    /// last token predicts is in `loss_ids` alone: there are several.)
    pub targets: Vec<i32>,
    /// `[R]` what carries loss, sequence by sequence: the token whose hidden state predicts it. Ascending,
    /// but where groups share a prompt: its last token is there once for each sequence.
    pub loss_rows: Vec<u32>,
    /// `[R]` the ids that they are to predict.
    pub loss_ids: Vec<u32>,
    /// `[T]` positions, from 0 in every sequence; those of a completion go on from its prompt's.
    pub positions: Vec<u32>,
    /// `[T]` start of the token's own sequence in this batch, or of its part after a shared prompt; and one
    /// past the last token that may see it: the end of the same, for a shared prompt that of its group.
    pub bounds: Vec<[u32; 2]>,
    /// `[T]` start and end of the shared prompt that the token sees besides, both `start` where there is
    /// none. Empty where no group of the batch shares a prompt.
    pub prefixes: Vec<[u32; 2]>,
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
    /// Start and end of the prompt that its sequences share; empty where they are written out.
    pub prefix: [u32; 2],
    /// Start and end of each of its sequences, without the shared prompt.
    pub sequences: Vec<[u32; 2]>,
    /// Start and end of what carries loss in each sequence, in `loss_rows` and `loss_ids`.
    pub losses: Vec<[u32; 2]>,
    /// The numbers that came with it.
    pub numbers: Vec<(&'static str, f64)>,
}

/// A token, as it is predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prediction {
    /// The row of the hidden states that predicts it: the token before it.
    pub row: u32,
    /// The token's id.
    pub id: u32,
    /// Whether it carries loss.
    pub carries_loss: bool,
}

impl GroupSpan {
    /// The number of that name.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.numbers.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
    }

    /// The last token of a sequence, which is the prompt's where the sequence has none of its own.
    pub fn last(&self, sequence: usize) -> u32 {
        let [start, end] = self.sequences[sequence];
        if start < end { end - 1 } else { self.prefix[1].saturating_sub(1) }
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
                batch.push_group(group, ordinal);
                ordinal += group.sequences.len() as u32;
            }
            batch.rows.push([start, batch.num_tokens() as u32]);
        }
        if batch.groups.iter().all(|group| group.prefix[0] == group.prefix[1]) {
            batch.prefixes.clear();
        }
        batch
    }

    /// Appends a group; `ordinal` is that of its first sequence, and of a prompt that they share.
    fn push_group(&mut self, group: &Group, ordinal: u32) {
        let start = self.num_tokens() as u32;
        let shared = group.prefix();
        let prefix = [start, start + shared as u32];
        if let Some(first) = group.sequences.first().filter(|_| shared > 0) {
            self.push(first, 0..shared, [start; 2], ordinal);
            let end = start + group.num_tokens() as u32;
            self.bounds[start as usize..].iter_mut().for_each(|bounds| bounds[1] = end);
        }
        let mut span = GroupSpan { prefix, numbers: group.numbers.clone(), ..GroupSpan::default() };
        for (sequence, ordinal) in group.sequences.iter().zip(ordinal..) {
            let length = sequence.input_ids.len();
            let tokens = self.push(sequence, shared..length, prefix, ordinal);
            span.sequences.push(tokens);
            span.losses.push(self.push_losses(sequence, prefix, tokens[0]));
        }
        self.groups.push(span);
    }

    /// Appends the tokens `part` of a sequence, after a shared prompt; returns their start and end.
    fn push(
        &mut self,
        sequence: &Sequence,
        part: Range<usize>,
        prefix: [u32; 2],
        ordinal: u32,
    ) -> [u32; 2] {
        let start = self.num_tokens() as u32;
        let length = part.len();
        let bounds = [start, start + length as u32];
        self.input_ids.extend(&sequence.input_ids[part.clone()]);
        let shifted = sequence.labels[part.clone()].iter().skip(1).copied();
        self.targets.extend(shifted.chain(std::iter::once(NO_LOSS)).take(length));
        self.positions.extend(part.start as u32..part.end as u32);
        self.bounds.extend(std::iter::repeat_n(bounds, length));
        let prefix = if prefix[0] == prefix[1] { [start; 2] } else { prefix };
        self.prefixes.extend(std::iter::repeat_n(prefix, length));
        self.ordinals.extend(std::iter::repeat_n(ordinal, length));
        bounds
    }

    /// Appends what carries loss in a sequence whose tokens after the prompt begin at `start`; returns
    /// start and end of it.
    fn push_losses(&mut self, sequence: &Sequence, prefix: [u32; 2], start: u32) -> [u32; 2] {
        let shared = prefix[1] - prefix[0];
        let first = self.loss_rows.len() as u32;
        for (t, &label) in (0..).zip(sequence.labels.iter().skip(1)) {
            if label != NO_LOSS {
                self.loss_rows.push(if t < shared { prefix[0] + t } else { start + t - shared });
                self.loss_ids.push(label as u32);
            }
        }
        [first, self.loss_rows.len() as u32]
    }

    /// What the tokens of one of the group's sequences, the prompt's included, predict one after the other:
    /// all but its first token, whether they carry loss or not.
    pub fn predictions<'a>(
        &'a self,
        group: &'a GroupSpan,
        sequence: usize,
    ) -> impl Iterator<Item = Prediction> + use<'a> {
        let rows = move || {
            let [prefix, own] = [group.prefix, group.sequences[sequence]];
            (prefix[0]..prefix[1]).chain(own[0]..own[1])
        };
        let [start, end] = group.losses[sequence].map(|n| n as usize);
        let mut losses = self.loss_rows[start..end].iter().copied().peekable();
        rows().zip(rows().skip(1)).map(move |(row, next)| Prediction {
            row,
            id: self.input_ids[next as usize],
            carries_loss: losses.next_if_eq(&row).is_some(),
        })
    }

    /// A number that tells groups of other tokens or labels apart (FNV-1a, 64 bits), however they stand in
    /// a batch.
    pub fn fingerprint(&self, group: &GroupSpan) -> u64 {
        let mut hash = 0xCBF2_9CE4_8422_2325_u64;
        let mut mix = |word: u32| {
            for byte in word.to_le_bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
            }
        };
        for number in 0..group.sequences.len() {
            let [shared, own] = [group.prefix, group.sequences[number]];
            let first = if shared[0] < shared[1] { shared[0] } else { own[0] };
            mix(self.input_ids[first as usize]);
            for token in self.predictions(group, number) {
                mix(token.id);
                mix(u32::from(token.carries_loss));
            }
            mix(u32::MAX);
        }
        hash
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
        if self.bounds[t][0] as usize != t {
            return self.targets[t - 1];
        }
        // The first token after a shared prompt is predicted by the prompt's last, as others are.
        match self.prefixes.get(t) {
            Some(&[start, end]) if start < end => self.first_label(t as u32, end - 1),
            _ => NO_LOSS,
        }
    }

    /// The label of the token `t` that begins a sequence after a shared prompt, whose last token is `row`.
    fn first_label(&self, t: u32, row: u32) -> i32 {
        let spans = self.groups.iter().flat_map(|group| group.sequences.iter().zip(&group.losses));
        let mut losses = spans.filter(|(tokens, _)| tokens[0] == t && tokens[1] > t);
        let found = losses.next().and_then(|(_, &[first, end])| {
            (first as usize..end as usize).find(|&n| self.loss_rows[n] == row)
        });
        found.map_or(NO_LOSS, |n| self.loss_ids[n] as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{DataFile, Dataset, Format};

    /// A sequence of which the last `trained` tokens carry loss.
    fn sequence(ids: &[u32], trained: usize) -> Sequence {
        Sequence::new(ids.to_vec(), (0..ids.len()).map(|t| t + trained >= ids.len()))
    }

    fn pair() -> Group {
        Group::sharing(vec![sequence(&[1, 2, 3, 4], 2), sequence(&[1, 2, 5, 6, 7], 3)])
    }

    #[test]
    fn a_shared_prompt_stands_once() {
        let single = Group::of(sequence(&[8, 9], 1));
        let batch = Batch::of(&[single.clone(), pair(), single], 3);
        assert_eq!(batch.input_ids, [8, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(batch.positions, [0, 1, 0, 1, 2, 3, 2, 3, 4, 0, 1]);
        assert_eq!(batch.ordinals, [3, 3, 4, 4, 4, 4, 5, 5, 5, 6, 6]);
        assert_eq!(batch.targets, [9, -100, -100, -100, 4, -100, 6, 7, -100, 9, -100]);
        assert_eq!(batch.loss_rows, [0, 3, 4, 3, 6, 7, 9]);
        assert_eq!(batch.loss_ids, [9, 3, 4, 5, 6, 7, 9]);
        assert_eq!(batch.bounds[1..7], [[0, 2], [2, 9], [2, 9], [4, 6], [4, 6], [6, 9]]);
        assert_eq!(batch.prefixes[1..7], [[0, 0], [2, 2], [2, 2], [2, 4], [2, 4], [2, 4]]);
        let group = &batch.groups[1];
        assert_eq!((group.prefix, &group.sequences[..]), ([2, 4], &[[4, 6], [6, 9]][..]));
        assert_eq!(group.losses, [[1, 3], [3, 6]]);
        assert_eq!([group.last(0), group.last(1)], [5, 8]);
        let predicted: Vec<_> = batch.predictions(group, 1).collect();
        let expected = [(2, 2, false), (3, 5, true), (6, 6, true), (7, 7, true)];
        let expected = expected.map(|(row, id, carries_loss)| Prediction { row, id, carries_loss });
        assert_eq!(predicted, expected);
        let labels: Vec<i32> = (0..11).map(|t| batch.label(t)).collect();
        assert_eq!(labels, [-100, 9, -100, -100, 3, 4, 5, 6, 7, -100, 9]);
        assert_eq!((pair().num_tokens(), pair().longest()), (7, 5));
    }

    #[test]
    fn prompts_are_shared_where_sequences_turn_alike() {
        let files = vec![DataFile::new("d.jsonl")];
        let mut data = Dataset::new(files, Format::Text, vec![pair(), pair()]);
        let shared = data.fingerprint();
        for (wanted, alike, tokens) in [(true, true, 14), (true, false, 18), (false, true, 18)] {
            data.examples.fill(pair());
            data.share_prompts(wanted, |shortest, longest| {
                assert_eq!((shortest, longest), (4, 5));
                alike
            });
            assert_eq!(data.stats.tokens, tokens);
            assert_eq!(data.fingerprint() == shared, tokens == 14);
        }
    }

    /// The same predictions as written out.
    #[test]
    fn what_is_predicted_does_not_depend_on_sharing() {
        let predicted = |group: &Group| {
            let batch = Batch::of(std::slice::from_ref(group), 0);
            let by_sequence = batch.groups[0].losses.iter();
            let found: Vec<_> = by_sequence
                .map(|&[start, end]| {
                    let range = start as usize..end as usize;
                    let rows = batch.loss_rows[range.clone()].iter();
                    let ids = rows.map(|&row| batch.input_ids[row as usize]);
                    ids.zip(batch.loss_ids[range].to_vec()).collect::<Vec<_>>()
                })
                .collect();
            found
        };
        let whole = vec![sequence(&[1, 2, 3], 2), sequence(&[1, 2, 4, 5], 3), sequence(&[1, 2], 1)];
        let written_out = Group { sequences: whole.clone(), ..Group::default() };
        assert!(Batch::of(std::slice::from_ref(&written_out), 0).prefixes.is_empty());
        assert_eq!(Group::sharing(whole.clone()).shared, 2);
        for shared in 1..=2 {
            let group = Group { sequences: whole.clone(), shared, ..Group::default() };
            assert_eq!(predicted(&group), predicted(&written_out), "{shared}");
        }
        // What is cut does not begin with more than it has.
        let mut cut = pair();
        cut.sequences.iter_mut().for_each(|sequence| sequence.truncate(1));
        assert_eq!((cut.prefix(), cut.num_tokens()), (1, 1));
        assert_eq!(Batch::of(&[cut], 0).groups[0].last(1), 0);
    }
}
