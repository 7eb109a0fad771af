//! The dotted parts of an opcode.

use crate::isa::Round;
use crate::ptx::ParseError;
use crate::ptx::ast::{Instruction, Type};

/// What follows the first word of an opcode; rules take the parts they know and [`Modifiers::finish`] refuses the rest.
pub(super) struct Modifiers<'a> {
    pub base: &'a str,
    pub line: u32,
    opcode: &'a str,
    parts: Vec<&'a str>,
}

impl<'a> Modifiers<'a> {
    pub fn new(instruction: &Instruction<'a>) -> Self {
        let mut parts = instruction.opcode.split('.');
        let base = parts.next().unwrap_or("");
        Self { base, line: instruction.line, opcode: instruction.opcode, parts: parts.collect() }
    }

    /// An error that names the instruction.
    pub fn error(&self, message: impl AsRef<str>) -> ParseError {
        ParseError::new(self.line, format!("`{}` {}", self.opcode, message.as_ref()))
    }

    pub fn take(&mut self, name: &str) -> bool {
        let found = self.parts.iter().position(|p| *p == name);
        if let Some(at) = found {
            self.parts.remove(at);
        }
        found.is_some()
    }

    /// Takes the first part that `parse` understands.
    pub fn take_parsed<T>(&mut self, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (at, value) =
            self.parts.iter().enumerate().find_map(|(at, part)| Some((at, parse(part)?)))?;
        self.parts.remove(at);
        Some(value)
    }

    /// Which of `names` comes first in the opcode.
    pub fn first_of(&self, names: &[&'static str]) -> Option<&'static str> {
        self.parts.iter().find_map(|part| names.iter().copied().find(|name| name == part))
    }

    /// The first of `choices` that is present.
    pub fn choose<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        choices.iter().find(|(name, _)| self.take(name)).map(|(_, value)| *value)
    }

    /// [`Modifiers::choose`], or an error that lists the choices.
    pub fn require<T: Copy>(&mut self, choices: &[(&str, T)]) -> Result<T, ParseError> {
        self.choose(choices).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!(".{name}")).collect();
            self.error(format!("needs one of {}", names.join(", ")))
        })
    }

    /// Drops modifiers that change speed or ordering but no result here.
    pub fn ignore(&mut self, names: &[&str]) {
        self.parts.retain(|part| !names.contains(part));
    }

    /// Drops modifiers with one of these prefixes (cache hints such as `L2::128B`).
    pub fn ignore_prefixes(&mut self, prefixes: &[&str]) {
        self.parts.retain(|part| !prefixes.iter().any(|prefix| part.starts_with(prefix)));
    }

    /// The next type.
    pub fn ty(&mut self) -> Result<Type, ParseError> {
        let found = self.parts.iter().position(|p| Type::parse(p).is_some());
        let Some(at) = found else { return Err(self.error("has no type that is supported")) };
        let name = self.parts.remove(at);
        Type::parse(name).ok_or_else(|| self.error("has no type that is supported"))
    }

    /// Whether the last type is a floating-point one.
    pub fn is_float(&self) -> bool {
        self.parts.iter().rev().find_map(|p| Type::parse(p)).is_some_and(Type::is_float)
    }

    /// A rounding modifier, either spelling.
    pub fn round(&mut self) -> Option<Round> {
        self.choose(&[
            ("rn", Round::Nearest),
            ("rz", Round::Zero),
            ("rm", Round::Down),
            ("rp", Round::Up),
            ("rna", Round::NearestAway),
        ])
    }

    /// An integer rounding modifier (`rni`, `rzi`, ...).
    pub fn round_integer(&mut self) -> Option<Round> {
        self.choose(&[
            ("rni", Round::Nearest),
            ("rzi", Round::Zero),
            ("rmi", Round::Down),
            ("rpi", Round::Up),
        ])
    }

    /// What is left must be nothing.
    pub fn finish(&self) -> Result<(), ParseError> {
        match self.parts.first() {
            None => Ok(()),
            Some(part) => {
                Err(self.error(format!("has the modifier `.{part}`, which is not supported")))
            }
        }
    }
}
