//! Which checkpoint a run goes on from.

use std::path::{Path, PathBuf};

use crate::config::{Resume, TrainConfig};
use crate::error::{Error, Result};
use crate::files::manifest;

/// What a run that has not saved a checkpoint yet leaves in its directory.
const BEFORE_THE_FIRST: [&str; 2] = ["config.toml", "metrics.jsonl"];

/// Where a run starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Start {
    /// The checkpoint that it goes on from.
    pub checkpoint: Option<PathBuf>,
    /// What its user should know.
    pub notes: Vec<String>,
}

/// The checkpoint that the config asks to go on from, if it does: the newest whole one. Where there is none
/// because the run was stopped before it saved one, it begins anew.
///
/// # Errors
/// `Error::Input` where the checkpoint that was asked for is damaged, or all are; where `output_dir` holds
/// something else than a run.
pub fn find(config: &TrainConfig) -> Result<Start> {
    match &config.resume {
        Resume::No => Ok(Start::default()),
        Resume::From(dir) => match manifest::verify(dir) {
            Ok(()) => Ok(Start { checkpoint: Some(dir.clone()), notes: Vec::new() }),
            Err(why) => Err(Error::input(format!(
                "{} is no checkpoint, or a damaged one: {why}; give another, or --resume for the \
                 newest whole one in output_dir",
                dir.display()
            ))),
        },
        Resume::Latest => newest(&config.output_dir),
    }
}

fn newest(output_dir: &Path) -> Result<Start> {
    let mut notes = Vec::new();
    let shown = output_dir.display();
    for (_, path) in checkpoints(output_dir).into_iter().rev() {
        match manifest::verify(&path) {
            Ok(()) => return Ok(Start { checkpoint: Some(path), notes }),
            Err(why) => notes.push(format!(
                "{} is damaged ({why}), so the checkpoint before it is taken",
                path.display()
            )),
        }
    }
    if !notes.is_empty() {
        return Err(Error::input(format!(
            "--resume: there is no whole checkpoint in {shown}: {}; start a new run in another \
             output_dir",
            notes.join("; ").replace(", so the checkpoint before it is taken", "")
        )));
    }
    let entries = std::fs::read_dir(output_dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut others =
        names.filter(|name| !name.starts_with('.') && !BEFORE_THE_FIRST.contains(&name.as_str()));
    if let Some(other) = others.next() {
        return Err(Error::input(format!(
            "--resume: there is no checkpoint in {shown}, and it holds {other}, which beginning anew \
             might write over: give the directory of a checkpoint with --resume=DIR, or another \
             output_dir"
        )));
    }
    let note = format!("--resume: no checkpoint was saved in {shown} yet: the run begins anew");
    Ok(Start { checkpoint: None, notes: vec![note] })
}

/// The directory of the checkpoint of a step.
pub fn directory(output_dir: &Path, step: u64) -> PathBuf {
    output_dir.join(format!("checkpoint-{step}"))
}

/// The checkpoints in a directory, whole or not, by step.
pub fn checkpoints(output_dir: &Path) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(output_dir).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let step = name.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            entry.path().is_dir().then_some((step, entry.path()))
        })
        .collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn latest(output_dir: &Path) -> Result<Start> {
        let config = TrainConfig {
            output_dir: output_dir.to_owned(),
            resume: Resume::Latest,
            ..TrainConfig::default()
        };
        find(&config)
    }

    fn save(dir: &Path, step: u64) -> PathBuf {
        let path = dir.join(format!("checkpoint-{step}"));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("weights"), step.to_string()).unwrap();
        manifest::write(&path).unwrap();
        path
    }

    #[test]
    fn the_newest_whole_checkpoint_is_taken_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let [nine, ten] = [9, 10].map(|step| save(dir.path(), step));
        let found = latest(dir.path()).unwrap();
        assert_eq!(found, Start { checkpoint: Some(ten.clone()), notes: Vec::new() });
        fs::write(ten.join("weights"), "11").unwrap();
        let found = latest(dir.path()).unwrap();
        assert_eq!(found.checkpoint, Some(nine.clone()));
        assert!(found.notes[0].contains("checkpoint-10 is damaged (the content of weights"));
        fs::remove_file(nine.join("manifest.json")).unwrap();
        let error = latest(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("no whole checkpoint") && error.contains("manifest.json"),
            "{error}"
        );
    }

    #[test]
    fn a_run_without_a_checkpoint_begins_anew_and_nothing_else_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let anew = |dir: &Path| {
            let found = latest(dir).unwrap();
            assert_eq!(found.checkpoint, None);
            assert!(found.notes[0].contains("begins anew"), "{:?}", found.notes);
        };
        anew(&dir.path().join("absent"));
        anew(dir.path());
        for name in ["config.toml", "metrics.jsonl", ".config.toml.partial"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        anew(dir.path());
        fs::write(dir.path().join("adapter_model.safetensors"), "").unwrap();
        let error = latest(dir.path()).unwrap_err().to_string();
        assert!(error.contains("holds adapter_model.safetensors"), "{error}");
    }
}
