//! `train`: parses the command line and runs the program.

use std::process::ExitCode;

use clap::Parser;
use tunesmith::cli::{self, TrainOptions};
use tunesmith::programs::train;

fn main() -> ExitCode {
    cli::start(|| train::run(TrainOptions::parse()))
}
