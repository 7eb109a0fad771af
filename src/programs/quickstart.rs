//! The quickstart: the starter model and its data, carried inside the program, and what is shown
//! before and after.

use super::called;
use super::progress::Progress;
use crate::cli::say;
use crate::config::{Override, Resume, Syntax, TrainConfig};
use crate::error::{Error, Result};
use crate::files;
use crate::generate::{
    GenerationSettings, Generator, Sampling, chat_prompt, conversation, stop_ids,
};
use crate::tokenizer::TextProcessor;
use crate::train::trainer::Trainer;
use serde_json::Value;
use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The longest answer shown, in tokens.
const ANSWER_TOKENS: usize = 32;

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
            .map_err(|error| Error::io(root.display(), error))?;
        let mut config =
            TrainConfig::parse(CONFIG, Syntax::Toml, "quickstart.toml", &base, overrides)?;
        config.resume = resume;
        let chosen = overrides.iter().any(|set| set.is_for("output_dir"));
        if !chosen {
            let runs = std::path::absolute("runs/quickstart")
                .map_err(|error| Error::io("runs/quickstart", error))?;
            config.output_dir = match config.resume {
                Resume::No => files::next_free(&runs),
                _ => files::last_taken(&runs),
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
    pub fn watch<'a>(&'a self, progress: &mut Progress<'a>, text: &'a TextProcessor) {
        let before: Rc<RefCell<Vec<String>>> = Rc::default();
        let kept = before.clone();
        progress.before = Some(Box::new(move |trainer| {
            *kept.borrow_mut() = answers(trainer, text)?;
            Ok(())
        }));
        progress.after = Some(Box::new(move |trainer| {
            for ((asked, before), after) in
                showcase()?.iter().zip(before.borrow().iter()).zip(answers(trainer, text)?)
            {
                say!(
                    "\n  asked   {}\n  before  {before}\n  after   {after}\n  right   {}",
                    asked.question,
                    asked.answer
                );
            }
            say!("");
            Ok(())
        }));
    }

    /// How to do the same with one's own.
    pub fn next_steps() -> String {
        format!("your own model:   {} --qlora --model DIR --data FILE.jsonl", called("train"))
    }
}

/// A held-out question with its answer.
struct Asked {
    question: String,
    answer: String,
}

/// The questions that the quickstart shows, none of which is trained on.
fn showcase() -> Result<Vec<Asked>> {
    let content = |message: &Value| message["content"].as_str().map(str::to_owned);
    let asked = |line: &str| {
        let row: Value = serde_json::from_str(line).ok()?;
        let messages = row["messages"].as_array()?;
        Some(Asked { question: content(messages.first()?)?, answer: content(messages.last()?)? })
    };
    let broken = || Error::internal("quickstart", "showcase.jsonl is not as it was built");
    SHOWCASE.lines().map(|line| asked(line).ok_or_else(broken)).collect()
}

/// The model's greedy answers to the showcase questions, each on one line.
fn answers(trainer: &Trainer, text: &TextProcessor) -> Result<Vec<String>> {
    let model = &trainer.model;
    let settings = GenerationSettings {
        sampling: Sampling::GREEDY,
        max_new_tokens: ANSWER_TOKENS,
        warnings: Vec::new(),
    };
    let mut generator = Generator::new(&settings, 0);
    let stop_ids = stop_ids(text, &model.config);
    let mut found = Vec::new();
    for asked in showcase()? {
        let prompt = chat_prompt(text, &model.config, &conversation(None, &asked.question))?;
        let mut answer = String::new();
        generator.answer(model, text.tokenizer.as_ref(), prompt, &stop_ids, &mut |piece| {
            answer += piece;
            Ok(ControlFlow::Continue(()))
        })?;
        found.push(answer.split_whitespace().collect::<Vec<_>>().join(" "));
        generator.clear();
    }
    Ok(found)
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
