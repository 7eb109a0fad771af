//! JSON as Python's `json` reads it: also `NaN`, `Infinity`, `-Infinity`, integers of any length and
//! floats beyond the largest.
//!
//! A [`serde_json::Value`] has no place for such numbers, so each stands in it as an object of one key,
//! [`NUMBER`], with its digits as a text. Who looks inside a row sees a number through [`kind`] and
//! [`number`]; a chat template gets the number itself.

use std::borrow::Cow;

use serde_json::Value;

use super::settings;

/// The key of an object that stands for a number.
const NUMBER: &str = "\u{0}number";

/// What is not JSON in a text, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub reason: String,
    /// Its line in the text, from 1.
    pub line: usize,
    /// The byte of that line, from 1.
    pub column: usize,
}

/// Reads one JSON value.
pub fn read(text: &str) -> Result<Value, Fault> {
    let fault = |error: &serde_json::Error| Fault {
        // Without serde_json's own "at line 1 column 7".
        reason: match error.to_string().rsplit_once(" at line ") {
            Some((reason, _)) => reason.to_owned(),
            None => error.to_string(),
        },
        line: error.line(),
        column: error.column(),
    };
    if text.contains("\\u0000number\"") {
        let reason = "a key `\\u0000number`, which stands for long numbers here".to_owned();
        return Err(Fault { reason, line: 1, column: 1 });
    }
    let (written, places) = with_numbers_as_objects(text);
    serde_json::from_str(&written).map_err(|error| {
        let mut fault = fault(&error);
        // Back to the text as it was given: what was put in made lines longer, and no more of them.
        let before: usize = written.split_inclusive('\n').take(fault.line - 1).map(str::len).sum();
        let grown: usize = places
            .iter()
            .filter(|(at, _)| (before..(before + fault.column).saturating_sub(1)).contains(at))
            .map(|(_, more)| more)
            .sum();
        fault.column = fault.column.saturating_sub(grown).max(1);
        fault
    })
}

/// The digits of a number that stands as an object.
pub fn number(value: &Value) -> Option<&str> {
    match value {
        Value::Object(object) if object.len() == 1 => object.get(NUMBER)?.as_str(),
        _ => None,
    }
}

/// What a value is, in words.
pub fn kind(value: &Value) -> &'static str {
    if number(value).is_some() { "a number" } else { settings::kind(value) }
}

/// The text with every number that serde_json cannot hold as an object, and where those stand in it:
/// position and bytes that the text grew.
fn with_numbers_as_objects(text: &str) -> (Cow<'_, str>, Vec<(usize, usize)>) {
    let bytes = text.as_bytes();
    let (mut out, mut places, mut copied) = (String::new(), Vec::new(), 0);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let end = match byte {
            b'"' => {
                at = end_of_string(bytes, at);
                continue;
            }
            b'-' | b'0'..=b'9' | b'N' | b'I' => end_of_token(bytes, at),
            _ => {
                at += 1;
                continue;
            }
        };
        let token = &text[at..end];
        let instead = match token {
            "-0" => Some("0".to_owned()),
            _ if is_odd(token) => Some(format!("{{\"\\u0000number\":\"{token}\"}}")),
            _ => None,
        };
        if let Some(instead) = instead {
            out += &text[copied..at];
            places.push((out.len(), instead.len().saturating_sub(token.len())));
            out += &instead;
            copied = end;
        }
        at = end;
    }
    if copied == 0 {
        return (Cow::Borrowed(text), places);
    }
    out += &text[copied..];
    (Cow::Owned(out), places)
}

/// One past the string that begins at `at`.
fn end_of_string(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(&byte) = bytes.get(end) {
        match byte {
            b'\\' => end += 2,
            b'"' => return end + 1,
            _ => end += 1,
        }
    }
    bytes.len()
}

/// One past the number, or word, that begins at `at`.
fn end_of_token(bytes: &[u8], at: usize) -> usize {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    at + bytes[at..].iter().take_while(|byte| is_part(byte)).count()
}

/// Whether Python reads a token as a number and serde_json does not, or not as the same.
fn is_odd(token: &str) -> bool {
    if matches!(token, "NaN" | "Infinity" | "-Infinity") {
        return true;
    }
    let digits = token.strip_prefix('-').unwrap_or(token);
    // A number of JSON has no leading zeros, and only what fills 64 bits needs a closer look.
    if digits.len() < 19 && !digits.contains(['e', 'E']) || digits.starts_with('0') {
        return false;
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return token.parse::<i64>().is_err() && token.parse::<u64>().is_err();
    }
    is_float(digits) && digits.parse::<f64>().is_ok_and(f64::is_infinite)
}

/// Whether unsigned digits are a float of JSON: `1.5`, `1e9`, `1.5E+9`.
fn is_float(digits: &str) -> bool {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (digits, None),
    };
    let exponent = exponent.map(|text| text.strip_prefix(['+', '-']).unwrap_or(text));
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    is_digits(whole) && fraction.is_none_or(is_digits) && exponent.is_none_or(is_digits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_python_reads_as_numbers_is_kept_as_it_is_written() {
        let value = read(
            r#"{"a": NaN, "b": [-Infinity, Infinity], "c": 123456789012345678901234567890,
                "d": -9223372036854775809, "e": 18446744073709551615, "f": 1e999, "g": "NaN 1e999",
                "h": -0, "i": 0.1, "j": "\\\"", "k": 3}"#,
        )
        .unwrap();
        let numbers: Vec<_> = ["a", "c", "d", "e", "f", "g"].map(|key| number(&value[key])).into();
        let long = Some("123456789012345678901234567890");
        let low = Some("-9223372036854775809");
        assert_eq!(numbers, [Some("NaN"), long, low, None, Some("1e999"), None]);
        assert_eq!(number(&value["b"][0]), Some("-Infinity"));
        assert_eq!(kind(&value["a"]), "a number");
        assert_eq!(value["e"], json!(18_446_744_073_709_551_615_u64));
        assert_eq!((&value["h"], &value["k"]), (&json!(0), &json!(3)));
    }

    #[test]
    fn what_is_no_json_stays_an_error_at_its_place() {
        for (text, column) in [
            ("{\"a\": NaN, \"b\": nan}", 17),
            ("{\"a\": Infinit}", 7),
            ("[1e999, 01]", 10),
            ("[NaN NaN]", 6),
            ("[-]", 3),
        ] {
            let fault = read(text).unwrap_err();
            assert!(fault.column.abs_diff(column) <= 1, "{text}: {fault:?}");
        }
        assert_eq!(read("[NaN,\n 1e]").unwrap_err().line, 2);
        assert!(read(r#"{"\u0000number": "7"}"#).is_err());
    }
}
