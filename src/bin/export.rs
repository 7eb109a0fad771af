//! `export`: parses the command line and runs the program.

use std::process::ExitCode;

use clap::Parser;
use tunesmith::cli::{self, ExportOptions};
use tunesmith::programs::export;

fn main() -> ExitCode {
    cli::start(|| export::run(ExportOptions::parse()))
}
