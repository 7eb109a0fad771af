//! What the program says to inputs that are wrong: the exit status, one message that says what, where
//! and what to do, and nothing written.

#![cfg(feature = "cli")]

#[path = "../common/mod.rs"]
mod common;
mod data;
mod files;
mod models;
mod runs;
mod settings;

use common::{fixture, write_model};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const CONFIG: &str = r#"
model = "model"
output_dir = "out"
device = "cpu"

[lora]
r = 2

[data]
train = "data.jsonl"

[train]
max_steps = 2
"#;

const TRAIN: &str = "train config.toml";
const WEIGHTS: &str = "model/model.safetensors";
const ADAPTER: &str = "adapter/adapter_model.safetensors";

/// Good inputs that were spoiled, the command line, and what is to come of it.
struct Case {
    what: &'static str,
    spoil: fn(&Path),
    arguments: &'static str,
    status: i32,
    says: &'static [&'static str],
}

fn case(
    what: &'static str,
    spoil: fn(&Path),
    arguments: &'static str,
    says: &'static [&'static str],
) -> Case {
    Case { what, spoil, arguments, status: 2, says }
}

/// A model, an adapter, data and a config that train as they are.
fn good_inputs() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_model(&dir.path().join("model"));
    fs::create_dir(dir.path().join("adapter")).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let source = fixture("trajectories/llama/adapter").join(name);
        fs::copy(source, dir.path().join("adapter").join(name)).unwrap();
    }
    let row = |i: u32| format!("{{\"text\": \"{i} and {i} make {}.\"}}\n", 2 * i);
    fs::write(dir.path().join("data.jsonl"), (0..8).map(row).collect::<String>()).unwrap();
    fs::write(dir.path().join("config.toml"), CONFIG).unwrap();
    dir
}

fn program(dir: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunesmith"));
    command.args(arguments.split_whitespace()).current_dir(dir).stdin(Stdio::null());
    command.env("HF_HOME", dir.join("no-cache")).env_remove("HF_HUB_CACHE");
    command
}

fn run(dir: &Path, arguments: &str) -> Output {
    program(dir, arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Every file below a folder with its bytes, and every folder.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let bytes = if path.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
            if path.is_dir() {
                pending.push(path.clone());
            }
            found.insert(path, bytes);
        }
    }
    found
}

/// Runs every case; all that fail are told together.
fn check(cases: &[Case]) {
    let problems: Vec<String> = cases.par_iter().filter_map(|case| problem(case).err()).collect();
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

fn problem(case: &Case) -> Result<(), String> {
    let inputs = good_inputs();
    let dir = inputs.path();
    (case.spoil)(dir);
    let before = contents(dir);
    let output = run(dir, case.arguments);
    let text = stderr(&output);
    let fail = |why: String| Err(format!("{}: {why}\n{text}", case.what));
    if output.status.code() != Some(case.status) {
        return fail(format!("exit status {:?}, expected {}", output.status.code(), case.status));
    }
    if let Some(missing) = case.says.iter().find(|phrase| !text.contains(**phrase)) {
        return fail(format!("does not say {missing:?}"));
    }
    let errors = text.lines().filter(|line| line.starts_with("error:")).count();
    if errors != 1 || text.contains("panicked") || !output.stdout.is_empty() {
        return fail(format!("{errors} errors, {} bytes on stdout", output.stdout.len()));
    }
    if contents(dir) != before {
        return fail("files were written".into());
    }
    Ok(())
}

/// Replaces text in a file; it must be there.
fn replace(path: PathBuf, old: &str, new: &str) {
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(old), "{} has no {old}", path.display());
    fs::write(path, text.replacen(old, new, 1)).unwrap();
}

fn config(dir: &Path, old: &str, new: &str) {
    replace(dir.join("config.toml"), old, new);
}

fn model(dir: &Path, old: &str, new: &str) {
    replace(dir.join("model/config.json"), old, new);
}

fn adapter(dir: &Path, old: &str, new: &str) {
    config(dir, "r = 2", "adapter = \"adapter\"");
    replace(dir.join("adapter/adapter_config.json"), old, new);
}

fn data(dir: &Path, text: &str) {
    fs::write(dir.join("data.jsonl"), text).unwrap();
}

fn remove(dir: &Path, name: &str) {
    fs::remove_file(dir.join(name)).unwrap();
}

/// Renames a tensor or changes a shape in the header of a file, whose length stays the same.
fn header(path: PathBuf, old: &str, new: &str) {
    assert_eq!(old.len(), new.len());
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(old.len()).position(|part| part == old.as_bytes());
    let at = at.unwrap_or_else(|| panic!("{} has no {old}", path.display()));
    let bytes = [&bytes[..at], new.as_bytes(), &bytes[at + old.len()..]].concat();
    fs::write(path, bytes).unwrap();
}

/// Moves the weights out of the model's directory and writes an index that points to `file`.
fn index(dir: &Path, file: &str) {
    fs::rename(dir.join(WEIGHTS), dir.join("elsewhere.safetensors")).unwrap();
    let text = format!("{{\"weight_map\": {{\"model.norm.weight\": \"{file}\"}}}}");
    fs::write(dir.join("model/model.safetensors.index.json"), text).unwrap();
}

fn template(dir: &Path, source: &str) {
    data(
        dir,
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}",
    );
    fs::write(dir.join("model/chat_template.jinja"), source).unwrap();
}

/// A run that has saved a checkpoint.
fn train(dir: &Path) {
    let output = run(dir, TRAIN);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn good_inputs_train() {
    let inputs = good_inputs();
    train(inputs.path());
    assert!(inputs.path().join("out/adapter_model.safetensors").is_file());
}
