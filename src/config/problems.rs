//! All that is wrong with a config, and what of it has no effect, each told in one go.

use super::tree::Place;
use crate::error::{Error, Result};

/// One thing that is wrong.
pub(super) struct Problem {
    /// Line of the config file, to tell problems in the order of the lines.
    line: usize,
    /// What is wrong, with its place.
    text: String,
    /// What is known instead; told once, however many problems it would answer.
    known: Option<String>,
}

/// The most problems that are told: a file of another kind has one in every line.
const MOST: usize = 100;

/// What is wrong with a config.
#[derive(Default)]
pub(super) struct Problems {
    told: Vec<Problem>,
    /// How many more there are.
    more: usize,
}

impl Problems {
    /// Whether further problems are only counted.
    pub fn is_full(&self) -> bool {
        self.told.len() >= MOST
    }

    /// Adds a problem of what stands at `place`, unless it has been told.
    pub fn add(&mut self, place: &Place, text: &str) {
        self.add_with(place, text, None);
    }

    /// Adds a problem, and what is known instead.
    pub fn add_with(&mut self, place: &Place, text: &str, known: Option<String>) {
        let line = match place {
            Place::Line(_, line) => *line,
            Place::CommandLine(_) => usize::MAX,
        };
        self.push(Problem { line, text: format!("{place}: {text}"), known });
    }

    /// Takes the value of a result, or adds its error, which names its place itself.
    pub fn take<T>(&mut self, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| {
                self.push(Problem { line: usize::MAX, text: error.to_string(), known: None });
            })
            .ok()
    }

    fn push(&mut self, problem: Problem) {
        if self.is_full() {
            self.more += 1;
        } else if self.told.iter().all(|told| told.text != problem.text) {
            self.told.push(problem);
        }
    }

    /// The error that tells them all: one as its own line, several below a line that counts them.
    pub fn into_error(mut self) -> Option<Error> {
        self.told.sort_by_key(|problem| problem.line);
        match self.told.as_slice() {
            [] => None,
            [Problem { text, known: None, .. }] => Some(Error::input(text)),
            [Problem { text, known: Some(known), .. }] => {
                Some(Error::input(format!("{text}: {known}")))
            }
            several => {
                let count = several.len() + self.more;
                let mut text = format!("{count} things are wrong in the config:");
                let mut known: Vec<&str> = Vec::new();
                for problem in several {
                    text += &format!("\n  {}", problem.text);
                    known.extend(problem.known.as_deref());
                }
                if self.more > 0 {
                    text += &format!("\n  and {} more", self.more);
                }
                known.sort_unstable();
                known.dedup();
                known.iter().for_each(|known| text += &format!("\n  {known}"));
                Some(Error::input(text))
            }
        }
    }
}

/// Keys that were read and have no effect.
#[derive(Default)]
pub(super) struct Notes(Vec<Note>);

/// Keys of one file, or the command line, that have none for one reason.
struct Note {
    source: String,
    keys: Vec<String>,
    why: String,
}

impl Notes {
    /// `key`, at `place`, has no effect.
    pub fn add(&mut self, place: &Place, key: &str, why: &str) {
        let source = match place {
            Place::Line(file, _) => file,
            Place::CommandLine(text) => text,
        };
        let same = |note: &&mut Note| note.source == **source && note.why == why;
        match self.0.iter_mut().find(same) {
            Some(note) => note.keys.push(key.to_owned()),
            None => self.0.push(Note {
                source: source.to_string(),
                keys: vec![key.to_owned()],
                why: why.to_owned(),
            }),
        }
    }

    /// A line for each reason: `run.yml: wandb_project, wandb_entity: no value, left out`.
    pub fn into_lines(self) -> Vec<String> {
        let line = |Note { source, keys, why }| format!("{source}: {}: {why}", keys.join(", "));
        self.0.into_iter().map(line).collect()
    }
}
