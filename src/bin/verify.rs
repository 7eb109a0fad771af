//! `verify`: parses the command line and runs the program.

use std::process::ExitCode;

use clap::Parser;
use tunesmith::cli::{self, VerifyOptions};
use tunesmith::programs::verify;

fn main() -> ExitCode {
    cli::start(|| verify::run(VerifyOptions::parse()))
}
