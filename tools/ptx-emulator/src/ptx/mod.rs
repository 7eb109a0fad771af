//! The text form: tokens, syntax tree, parser.

pub(crate) mod ast;
mod body;
pub(crate) mod lexer;
pub(crate) mod parser;

/// PTX text that this crate cannot parse or does not support.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {message}")]
pub struct ParseError {
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// What was found and what was expected.
    pub message: String,
}

impl ParseError {
    pub(crate) fn new(line: u32, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}
