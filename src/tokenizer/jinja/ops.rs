//! Python's operators.

use std::cmp::Ordering;
use std::rc::Rc;

use super::ast::{BinaryOp, CompareOp};
use super::limits;
use super::value::{Value, ViewKind};
use super::{Error, Result, printf};

/// A number of Python.
#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
}

fn number(value: &Value) -> Option<Number> {
    match value {
        Value::Float(value) => Some(Number::Float(*value)),
        other => other.as_int().map(Number::Int),
    }
}

/// `a op b`.
pub fn binary(op: BinaryOp, a: &Value, b: &Value) -> Result<Value> {
    a.defined()?;
    if let (BinaryOp::Mod, Value::Str(format)) = (op, a) {
        return printf::percent(&format.text, b);
    }
    b.defined()?;
    if let (Some(x), Some(y)) = (number(a), number(b)) {
        return match (x, y) {
            (Number::Int(x), Number::Int(y)) => integers(op, x, y),
            (x, y) => floats(op, as_float(x)?, as_float(y)?),
        };
    }
    match (op, a, b) {
        (BinaryOp::Add, Value::Str(x), Value::Str(y)) => {
            limits::room(x.text.len() + y.text.len())?;
            Ok(Value::str(x.text.clone() + &y.text))
        }
        (BinaryOp::Add, Value::List(x), Value::List(y)) => {
            limits::room((x.items.len() + y.items.len()) * size_of::<Value>())?;
            Value::list([x.items.as_slice(), &y.items].concat())
        }
        (BinaryOp::Add, Value::Tuple(x), Value::Tuple(y)) => {
            limits::room((x.items.len() + y.items.len()) * size_of::<Value>())?;
            Value::tuple([x.items.as_slice(), &y.items].concat())
        }
        (BinaryOp::Mul, sequence, times) if times.as_int().is_some() => repeat(op, sequence, times),
        (BinaryOp::Mul, times, sequence) if times.as_int().is_some() => repeat(op, sequence, times),
        _ => Err(unsupported(op, a, b)),
    }
}

fn unsupported(op: BinaryOp, a: &Value, b: &Value) -> Error {
    let sign = match op {
        BinaryOp::Add => "+",
        BinaryOp::Sub => "-",
        BinaryOp::Mul => "*",
        BinaryOp::Div => "/",
        BinaryOp::FloorDiv => "//",
        BinaryOp::Mod => "%",
        BinaryOp::Pow => "**",
    };
    Error::new(format!(
        "unsupported operand types for {sign}: {} and {}",
        a.type_name(),
        b.type_name()
    ))
}

/// `sequence * times`.
fn repeat(op: BinaryOp, sequence: &Value, times: &Value) -> Result<Value> {
    let count = times.as_int().unwrap_or(0).max(0);
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    match sequence {
        Value::Str(text) => {
            limits::room(text.text.len().saturating_mul(count))?;
            Ok(Value::str(text.text.repeat(if text.text.is_empty() { 0 } else { count })))
        }
        Value::List(list) | Value::Tuple(list) => {
            let bytes = list.items.len().saturating_mul(count);
            limits::room(bytes.saturating_mul(size_of::<Value>()))?;
            let mut items = Vec::with_capacity(bytes);
            if !list.items.is_empty() {
                (0..count).for_each(|_| items.extend(list.items.iter().cloned()));
            }
            if matches!(sequence, Value::List(_)) {
                Value::list(items)
            } else {
                Value::tuple(items)
            }
        }
        other => Err(unsupported(op, other, times)),
    }
}

fn as_float(x: Number) -> Result<f64> {
    match x {
        Number::Float(x) => Ok(x),
        Number::Int(x) => Ok(x as f64),
    }
}

fn too_large() -> Error {
    Error::new("integers beyond 127 bits are not supported")
}

fn by_zero() -> Error {
    Error::new("division by zero")
}

fn integers(op: BinaryOp, x: i128, y: i128) -> Result<Value> {
    let floor = |x: i128, y: i128| {
        let quotient = x.checked_div(y).ok_or_else(too_large)?;
        Ok::<_, Error>(if x % y != 0 && (x < 0) != (y < 0) { quotient - 1 } else { quotient })
    };
    let result = match op {
        BinaryOp::Add => x.checked_add(y),
        BinaryOp::Sub => x.checked_sub(y),
        BinaryOp::Mul => x.checked_mul(y),
        BinaryOp::Div | BinaryOp::FloorDiv | BinaryOp::Mod if y == 0 => return Err(by_zero()),
        BinaryOp::Div => {
            const EXACT: u128 = 1 << 53;
            if x.unsigned_abs() > EXACT || y.unsigned_abs() > EXACT {
                return Err(Error::new("a quotient of integers beyond 53 bits is not supported"));
            }
            return Ok(Value::Float(x as f64 / y as f64));
        }
        BinaryOp::FloorDiv => Some(floor(x, y)?),
        BinaryOp::Mod => Some(x - floor(x, y)? * y),
        BinaryOp::Pow if y < 0 => return floats(op, x as f64, y as f64),
        BinaryOp::Pow => match (x, u32::try_from(y)) {
            (0 | 1, _) => Some(if y == 0 { 1 } else { x }),
            (-1, _) => Some(if y % 2 == 0 { 1 } else { -1 }),
            (_, Ok(y)) => x.checked_pow(y),
            _ => None,
        },
    };
    result.map(Value::Int).ok_or_else(too_large)
}

fn floats(op: BinaryOp, x: f64, y: f64) -> Result<Value> {
    let modulo = |x: f64, y: f64| {
        let rest = x % y;
        if rest != 0.0 {
            if (rest < 0.0) != (y < 0.0) { rest + y } else { rest }
        } else {
            0.0f64.copysign(y)
        }
    };
    Ok(Value::Float(match op {
        BinaryOp::Add => x + y,
        BinaryOp::Sub => x - y,
        BinaryOp::Mul => x * y,
        BinaryOp::Div | BinaryOp::FloorDiv | BinaryOp::Mod if y == 0.0 => return Err(by_zero()),
        BinaryOp::Div => x / y,
        BinaryOp::Mod => modulo(x, y),
        BinaryOp::FloorDiv => {
            let quotient = (x - modulo(x, y)) / y;
            if quotient == 0.0 {
                0.0f64.copysign(x / y)
            } else if quotient - quotient.floor() > 0.5 {
                quotient.floor() + 1.0
            } else {
                quotient.floor()
            }
        }
        BinaryOp::Pow if x == 0.0 && y < 0.0 => return Err(by_zero()),
        BinaryOp::Pow if x < 0.0 && y.fract() != 0.0 && y.is_finite() => {
            return Err(Error::new("complex numbers are not supported"));
        }
        BinaryOp::Pow => {
            let power = x.powf(y);
            if power.is_infinite() && x.is_finite() && y.is_finite() {
                return Err(Error::new("the power is too large"));
            }
            power
        }
    }))
}

/// `-a`.
pub fn negate(a: &Value) -> Result<Value> {
    a.defined()?;
    match number(a) {
        Some(Number::Int(x)) => x.checked_neg().map(Value::Int).ok_or_else(too_large),
        Some(Number::Float(x)) => Ok(Value::Float(-x)),
        None => Err(Error::new(format!("bad operand type for unary -: {}", a.type_name()))),
    }
}

/// `+a`.
pub fn plus(a: &Value) -> Result<Value> {
    a.defined()?;
    match number(a) {
        Some(Number::Int(x)) => Ok(Value::Int(x)),
        Some(Number::Float(x)) => Ok(Value::Float(x)),
        None => Err(Error::new(format!("bad operand type for unary +: {}", a.type_name()))),
    }
}

/// `a op b` of a comparison.
pub fn compare(op: CompareOp, a: &Value, b: &Value) -> Result<bool> {
    match op {
        CompareOp::Eq => equal(a, b),
        CompareOp::Ne => Ok(!equal(a, b)?),
        CompareOp::In => contains(b, a),
        CompareOp::NotIn => Ok(!contains(b, a)?),
        CompareOp::Lt | CompareOp::Le | CompareOp::Gt | CompareOp::Ge => {
            let Some(order) = order(a, b)? else { return Ok(false) };
            Ok(match op {
                CompareOp::Lt => order.is_lt(),
                CompareOp::Le => order.is_le(),
                CompareOp::Gt => order.is_gt(),
                _ => order.is_ge(),
            })
        }
    }
}

/// The order of an integer and a float, which are compared exactly.
fn int_float(x: i128, y: f64) -> Option<Ordering> {
    if y.is_nan() {
        return None;
    }
    if y.abs() >= 1e38 {
        return 0.0f64.partial_cmp(&y);
    }
    let whole = y.floor();
    Some(x.cmp(&(whole as i128)).then(if y > whole { Ordering::Less } else { Ordering::Equal }))
}

fn numbers(x: Number, y: Number) -> Option<Ordering> {
    match (x, y) {
        (Number::Int(x), Number::Int(y)) => Some(x.cmp(&y)),
        (Number::Float(x), Number::Float(y)) => x.partial_cmp(&y),
        (Number::Int(x), Number::Float(y)) => int_float(x, y),
        (Number::Float(x), Number::Int(y)) => int_float(y, x).map(Ordering::reverse),
    }
}

/// The order of two values that can be ordered; `None` beside a NaN.
pub fn order(a: &Value, b: &Value) -> Result<Option<Ordering>> {
    limits::spend(1)?;
    if let (Some(x), Some(y)) = (number(a), number(b)) {
        return Ok(numbers(x, y));
    }
    a.defined()?;
    b.defined()?;
    match (a, b) {
        (Value::Str(x), Value::Str(y)) => {
            limits::touch(x.text.len().min(y.text.len()))?;
            Ok(Some(x.text.cmp(&y.text)))
        }
        (Value::List(x), Value::List(y)) | (Value::Tuple(x), Value::Tuple(y)) => {
            for (x, y) in x.items.iter().zip(&y.items) {
                if !equal(x, y)? {
                    return order(x, y);
                }
            }
            Ok(Some(x.items.len().cmp(&y.items.len())))
        }
        _ => Err(Error::new(format!(
            "values of type {} and {} cannot be ordered",
            a.type_name(),
            b.type_name()
        ))),
    }
}

/// `a == b`.
pub fn equal(a: &Value, b: &Value) -> Result<bool> {
    limits::spend(1)?;
    if let (Some(x), Some(y)) = (number(a), number(b)) {
        return Ok(numbers(x, y) == Some(Ordering::Equal));
    }
    Ok(match (a, b) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::Str(x) | Value::Markup(x), Value::Str(y) | Value::Markup(y)) => {
            limits::touch(x.text.len().min(y.text.len()))?;
            x.text == y.text
        }
        (Value::List(x), Value::List(y)) | (Value::Tuple(x), Value::Tuple(y)) => {
            if x.items.len() != y.items.len() {
                return Ok(false);
            }
            for (x, y) in x.items.iter().zip(&y.items) {
                if !equal(x, y)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Dict(x), Value::Dict(y)) => {
            if x.entries.len() != y.entries.len() {
                return Ok(false);
            }
            for (key, value) in &x.entries {
                match y.get(key)? {
                    Some(other) if equal(value, other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Range(x), Value::Range(y)) => {
            x.len() == y.len()
                && (0..x.len().min(2)).all(
                    |i| matches!((x.get(i), y.get(i)), (Value::Int(x), Value::Int(y)) if x == y),
                )
        }
        (Value::Namespace(x), Value::Namespace(y)) => Rc::ptr_eq(x, y),
        (Value::Macro(x), Value::Macro(y)) => Rc::ptr_eq(x, y),
        (Value::Function(x), Value::Function(y)) => x == y,
        (Value::Iter(x), Value::Iter(y)) => Rc::ptr_eq(x, y),
        (Value::Loop(x), Value::Loop(y)) => Rc::ptr_eq(x, y),
        (Value::View(..), Value::View(..)) | (Value::Method(..), Value::Method(..)) => {
            let (a, b) = (a.type_name(), b.type_name());
            return Err(Error::new(format!("comparing {a} with {b} is not supported")));
        }
        _ => false,
    })
}

/// `item in container`.
pub fn contains(container: &Value, item: &Value) -> Result<bool> {
    match container {
        Value::Undefined(_) => Ok(false),
        Value::Str(text) => {
            let needle = match item {
                Value::Str(needle) | Value::Markup(needle) => &needle.text,
                other => {
                    other.defined()?;
                    return Err(Error::new(format!(
                        "`in` of a text needs a text on its left, not {}",
                        other.type_name()
                    )));
                }
            };
            limits::touch(text.text.len())?;
            Ok(text.text.contains(needle.as_str()))
        }
        Value::Dict(dict) | Value::View(ViewKind::Keys, dict) => {
            if item.is_undefined() {
                return Ok(false);
            }
            Ok(dict.get(item)?.is_some())
        }
        Value::List(list) | Value::Tuple(list) => among(&list.items, item),
        Value::Range(range) => {
            let Some(value) = item.as_int() else {
                return among(&container.items()?, item);
            };
            let from = value - range.start;
            Ok(from % range.step == 0 && (0..range.len() as i128).contains(&(from / range.step)))
        }
        Value::View(..) => among(&container.items()?, item),
        Value::Iter(iter) => {
            iter.whole()?;
            loop {
                let next = iter.left.borrow_mut().pop_front();
                let Some(next) = next else { return Ok(false) };
                if equal(&next, item)? {
                    return Ok(true);
                }
            }
        }
        other => Err(Error::new(format!("argument of type {} is not iterable", other.type_name()))),
    }
}

fn among(items: &[Value], item: &Value) -> Result<bool> {
    for other in items {
        // Python looks at identity first; only a NaN differs from itself.
        if equal(other, item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sorts by keys, stably; from the largest on, equal ones still in their order, if `reverse`.
pub fn sort(items: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<Value>> {
    Ok(merge_sort(items, reverse)?.into_iter().map(|(_, item)| item).collect())
}

/// A merge sort whose comparisons may fail.
fn merge_sort(mut items: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<(Value, Value)>> {
    if items.len() < 2 {
        return Ok(items);
    }
    let right = merge_sort(items.split_off(items.len() / 2), reverse)?;
    let left = merge_sort(items, reverse)?;
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let order =
            order(&a.0, &b.0)?.ok_or_else(|| Error::new("a NaN has no place in an order"))?;
        let take_right = if reverse { order.is_lt() } else { order.is_gt() };
        merged.extend(if take_right { right.next() } else { left.next() });
    }
    merged.extend(left);
    merged.extend(right);
    Ok(merged)
}
