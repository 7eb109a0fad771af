//! Attributes, items and slices, with the rules of Jinja2's sandbox.

use std::rc::Rc;

use super::value::{Range, Value, ViewKind};
use super::{Error, Result, limits};

const STR: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const DICT: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];
const LIST: [&str; 3] = ["copy", "count", "index"];
const TUPLE: [&str; 2] = ["count", "index"];
const NUMBER: [&str; 10] = [
    "as_integer_ratio",
    "bit_count",
    "bit_length",
    "conjugate",
    "denominator",
    "fromhex",
    "imag",
    "is_integer",
    "numerator",
    "real",
];
/// What the immutable sandbox forbids.
const MUTATORS: [&str; 12] = [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
    "hex",
];

/// The attribute that Python gives, if there is one. What exists there and is forbidden or not
/// known here is an error.
fn own(of: &Value, name: &str) -> Result<Option<Value>> {
    let method = |known: &'static [&'static str]| -> Option<Value> {
        let found = known.iter().find(|known| **known == name)?;
        Some(Value::Method(Rc::new(of.clone()), found))
    };
    let found = match of {
        Value::Str(_) => method(&STR),
        Value::Dict(_) => method(&DICT),
        Value::List(_) => method(&LIST),
        Value::Tuple(list) if list.group && name == "grouper" => list.items.first().cloned(),
        Value::Tuple(list) if list.group && name == "list" => list.items.get(1).cloned(),
        Value::Tuple(_) => method(&TUPLE),
        Value::Namespace(attributes) => {
            let attributes = attributes.borrow();
            attributes.iter().find(|(key, _)| &**key == name).map(|(_, value)| value.clone())
        }
        Value::Loop(of_loop) => loop_attribute(of, of_loop, name),
        Value::Range(range) => match name {
            "start" => Some(Value::Int(range.start)),
            "stop" => Some(Value::Int(range.stop)),
            "step" => Some(Value::Int(range.step)),
            _ => method(&TUPLE),
        },
        Value::Cycler(cycler) => match name {
            "current" => cycler.0.items.get(cycler.1.get()).cloned(),
            _ => method(&["next", "reset"]),
        },
        Value::Macro(of) if name == "name" => Some(Value::str(of.def.name.clone())),
        Value::Macro(of) if name == "arguments" => {
            let names = of.def.params.iter().map(|(_, name)| Value::str(&**name)).collect();
            Some(Value::tuple(names)?)
        }
        _ => None,
    };
    if found.is_some() {
        return Ok(found);
    }
    let dunder = name.starts_with("__") && name.ends_with("__") && name.len() > 4;
    let mutates = matches!(of, Value::Dict(_) | Value::List(_)) && MUTATORS.contains(&name);
    let opaque = match of {
        Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
            NUMBER.contains(&name) || matches!(name, "to_bytes" | "from_bytes" | "hex")
        }
        Value::Markup(_)
        | Value::Macro(_)
        | Value::Function(_)
        | Value::Method(..)
        | Value::Cycler(_)
        | Value::Joiner(_) => true,
        Value::View(..) => matches!(name, "isdisjoint" | "mapping"),
        Value::Iter(_) => name.starts_with("gi_") || matches!(name, "close" | "send" | "throw"),
        _ => false,
    };
    if dunder || mutates || opaque {
        let of = of.type_name();
        return Err(Error::new(format!("the attribute {name:?} of {of} is not available")));
    }
    Ok(None)
}

fn loop_attribute(of: &Value, looped: &Rc<super::value::Loop>, name: &str) -> Option<Value> {
    let (at, length) = (looped.index0.get(), looped.items.len());
    let int = |value: usize| Some(Value::Int(value as i128));
    match name {
        "index0" => int(at),
        "index" => int(at + 1),
        "revindex0" => int(length - at - 1),
        "revindex" => int(length - at),
        "first" => Some(Value::Bool(at == 0)),
        "last" => Some(Value::Bool(at + 1 == length)),
        "length" => int(length),
        "depth0" => int(looped.depth0),
        "depth" => int(looped.depth0 + 1),
        "previtem" => Some(match at.checked_sub(1) {
            Some(before) => looped.items[before].clone(),
            None => Value::undefined("there is no previous item"),
        }),
        "nextitem" => Some(match looped.items.get(at + 1) {
            Some(next) => next.clone(),
            None => Value::undefined("there is no next item"),
        }),
        "cycle" => Some(Value::Method(Rc::new(of.clone()), "cycle")),
        "changed" => Some(Value::Method(Rc::new(of.clone()), "changed")),
        _ => None,
    }
}

fn missing(of: &Value, name: &str) -> Value {
    Value::undefined(match of {
        Value::None => format!("None has no attribute {name:?}"),
        _ => format!("a {} has no attribute {name:?}", of.type_name()),
    })
}

/// `of.name`: the attribute first, then the item.
pub fn attribute(of: &Value, name: &str) -> Result<Value> {
    limits::spend(1)?;
    of.defined()?;
    if let Some(found) = own(of, name)? {
        return Ok(found);
    }
    match of {
        Value::Dict(dict) => Ok(dict.get_str(name).cloned().unwrap_or_else(|| missing(of, name))),
        _ => Ok(missing(of, name)),
    }
}

/// `of[key]`: the item first, then the attribute.
pub fn item(of: &Value, key: &Value) -> Result<Value> {
    limits::spend(1)?;
    of.defined()?;
    let found = match (of, key) {
        (Value::Dict(dict), Value::Str(name)) => dict.get_str(&name.text).cloned(),
        (Value::Dict(_), Value::Undefined(_)) => None,
        // What cannot be a key is in no dict.
        (Value::Dict(dict), key) => key.key().ok().and_then(|_| dict.get(key).ok()?.cloned()),
        (_, key) => match key.as_int() {
            Some(index) => at(of, index)?,
            None => None,
        },
    };
    if let Some(found) = found {
        return Ok(found);
    }
    match key {
        Value::Str(name) => Ok(own(of, &name.text)?.unwrap_or_else(|| missing(of, &name.text))),
        _ => Ok(Value::undefined(format!("a {} has no such item", of.type_name()))),
    }
}

/// The item at an index, from the end if it is negative.
fn at(of: &Value, index: i128) -> Result<Option<Value>> {
    let length = match of {
        Value::Str(text) => text.len(),
        Value::List(list) | Value::Tuple(list) => list.items.len(),
        Value::Range(range) => range.len(),
        Value::Markup(_) => return Err(Error::new("items of Markup are not supported")),
        _ => return Ok(None),
    };
    let index = if index < 0 { index + length as i128 } else { index };
    let Ok(index) = usize::try_from(index) else { return Ok(None) };
    if index >= length {
        return Ok(None);
    }
    Ok(match of {
        Value::Str(text) if text.ascii => Some(Value::str(&text.text[index..index + 1])),
        Value::Str(text) => {
            limits::touch(text.text.len())?;
            text.text.chars().nth(index).map(Value::str)
        }
        Value::List(list) | Value::Tuple(list) => list.items.get(index).cloned(),
        Value::Range(range) => Some(range.get(index)),
        _ => None,
    })
}

/// `of[start:stop:step]`.
pub fn slice(of: &Value, bounds: [Option<Value>; 3]) -> Result<Value> {
    of.defined()?;
    let length = match of {
        Value::Str(text) => text.len(),
        Value::List(list) | Value::Tuple(list) => list.items.len(),
        Value::Range(range) => range.len(),
        _ => return Err(Error::new(format!("a {} cannot be sliced", of.type_name()))),
    };
    let mut numbers = [None; 3];
    for (number, bound) in numbers.iter_mut().zip(&bounds) {
        match bound {
            None | Some(Value::None) => {}
            Some(value) => *number = Some(value.expect_int("a bound of a slice")?),
        }
    }
    let [start, stop, step] = numbers;
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Error::new("a slice's step cannot be zero"));
    }
    let (start, stop) = clamp(start, stop, step, length as i128);
    let picked = Range { start, stop, step };
    limits::room(picked.len() * size_of::<Value>())?;
    let indices = (0..picked.len()).map(|index| (start + step * index as i128) as usize);
    match of {
        Value::Str(text) => {
            limits::touch(text.text.len())?;
            if step == 1 && text.ascii {
                let (from, to) = (start as usize, stop.max(start) as usize);
                return Ok(Value::str(&text.text[from..to]));
            }
            let chars: Vec<char> = text.text.chars().collect();
            Ok(Value::str(indices.map(|index| chars[index]).collect::<String>()))
        }
        Value::Range(range) => Ok(Value::Range(Range {
            start: range.start + range.step * start,
            stop: range.start + range.step * stop,
            step: range.step * step,
        })),
        Value::List(list) => Value::list(indices.map(|index| list.items[index].clone()).collect()),
        Value::Tuple(list) => {
            Value::tuple(indices.map(|index| list.items[index].clone()).collect())
        }
        _ => Ok(Value::None),
    }
}

/// Python's `slice.indices`.
fn clamp(start: Option<i128>, stop: Option<i128>, step: i128, length: i128) -> (i128, i128) {
    let (lower, upper) = if step < 0 { (-1, length - 1) } else { (0, length) };
    let bound = |value: Option<i128>, default: i128| match value {
        None => default,
        Some(value) if value < 0 => value.saturating_add(length).max(lower),
        Some(value) => value.min(upper),
    };
    if step < 0 {
        (bound(start, upper), bound(stop, lower))
    } else {
        (bound(start, lower), bound(stop, upper))
    }
}

/// A view of a dict by the name of its method.
pub fn view(name: &str) -> Option<ViewKind> {
    match name {
        "keys" => Some(ViewKind::Keys),
        "values" => Some(ViewKind::Values),
        "items" => Some(ViewKind::Items),
        _ => None,
    }
}
