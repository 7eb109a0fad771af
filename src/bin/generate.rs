//! `generate`: parses the command line and runs the program.

use std::process::ExitCode;

use clap::Parser;
use tunesmith::cli::{self, GenerateOptions};
use tunesmith::programs::generate;

fn main() -> ExitCode {
    cli::start(|| generate::run(GenerateOptions::parse()))
}
