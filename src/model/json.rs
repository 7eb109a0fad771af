//! Typed access to a JSON object, with errors that name the file and the key.

use serde_json::{Map, Value};

use crate::{Error, Result};

/// A JSON object and where it was found. An absent key and `null` are the same thing here, as they
/// are for most keys of the Hugging Face files.
#[derive(Clone)]
pub(crate) struct Object<'a> {
    map: &'a Map<String, Value>,
    place: String,
}

impl<'a> Object<'a> {
    /// `place` is the file, followed by the path of keys down to this object.
    pub fn new(map: &'a Map<String, Value>, place: impl Into<String>) -> Self {
        Self { map, place: place.into() }
    }

    /// An error about `key`.
    pub fn error(&self, key: &str, what: impl std::fmt::Display) -> Error {
        Error::input(format!("{}: `{key}` {what}", self.place))
    }

    fn expected(&self, key: &str, what: &str, found: &Value) -> Error {
        self.error(key, format_args!("must be {what}, found {}", shorten(found)))
    }

    /// The value of `key`, if it is there and not null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is there, be it null.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The keys whose value is not null.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key.as_str())
    }

    /// A whole number of at most 2^31 - 1.
    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        let read = |value: &Value| match value.as_u64() {
            Some(n) if n <= i32::MAX as u64 => Ok(n as usize),
            _ => Err(self.expected(key, "a whole number from 0 to 2147483647", value)),
        };
        self.get(key).map(read).transpose()
    }

    /// A finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let read = |value: &Value| match value.as_f64() {
            Some(x) if x.is_finite() => Ok(x),
            _ => Err(self.expected(key, "a number", value)),
        };
        self.get(key).map(read).transpose()
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let read = |value: &Value| {
            value.as_bool().ok_or_else(|| self.expected(key, "true or false", value))
        };
        self.get(key).map(read).transpose()
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let read =
            |value: &'a Value| value.as_str().ok_or_else(|| self.expected(key, "a string", value));
        self.get(key).map(read).transpose()
    }

    /// A list of strings.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let read = |value: &'a Value| {
            let items = value.as_array().map(|items| items.iter().map(Value::as_str));
            items
                .and_then(|items| items.collect::<Option<Vec<_>>>())
                .ok_or_else(|| self.expected(key, "a list of strings", value))
        };
        self.get(key).map(read).transpose()
    }

    /// A list of finite numbers.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let read = |value: &Value| {
            let number = |item: &Value| item.as_f64().filter(|x| x.is_finite());
            let items = value.as_array().map(|items| items.iter().map(number));
            items
                .and_then(|items| items.collect::<Option<Vec<_>>>())
                .ok_or_else(|| self.expected(key, "a list of numbers", value))
        };
        self.get(key).map(read).transpose()
    }

    /// A list of whole numbers, each of at most 2^31 - 1.
    pub fn counts(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let read = |value: &Value| {
            let count =
                |item: &Value| item.as_u64().filter(|&n| n <= i32::MAX as u64).map(|n| n as usize);
            let items = value.as_array().map(|items| items.iter().map(count));
            items
                .and_then(|items| items.collect::<Option<Vec<_>>>())
                .ok_or_else(|| self.expected(key, "a list of whole numbers", value))
        };
        self.get(key).map(read).transpose()
    }

    /// A nested object.
    pub fn object(&self, key: &str) -> Result<Option<Object<'a>>> {
        let read = |value: &'a Value| match value.as_object() {
            Some(map) => Ok(Object::new(map, format!("{}: {key}", self.place))),
            None => Err(self.expected(key, "an object", value)),
        };
        self.get(key).map(read).transpose()
    }
}

/// Parses a file that must hold one JSON object.
pub(crate) fn parse_object(text: &str, place: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => {
            Err(Error::input(format!("{place}: expected a JSON object, found {}", shorten(&other))))
        }
        Err(error) => Err(Error::input(format!("{place}: not valid JSON: {error}"))),
    }
}

/// A value as it is shown in a message: never more than a line.
pub(crate) fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_file_key_and_value() {
        let map = parse_object(r#"{"a": "x", "b": {"c": -1}, "n": null}"#, "config.json").unwrap();
        let object = Object::new(&map, "config.json");
        assert_eq!(object.count("n").unwrap(), None);
        let message = object.number("a").unwrap_err().to_string();
        assert_eq!(message, "config.json: `a` must be a number, found \"x\"");
        let nested = object.object("b").unwrap().unwrap();
        let message = nested.count("c").unwrap_err().to_string();
        assert!(message.starts_with("config.json: b: `c` must be a whole number"), "{message}");
        assert!(parse_object("[1]", "x.json").unwrap_err().to_string().contains("JSON object"));
    }
}
