//! Which examples a step sees: a pure function of the data, the settings, the seed and the epoch,
//! so that resuming at (epoch, step) needs no saved state.

use std::ops::Range;

use super::{Batch, Dataset};
use crate::random::Rng;

/// How examples become batches.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchOptions {
    /// Rows in a micro-batch.
    pub per_device_train_batch_size: usize,
    /// Micro-batches in an optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Several examples in a row of at most `max_length` tokens, or one example per row.
    pub packing: bool,
    /// The longest row, in tokens.
    pub max_length: usize,
    /// A new random order every epoch, or the order of the files.
    pub shuffle: bool,
    /// The run's seed.
    pub seed: u64,
}

/// The steps of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Indices of examples in the order they are seen.
    order: Vec<u32>,
    /// Where each row begins in `order`, and the length of `order`.
    rows: Vec<usize>,
    rows_per_batch: usize,
    batches_per_step: usize,
}

impl Plan {
    /// Epoch number `epoch` (from 0) of a training run.
    ///
    /// Packing is next-fit: an example goes into the current row if it fits, else it begins a new
    /// one. It never splits an example and never looks back, so it keeps the order.
    pub fn epoch(data: &Dataset, options: &BatchOptions, epoch: u32) -> Self {
        let mut order = data.weighted(options.seed, epoch);
        if options.shuffle {
            Rng::new(options.seed, "data.shuffle", epoch).shuffle(&mut order);
        }
        let capacity = if options.packing { options.max_length } else { 0 };
        Self::new(
            data,
            order,
            capacity,
            options.per_device_train_batch_size,
            options.gradient_accumulation_steps,
        )
    }

    /// Every example once, in the order of the files, `batch_size` to a batch, one batch to a step.
    pub fn eval(data: &Dataset, batch_size: usize) -> Self {
        Self::new(data, (0..data.examples.len() as u32).collect(), 0, batch_size, 1)
    }

    fn new(
        data: &Dataset,
        order: Vec<u32>,
        capacity: usize,
        rows_per_batch: usize,
        batches_per_step: usize,
    ) -> Self {
        let mut rows = Vec::new();
        let mut filled = 0;
        for (at, &index) in order.iter().enumerate() {
            let length = data.examples[index as usize].num_tokens();
            if at == 0 || filled + length > capacity {
                rows.push(at);
                filled = 0;
            }
            filled += length;
        }
        rows.push(order.len());
        Self {
            order,
            rows,
            rows_per_batch: rows_per_batch.max(1),
            batches_per_step: batches_per_step.max(1),
        }
    }

    /// Examples seen, repeats of a file with weight above 1 included.
    pub fn num_examples(&self) -> usize {
        self.order.len()
    }

    /// Rows, which are examples unless packed.
    pub fn num_rows(&self) -> usize {
        self.rows.len() - 1
    }

    /// Micro-batches. The last may have fewer rows.
    pub fn num_batches(&self) -> usize {
        self.num_rows().div_ceil(self.rows_per_batch)
    }

    /// Optimizer steps. The last may have fewer micro-batches.
    pub fn num_steps(&self) -> usize {
        self.num_batches().div_ceil(self.batches_per_step)
    }

    /// The micro-batches of a step (from 0); empty past the end.
    pub fn batches(&self, step: usize) -> Range<usize> {
        let last = self.num_batches();
        (step * self.batches_per_step).min(last)..((step + 1) * self.batches_per_step).min(last)
    }

    /// Collates micro-batch number `batch` of the epoch.
    pub fn batch(&self, data: &Dataset, batch: usize) -> Batch {
        let rows = self.rows_of(batch);
        let first_of_step = self.rows_of(batch - batch % self.batches_per_step).start;
        let groups =
            |of: Range<usize>| self.order[of].iter().map(|&index| &data.examples[index as usize]);
        let before = groups(self.rows[first_of_step]..self.rows[rows.start]);
        let ordinal: usize = before.map(|group| group.sequences.len()).sum();
        let rows = rows.map(|row| groups(self.rows[row]..self.rows[row + 1]));
        Batch::collate(rows, ordinal as u32)
    }

    /// The indices of the examples in a row.
    pub(super) fn examples_of_row(&self, row: usize) -> &[u32] {
        &self.order[self.rows[row]..self.rows[row + 1]]
    }

    /// Tokens of micro-batch number `batch`.
    pub fn batch_tokens(&self, data: &Dataset, batch: usize) -> usize {
        let lengths = self.examples_of(batch).iter();
        lengths.map(|&index| data.examples[index as usize].num_tokens()).sum()
    }

    fn examples_of(&self, batch: usize) -> &[u32] {
        let rows = self.rows_of(batch);
        &self.order[self.rows[rows.start]..self.rows[rows.end]]
    }

    fn rows_of(&self, batch: usize) -> Range<usize> {
        let last = self.num_rows();
        (batch * self.rows_per_batch).min(last)..((batch + 1) * self.rows_per_batch).min(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{DataFile, Format, Group, Sequence};

    /// Examples of the given lengths in files; token ids say which example they are of.
    fn dataset(files: &[(f64, &[usize])]) -> Dataset {
        let mut examples = Vec::new();
        for (file, (_, lengths)) in files.iter().enumerate() {
            for &length in *lengths {
                let id = examples.len() as u32;
                let mut labels = vec![id as i32; length];
                labels[0] = -100;
                let source = (file as u32, examples.len() as u32 + 1);
                let sequence =
                    Sequence { input_ids: vec![id; length], labels, ..Sequence::default() };
                examples.push(Group { source, ..Group::of(sequence) });
            }
        }
        let files =
            files.iter().map(|&(weight, _)| DataFile { path: "d.jsonl".into(), weight }).collect();
        Dataset::new(files, Format::Text, examples)
    }

    fn options() -> BatchOptions {
        BatchOptions {
            per_device_train_batch_size: 2,
            gradient_accumulation_steps: 2,
            packing: false,
            max_length: 8,
            shuffle: false,
            seed: 42,
        }
    }

    #[test]
    fn a_batch_keeps_its_examples_apart() {
        let data = dataset(&[(1.0, &[3, 2, 4])]);
        let batch = Plan::epoch(&data, &options(), 0).batch(&data, 0);
        assert_eq!(batch.input_ids, [0, 0, 0, 1, 1]);
        assert_eq!(batch.targets, [0, 0, -100, 1, -100]);
        assert_eq!(batch.positions, [0, 1, 2, 0, 1]);
        assert_eq!(batch.bounds, [[0, 3], [0, 3], [0, 3], [3, 5], [3, 5]]);
        assert_eq!(batch.ordinals, [0, 0, 0, 1, 1]);
        assert_eq!(batch.rows, [[0, 3], [3, 5]]);
        assert_eq!(batch.loss_rows, [0, 1, 3]);
        assert_eq!(batch.groups[1].sequences, [[3, 5]]);
        assert_eq!((batch.num_tokens(), batch.num_loss_tokens()), (5, 3));
        let labels: Vec<i32> = (0..5).map(|t| batch.label(t)).collect();
        assert_eq!(labels, [-100, 0, 0, -100, 1]);
    }

    #[test]
    fn packing_is_next_fit_and_changes_neither_targets_nor_positions() {
        let data = dataset(&[(1.0, &[3, 4, 2, 8, 1, 1])]);
        let packed = BatchOptions { packing: true, per_device_train_batch_size: 1, ..options() };
        let plan = Plan::epoch(&data, &packed, 0);
        let rows: Vec<Vec<u32>> = (0..plan.num_batches())
            .map(|batch| {
                let mut ids = plan.batch(&data, batch).input_ids;
                ids.dedup();
                ids
            })
            .collect();
        assert_eq!(rows, [vec![0, 1], vec![2], vec![3], vec![4, 5]]);
        // The same examples in one unpacked batch.
        let unpacked = BatchOptions { per_device_train_batch_size: 2, ..options() };
        let (a, b) = (plan.batch(&data, 0), Plan::epoch(&data, &unpacked, 0).batch(&data, 0));
        assert_eq!(a.rows, [[0, 7]]);
        assert_eq!(Batch { rows: Vec::new(), ..a }, Batch { rows: Vec::new(), ..b });
    }

    #[test]
    fn groups_stay_whole_and_their_sequences_are_counted_one_by_one() {
        let mut data = dataset(&[(1.0, &[3, 2, 4])]);
        for group in &mut data.examples {
            let mut second = group.sequences[0].clone();
            second.truncate(2);
            group.sequences.push(second);
            group.numbers.push(("weight", group.source.1 as f64));
        }
        let plan =
            Plan::epoch(&data, &BatchOptions { per_device_train_batch_size: 1, ..options() }, 0);
        let batch = plan.batch(&data, 1);
        assert_eq!(batch.groups[0].sequences, [[0, 2], [2, 4]]);
        assert_eq!(batch.groups[0].number("weight"), Some(2.0));
        assert_eq!(batch.ordinals, [2, 2, 3, 3]);
        assert_eq!(batch.positions, [0, 1, 0, 1]);
        // With packing a row holds whole groups: 5 and 4 tokens do not fit into 8.
        let packed = Plan::epoch(&data, &BatchOptions { packing: true, ..options() }, 0);
        assert_eq!(packed.num_rows(), 3);
        let other = Dataset { examples: data.examples[..2].to_vec(), ..data.clone() };
        assert_ne!(other.fingerprint(), data.fingerprint());
    }

    #[test]
    fn steps_count_ragged_ends_and_ordinals_run_through_a_step() {
        let data = dataset(&[(1.0, &[2; 7])]);
        let plan = Plan::epoch(&data, &options(), 0);
        assert_eq!((plan.num_rows(), plan.num_batches(), plan.num_steps()), (7, 4, 2));
        assert_eq!((plan.batches(0), plan.batches(1), plan.batches(2)), (0..2, 2..4, 4..4));
        let firsts: Vec<u32> = (0..4).map(|batch| plan.batch(&data, batch).ordinals[0]).collect();
        assert_eq!(firsts, [0, 2, 0, 2]);
        assert_eq!(plan.batch(&data, 3).rows.len(), 1);
        assert_eq!(plan.batch_tokens(&data, 0), 4);
    }

    #[test]
    fn the_order_is_a_function_of_seed_and_epoch() {
        let data = dataset(&[(1.0, &[1; 50])]);
        let plan = |seed, epoch| {
            Plan::epoch(&data, &BatchOptions { shuffle: true, seed, ..options() }, epoch)
        };
        assert_eq!(plan(1, 3), plan(1, 3));
        assert_ne!(plan(1, 3), plan(1, 4));
        assert_ne!(plan(1, 3), plan(2, 3));
        let mut seen = plan(1, 3).order;
        seen.sort_unstable();
        assert_eq!(seen, (0..50).collect::<Vec<u32>>());
    }

    #[test]
    fn weights_are_multiples_per_epoch() {
        let data = dataset(&[(0.5, &[1; 10]), (2.0, &[1; 3]), (1.5, &[1; 4])]);
        let counts = |epoch| {
            let mut counts = [0u32; 17];
            for &index in &Plan::epoch(&data, &options(), epoch).order {
                counts[index as usize] += 1;
            }
            counts
        };
        let first = counts(0);
        assert_eq!(first[..10].iter().sum::<u32>(), 5);
        assert!(first[..10].iter().all(|&count| count <= 1));
        assert_eq!(first[10..13], [2, 2, 2]);
        assert_eq!(first[13..].iter().sum::<u32>(), 6);
        assert!(first[13..].iter().all(|&count| (1..=2).contains(&count)));
        assert_eq!(first, counts(0));
        assert_ne!(first[..10], counts(1)[..10]);
    }

    #[test]
    fn evaluation_sees_every_example_once_in_order() {
        let data = dataset(&[(3.0, &[2, 3, 4])]);
        let plan = Plan::eval(&data, 2);
        let ids: Vec<u32> =
            (0..plan.num_batches()).flat_map(|batch| plan.batch(&data, batch).input_ids).collect();
        assert_eq!(ids, [0, 0, 1, 1, 1, 2, 2, 2, 2]);
        assert_eq!(plan.num_steps(), 2);
    }
}
