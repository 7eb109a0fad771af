//! Typed reads of a [`Node`]: the value, or a message that says what was expected and found.

use super::choice::Choice;
use super::tree::{Entry, Node, Value};

/// A message about one value; the caller adds its place and key.
pub type Read<T> = Result<T, String>;

impl Node {
    /// What was written, in words, for messages.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            Value::Float(value) => format!("{value:?}"),
            Value::Text(text) => format!("the text {text:?}"),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
        }
    }

    fn expected<T>(&self, what: &str) -> Read<T> {
        Err(format!("expected {what}, found {}", self.describe()))
    }

    /// `true` or `false`.
    pub fn bool(&self) -> Read<bool> {
        match self.value {
            Value::Bool(value) => Ok(value),
            _ => self.expected("true or false"),
        }
    }

    /// A whole number of at least `min`.
    pub fn whole<T: TryFrom<i64>>(&self, min: i64) -> Read<T> {
        match self.value {
            Value::Integer(value) if value >= min => match T::try_from(value) {
                Ok(value) => Ok(value),
                Err(_) => Err(format!("{value} is too large")),
            },
            _ => self.expected(&format!("a whole number of at least {min}")),
        }
    }

    /// A finite number for which `valid` holds; `what` says which those are.
    pub fn real(&self, what: &str, valid: impl Fn(f64) -> bool) -> Read<f64> {
        let value = match self.value {
            Value::Integer(value) => value as f64,
            Value::Float(value) => value,
            _ => return self.expected(what),
        };
        if value.is_finite() && valid(value) { Ok(value) } else { self.expected(what) }
    }

    /// A number of at least 0.
    pub fn non_negative(&self) -> Read<f64> {
        self.real("a number of at least 0", |value| value >= 0.0)
    }

    /// A number above 0.
    pub fn above_zero(&self) -> Read<f64> {
        self.real("a number above 0", |value| value > 0.0)
    }

    /// A number from 0 up to but not including 1.
    pub fn fraction(&self) -> Read<f64> {
        self.real("a number from 0 up to but not including 1", |value| (0.0..1.0).contains(&value))
    }

    /// A share of labels that may be wrong: a number from 0 up to but not including 0.5.
    pub fn label_smoothing(&self) -> Read<f64> {
        self.real("a number from 0 up to but not including 0.5", |share| {
            (0.0..0.5).contains(&share)
        })
    }

    /// Text that is not empty; a command-line value counts as the text that was typed.
    pub fn text(&self) -> Read<&str> {
        let text = match (&self.value, &self.raw) {
            (Value::Text(text), _) => text,
            (_, Some(raw)) => raw,
            _ => return self.expected("text"),
        };
        if text.trim().is_empty() { self.expected("text that is not empty") } else { Ok(text) }
    }

    /// One of an enum's names.
    pub fn choice<C: Choice>(&self) -> Read<C> {
        match &self.value {
            Value::Text(text) => C::parse(text),
            _ => self.expected(&C::expected()),
        }
    }

    /// The items of a list.
    pub fn list(&self, what: &str) -> Read<&[Node]> {
        match &self.value {
            Value::List(items) if !items.is_empty() => Ok(items),
            Value::List(_) => Err(format!("expected {what}, found an empty list")),
            _ => self.expected(what),
        }
    }

    /// The entries of a table.
    pub fn table(&self, what: &str) -> Read<&[Entry]> {
        match &self.value {
            Value::Table(entries) => Ok(entries),
            _ => self.expected(what),
        }
    }
}
