//! The programs: each takes its parsed command line and does the work.

mod comparisons;
pub mod evaluate;
pub mod export;
pub mod generate;
mod next_steps;
pub mod open;
pub mod progress;
pub mod quickstart;
mod scores;
mod signals;
mod terminal;
pub mod train;
pub mod verify;
mod verify_model;

use crate::files;
use std::path::Path;

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
    let path = files::without_detours(path);
    let current = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&current).unwrap_or(&path).display().to_string()
}

/// Whether what goes to a terminal is coloured there: unless the user asks for none
/// (<https://no-color.org>).
fn in_colour(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
