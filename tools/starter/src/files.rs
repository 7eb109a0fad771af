//! What is written where.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::pairs::{Pair, pairs};
use crate::passages::passages;
use crate::questions::{Example, questions};
use crate::tokenizer;
use crate::world::World;

/// The one seed of everything.
pub const SEED: u64 = 1;
/// Passages of pretraining text by default: about 6 MB.
pub const PASSAGES: usize = 26_000;
/// Passages of held-out text; a few are dropped because the training text has them too.
const HELD_OUT_PASSAGES: usize = 300;
/// Passages the tokenizer is trained on: a stream of their own, so that it does not depend on how
/// much text is written.
const TOKENIZER_PASSAGES: usize = 4_000;

/// A file's path below the output directory, and its text.
pub type File = (&'static str, String);

/// The pretraining text, training and held-out.
pub fn corpus(world: &World, count: usize) -> [File; 2] {
    let train = passages(world, SEED, 1, count);
    let known: std::collections::HashSet<&String> = train.iter().collect();
    let mut held_out = passages(world, SEED, 2, HELD_OUT_PASSAGES);
    held_out.retain(|text| !known.contains(text));
    let lines =
        |texts: &[String]| texts.iter().map(|text| json!({ "text": text })).collect::<Vec<Value>>();
    [
        ("corpus/train.jsonl", json_lines(&lines(&train))),
        ("corpus/eval.jsonl", json_lines(&lines(&held_out))),
    ]
}

/// The tokenizer and the instruction data, which the repository carries.
///
/// # Errors
/// Only when the tokenizers library fails.
pub fn carried(world: &World) -> tokenizers::Result<[File; 7]> {
    let data = questions(world, SEED);
    let mut texts = passages(world, SEED, 3, TOKENIZER_PASSAGES);
    texts.extend(data.train.iter().map(|e| format!("user\n{}", e.question)));
    texts.extend(data.train.iter().map(|e| format!("assistant\n{}", e.answer)));
    let [train_pairs, eval_pairs] = pairs(&data, SEED);
    let pair_lines = |pairs: &[Pair]| json_lines(&pairs.iter().map(pair).collect::<Vec<_>>());
    let trained = tokenizer::train(&texts)?;
    let lines = |examples: &[Example]| json_lines(&examples.iter().map(line).collect::<Vec<_>>());
    Ok([
        ("starter/tokenizer.json", trained.to_string(false)? + "\n"),
        ("starter/tokenizer_config.json", format!("{:#}\n", tokenizer::config())),
        ("quickstart/train.jsonl", lines(&data.train)),
        ("quickstart/eval.jsonl", lines(&data.eval)),
        ("quickstart/showcase.jsonl", lines(&data.showcase)),
        ("quickstart/pairs.jsonl", pair_lines(&train_pairs)),
        ("quickstart/pairs-eval.jsonl", pair_lines(&eval_pairs)),
    ])
}

/// Writes files below `directory`, whose folders are made as needed.
///
/// # Errors
/// When the file system refuses, with the path in the message.
pub fn write(directory: &Path, files: &[File]) -> Result<(), String> {
    for (name, text) in files {
        let path = directory.join(name);
        let folder = path.parent().unwrap_or(directory);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, text))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

fn line(example: &Example) -> Value {
    let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
    let mut messages = Vec::new();
    messages.extend(example.system.map(|system| turn("system", system)));
    messages.push(turn("user", &example.question));
    messages.push(turn("assistant", &example.answer));
    json!({ "messages": messages })
}

fn pair(pair: &Pair) -> Value {
    let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
    let mut prompt = Vec::new();
    prompt.extend(pair.system.map(|system| turn("system", system)));
    prompt.push(turn("user", &pair.question));
    json!({
        "prompt": prompt,
        "chosen": [turn("assistant", &pair.chosen)],
        "rejected": [turn("assistant", &pair.rejected)],
    })
}

fn json_lines(values: &[Value]) -> String {
    values.iter().fold(String::new(), |mut text, value| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{value}");
        text
    })
}
