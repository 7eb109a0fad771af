//! Reading JSON Lines, or one JSON array, into rows that know their line.

use std::path::Path;

use serde_json::{Map, Value};

use crate::tokenizer::{json_kind as kind, read_json};
use crate::{Error, Result};

/// One object of a data file.
#[derive(Debug, Clone)]
pub struct Row {
    /// Line of the file it begins on, from 1.
    pub line: u32,
    /// The object.
    pub object: Map<String, Value>,
}

/// Reads all rows of a file. Blank lines are skipped; no row at all is an error.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let bytes = std::fs::read(path).map_err(|error| {
        Error::input(format!("cannot read the data file {}: {error}", path.display()))
    })?;
    let text = utf8(&bytes, path)?;
    let rows =
        if text.trim_start().starts_with('[') { array(text, path) } else { lines(text, path) }?;
    if rows.is_empty() {
        return Err(Error::input(format!(
            "{}: no rows; expected JSON Lines (one object per line) or one JSON array of objects",
            path.display()
        )));
    }
    Ok(rows)
}

/// The text of a file, without a byte-order mark.
fn utf8<'a>(bytes: &'a [u8], path: &Path) -> Result<&'a str> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let line_start = bytes[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let hint = match bytes {
            [0x1F, 0x8B, ..] => "the file is compressed: unpack it first",
            [b'P', b'A', b'R', b'1', ..] => "the file is Parquet: convert it to JSON Lines first",
            _ => "save the file as UTF-8",
        };
        Error::input(format!(
            "{}:{}: not UTF-8: byte 0x{:02x} at byte {} of the line; {hint}",
            path.display(),
            line_of(bytes, at),
            bytes[at],
            at - line_start + 1,
        ))
    })?;
    Ok(text.strip_prefix('\u{FEFF}').unwrap_or(text))
}

/// The line, from 1, of a byte position.
fn line_of(bytes: &[u8], at: usize) -> u32 {
    1 + bytes[..at].iter().filter(|&&byte| byte == b'\n').count() as u32
}

fn lines(text: &str, path: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if !line.trim().is_empty() {
            rows.push(row(line, index as u32 + 1, path, "one JSON object per line")?);
        }
    }
    Ok(rows)
}

/// The elements of one array, found by their brackets so that each keeps its line.
fn array(text: &str, path: &Path) -> Result<Vec<Row>> {
    let expected = "an array of JSON objects";
    let bytes = text.as_bytes();
    let open = text.find('[').unwrap_or(0);
    let (mut rows, mut start, mut depth) = (Vec::new(), open + 1, 0usize);
    let (mut in_string, mut escaped) = (false, false);
    // Counted along the way: counting from the top for each row would be quadratic.
    let (mut counted, mut line) = (0, 1);
    for at in open + 1..bytes.len() {
        let byte = bytes[at];
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 0 => depth -= 1,
            b',' | b']' if depth == 0 => {
                let element = &text[start..at];
                let begins = start + element.len() - element.trim_start().len();
                line += line_of(&bytes[counted..], begins - counted) - 1;
                counted = begins;
                // `[]`, and a comma before the closing bracket.
                let empty_end = byte == b']' && element.trim().is_empty();
                if !empty_end {
                    rows.push(row(element.trim(), line, path, expected)?);
                }
                start = at + 1;
                if byte == b']' {
                    if let Some(more) = text[start..].find(|c: char| !c.is_whitespace()) {
                        return Err(Error::input(format!(
                            "{}:{}: text after the end of the array: {}; expected {expected}, or \
                             JSON Lines",
                            path.display(),
                            line_of(bytes, start + more),
                            excerpt(&text[start + more..]),
                        )));
                    }
                    return Ok(rows);
                }
            }
            _ => {}
        }
    }
    Err(Error::input(format!(
        "{}:{}: the array that begins the file is not closed; expected {expected}, or JSON Lines",
        path.display(),
        line_of(bytes, bytes.len()),
    )))
}

/// Parses one row that begins on `line`.
fn row(text: &str, line: u32, path: &Path, expected: &str) -> Result<Row> {
    match read_json(text) {
        Ok(Value::Object(object)) => Ok(Row { line, object }),
        Ok(other) => Err(Error::input(format!(
            "{}:{line}: expected {expected}, found {}: {}",
            path.display(),
            kind(&other),
            excerpt(text)
        ))),
        Err(fault) => Err(Error::input(format!(
            "{}:{}: not valid JSON: {}, column {}: {}; expected {expected}",
            path.display(),
            line + (fault.line as u32).saturating_sub(1),
            fault.reason,
            fault.column,
            excerpt(text)
        ))),
    }
}

/// The beginning of a text, for a message.
pub(super) fn excerpt(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut short: String = line.chars().take(60).collect();
    if short.len() < text.trim_end().len() {
        short += " ...";
    }
    format!("`{short}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_bytes(bytes: &[u8]) -> Result<Vec<Row>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.jsonl");
        std::fs::write(&path, bytes).unwrap();
        read(&path)
    }

    fn error(bytes: &[u8]) -> String {
        let text = read_bytes(bytes).unwrap_err().to_string();
        text[text.find("d.jsonl").unwrap()..].to_string()
    }

    #[test]
    fn rows_keep_their_lines() {
        let lines = |bytes: &[u8]| -> Vec<u32> {
            read_bytes(bytes).unwrap().iter().map(|row| row.line).collect()
        };
        assert_eq!(lines(b"{\"a\":1}\n\n  \r\n{\"a\":2}"), [1, 4]);
        assert_eq!(lines("\u{FEFF}{\"a\":1}\n".as_bytes()), [1]);
        assert_eq!(lines(b"[\n {\"a\": \"],[\\\"\"},\n {\"a\": [1,\n {}]}, {}\n]\n"), [2, 3, 4]);
    }

    #[test]
    fn a_bad_line_is_named_with_what_was_found() {
        let message = error(b"{\"a\":1}\n{\"a\": 1 \"b\"}\n");
        assert!(message.starts_with("d.jsonl:2: not valid JSON: expected `,` or `}`"), "{message}");
        assert!(
            message.contains("column 9") && message.contains("`{\"a\": 1 \"b\"}`"),
            "{message}"
        );
        assert!(
            error(b"{\"a\":1}\n3\n")
                .starts_with("d.jsonl:2: expected one JSON object per line, found a number: `3`")
        );
        assert!(error(b"{\n \"a\": 1\n}").starts_with("d.jsonl:1: not valid JSON: EOF"));
        assert!(error(b"[{},\n{\"a\"}]").starts_with("d.jsonl:2: not valid JSON"));
        assert!(error(b"[{}, 3]").contains("found a number"));
        assert!(error(b"[{}").contains("not closed"));
        assert!(error(b"[{}]\n[{}]").starts_with("d.jsonl:2: text after the end"));
    }

    #[test]
    fn bytes_that_are_not_text_are_named() {
        let message = error(b"{\"a\":1}\n{\"a\":\"\xff\"}");
        assert!(message.starts_with("d.jsonl:2: not UTF-8: byte 0xff at byte 7"), "{message}");
        assert!(error(&[0x1F, 0x8B, 8, 0xff]).contains("compressed"));
    }

    #[test]
    fn an_empty_or_missing_file_is_an_error() {
        for empty in [&b""[..], b"\n \n", b"[]"] {
            assert!(error(empty).contains("no rows"));
        }
        let message = read(Path::new("/nowhere/d.jsonl")).unwrap_err().to_string();
        assert!(message.starts_with("cannot read the data file /nowhere/d.jsonl"), "{message}");
    }
}
