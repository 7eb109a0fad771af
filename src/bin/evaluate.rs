//! `evaluate`: parses the command line and runs the program.

use std::process::ExitCode;

use clap::Parser;
use tunesmith::cli::{self, EvaluateOptions};
use tunesmith::programs::evaluate;

fn main() -> ExitCode {
    cli::start(|| evaluate::run(EvaluateOptions::parse()))
}
