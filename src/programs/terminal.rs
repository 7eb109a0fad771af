//! A user at a terminal: how wide it is, lines with editing and history, and Ctrl-C that stops an answer.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustyline::error::ReadlineError;
use rustyline::{Behavior, Config, DefaultEditor};
use signal_hook::consts::SIGINT;
use signal_hook::flag;

use crate::error::{Error, Result};
use crate::generate::{Entered, Input};

/// A line editor. What was typed comes back with the up key as long as the program runs; it is written
/// nowhere.
pub struct Terminal {
    editor: DefaultEditor,
    prompt: &'static str,
}

impl Terminal {
    /// An editor that shows `prompt` where a line is awaited.
    ///
    /// # Errors
    /// `Error::Io` where the terminal does not answer.
    pub fn new(prompt: &'static str) -> Result<Self> {
        let config = Config::builder().auto_add_history(true).build();
        let editor = DefaultEditor::with_config(config).map_err(broken)?;
        Ok(Self { editor, prompt })
    }
}

impl Input for Terminal {
    fn next(&mut self) -> Result<Entered> {
        match self.editor.readline(self.prompt) {
            Ok(line) => Ok(Entered::Line(line)),
            Err(ReadlineError::Eof) => Ok(Entered::End),
            Err(ReadlineError::Interrupted) => Ok(Entered::Interrupted),
            // The window has another size.
            Err(ReadlineError::Signal(_)) => Ok(Entered::Line(String::new())),
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                Ok(Entered::NotText)
            }
            Err(error) => Err(broken(error)),
        }
    }
}

fn broken(error: ReadlineError) -> Error {
    let error = match error {
        ReadlineError::Io(error) => error,
        other => std::io::Error::other(other),
    };
    Error::io("cannot read from the terminal", error)
}

/// The terminal's size, which may change.
pub struct Screen(DefaultEditor);

impl Screen {
    /// The terminal of this process; none where there is none.
    pub fn new() -> Option<Self> {
        let config = Config::builder().behavior(Behavior::PreferTerm).build();
        DefaultEditor::with_config(config).ok().map(Self)
    }

    /// Its width now; none where it does not say.
    pub fn columns(&mut self) -> Option<usize> {
        self.0.dimensions().map(|(columns, _)| usize::from(columns)).filter(|columns| *columns > 0)
    }
}

/// Ctrl-C from now on: whether it was pressed since the last time this was asked. Pressed twice, it ends
/// the program.
pub fn interrupts() -> impl Fn() -> bool {
    let pressed = Arc::new(AtomicBool::new(false));
    // Where a handler cannot be set, Ctrl-C ends the program as it always did.
    let set = flag::register_conditional_shutdown(SIGINT, 130, pressed.clone());
    drop(set.and_then(|_| flag::register(SIGINT, pressed.clone())));
    move || pressed.swap(false, Ordering::Relaxed)
}
