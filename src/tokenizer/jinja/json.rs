//! JSON between Rust, templates and Python: values go into a template as they are, and come out
//! of `tojson` as Python's `json.dumps(value, ensure_ascii=False)` writes them.

use super::args::Arguments;
use super::limits;
use super::text;
use super::value::{Value, to_text};
use super::{Error, Result};
use crate::tokenizer::python_json;

/// A JSON value as a template sees it, keys in the order of the file.
pub fn to_value(value: &serde_json::Value) -> Result<Value> {
    Ok(match value {
        serde_json::Value::Null => Value::None,
        serde_json::Value::Bool(flag) => Value::Bool(*flag),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::Int(integer.into()),
            (None, Some(integer)) => Value::Int(integer.into()),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::str(text.as_str()),
        serde_json::Value::Array(items) => {
            Value::list(items.iter().map(to_value).collect::<Result<_>>()?)?
        }
        serde_json::Value::Object(object) => {
            if let Some(digits) = python_json::number(value) {
                return long_number(digits);
            }
            let pair = |(key, item): (&String, &serde_json::Value)| {
                Ok((Value::str(key.as_str()), to_value(item)?))
            };
            Value::dict(object.iter().map(pair).collect::<Result<_>>()?)?
        }
    })
}

/// A number that only Python reads: an integer beyond 64 bits, no number, an infinite one.
fn long_number(digits: &str) -> Result<Value> {
    if let Ok(integer) = digits.parse::<i128>() {
        return Ok(Value::Int(integer));
    }
    match digits {
        "NaN" => return Ok(Value::Float(f64::NAN)),
        "Infinity" => return Ok(Value::Float(f64::INFINITY)),
        "-Infinity" => return Ok(Value::Float(f64::NEG_INFINITY)),
        _ => {}
    }
    if digits.contains(['.', 'e', 'E']) {
        // Python gives an infinity where the exponent is too large.
        return digits.parse().map(Value::Float).map_err(|_| Error::new("not a number"));
    }
    Err(Error::new(format!(
        "the conversation has an integer beyond 127 bits: {:.40} ...; write it as a text",
        digits
    )))
}

/// A JSON value as `tojson` writes it.
pub fn text_of(value: &serde_json::Value) -> Result<String> {
    let mut writer = Writer {
        out: String::new(),
        ascii: false,
        indent: None,
        item: ", ".into(),
        key: ": ".into(),
        sort: false,
    };
    writer.value(&to_value(value)?, 0)?;
    Ok(writer.out)
}

/// The filter `tojson` of Transformers' chat templates.
///
/// Arguments as there: `ensure_ascii` (false), `indent` (none), `separators`, `sort_keys` (false).
/// Unlike Jinja2's own it does not escape for HTML.
pub fn filter(value: &Value, args: Arguments) -> Result<Value> {
    let [ascii, indent, separators, sort] =
        args.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text.text.clone()),
        Some(width) => {
            let width =
                usize::try_from(width.expect_int("an indent")?.max(0)).unwrap_or(usize::MAX);
            limits::room(width)?;
            Some(" ".repeat(width))
        }
    };
    let (item, key) = match separators {
        None | Some(Value::None) => {
            (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string())
        }
        Some(pair) => {
            let pair = pair.items()?;
            let [item, key] = pair.as_slice() else {
                return Err(Error::new("separators are two texts"));
            };
            let text = |value: &Value| value.expect_str("a separator").map(str::to_string);
            (text(item)?, text(key)?)
        }
    };
    let sort = sort.is_some_and(|sort| sort.truthy());
    let ascii = ascii.is_some_and(|ascii| ascii.truthy());
    let mut writer = Writer { out: String::new(), ascii, indent, item, key, sort };
    writer.value(value, 0)?;
    Ok(Value::str(writer.out))
}

struct Writer {
    out: String,
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort: bool,
}

impl Writer {
    fn push(&mut self, text: &str) -> Result<()> {
        limits::grow(self.out.len(), text.len())?;
        self.out.push_str(text);
        Ok(())
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        match value {
            Value::None => self.push("null"),
            Value::Bool(flag) => self.push(if *flag { "true" } else { "false" }),
            Value::Int(integer) => self.push(&integer.to_string()),
            Value::Float(x) => self.push(&float(*x)),
            Value::Str(text) | Value::Markup(text) => self.string(&text.text),
            Value::List(list) | Value::Tuple(list) => {
                self.sequence("[", "]", &list.items, depth, |writer, item| {
                    writer.value(item, depth + 1)
                })
            }
            Value::Dict(dict) => {
                let mut pairs = Vec::with_capacity(dict.entries.len());
                for (key, item) in &dict.entries {
                    pairs.push((json_key(key)?, item));
                }
                if self.sort {
                    if dict.entries.iter().any(|(key, _)| key.as_str().is_none()) {
                        return Err(Error::new("sort_keys of keys that are no texts"));
                    }
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.sequence("{", "}", &pairs, depth, |writer, (key, item)| {
                    writer.string(key)?;
                    let separator = writer.key.clone();
                    writer.push(&separator)?;
                    writer.value(item, depth + 1)
                })
            }
            other => Err(Error::new(format!(
                "tojson cannot write a value of type {}",
                other.type_name()
            ))),
        }
    }

    fn sequence<T>(
        &mut self,
        open: &str,
        close: &str,
        items: &[T],
        depth: usize,
        mut write: impl FnMut(&mut Self, &T) -> Result<()>,
    ) -> Result<()> {
        self.push(open)?;
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                let separator = self.item.clone();
                self.push(&separator)?;
            }
            self.new_line(depth + 1)?;
            write(self, item)?;
        }
        if !items.is_empty() {
            self.new_line(depth)?;
        }
        self.push(close)
    }

    fn new_line(&mut self, depth: usize) -> Result<()> {
        if let Some(indent) = &self.indent {
            limits::grow(self.out.len(), indent.len().saturating_mul(depth))?;
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<()> {
        limits::grow(self.out.len(), text.len())?;
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ascii && c > '~') => {
                    limits::grow(self.out.len(), 12)?;
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
        Ok(())
    }
}

/// A key as `json.dumps` writes it.
fn json_key(key: &Value) -> Result<String> {
    Ok(match key {
        Value::Str(text) => text.text.clone(),
        Value::None => "null".into(),
        Value::Bool(true) => "true".into(),
        Value::Bool(false) => "false".into(),
        Value::Float(x) => float(*x),
        Value::Int(_) => to_text(key)?,
        other => {
            return Err(Error::new(format!("a key of JSON cannot be a {}", other.type_name())));
        }
    })
}

/// A float as `json.dumps` writes it.
fn float(x: f64) -> String {
    match text::float(x).as_str() {
        "nan" => "NaN".into(),
        "inf" => "Infinity".into(),
        "-inf" => "-Infinity".into(),
        text => text.into(),
    }
}
