//! The functions that a template finds by name.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use jiff::civil::DateTime;

use super::args::{Arguments, required};
use super::value::{List, Range, Value};
use super::{Error, Result, limits, text};

/// The largest range of Jinja2's sandbox.
const LARGEST_RANGE: usize = 100_000;

const NAMES: [&str; 8] =
    ["cycler", "dict", "joiner", "lipsum", "namespace", "raise_exception", "range", "strftime_now"];

/// The function of that name.
pub fn find(name: &str) -> Option<Value> {
    NAMES.iter().find(|known| **known == name).map(|known| Value::Function(known))
}

/// Calls the function `name`; `now` is the time that it may tell.
pub fn call(name: &'static str, args: Arguments, now: DateTime) -> Result<Value> {
    match name {
        "range" => range(args),
        "dict" => dict(args),
        "namespace" => {
            let Value::Dict(dict) = dict(args)? else { return Ok(Value::None) };
            let mut attributes = Vec::with_capacity(dict.entries.len());
            for (key, value) in &dict.entries {
                let key = key.expect_str("the name of an attribute")?;
                if key.starts_with('_') {
                    return Err(Error::new("a namespace takes no attribute that begins with _"));
                }
                if value.holds_reference()? {
                    return Err(Error::new("a namespace cannot hold a namespace or a loop"));
                }
                attributes.push((key.into(), value.clone()));
            }
            Ok(Value::Namespace(Rc::new(RefCell::new(attributes))))
        }
        "cycler" => {
            if args.positional.is_empty() || !args.keyword.is_empty() {
                return Err(Error::new("at least one item has to be provided to cycler"));
            }
            let items = Rc::new(List::new(args.positional, false)?);
            Ok(Value::Cycler(Rc::new((items, Cell::new(0)))))
        }
        "joiner" => {
            let [separator] = args.bind(name, ["sep"])?;
            let separator = separator.unwrap_or_else(|| Value::str(", "));
            Ok(Value::Joiner(Rc::new((separator, Cell::new(false)))))
        }
        "raise_exception" => {
            let [message] = args.bind(name, ["message"])?;
            let message = required(name, "message", message)?;
            Err(Error::raised(super::value::to_text(&message)?))
        }
        "strftime_now" => {
            let [format] = args.bind(name, ["format"])?;
            let format = required(name, "format", format)?;
            strftime(format.expect_str("a format")?, now).map(Value::str)
        }
        _ => Err(Error::new(format!("{name} is not supported"))),
    }
}

fn range(args: Arguments) -> Result<Value> {
    let [first, second, step] = args.bind("range", ["", "", ""])?;
    let first = required("range", "stop", first)?.expect_int("a bound of range")?;
    let (start, stop) = match second {
        Some(stop) => (first, stop.expect_int("a bound of range")?),
        None => (0, first),
    };
    let step = step.map_or(Ok(1), |step| step.expect_int("the step of range"))?;
    if step == 0 {
        return Err(Error::new("the step of range cannot be zero"));
    }
    if [start, stop, step].iter().any(|bound| bound.unsigned_abs() > 1 << 62) {
        return Err(Error::new("the range is too large"));
    }
    let range = Range { start, stop, step };
    if range.len() > LARGEST_RANGE {
        return Err(Error::new(format!(
            "Range too big. The sandbox blocks ranges larger than {LARGEST_RANGE}"
        )));
    }
    Ok(Value::Range(range))
}

/// `dict(mapping or pairs, name=value ...)`.
fn dict(args: Arguments) -> Result<Value> {
    if args.positional.len() > 1 {
        return Err(Error::new("dict takes at most 1 argument"));
    }
    let mut pairs = Vec::new();
    match args.positional.first() {
        None => {}
        Some(Value::Dict(dict)) => pairs.extend(dict.entries.iter().cloned()),
        Some(other) => {
            for pair in other.items()? {
                let pair: Vec<Value> = pair.items()?;
                let [key, value] = <[Value; 2]>::try_from(pair)
                    .map_err(|_| Error::new("dict takes pairs of key and value"))?;
                pairs.push((key, value));
            }
        }
    }
    pairs.extend(args.keyword.into_iter().map(|(name, value)| (Value::str(&*name), value)));
    limits::room(pairs.len() * 160)?;
    Value::dict(pairs)
}

const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// `datetime.strftime` in the C locale.
fn strftime(format: &str, now: DateTime) -> Result<String> {
    limits::room(format.len().saturating_mul(16))?;
    let day = DAYS[now.weekday().to_monday_zero_offset() as usize];
    let month = MONTHS[now.month() as usize - 1];
    let hour12 = if now.hour() % 12 == 0 { 12 } else { now.hour() % 12 };
    let half = if now.hour() < 12 { "AM" } else { "PM" };
    let mut out = String::with_capacity(format.len() * 2);
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let plain = directive == Some('-');
        if plain {
            directive = chars.next();
        }
        let mut number = |value: i64, width: usize| {
            let width = if plain { 0 } else { width };
            out.push_str(&format!("{value:0width$}"));
        };
        match directive {
            Some('d') => number(now.day().into(), 2),
            Some('m') => number(now.month().into(), 2),
            Some('H') => number(now.hour().into(), 2),
            Some('I') => number(hour12.into(), 2),
            Some('M') => number(now.minute().into(), 2),
            Some('S') => number(now.second().into(), 2),
            Some('y') => number(i64::from(now.year()) % 100, 2),
            Some('j') => number(now.day_of_year().into(), 3),
            Some('Y') => number(now.year().into(), 0),
            _ if plain => return Err(unknown(directive)),
            Some('e') => out.push_str(&format!("{:2}", now.day())),
            Some('f') => out.push_str(&format!("{:06}", now.subsec_nanosecond() / 1000)),
            Some('a') => out.push_str(&day[..3]),
            Some('A') => out.push_str(day),
            Some('b' | 'h') => out.push_str(&month[..3]),
            Some('B') => out.push_str(month),
            Some('p') => out.push_str(half),
            Some('F') => out.push_str(&strftime("%Y-%m-%d", now)?),
            Some('T') => out.push_str(&strftime("%H:%M:%S", now)?),
            Some('D') => out.push_str(&strftime("%m/%d/%y", now)?),
            Some('R') => out.push_str(&strftime("%H:%M", now)?),
            Some('c') => {
                out.push_str(&format!("{} {} {:2} ", &day[..3], &month[..3], now.day()));
                out.push_str(&strftime("%H:%M:%S %Y", now)?);
            }
            Some('x') => out.push_str(&strftime("%m/%d/%y", now)?),
            Some('X') => out.push_str(&strftime("%H:%M:%S", now)?),
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            // Transformers gives a time without a zone.
            Some('z' | 'Z') => {}
            Some('%') => out.push('%'),
            other => return Err(unknown(other)),
        }
    }
    Ok(out)
}

fn unknown(directive: Option<char>) -> Error {
    let directive = directive.map_or(String::new(), |c| text::repr(&format!("%{c}")));
    Error::new(format!("strftime_now does not support the directive {directive}"))
}
