//! The command line of every program, and how a program begins and ends.

mod model;
pub mod say;
mod start;
mod train;

pub use model::{
    AdapterOption, DtypeOption, EvaluateOptions, ExportOptions, ExportTarget, GenerateMode,
    GenerateOptions, MergeInto, ModelOptions, VerifyOptions,
};
pub(crate) use say::say;
pub use start::start;
pub use train::{TrainOptions, TrainSource};

use clap::{Args, Parser, Subcommand};

use crate::config::{Choice, DeviceSpec};

/// How every program speaks.
#[derive(Args, Clone, Debug, Default)]
pub struct OutputOptions {
    /// Print no progress and no messages, errors excepted
    #[arg(long)]
    pub quiet: bool,
    /// Print JSON, and nothing else, on stdout
    #[arg(long)]
    pub json: bool,
}

/// Where a program that reads no config computes.
#[derive(Args, Clone, Debug, Default)]
pub struct DeviceOptions {
    /// auto (CUDA, else a GPU through wgpu, else the CPU), cpu, wgpu[:i], cuda[:i], cuda-emulated
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceSpec,
}

/// All programs in one.
#[derive(Debug, Parser)]
#[command(name = "tunesmith", version, about, propagate_version = true)]
pub struct Tunesmith {
    /// The program to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The programs of `tunesmith`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model; without arguments, the quickstart
    Train(Box<TrainOptions>),
    /// Complete a prompt, or chat with --chat
    Generate(Box<GenerateOptions>),
    /// Chat with a model (generate --chat)
    Chat(Box<GenerateOptions>),
    /// Measure loss and perplexity on a file
    Evaluate(Box<EvaluateOptions>),
    /// Write a model in another form
    Export(Box<ExportOptions>),
    /// Check every kernel on this device against the CPU reference
    Verify(VerifyOptions),
}

/// A parser of one of an enum's names, for clap.
fn choice<C: Choice>(text: &str) -> std::result::Result<C, String> {
    C::parse(text)
}

/// A parser of numbers for which `valid` holds, for clap.
fn number(
    text: &str,
    expected: &str,
    valid: impl Fn(f64) -> bool,
) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && valid(value) => Ok(value),
        _ => Err(format!("expected {expected}")),
    }
}

#[cfg(test)]
mod tests;
