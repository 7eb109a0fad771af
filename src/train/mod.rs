//! Training: the schedule of the learning rate, and what a run records.

pub mod metrics;
pub mod schedule;
pub mod trainer_state;
