//! Writes the starter model's text, tokenizer and instruction data below a directory.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use starter::files::{PASSAGES, SEED, carried, corpus, write};
use starter::world::World;

/// Writes everything Tunesmith's starter model is made from. The same files every time.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Directory to write into; files of an earlier run are replaced
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many passages of pretraining text to write (about 230 bytes each)
    #[arg(long, value_name = "N", default_value_t = PASSAGES)]
    passages: usize,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let world = World::new(SEED);
    let carried = carried(&world).map_err(|error| format!("the tokenizer failed: {error}"))?;
    let corpus = corpus(&world, options.passages);
    for files in [&corpus[..], &carried[..]] {
        write(&options.out, files)?;
        for (name, text) in files {
            println!("{:>9} bytes  {}", text.len(), options.out.join(name).display());
        }
    }
    Ok(())
}
