//! The tests of Jinja2 (`value is name`).

use super::args::{Arguments, required};
use super::ast::CompareOp;
use super::limits;
use super::ops;
use super::value::{Value, to_text};
use super::{Error, Result, filters, methods};

const KNOWN: [&str; 39] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

/// Whether Jinja2 has a test of that name.
pub fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
}

/// `value is name(args)`.
#[expect(clippy::too_many_lines, reason = "an arm for each test")]
pub fn apply(name: &str, value: &Value, args: Arguments) -> Result<bool> {
    limits::spend(1)?;
    let op = match name {
        "==" | "eq" | "equalto" => Some(CompareOp::Eq),
        "!=" | "ne" => Some(CompareOp::Ne),
        "<" | "lt" | "lessthan" => Some(CompareOp::Lt),
        "<=" | "le" => Some(CompareOp::Le),
        ">" | "gt" | "greaterthan" => Some(CompareOp::Gt),
        ">=" | "ge" => Some(CompareOp::Ge),
        "in" => Some(CompareOp::In),
        _ => None,
    };
    if let Some(op) = op {
        let [other] = args.bind(name, [if name == "in" { "seq" } else { "" }])?;
        return ops::compare(op, value, &required(name, "other", other)?);
    }
    match name {
        "divisibleby" => {
            let [by] = args.bind(name, ["num"])?;
            return modulo(value, &required(name, "num", by)?, 0);
        }
        "sameas" => {
            let [other] = args.bind(name, ["other"])?;
            return same(value, &required(name, "other", other)?);
        }
        _ => args.none(name)?,
    }
    Ok(match name {
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "string" => matches!(value, Value::Str(_) | Value::Markup(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => matches!(
            value,
            Value::Str(_)
                | Value::Markup(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
                | Value::Undefined(_)
        ),
        "iterable" => !matches!(
            value,
            Value::None
                | Value::Bool(_)
                | Value::Int(_)
                | Value::Float(_)
                | Value::Method(..)
                | Value::Function(_)
                | Value::Namespace(_)
                | Value::Macro(_)
                | Value::Cycler(_)
                | Value::Joiner(_)
        ),
        "callable" => matches!(
            value,
            Value::Method(..)
                | Value::Function(_)
                | Value::Macro(_)
                | Value::Loop(_)
                | Value::Joiner(_)
                | Value::Undefined(_)
        ),
        "escaped" => matches!(value, Value::Markup(_)),
        "lower" => methods::is(&to_text(value)?, "islower")?,
        "upper" => methods::is(&to_text(value)?, "isupper")?,
        "even" => modulo(value, &Value::Int(2), 0)?,
        "odd" => modulo(value, &Value::Int(2), 1)?,
        "filter" => value.key().map(|_| value.as_str().is_some_and(filters::is_known))?,
        "test" => value.key().map(|_| value.as_str().is_some_and(is_known))?,
        _ => return Err(Error::new(format!("the test {name:?} does not exist"))),
    })
}

/// `value % by == rest`.
fn modulo(value: &Value, by: &Value, rest: i128) -> Result<bool> {
    let remainder = ops::binary(super::ast::BinaryOp::Mod, value, by)?;
    ops::equal(&remainder, &Value::Int(rest))
}

/// Identity, where it does not hang on how Python shares objects.
fn same(a: &Value, b: &Value) -> Result<bool> {
    match (a, b) {
        (Value::None, Value::None) => Ok(true),
        (Value::Bool(x), Value::Bool(y)) => Ok(x == y),
        (Value::Namespace(_), Value::Namespace(_)) => ops::equal(a, b),
        _ if a.type_name() != b.type_name() => Ok(false),
        _ => Err(Error::new(format!("sameas is not supported for {}", a.type_name()))),
    }
}
