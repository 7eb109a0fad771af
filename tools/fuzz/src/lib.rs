//! Mutated files against the readers of Tunesmith, which must take what comes from anywhere: no panic, no
//! hang, no more memory than in proportion to the file.
//!
//! A plain driver that needs no instrumentation: [`mutate`] changes seeds, [`targets`] are the readers, and
//! [`run`] holds each input to the limits. An input is a function of the seed of the run, the target's name
//! and a number, so that a finding is repeated by those three.

pub mod allocator;
pub mod mutate;
pub mod run;
pub mod seeds;
pub mod targets;
