//! The optimizer steps of a run: how many there are, and which examples each one sees. A pure
//! function of data, settings and seed, so that a run goes on from any step without saved state.

use crate::config::TrainArgs;
use crate::data::{Batch, BatchOptions, Dataset, Plan};
use std::cell::RefCell;

/// The steps of a run.
pub struct Steps<'a> {
    data: &'a Dataset,
    options: BatchOptions,
    total: u64,
    epochs: Epochs,
    // Steps come in order, so the plan of one epoch is enough.
    plan: RefCell<Option<(usize, Plan)>>,
}

/// How many steps an epoch has if it is run whole.
enum Epochs {
    /// All of them have as many.
    Alike(u64),
    /// Which rows packing makes depends on the order of the epoch: for each, the steps until its end, counted
    /// as far as it was asked for. A run may be told to take more steps than can be counted.
    Packed(RefCell<Vec<u64>>),
}

impl<'a> Steps<'a> {
    /// The steps of a run over `data`: `max_steps` where it is set, else `num_train_epochs`, of
    /// which the last may be a fraction (rounded up to whole steps).
    pub fn new(data: &'a Dataset, options: BatchOptions, train: &TrainArgs) -> Self {
        let epochs = match options.packing {
            false => Epochs::Alike(steps_of_epoch(data, &options, 0)),
            true => Epochs::Packed(RefCell::default()),
        };
        let mut steps = Self { data, options, total: 0, epochs, plan: RefCell::new(None) };
        steps.total = train.max_steps.unwrap_or_else(|| {
            let last = (train.num_train_epochs.ceil() as usize).saturating_sub(1);
            let share = (train.num_train_epochs - last as f64).min(1.0);
            let of_last = (steps.whole(last) as f64 * share).ceil() as u64;
            steps.start(last).saturating_add(of_last.max(1))
        });
        steps
    }

    /// Steps of the whole run.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The run's steps before an epoch.
    fn start(&self, epoch: usize) -> u64 {
        match &self.epochs {
            Epochs::Alike(steps) => steps.saturating_mul(epoch as u64),
            Epochs::Packed(ends) => {
                let mut ends = ends.borrow_mut();
                while ends.len() < epoch {
                    self.count(&mut ends);
                }
                epoch.checked_sub(1).map_or(0, |before| ends[before])
            }
        }
    }

    /// The steps of an epoch that is run whole.
    fn whole(&self, epoch: usize) -> u64 {
        match &self.epochs {
            Epochs::Alike(steps) => *steps,
            Epochs::Packed(_) => self.start(epoch + 1) - self.start(epoch),
        }
    }

    /// Adds the end of the next epoch.
    fn count(&self, ends: &mut Vec<u64>) {
        let before = ends.last().copied().unwrap_or(0);
        ends.push(before + steps_of_epoch(self.data, &self.options, ends.len()));
    }

    /// The epoch (from 0) of a step (from 1), and its number in it (from 0).
    fn locate(&self, step: u64) -> (usize, u64) {
        let epoch = match &self.epochs {
            Epochs::Alike(steps) => ((step - 1) / steps) as usize,
            Epochs::Packed(ends) => {
                let mut ends = ends.borrow_mut();
                while ends.last().is_none_or(|&end| end < step) {
                    self.count(&mut ends);
                }
                ends.partition_point(|&end| end < step)
            }
        };
        (epoch, step - 1 - self.start(epoch))
    }

    /// Passes over the examples after `step` steps.
    pub fn epochs_after(&self, step: u64) -> f64 {
        if step == 0 {
            return 0.0;
        }
        let (epoch, index) = self.locate(step);
        epoch as f64 + (index + 1) as f64 / self.whole(epoch) as f64
    }

    /// Whether an epoch ends with this step, or the run.
    pub fn ends_epoch(&self, step: u64) -> bool {
        let (epoch, index) = self.locate(step);
        step == self.total || index + 1 == self.whole(epoch)
    }

    /// The micro-batches of a step.
    pub fn batches(&self, step: u64) -> Vec<Batch> {
        let (epoch, index) = self.locate(step);
        let mut cached = self.plan.borrow_mut();
        if cached.as_ref().is_none_or(|(of, _)| *of != epoch) {
            *cached = Some((epoch, Plan::epoch(self.data, &self.options, epoch as u32)));
        }
        let Some((_, plan)) = cached.as_ref() else { return Vec::new() };
        plan.batches(index as usize).map(|batch| plan.batch(self.data, batch)).collect()
    }
}

/// The steps of a whole epoch; without packing they are as many in every one.
fn steps_of_epoch(data: &Dataset, options: &BatchOptions, epoch: usize) -> u64 {
    (Plan::epoch(data, options, epoch as u32).num_steps() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Format, Group, Sequence, Stats};

    fn dataset(examples: usize) -> Dataset {
        let example = |i: usize| Group {
            source: (0, i as u32 + 1),
            ..Group::of(Sequence {
                input_ids: vec![i as u32; 3],
                labels: vec![-100, 1, 2],
                ..Sequence::default()
            })
        };
        Dataset {
            files: vec![crate::data::DataFile::new("data.jsonl")],
            format: Format::Text,
            examples: (0..examples).map(example).collect(),
            stats: Stats::default(),
            warnings: Vec::new(),
        }
    }

    fn options() -> BatchOptions {
        BatchOptions {
            per_device_train_batch_size: 2,
            gradient_accumulation_steps: 2,
            packing: false,
            max_length: 8,
            shuffle: true,
            seed: 1,
        }
    }

    #[test]
    fn epochs_round_up_to_steps_and_max_steps_wins() {
        let data = dataset(10);
        let train = |num_train_epochs, max_steps| TrainArgs {
            num_train_epochs,
            max_steps,
            ..Default::default()
        };
        let total = |train: &TrainArgs| Steps::new(&data, options(), train).total();
        assert_eq!(total(&train(1.0, None)), 3);
        assert_eq!(total(&train(2.0, None)), 6);
        assert_eq!(total(&train(1.5, None)), 5);
        assert_eq!(total(&train(9.0, Some(4))), 4);

        let train = train(9.0, Some(4));
        let steps = Steps::new(&data, options(), &train);
        assert_eq!(steps.epochs_after(3), 1.0);
        assert!((steps.epochs_after(4) - 4.0 / 3.0).abs() < 1e-12);
        assert!(steps.ends_epoch(3) && !steps.ends_epoch(2));
    }

    #[test]
    fn a_run_of_any_length_starts_at_once() {
        let data = dataset(10);
        for packing in [false, true] {
            let max_steps = Some(9_007_199_254_740_993);
            let train = TrainArgs { max_steps, ..Default::default() };
            let steps = Steps::new(&data, BatchOptions { packing, ..options() }, &train);
            assert_eq!(steps.total(), 9_007_199_254_740_993);
            assert!(!steps.batches(1).is_empty() && !steps.ends_epoch(1));
        }
        let train = TrainArgs { num_train_epochs: 1e12, ..Default::default() };
        let steps = Steps::new(&data, options(), &train);
        assert_eq!(steps.total(), 3_000_000_000_000);
        assert_eq!(steps.epochs_after(3_000_000_000), 1e9);
    }

    #[test]
    fn packed_epochs_are_counted_one_by_one() {
        let lengths: Vec<usize> = (0..60).map(|i| i * i % 7 + 1).collect();
        let mut data = dataset(lengths.len());
        for (example, length) in data.examples.iter_mut().zip(lengths) {
            let (labels, mask) = (vec![1; length], Default::default());
            *example = Group {
                source: example.source,
                ..Group::of(Sequence { input_ids: vec![0; length], labels, mask })
            };
        }
        let options = BatchOptions { packing: true, per_device_train_batch_size: 1, ..options() };
        let of = |epoch| Plan::epoch(&data, &options, epoch).num_steps() as u64;
        let train = TrainArgs { num_train_epochs: 40.0, ..Default::default() };
        let steps = Steps::new(&data, options.clone(), &train);
        assert!((1..40).any(|epoch| of(epoch) != of(0)), "the epochs are alike");
        assert_eq!(steps.total(), (0..40).map(of).sum::<u64>());
        let end = of(0) + of(1) + of(2);
        assert!(steps.ends_epoch(end) && !steps.ends_epoch(end + 1));
        assert_eq!((steps.epochs_after(end), steps.locate(end + 1)), (3.0, (3, 0)));
    }

    #[test]
    fn every_example_is_seen_once_an_epoch() {
        let data = dataset(10);
        let steps = Steps::new(&data, options(), &TrainArgs::default());
        let mut seen: Vec<u32> = Vec::new();
        for step in 1..=steps.total() {
            let batches = steps.batches(step);
            seen.extend(batches.iter().flat_map(|batch| batch.input_ids.iter().step_by(3)));
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<u32>>());
    }
}
