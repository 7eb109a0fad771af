//! `tunesmith`: all programs in one.

use std::process::ExitCode;

use clap::Parser;
use tunesmith::cli::{self, Command, GenerateOptions, Tunesmith};
use tunesmith::programs::{evaluate, export, generate, train, verify};

fn main() -> ExitCode {
    cli::start(|| match Tunesmith::parse().command {
        Command::Train(options) => train::run(*options),
        Command::Generate(options) => generate::run(*options),
        Command::Chat(options) => generate::run(GenerateOptions { chat: true, ..*options }),
        Command::Evaluate(options) => evaluate::run(*options),
        Command::Export(options) => export::run(*options),
        Command::Verify(options) => verify::run(options),
    })
}
