//! JSON between Rust, templates and Python: values go into a template as they are, and come out
//! of `tojson` as Python's `json.dumps(value, ensure_ascii=False)` writes them.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// A JSON value as a template sees it, keys in the order of the file.
pub fn to_template(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(flag) => Value::from(*flag),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(to_template).collect(),
        serde_json::Value::Object(object) => {
            Value::from_pairs(object.iter().map(|(key, item)| (key.as_str(), to_template(item))))
        }
    }
}

/// The filter `tojson` of Transformers' chat templates.
///
/// Arguments as there: `ensure_ascii` (false), `indent` (none), `separators`, `sort_keys` (false).
/// Unlike Jinja's own it does not escape for HTML.
pub fn tojson(value: &Value, positional: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    // Transformers' first positional argument is `ensure_ascii`; Jinja's own is `indent`. A
    // boolean can only mean the first, a number only the second.
    let flag = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let mut indent: Option<Value> = options.get("indent")?;
    let mut ascii = flag(options.get("ensure_ascii")?);
    match positional {
        Some(value) if value.kind() == ValueKind::Bool => ascii = value.is_true(),
        Some(value) if indent.is_none() => indent = Some(value),
        _ => {}
    }
    let indent = match indent.filter(|value| !value.is_none()) {
        None => None,
        Some(value) if value.as_str().is_some() => value.as_str().map(str::to_string),
        Some(value) => Some(" ".repeat(usize::try_from(value)?.min(64))),
    };
    let separators: Option<Value> = options.get("separators")?;
    let (item, key) = match separators.filter(|value| !value.is_none()) {
        Some(pair) => {
            (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string())
        }
        None if indent.is_some() => (",".to_string(), ": ".to_string()),
        None => (", ".to_string(), ": ".to_string()),
    };
    let sort = flag(options.get("sort_keys")?);
    options.assert_all_used()?;
    let mut writer = Writer { out: String::new(), ascii, indent, item, key, sort };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
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
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.out.push_str(&value.to_string()),
            ValueKind::Number => self.out.push_str(&float(f64::try_from(value.clone())?)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
                self.sequence('[', ']', &items, depth, |writer, item| {
                    writer.value(item, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut pairs = Vec::new();
                for key in value.try_iter()?.checked() {
                    let key = key?;
                    pairs.push((key.to_string(), value.get_item(&key)?));
                }
                if self.sort {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.sequence('{', '}', &pairs, depth, |writer, (key, item)| {
                    writer.string(key);
                    let separator = writer.key.clone();
                    writer.out.push_str(&separator);
                    writer.value(item, depth + 1)
                })?;
            }
            kind => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("tojson cannot write a value that is {kind}"),
                ));
            }
        }
        Ok(())
    }

    fn sequence<T>(
        &mut self,
        open: char,
        close: char,
        items: &[T],
        depth: usize,
        mut write: impl FnMut(&mut Self, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                let separator = self.item.clone();
                self.out.push_str(&separator);
            }
            self.new_line(depth + 1);
            write(self, item)?;
        }
        if !items.is_empty() {
            self.new_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&mut self, text: &str) {
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
                c if (c as u32) < 0x20 || (self.ascii && !c.is_ascii()) => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A float as Python's `repr` writes it: the shortest digits, with an exponent below 1e-4 and from
/// 1e16 on.
fn float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    let magnitude = x.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(rest) => ('-', rest),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{x:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, json: &str) -> String {
        let mut env = minijinja::Environment::new();
        env.add_filter("tojson", tojson);
        let value = to_template(&serde_json::from_str(json).unwrap());
        env.render_str(template, Value::from_pairs([("x", value)])).unwrap()
    }

    #[test]
    fn tojson_writes_what_json_dumps_writes() {
        // Expected: json.dumps(x, ensure_ascii=False) of CPython 3.
        let json =
            r#"{"b": [1, 2.5, -0.0], "a": {"<é>": "\"\n\u0001"}, "n": null, "e": [], "t": true}"#;
        let expected =
            r#"{"b": [1, 2.5, -0.0], "a": {"<é>": "\"\n\u0001"}, "n": null, "e": [], "t": true}"#;
        assert_eq!(render("{{ x | tojson }}", json), expected);
        assert_eq!(
            render("{{ x | tojson(ensure_ascii=true) }}", r#""é😀""#),
            r#""\u00e9\ud83d\ude00""#
        );
        assert_eq!(
            render("{{ x | tojson(sort_keys=true) }}", r#"{"b":1,"a":2}"#),
            r#"{"a": 2, "b": 1}"#
        );
        assert_eq!(
            render("{{ x | tojson(separators=(',', ':')) }}", r#"{"b":[1,2]}"#),
            r#"{"b":[1,2]}"#
        );
    }

    #[test]
    fn tojson_indents_like_python() {
        assert_eq!(
            render("{{ x | tojson(indent=2) }}", r#"{"a":[1,{}],"b":[]}"#),
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}"
        );
    }

    #[test]
    fn floats_are_spelled_like_python() {
        for (x, expected) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (9999999999999998.0, "9999999999999998.0"),
            (f64::INFINITY, "Infinity"),
        ] {
            assert_eq!(float(x), expected);
        }
    }
}
