//! The optimizer steps of a run: how many there are, and which examples each one sees. A pure
//! function of data, settings and seed, so that a run goes on from any step without saved state.

use crate::config::TrainArgs;
use crate::data::{Batch, BatchOptions, Dataset, Plan};
use std::cell::RefCell;

/// The steps of a run.
pub struct Steps<'a> {
    data: &'a Dataset,
    options: BatchOptions,
    /// For each epoch, the run's steps until its end.
    ends: Vec<u64>,
    /// Steps of the last epoch if it were run whole.
    last_epoch: u64,
    // Steps come in order, so the plan of one epoch is enough.
    plan: RefCell<Option<(usize, Plan)>>,
}

impl<'a> Steps<'a> {
    /// The steps of a run over `data`: `max_steps` where it is set, else `num_train_epochs`, of
    /// which the last may be a fraction (rounded up to whole steps).
    pub fn new(data: &'a Dataset, options: BatchOptions, train: &TrainArgs) -> Self {
        let mut ends = Vec::new();
        let (mut total, mut last_epoch) = (0, 0);
        loop {
            let epoch = ends.len();
            let wanted = match train.max_steps {
                Some(max_steps) => max_steps - total,
                None => {
                    let share = train.num_train_epochs - epoch as f64;
                    if share <= 0.0 { 0 } else { u64::MAX }
                }
            };
            if wanted == 0 {
                break;
            }
            last_epoch = Plan::epoch(data, &options, epoch as u32).num_steps() as u64;
            let share = match train.max_steps {
                Some(_) => 1.0,
                None => (train.num_train_epochs - epoch as f64).min(1.0),
            };
            let steps = ((last_epoch as f64 * share).ceil() as u64).max(1);
            total += steps.min(wanted);
            ends.push(total);
        }
        Self { data, options, ends, last_epoch, plan: RefCell::new(None) }
    }

    /// Steps of the whole run.
    pub fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The epoch (from 0) of a step (from 1), and its number in it (from 0).
    fn locate(&self, step: u64) -> (usize, u64) {
        let epoch = self.ends.partition_point(|&end| end < step);
        let start = if epoch == 0 { 0 } else { self.ends[epoch - 1] };
        (epoch, step - 1 - start)
    }

    /// Passes over the examples after `step` steps.
    pub fn epochs_after(&self, step: u64) -> f64 {
        if step == 0 {
            return 0.0;
        }
        let (epoch, index) = self.locate(step);
        let start = if epoch == 0 { 0 } else { self.ends[epoch - 1] };
        let whole = match epoch + 1 == self.ends.len() {
            true => self.last_epoch,
            false => self.ends[epoch] - start,
        };
        epoch as f64 + (index + 1) as f64 / whole.max(1) as f64
    }

    /// Whether an epoch ends with this step.
    pub fn ends_epoch(&self, step: u64) -> bool {
        self.ends.contains(&step)
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
