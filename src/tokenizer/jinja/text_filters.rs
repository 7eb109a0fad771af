//! The filters of Jinja2 on texts and numbers.

use super::args::{Arguments, required};
use super::filters::{keyword_dict, unknown};
use super::limits;
use super::text;
use super::value::{Value, to_text};
use super::{Error, Result, methods, printf};

/// `value | name(args)`.
#[expect(clippy::too_many_lines, reason = "an arm for each filter")]
pub fn apply(name: &str, value: Value, args: Arguments) -> Result<Value> {
    match name {
        "upper" => args.none(name).and_then(|()| Ok(Value::str(soft(&value)?.to_uppercase()))),
        "lower" => args.none(name).and_then(|()| Ok(Value::str(soft(&value)?.to_lowercase()))),
        "capitalize" => {
            args.none(name).and_then(|()| text::capitalize(&soft(&value)?).map(Value::str))
        }
        "title" => args.none(name).and_then(|()| Ok(Value::str(title(&soft(&value)?)))),
        "trim" => {
            let [chars] = args.bind(name, ["chars"])?;
            methods::strip(&soft(&value)?, "strip", chars).map(Value::str)
        }
        "string" => {
            args.none(name)?;
            match value {
                Value::Str(_) | Value::Markup(_) => Ok(value),
                other => to_text(&other).map(Value::str),
            }
        }
        "safe" => args.none(name).and_then(|()| to_text(&value).map(Value::markup)),
        "e" | "escape" => {
            args.none(name)?;
            if matches!(value, Value::Markup(_)) {
                return Ok(value);
            }
            escape(&to_text(&value)?).map(Value::markup)
        }
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let (old, new) = (required(name, "old", old)?, required(name, "new", new)?);
            let count = match count {
                None | Some(Value::None) => -1,
                Some(count) => count.expect_int("a count")?,
            };
            methods::replace(&to_text(&value)?, &to_text(&old)?, &to_text(&new)?, count)
                .map(Value::str)
        }
        "format" => {
            let template = soft(&value)?;
            let Arguments { positional, keyword } = args;
            let values = match (positional.is_empty(), keyword.is_empty()) {
                (false, false) => {
                    return Err(Error::new(
                        "can't handle positional and keyword arguments at the same time",
                    ));
                }
                (_, false) => keyword_dict(&keyword)?,
                _ => Value::tuple(positional)?,
            };
            printf::percent(&template, &values)
        }
        "center" => {
            let [width] = args.bind(name, ["width"])?;
            let width = width.unwrap_or(Value::Int(80));
            methods::call(&Value::str(soft(&value)?), "center", Arguments::of(vec![width]))
        }
        "indent" => indent(&value, args),
        "truncate" => truncate(&value, args),
        "wordcount" => {
            args.none(name)?;
            word_count(&soft(&value)?).map(|count| Value::Int(count as i128))
        }
        "urlencode" => args.none(name).and_then(|()| url_encode(&value).map(Value::str)),
        "filesizeformat" => file_size(&value, args),
        "int" => int(&value, args),
        "float" => {
            let [default] = args.bind(name, ["default"])?;
            let default = default.unwrap_or(Value::Float(0.0));
            value.defined()?;
            Ok(as_float(&value).map_or(default, Value::Float))
        }
        "round" => round(&value, args),
        _ => Err(unknown(name)),
    }
}

/// Jinja2's `soft_str`: the text of a value. Marked texts keep their mark there, which is not
/// followed here.
fn soft(value: &Value) -> Result<String> {
    if matches!(value, Value::Markup(_)) {
        return Err(Error::new("filters of texts marked safe are not supported"));
    }
    to_text(value)
}

/// Jinja2's own `title`: words begin after a space, a hyphen or an opening bracket.
fn title(value: &str) -> String {
    let begins = |c: char| text::is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(first) = rest.chars().next() {
        let same = begins(first);
        let end = rest.find(|c| begins(c) != same).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        let (head, tail) = piece.split_at(first.len_utf8());
        out.push_str(&head.to_uppercase());
        out.push_str(&tail.to_lowercase());
        rest = after;
    }
    out
}

fn escape(value: &str) -> Result<String> {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        limits::grow(out.len(), 5)?;
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn indent(value: &Value, args: Arguments) -> Result<Value> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    let first = first.is_some_and(|first| first.truthy());
    let blank = blank.is_some_and(|blank| blank.truthy());
    let indention = match width {
        None => "    ".to_string(),
        Some(Value::Str(text)) => text.text.clone(),
        Some(width) => {
            let width = usize::try_from(width.expect_int("a width")?.max(0)).unwrap_or(usize::MAX);
            limits::room(width)?;
            " ".repeat(width)
        }
    };
    let text = value.expect_str("a text to indent")?;
    let whole = format!("{text}\n");
    let lines = text::split_lines(&whole, false)?;
    limits::room(whole.len().saturating_add(lines.len().saturating_mul(indention.len())))?;
    let mut out = String::new();
    if first {
        out.push_str(&indention);
    }
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            out.push('\n');
            if blank || !line.is_empty() {
                out.push_str(&indention);
            }
        }
        out.push_str(line);
    }
    Ok(Value::str(out))
}

fn truncate(value: &Value, args: Arguments) -> Result<Value> {
    let [length, kill, end, leeway] =
        args.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let size = |value: Option<Value>, default: i128| match value {
        None | Some(Value::None) => Ok(default),
        Some(value) => value.expect_int("a length"),
    };
    let (length, leeway) = (size(length, 255)?, size(leeway, 5)?);
    let end =
        end.map_or(Ok("...".to_string()), |end| end.expect_str("the end").map(str::to_string))?;
    if length >= end.chars().count() as i128
        && leeway >= 0
        && value.len()? as i128 <= length.saturating_add(leeway)
    {
        return Ok(value.clone());
    }
    let text = value.expect_str("a text to truncate")?;
    let tail = end.chars().count() as i128;
    if length < tail || leeway < 0 {
        return Err(Error::new("truncate needs a length of at least that of the end"));
    }
    let kept: String = text.chars().take((length - tail) as usize).collect();
    if kill.is_some_and(|kill| kill.truthy()) {
        return Ok(Value::str(kept + &end));
    }
    let whole = kept.rsplit_once(' ').map_or(kept.as_str(), |(whole, _)| whole);
    Ok(Value::str(format!("{whole}{end}")))
}

/// Runs of word characters.
fn word_count(text: &str) -> Result<usize> {
    let (mut count, mut within) = (0, false);
    for c in text.chars() {
        let word = c == '_'
            || text::is_class(c, text::Class::Alpha)?
            || text::is_class(c, text::Class::Numeric)?;
        count += usize::from(word && !within);
        within = word;
    }
    Ok(count)
}

fn url_encode(value: &Value) -> Result<String> {
    let pairs = match value {
        Value::Dict(dict) => {
            dict.entries.iter().map(|(key, value)| [key.clone(), value.clone()]).collect()
        }
        Value::List(_) | Value::Tuple(_) | Value::View(..) | Value::Iter(_) => {
            let pair = |item: Value| -> Result<[Value; 2]> {
                let pair: Vec<Value> = item.items()?;
                pair.try_into().map_err(|_| Error::new("urlencode takes pairs"))
            };
            value.items()?.into_iter().map(pair).collect::<Result<Vec<_>>>()?
        }
        Value::Undefined(_) => Vec::new(),
        other => return Ok(quote(&to_text(other)?, false)),
    };
    let mut out = String::new();
    for [key, value] in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        let (key, value) = (quote(&to_text(&key)?, true), quote(&to_text(&value)?, true));
        limits::grow(out.len(), key.len() + value.len())?;
        out.push_str(&format!("{key}={value}"));
    }
    Ok(out)
}

/// `urllib.parse.quote`; in a query, spaces become `+` and slashes are quoted.
fn quote(text: &str, query: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                out.push(byte as char);
            }
            b'/' if !query => out.push('/'),
            b' ' if query => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn file_size(value: &Value, args: Arguments) -> Result<Value> {
    let [binary] = args.bind("filesizeformat", ["binary"])?;
    let binary = binary.is_some_and(|binary| binary.truthy());
    let bytes = as_float(value).ok_or_else(|| Error::new("filesizeformat takes a number"))?;
    let base = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok(Value::str("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::str(format!("{} Bytes", bytes.trunc() as i128)));
    }
    let prefixes = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
    let mut unit = base;
    for (index, prefix) in prefixes.iter().enumerate() {
        unit *= base;
        if bytes < unit || index + 1 == prefixes.len() {
            let prefix = if binary { prefix.to_uppercase() + "iB" } else { format!("{prefix}B") };
            return Ok(Value::str(format!("{:.1} {prefix}", base * bytes / unit)));
        }
    }
    Err(Error::new("filesizeformat found no unit"))
}

/// `float(value)`; `None` where Python raises.
fn as_float(value: &Value) -> Option<f64> {
    match value {
        Value::Float(x) => Some(*x),
        Value::Str(text) => text::parse_float(&text.text),
        other => other.as_int().map(|value| value as f64),
    }
}

fn int(value: &Value, args: Arguments) -> Result<Value> {
    let [default, base] = args.bind("int", ["default", "base"])?;
    let base = base.map_or(Ok(10), |base| base.expect_int("a base"))?;
    let default = default.unwrap_or(Value::Int(0));
    value.defined()?;
    let whole = |x: f64| -> Result<Value> {
        if x.abs() >= 1e38 {
            return Err(Error::new("integers beyond 127 bits are not supported"));
        }
        Ok(Value::Int(x.trunc() as i128))
    };
    match value {
        Value::Float(x) if x.is_nan() => Ok(default),
        Value::Float(x) if x.is_infinite() => {
            Err(Error::new("cannot convert float infinity to integer"))
        }
        Value::Float(x) => whole(*x),
        Value::Str(text) => {
            let base = u32::try_from(base).unwrap_or(1);
            if let Some(value) = text::parse_int(&text.text, base)? {
                return Ok(Value::Int(value));
            }
            match text::parse_float(&text.text) {
                Some(x) if x.is_finite() => whole(x),
                _ => Ok(default),
            }
        }
        other => Ok(other.as_int().map_or(default, Value::Int)),
    }
}

fn round(value: &Value, args: Arguments) -> Result<Value> {
    let [precision, method] = args.bind("round", ["precision", "method"])?;
    let precision = match precision {
        None => 0,
        Some(precision) => precision.expect_int("a precision")?,
    };
    let method = method
        .map_or(Ok("common".to_string()), |m| m.expect_str("a method").map(str::to_string))?;
    if !matches!(method.as_str(), "common" | "ceil" | "floor") {
        return Err(Error::new("method must be common, ceil or floor"));
    }
    if !(-20..=300).contains(&precision) {
        return Err(Error::new("rounding to that precision is not supported"));
    }
    if method != "common" {
        let x = as_number(value)?;
        if precision < 0 {
            return Err(Error::new("rounding to tens is not supported"));
        }
        let scale = 10f64.powi(precision as i32);
        let scaled = if method == "ceil" { (x * scale).ceil() } else { (x * scale).floor() };
        return Ok(Value::Float(scaled / scale));
    }
    match value {
        Value::Float(x) if precision >= 0 && x.is_finite() => {
            // Rust rounds the exact decimal value half to even, as Python does.
            let digits = format!("{x:.0$}", precision as usize);
            digits
                .parse()
                .map(Value::Float)
                .map_err(|_| Error::new("the rounded number cannot be read"))
        }
        Value::Float(_) => Err(Error::new("rounding to tens is not supported for floats")),
        other => {
            let whole = other.expect_int("a number to round")?;
            if precision < 0 {
                return Err(Error::new("rounding to tens is not supported"));
            }
            Ok(Value::Int(whole))
        }
    }
}

fn as_number(value: &Value) -> Result<f64> {
    match value {
        Value::Float(x) if x.is_finite() => Ok(*x),
        other => other.expect_int("a number to round").map(|value| value as f64),
    }
}
