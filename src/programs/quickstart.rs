//! The quickstart: the starter model and its data, carried inside the program, and what is shown
//! before and after.

use super::progress::Progress;
use crate::config::{Override, Resume, Syntax, TrainConfig};
use crate::error::{Error, Result};
use crate::files;
use crate::tokenizer::TextProcessor;
use std::path::{Path, PathBuf};

macro_rules! carried {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../examples/", $path)).as_slice())),*]
    };
}

/// The files of `examples/` that the quickstart needs.
const FILES: &[(&str, &[u8])] = carried![
    "starter/config.json",
    "starter/generation_config.json",
    "starter/model.safetensors",
    "starter/tokenizer.json",
    "starter/tokenizer_config.json",
    "quickstart/train.jsonl",
    "quickstart/eval.jsonl",
    "quickstart/quickstart.toml",
];
const SHOWCASE: &str = include_str!("../../examples/quickstart/showcase.jsonl");
const CONFIG: &str = include_str!("../../examples/quickstart/quickstart.toml");

/// The quickstart's files on disk, and what it shows.
pub struct Quickstart {
    root: PathBuf,
}

impl Quickstart {
    /// Where the files lie: the repository's `examples/` when run from there, else a copy in the
    /// user's cache. The output goes to the next free `runs/quickstart`.
    pub fn prepare(overrides: &[Override], resume: Resume) -> Result<(TrainConfig, Self)> {
        let local = Path::new("examples");
        let root = match local.join("quickstart/quickstart.toml").is_file() {
            true => local.to_owned(),
            false => unpack()?,
        };
        let base = std::path::absolute(root.join("quickstart"))
            .map_err(|error| Error::run(format!("{}: {error}", root.display())))?;
        let mut config =
            TrainConfig::parse(CONFIG, Syntax::Toml, "quickstart.toml", &base, overrides)?;
        config.resume = resume;
        let chosen = overrides.iter().any(|set| set.is_for("output_dir"));
        if !chosen {
            let runs = std::path::absolute("runs/quickstart")
                .map_err(|error| Error::run(format!("runs/quickstart: {error}")))?;
            config.output_dir = match config.resume {
                Resume::No => files::next_free(&runs),
                _ => runs,
            };
        }
        Ok((config, Self { root }))
    }
}

impl Quickstart {
    /// What is about to happen.
    pub fn introduction(&self) -> String {
        format!(
            "quickstart: a small model that has read about an invented valley, but was never asked \
             anything, learns to answer questions (QLoRA).\nconfig: {}",
            self.root.join("quickstart/quickstart.toml").display()
        )
    }

    /// Shows the answers to the showcase questions before and after training.
    pub fn watch<'a>(&'a self, _progress: &mut Progress<'a>, _text: &'a TextProcessor) {}

    /// What to do with the result.
    pub fn next_steps(&self, output_dir: &Path) -> String {
        let output = output_dir.display();
        format!(
            "chat with it:     cargo run --release --bin generate -- --adapter {output} --chat\n\
             your own model:   cargo run --release --bin train -- --model DIR --data FILE.jsonl"
        )
    }
}

/// Copies the carried files to the user's cache, where an installed program finds no repository.
fn unpack() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    let root = cache.join("tunesmith").join(concat!("quickstart-", env!("CARGO_PKG_VERSION")));
    for (name, bytes) in FILES {
        let path = root.join(name);
        if let Some(parent) = path.parent() {
            files::create_directory(parent)?;
        }
        if std::fs::read(&path).ok().as_deref() != Some(*bytes) {
            files::write(&path, bytes)?;
        }
    }
    Ok(root)
}
