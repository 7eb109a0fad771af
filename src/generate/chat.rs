//! A conversation in a terminal, line by line.

use std::io::{self, BufRead, Write};
use std::ops::ControlFlow;

use serde_json::{Value, json};

use super::{Finish, Generator, chat_prompt, stop_ids};
use crate::adapter::{self, PeftAdapter};
use crate::error::{Error, Result};
use crate::model::transformer::Model;
use crate::tokenizer::TextProcessor;

const HELP: &str = "\
/adapter NAME   answer with this adapter from now on (/adapter none: with the base model)
/adapter        list the adapters
/system TEXT    set the system message (without TEXT: remove it)
/reset          forget the conversation, except for the system message
/help           show this
/quit           leave; so does the end of the input (Ctrl-D)
Everything else is a message to the model; // begins a message with a slash. In a terminal, Ctrl-C stops \
an answer, and the up key brings back what was typed.";

/// What the model can speak as: the base model, or an adapter on it.
pub struct Voice<'a> {
    /// The name that `/adapter` takes; `none` is the base model's.
    pub name: String,
    /// The adapter, if it is one.
    pub adapter: Option<&'a PeftAdapter>,
    /// The tokenizer and template that go with it.
    pub text: &'a TextProcessor,
}

/// Where the user is.
pub struct Console<'a> {
    /// What the user types.
    pub input: &'a mut dyn Input,
    /// Where answers go.
    pub output: &'a mut dyn Write,
    /// Where everything else goes.
    pub messages: &'a mut dyn Write,
    /// Whether the user has asked, since the last time, for the answer to stop.
    pub stopped: &'a dyn Fn() -> bool,
}

/// Where lines come from.
pub trait Input {
    /// The next thing that the user enters.
    ///
    /// # Errors
    /// `Error::Io` where reading fails.
    fn next(&mut self) -> Result<Entered>;
}

/// What a user enters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entered {
    /// A line.
    Line(String),
    /// A line that is not valid UTF-8.
    NotText,
    /// Ctrl-C in place of a line.
    Interrupted,
    /// The end of the input.
    End,
}

/// The lines of a file or a pipe, or of a terminal that edits them itself.
pub struct Lines<'a> {
    /// Where they are read.
    pub reader: &'a mut dyn BufRead,
    /// What is shown where one is awaited.
    pub mark: &'a str,
}

impl Input for Lines<'_> {
    fn next(&mut self) -> Result<Entered> {
        let _ = io::stderr().write_all(self.mark.as_bytes());
        let mut line = Vec::new();
        let read = self.reader.read_until(b'\n', &mut line);
        match read.map_err(|error| Error::io("cannot read the input", error))? {
            0 => Ok(Entered::End),
            _ => Ok(String::from_utf8(line).map_or(Entered::NotText, Entered::Line)),
        }
    }
}

/// A conversation.
pub struct Chat<'a> {
    model: &'a mut Model,
    generator: Generator,
    voices: Vec<Voice<'a>>,
    /// Index of the voice that answers; its adapter is the one that is attached.
    voice: usize,
    stop_ids: Vec<u32>,
    system: Option<String>,
    messages: Vec<Value>,
}

/// A line of input.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Nothing,
    Message(&'a str),
    Adapter(&'a str),
    System(&'a str),
    Reset,
    Help,
    Quit,
    Unknown(&'a str),
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Self {
        let line = line.trim();
        if line.is_empty() {
            return Self::Nothing;
        }
        let Some(command) = line.strip_prefix('/') else { return Self::Message(line) };
        if command.starts_with('/') {
            return Self::Message(command);
        }
        let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (name, argument.trim()) {
            ("adapter", argument) => Self::Adapter(argument),
            ("system", argument) => Self::System(argument),
            ("reset", "") => Self::Reset,
            ("help", "") => Self::Help,
            ("quit" | "exit", "") => Self::Quit,
            _ => Self::Unknown(line),
        }
    }
}

impl<'a> Chat<'a> {
    /// A conversation that `voices[voice]` answers; its adapter gets attached.
    ///
    /// # Errors
    /// As [`adapter::attach`].
    pub fn new(
        model: &'a mut Model,
        generator: Generator,
        voices: Vec<Voice<'a>>,
        voice: usize,
        system: Option<&str>,
    ) -> Result<Self> {
        let (system, messages) = (system.map(str::to_owned), Vec::new());
        let stop_ids = Vec::new();
        let mut chat = Self { model, generator, voices, voice, stop_ids, system, messages };
        chat.speak_as(voice)?;
        Ok(chat)
    }

    /// Reads lines and answers until the input ends, or nobody reads the answers any more.
    ///
    /// What is wrong with one message (too long, refused by the template) is said, and the
    /// conversation goes on without it.
    ///
    /// # Errors
    /// `Error::Input` when the model has no chat template; `Error::Io` when reading or writing
    /// fails; what computing reports.
    pub fn run(&mut self, console: &mut Console) -> Result<()> {
        loop {
            let line = match console.input.next()? {
                Entered::Line(line) => line,
                Entered::End => return Ok(()),
                Entered::NotText => {
                    say(console, "the line is not valid UTF-8 and is left out\n");
                    continue;
                }
                Entered::Interrupted => {
                    say(console, "/quit or Ctrl-D leaves\n");
                    continue;
                }
            };
            match Line::parse(&line) {
                Line::Nothing => {}
                Line::Quit => return Ok(()),
                Line::Message(message) => {
                    if self.answer(message, console)?.is_break() {
                        return Ok(());
                    }
                }
                Line::Adapter("") => say(console, &format!("{}\n", self.adapters())),
                Line::Adapter(name) => {
                    let said = self.switch(name)?;
                    say(console, &format!("{said}\n"));
                }
                Line::System(text) => {
                    self.system = (!text.is_empty()).then(|| text.to_owned());
                    let said = if text.is_empty() { "removed" } else { "set" };
                    say(console, &format!("system message {said}\n"));
                }
                Line::Reset => {
                    self.messages.clear();
                    say(console, "conversation forgotten\n");
                }
                Line::Help => say(console, &format!("{HELP}\n")),
                Line::Unknown(line) => {
                    say(console, &format!("unknown command {line}; /help lists the commands\n"))
                }
            }
        }
    }

    /// Answers a message; breaks when nobody reads the answer.
    fn answer(&mut self, message: &str, console: &mut Console) -> Result<ControlFlow<()>> {
        self.messages.push(json!({"role": "user", "content": message}));
        let text = self.voices[self.voice].text;
        let system = self.system.iter().map(|text| json!({"role": "system", "content": text}));
        let messages: Vec<Value> = system.chain(self.messages.iter().cloned()).collect();
        let Console { output, stopped, .. } = console;
        // What was asked before this answer is not about it.
        stopped();
        let mut nobody_reads = false;
        let completion = chat_prompt(text, &self.model.config, &messages).and_then(|prompt| {
            let tokenizer = text.tokenizer.as_ref();
            self.generator.answer(self.model, tokenizer, prompt, &self.stop_ids, &mut |piece| {
                nobody_reads = write(*output, piece)?.is_break();
                let ends = nobody_reads || stopped();
                Ok(if ends { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })
        });
        match completion {
            Ok(_) if nobody_reads => return Ok(ControlFlow::Break(())),
            Ok(completion) => {
                self.messages.push(json!({"role": "assistant", "content": completion.text}));
                match completion.finish {
                    Finish::ContextFull => {
                        say(console, "\n[the model's context is full; /reset begins anew]");
                    }
                    Finish::Cancelled => say(console, " [stopped]"),
                    Finish::Stop | Finish::MaxNewTokens => {}
                }
                return write(console.output, "\n");
            }
            Err(Error::Input(why)) if text.template.is_some() => {
                self.messages.pop();
                say(console, &format!("{why}; the message is left out (/reset begins anew)\n"));
            }
            Err(error) => return Err(error),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Changes the voice by name; what to tell the user.
    fn switch(&mut self, name: &str) -> Result<String> {
        match self.voices.iter().position(|voice| voice.name == name) {
            None => Ok(format!("there is no adapter {name}; {}", self.adapters())),
            Some(voice) => {
                if voice != self.voice {
                    self.speak_as(voice)?;
                }
                Ok(self.adapters())
            }
        }
    }

    fn speak_as(&mut self, voice: usize) -> Result<()> {
        adapter::detach(self.model)?;
        if let Some(adapter) = self.voices[voice].adapter {
            adapter::attach(self.model, adapter)?;
        }
        // Keys and values of the other voice are not this one's.
        self.generator.clear();
        self.voice = voice;
        self.stop_ids = stop_ids(self.voices[voice].text, &self.model.config);
        Ok(())
    }

    /// Who answers, and who else could.
    fn adapters(&self) -> String {
        let is_base = |voice: &&Voice| voice.adapter.is_none();
        let now = &self.voices[self.voice];
        let others = self.voices.iter().filter(|voice| !is_base(voice) && voice.name != now.name);
        let others: Vec<&str> = others.map(|voice| voice.name.as_str()).collect();
        let others = others.join(", ");
        match (is_base(&now), others.is_empty()) {
            (true, true) => {
                "the base model answers; there are no adapters (--adapter DIR brings one)"
                    .to_owned()
            }
            (true, false) => format!("the base model answers; adapters: {others}"),
            (false, true) => format!("adapter {} answers; none is the base model", now.name),
            (false, false) => {
                format!("adapter {} answers; others: {others}; none is the base model", now.name)
            }
        }
    }
}

/// Writes a piece of an answer at once; breaks where the reader has gone.
fn write(output: &mut dyn Write, piece: &str) -> Result<ControlFlow<()>> {
    match output.write_all(piece.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Error::io("cannot write the answer", error)),
    }
}

/// Tells the user something. That nobody reads it is no reason to stop.
fn say(console: &mut Console, text: &str) {
    let _ = console.messages.write_all(text.as_bytes()).and_then(|()| console.messages.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        for (line, expected) in [
            ("", Line::Nothing),
            ("  \n", Line::Nothing),
            (" hello /there \n", Line::Message("hello /there")),
            ("//etc is a path", Line::Message("/etc is a path")),
            ("/adapter  tuned ", Line::Adapter("tuned")),
            ("/adapter", Line::Adapter("")),
            ("/system Be brief. Always.", Line::System("Be brief. Always.")),
            ("/reset", Line::Reset),
            ("/help", Line::Help),
            ("/quit\n", Line::Quit),
            ("/quit now", Line::Unknown("/quit now")),
            ("/adapt", Line::Unknown("/adapt")),
        ] {
            assert_eq!(Line::parse(line), expected, "{line:?}");
        }
    }
}
