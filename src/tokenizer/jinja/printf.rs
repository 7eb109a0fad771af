//! Python's two ways to fill a text: `text % values` and `text.format(values)`.

use super::args::Arguments;
use super::value::{Value, to_text, write_repr};
use super::{Error, Result, attr, limits};

/// How a number or a text is laid out.
#[derive(Debug, Clone, Default)]
struct Spec {
    fill: Option<char>,
    /// One of `<>^=`.
    align: Option<char>,
    /// One of `+- `.
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    /// `,` or `_`.
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// Digits of a precision, characters of a width: more is refused before it is laid out.
const LARGEST: usize = 1 << 20;

impl Spec {
    /// `body` with what stands before it (a sign, a prefix), laid out; `numeric` texts stand right.
    fn pad(&self, prefix: &str, body: &str, numeric: bool) -> Result<String> {
        let length = prefix.chars().count() + body.chars().count();
        limits::room(self.width.max(length) * 4)?;
        let missing = self.width.saturating_sub(length);
        let zero = self.zero && self.align.is_none();
        let fill = self.fill.unwrap_or(if zero { '0' } else { ' ' });
        let align = self.align.unwrap_or(match (numeric, zero) {
            (true, true) => '=',
            (true, false) => '>',
            (false, _) => '<',
        });
        let (before, within, after) = match align {
            '<' => (0, 0, missing),
            '^' => (missing / 2, 0, missing - missing / 2),
            '=' => (0, missing, 0),
            _ => (missing, 0, 0),
        };
        let fill = |count: usize| fill.to_string().repeat(count);
        Ok(format!("{}{prefix}{}{body}{}", fill(before), fill(within), fill(after)))
    }

    fn sign_of(&self, negative: bool) -> &'static str {
        match (negative, self.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(' ')) => " ",
            _ => "",
        }
    }

    fn integer(&self, value: i128) -> Result<String> {
        if self.precision.is_some_and(|precision| precision > LARGEST) {
            return Err(Error::new("the precision is too large"));
        }
        let magnitude = value.unsigned_abs();
        let (prefix, digits) = match self.kind.unwrap_or('d') {
            'b' => ("0b", format!("{magnitude:b}")),
            'o' => ("0o", format!("{magnitude:o}")),
            'x' => ("0x", format!("{magnitude:x}")),
            'X' => ("0X", format!("{magnitude:X}")),
            _ => ("", magnitude.to_string()),
        };
        let prefix = if self.alternate { prefix } else { "" };
        let digits = self.group(&digits)?;
        self.pad(&format!("{}{prefix}", self.sign_of(value < 0)), &digits, true)
    }

    fn float(&self, value: f64) -> Result<String> {
        let precision = self.precision.unwrap_or(6);
        if precision > LARGEST {
            return Err(Error::new("the precision is too large"));
        }
        limits::room(precision + 320)?;
        let kind = self.kind.unwrap_or('r');
        let magnitude = value.abs();
        let body = if !value.is_finite() {
            if value.is_nan() { "nan".into() } else { "inf".to_string() }
        } else {
            match kind.to_ascii_lowercase() {
                'e' => exponential(magnitude, precision),
                'f' => format!("{magnitude:.precision$}"),
                '%' => format!("{:.precision$}%", magnitude * 100.0),
                'g' | 'n' => general(magnitude, precision, self.alternate),
                _ => match self.precision {
                    None => super::text::float(magnitude),
                    Some(_) => {
                        return Err(Error::new("a precision without a type is not supported"));
                    }
                },
            }
        };
        let body = if kind.is_ascii_uppercase() { body.to_uppercase() } else { body };
        let body = match body.find(|c: char| !c.is_ascii_digit()) {
            _ if self.grouping.is_none() => body,
            Some(at) => format!("{}{}", self.group(&body[..at])?, &body[at..]),
            None => self.group(&body)?,
        };
        let negative = value.is_sign_negative() && !value.is_nan();
        self.pad(self.sign_of(negative), &body, true)
    }

    /// Digits in groups of three.
    fn group(&self, digits: &str) -> Result<String> {
        let Some(separator) = self.grouping else { return Ok(digits.to_string()) };
        if self.zero || self.fill == Some('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Error::new("grouped digits are supported for plain decimals only"));
        }
        let mut out = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                out.push(separator);
            }
            out.push(digit);
        }
        Ok(out)
    }
}

fn exponential(magnitude: f64, precision: usize) -> String {
    let text = format!("{magnitude:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(rest) => ('-', rest),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

/// C's `%g`.
fn general(magnitude: f64, precision: usize, alternate: bool) -> String {
    let precision = precision.max(1);
    let rounded = exponential(magnitude, precision - 1);
    let exponent: i32 =
        rounded.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let trim = |text: &str| -> String {
        if alternate || !text.contains('.') {
            return text.to_string();
        }
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    };
    if exponent < -4 || exponent >= precision as i32 {
        let (digits, exponent) = rounded.split_once('e').unwrap_or((&rounded, "+00"));
        return format!("{}e{exponent}", trim(digits));
    }
    let decimals = (precision as i32 - 1 - exponent).max(0) as usize;
    trim(&format!("{magnitude:.decimals$}"))
}

/// `format % args`.
pub fn percent(format: &str, args: &Value) -> Result<Value> {
    let values: Vec<Value> = match args {
        Value::Tuple(list) => list.items.clone(),
        other => vec![other.clone()],
    };
    let mut values = values.into_iter();
    let mut next =
        || values.next().ok_or_else(|| Error::new("not enough arguments for format string"));
    let mut out = String::new();
    let mut by_name = false;
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let mut named = None;
        if let Some(after) = rest.strip_prefix('(') {
            let close = after.find(')').ok_or_else(|| Error::new("incomplete format key"))?;
            if after[..close].contains('(') {
                return Err(Error::new("brackets within a format key are not supported"));
            }
            let Value::Dict(dict) = args else {
                return Err(Error::new("format requires a mapping"));
            };
            let key = &after[..close];
            let value = dict.get_str(key).cloned();
            named = Some(value.ok_or_else(|| Error::new(format!("the key {key:?} is missing")))?);
            by_name = true;
            rest = &after[close + 1..];
        }
        let (spec, kind, used) = percent_spec(rest, &mut next)?;
        rest = &rest[used..];
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => next()?,
        };
        let filled = percent_value(&spec, kind, &value)?;
        limits::grow(out.len(), filled.len())?;
        out.push_str(&filled);
    }
    let mapping =
        matches!(args, Value::Dict(_) | Value::List(_) | Value::Range(_) | Value::Undefined(_));
    if !mapping && !by_name && next().is_ok() {
        return Err(Error::new("not all arguments converted during string formatting"));
    }
    out.push_str(rest);
    limits::touch(out.len())?;
    Ok(Value::str(out))
}

/// The layout, the conversion and the bytes of both at the start of `rest`.
fn percent_spec(
    rest: &str,
    next: &mut impl FnMut() -> Result<Value>,
) -> Result<(Spec, char, usize)> {
    let mut spec = Spec::default();
    let mut chars = rest.char_indices().peekable();
    while let Some(&(_, c)) = chars.peek() {
        match c {
            '-' => spec.align = Some('<'),
            '+' => spec.sign = Some('+'),
            ' ' if spec.sign.is_none() => spec.sign = Some(' '),
            ' ' => {}
            '0' => spec.zero = true,
            '#' => spec.alternate = true,
            _ => break,
        }
        chars.next();
    }
    let mut number = |chars: &mut std::iter::Peekable<std::str::CharIndices>| -> Result<usize> {
        if chars.next_if(|&(_, c)| c == '*').is_some() {
            let value = next()?.expect_int("a width")?;
            return usize::try_from(value)
                .map_err(|_| Error::new("negative widths are not supported"));
        }
        let mut value = 0usize;
        while let Some((_, digit)) = chars.next_if(|(_, c)| c.is_ascii_digit()) {
            value = value.saturating_mul(10).saturating_add(digit as usize - '0' as usize);
        }
        Ok(value)
    };
    spec.width = number(&mut chars)?;
    if chars.next_if(|&(_, c)| c == '.').is_some() {
        spec.precision = Some(number(&mut chars)?);
    }
    while chars.next_if(|&(_, c)| matches!(c, 'h' | 'l' | 'L')).is_some() {}
    let (at, kind) = chars.next().ok_or_else(|| Error::new("incomplete format"))?;
    Ok((spec, kind, at + kind.len_utf8()))
}

fn percent_value(spec: &Spec, kind: char, value: &Value) -> Result<String> {
    let text = |value: String| -> Result<String> {
        let spec = Spec { zero: false, align: spec.align.or(Some('>')), ..spec.clone() };
        let cut = match spec.precision {
            Some(precision) => value.chars().take(precision).collect(),
            None => value,
        };
        spec.pad("", &cut, false)
    };
    match kind {
        's' => text(to_text(value)?),
        'r' => {
            let mut out = String::new();
            write_repr(value, &mut out)?;
            text(out)
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let whole = match value {
                Value::Float(x) if matches!(kind, 'd' | 'i' | 'u') && x.abs() < 1e37 => *x as i128,
                other => other.expect_int("a number for %d")?,
            };
            let mut spec = Spec { kind: Some(kind), ..spec.clone() };
            if let Some(digits) = spec.precision.take() {
                let magnitude = Spec { kind: Some(kind), ..Spec::default() }
                    .integer(i128::try_from(whole.unsigned_abs()).unwrap_or(i128::MAX))?;
                limits::room(digits)?;
                return spec.pad(spec.sign_of(whole < 0), &format!("{magnitude:0>digits$}"), true);
            }
            spec.integer(whole)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            Spec { kind: Some(kind), ..spec.clone() }.float(as_float(value)?)
        }
        'c' => match value {
            Value::Str(one) if one.len() == 1 => text(one.text.clone()),
            _ => Err(Error::new("%c of a number is not supported")),
        },
        other => Err(Error::new(format!("the conversion %{other} is not supported"))),
    }
}

fn as_float(value: &Value) -> Result<f64> {
    match value {
        Value::Float(x) => Ok(*x),
        other => other.expect_int("a number to lay out").map(|value| value as f64),
    }
}

/// `template.format(...)`.
pub fn format(template: &str, args: &Arguments) -> Result<String> {
    let mut counter = Some(0usize);
    format_nested(template, args, &mut counter, 2)
}

/// `counter` numbers the fields without a name; `None` once a number was written.
fn format_nested(
    template: &str,
    args: &Arguments,
    counter: &mut Option<usize>,
    depth: usize,
) -> Result<String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        limits::grow(out.len(), at)?;
        out.push_str(&rest[..at]);
        let brace = &rest[at..at + 1];
        if rest[at + 1..].starts_with(brace) {
            out.push_str(brace);
            rest = &rest[at + 2..];
            continue;
        }
        if brace == "}" {
            return Err(Error::new("single '}' in a format string"));
        }
        let after = &rest[at + 1..];
        let mut level = 1;
        let close = after.find(|c| {
            level += i32::from(c == '{') - i32::from(c == '}');
            level == 0
        });
        let close = close.ok_or_else(|| Error::new("expected '}' in a format string"))?;
        let filled = field(&after[..close], args, counter, depth)?;
        limits::grow(out.len(), filled.len())?;
        out.push_str(&filled);
        rest = &after[close + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn field(
    source: &str,
    args: &Arguments,
    counter: &mut Option<usize>,
    depth: usize,
) -> Result<String> {
    if depth == 0 {
        return Err(Error::new("format fields are nested too deep"));
    }
    let (name, spec) = source.split_once(':').unwrap_or((source, ""));
    let (name, conversion) = match name.split_once('!') {
        Some((name, conversion)) => (name, conversion),
        None => (name, ""),
    };
    let first = name.find(['.', '[']).unwrap_or(name.len());
    let mut value = argument(&name[..first], args, counter)?;
    let mut path = &name[first..];
    while !path.is_empty() {
        if let Some(after) = path.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            value = attr::attribute(&value, &after[..end])?;
            path = &after[end..];
        } else {
            let after = path.strip_prefix('[').unwrap_or_default();
            let end = after.find(']').ok_or_else(|| Error::new("missing ']' in format string"))?;
            let key = &after[..end];
            let key = match key.parse::<i128>() {
                Ok(index) if key.bytes().all(|b| b.is_ascii_digit()) => Value::Int(index),
                _ => Value::str(key),
            };
            value = attr::item(&value, &key)?;
            path = &after[end + 1..];
        }
    }
    let spec = format_nested(spec, args, counter, depth - 1)?;
    let value = match conversion {
        "" => value,
        "s" => Value::str(to_text(&value)?),
        "r" => {
            let mut out = String::new();
            write_repr(&value, &mut out)?;
            Value::str(out)
        }
        other => return Err(Error::new(format!("the conversion !{other} is not supported"))),
    };
    with_spec(&value, &spec)
}

fn argument(name: &str, args: &Arguments, counter: &mut Option<usize>) -> Result<Value> {
    let index = if name.is_empty() {
        let at = counter.as_mut().ok_or_else(|| {
            Error::new("cannot switch from manual field specification to automatic numbering")
        })?;
        *at += 1;
        *at - 1
    } else if name.bytes().all(|b| b.is_ascii_digit()) {
        if counter.is_some_and(|at| at > 0) {
            return Err(Error::new(
                "cannot switch from automatic field numbering to manual specification",
            ));
        }
        *counter = None;
        name.parse().map_err(|_| Error::new("a field's number is too large"))?
    } else {
        let found = args.keyword.iter().find(|(key, _)| &**key == name);
        return found
            .map(|(_, value)| value.clone())
            .ok_or_else(|| Error::new(format!("format has no argument {name:?}")));
    };
    let found = args.positional.get(index).cloned();
    found.ok_or_else(|| Error::new(format!("format has no argument {index}")))
}

/// `format(value, spec)`.
fn with_spec(value: &Value, spec: &str) -> Result<String> {
    if spec.is_empty() {
        return to_text(value);
    }
    let parsed = parse_spec(spec)?;
    let bad =
        || Error::new(format!("the layout {spec:?} is not supported for {}", value.type_name()));
    if let Value::Bool(flag) = value {
        return with_spec(&Value::Int(i128::from(*flag)), spec);
    }
    match value {
        Value::Str(text) => {
            if !matches!(parsed.kind, None | Some('s'))
                || parsed.sign.is_some()
                || parsed.alternate
                || parsed.grouping.is_some()
                || parsed.align == Some('=')
            {
                return Err(bad());
            }
            let cut: String = match parsed.precision {
                Some(precision) => text.text.chars().take(precision).collect(),
                None => text.text.clone(),
            };
            parsed.pad("", &cut, false)
        }
        Value::Int(x) => match parsed.kind {
            None | Some('d' | 'b' | 'o' | 'x' | 'X') if parsed.precision.is_none() => {
                parsed.integer(*x)
            }
            Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => parsed.float(*x as f64),
            _ => Err(bad()),
        },
        Value::Float(x) => match parsed.kind {
            None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => parsed.float(*x),
            _ => Err(bad()),
        },
        _ => Err(bad()),
    }
}

/// `[[fill]align][sign][#][0][width][grouping][.precision][type]`.
fn parse_spec(spec: &str) -> Result<Spec> {
    let mut parsed = Spec::default();
    let chars: Vec<char> = spec.chars().collect();
    let is_align = |c: Option<&char>| matches!(c, Some('<' | '>' | '^' | '='));
    let mut at = 0;
    if is_align(chars.get(1)) {
        parsed.fill = Some(chars[0]);
        parsed.align = Some(chars[1]);
        at = 2;
    } else if is_align(chars.first()) {
        parsed.align = Some(chars[0]);
        at = 1;
    }
    let take = |wanted: &dyn Fn(char) -> bool, at: &mut usize| -> Option<char> {
        let found = chars.get(*at).copied().filter(|&c| wanted(c));
        *at += usize::from(found.is_some());
        found
    };
    parsed.sign = take(&|c| matches!(c, '+' | '-' | ' '), &mut at);
    parsed.alternate = take(&|c| c == '#', &mut at).is_some();
    parsed.zero = take(&|c| c == '0', &mut at).is_some();
    let number = |at: &mut usize| -> Option<usize> {
        let mut value = None;
        while let Some(digit) = take(&|c| c.is_ascii_digit(), at) {
            let digit = digit as usize - '0' as usize;
            value = Some(value.unwrap_or(0usize).saturating_mul(10).saturating_add(digit));
        }
        value
    };
    parsed.width = number(&mut at).unwrap_or(0);
    if matches!(chars.get(at), Some(',' | '_')) {
        parsed.grouping = Some(chars[at]);
        at += 1;
    }
    if chars.get(at) == Some(&'.') {
        at += 1;
        let precision = number(&mut at);
        parsed.precision =
            Some(precision.ok_or_else(|| Error::new("a format lacks its precision"))?);
    }
    parsed.kind = chars.get(at).copied();
    if chars.len() > at + 1 {
        return Err(Error::new(format!("invalid format specifier {spec:?}")));
    }
    Ok(parsed)
}
