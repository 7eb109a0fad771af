//! `fuzz [TARGET...] [--inputs N] [--first N] [--seed S] [--show N]`: tries inputs, or writes one to stdout.

use clap::Parser;
use fuzz::run::{input, run};
use fuzz::targets::all;
use std::io::Write;
use std::process::ExitCode;

/// Try mutated files on Tunesmith's readers
#[derive(Parser)]
struct Options {
    /// Targets; all of them where none is named
    targets: Vec<String>,
    /// How many inputs of each
    #[arg(long, default_value_t = 10_000)]
    inputs: u64,
    /// The number of the first input
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// The seed of the run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write input number N of the one target to stdout instead
    #[arg(long, value_name = "N")]
    show: Option<u64>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    // Findings say it.
    std::panic::set_hook(Box::new(|_| {}));
    let dir = tempfile::tempdir().expect("a folder for files");
    let wanted =
        |name: &str| options.targets.is_empty() || options.targets.iter().any(|t| t == name);
    let mut failed = false;
    println!(
        "| target | inputs | read | slowest, ms | memory beyond the input's own, KiB | findings |"
    );
    println!("|---|---|---|---|---|---|");
    for mut target in all(dir.path()).into_iter().filter(|target| wanted(target.name())) {
        if let Some(number) = options.show {
            let input = input(&*target, options.seed, number);
            std::io::stdout().write_all(&input).expect("stdout");
            continue;
        }
        let report = run(&mut *target, options.seed, options.first, options.inputs);
        println!(
            "| {} | {} | {} | {:.1} | {} | {} |",
            target.name(),
            report.inputs,
            report.accepted,
            report.slowest.as_secs_f64() * 1e3,
            report.most >> 10,
            report.findings.len()
        );
        for (number, what) in report.findings.iter().take(20) {
            eprintln!("{}: input {number}: {what}", target.name());
        }
        failed |= !report.findings.is_empty();
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
