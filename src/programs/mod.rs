//! The programs: each takes its parsed command line and does the work.

pub mod device;
pub mod evaluate;
pub mod export;
pub mod generate;
pub mod open;
pub mod progress;
pub mod quickstart;
pub mod train;
pub mod verify;
