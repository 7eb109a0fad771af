//! The programs: each takes its parsed command line and does the work.

pub mod evaluate;
pub mod export;
pub mod generate;
pub mod open;
pub mod progress;
pub mod quickstart;
mod signals;
pub mod train;
pub mod verify;

use std::path::{Component, Path, PathBuf};

/// How a program is called: through the installed `tunesmith`, or from the repository.
fn called(program: &str) -> String {
    let this = std::env::current_exe().ok();
    match this.as_deref().and_then(Path::file_stem).is_some_and(|name| name == "tunesmith") {
        true => format!("tunesmith {program}"),
        false => format!("cargo run --release --bin {program} --"),
    }
}

/// A path as a user types it: from the current directory where it lies there, without detours.
fn shown(path: &Path) -> String {
    let mut direct = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir if direct.file_name().is_some() => _ = direct.pop(),
            other => direct.push(other),
        }
    }
    // With symbolic links, `a/link/..` is not `a`.
    let same = direct.canonicalize().ok() == path.canonicalize().ok();
    let path = if same { &direct } else { path };
    let current = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&current).unwrap_or(path).display().to_string()
}
