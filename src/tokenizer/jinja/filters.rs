//! The filters of Jinja2 on values; those on texts are in [`super::text_filters`].

use std::rc::Rc;
use std::sync::Arc;

use super::args::{Arguments, required};
use super::limits;
use super::ops;
use super::tests;
use super::value::{List, Value, to_text};
use super::{Error, Result, attr, json, methods, text_filters};

/// All filters that are known here.
const KNOWN: [&str; 47] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
];

/// Filters of Jinja2 that are not here.
const OTHER: [&str; 7] =
    ["forceescape", "pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr"];

/// Whether Jinja2 has a filter of that name.
pub fn is_known(name: &str) -> bool {
    KNOWN.contains(&name) || OTHER.contains(&name)
}

/// `value | name(args)`.
#[expect(clippy::too_many_lines, reason = "an arm for each filter")]
pub fn apply(name: &str, value: Value, args: Arguments) -> Result<Value> {
    limits::spend(1)?;
    match name {
        "abs" => {
            args.none(name)?;
            if let Value::Float(x) = value {
                return Ok(Value::Float(x.abs()));
            }
            Ok(Value::Int(value.expect_int("a number for abs")?.abs()))
        }
        "attr" => {
            let [attribute] = args.bind(name, ["name"])?;
            let attribute = required(name, "name", attribute)?;
            // Attributes alone: the items of a dict are none.
            let attribute = attribute.expect_str("an attribute's name")?;
            if let Value::Dict(_) = value
                && attr::view(attribute).is_none()
            {
                return Ok(Value::undefined(format!("a dict has no attribute {attribute:?}")));
            }
            attr::attribute(&value, attribute)
        }
        "count" | "length" => {
            args.none(name)?;
            Ok(Value::Int(value.len()? as i128))
        }
        "d" | "default" => {
            let [default, boolean] = args.bind(name, ["default_value", "boolean"])?;
            let boolean = boolean.is_some_and(|boolean| boolean.truthy());
            if value.is_undefined() || (boolean && !value.truthy()) {
                return Ok(default.unwrap_or_else(|| Value::str("")));
            }
            Ok(value)
        }
        "first" => {
            args.none(name)?;
            let first = match &value {
                Value::Iter(iter) => {
                    iter.whole()?;
                    iter.left.borrow_mut().pop_front()
                }
                Value::Str(text) => text.text.chars().next().map(Value::str),
                other => other.items()?.into_iter().next(),
            };
            Ok(first.unwrap_or_else(|| Value::undefined("No first item, sequence was empty.")))
        }
        "last" => {
            args.none(name)?;
            let last = match &value {
                Value::Iter(_) => return Err(Error::new("a generator has no last item")),
                Value::Str(text) => text.text.chars().next_back().map(Value::str),
                other => other.items()?.pop(),
            };
            Ok(last.unwrap_or_else(|| Value::undefined("No last item, sequence was empty.")))
        }
        "list" => args.none(name).and_then(|()| Value::list(value.items()?)),
        "items" => {
            args.none(name)?;
            match &value {
                Value::Undefined(_) => Value::iter(Vec::new()),
                Value::Dict(dict) => {
                    Value::iter(Value::View(attr::view("items").unwrap(), dict.clone()).items()?)
                }
                _ => Err(Error::new("Can only get item pairs from a mapping.")),
            }
        }
        "join" => {
            let [separator, attribute] = args.bind(name, ["d", "attribute"])?;
            let separator = separator.map_or(Ok(String::new()), |value| to_text(&value))?;
            let mut items = value.items()?;
            if let Some(path) = given(attribute) {
                items = items.iter().map(|item| dig(item, &path, None)).collect::<Result<_>>()?;
            }
            methods::join(&separator, items.iter(), true).map(Value::str)
        }
        "tojson" => json::filter(&value, args),
        "reverse" => {
            args.none(name)?;
            match &value {
                Value::Str(text) => {
                    limits::room(text.text.len())?;
                    Ok(Value::str(text.text.chars().rev().collect::<String>()))
                }
                Value::Iter(_) => {
                    let mut items = value.items()?;
                    items.reverse();
                    Value::list(items)
                }
                other => {
                    let mut items = other.items()?;
                    items.reverse();
                    Value::iter(items)
                }
            }
        }
        "map" => map(value, args),
        "select" => choose(value, args, true, false),
        "reject" => choose(value, args, false, false),
        "selectattr" => choose(value, args, true, true),
        "rejectattr" => choose(value, args, false, true),
        "sort" => {
            let [reverse, case, attribute] =
                args.bind(name, ["reverse", "case_sensitive", "attribute"])?;
            let case = case.is_some_and(|case| case.truthy());
            let paths: Vec<Option<Value>> = match given(attribute) {
                Some(Value::Str(names)) => {
                    names.text.split(',').map(|name| Some(Value::str(name))).collect()
                }
                other => vec![other],
            };
            let keyed = value.items()?.into_iter().map(|item| {
                let keys = paths.iter().map(|path| key_of(&item, path.as_ref(), case, None));
                Ok((Value::list(keys.collect::<Result<_>>()?)?, item))
            });
            let keyed = keyed.collect::<Result<Vec<_>>>()?;
            Value::list(ops::sort(keyed, reverse.is_some_and(|reverse| reverse.truthy()))?)
        }
        "dictsort" => dict_sort(value, args),
        "unique" => {
            let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let case = case.is_some_and(|case| case.truthy());
            let attribute = given(attribute);
            let mut seen = std::collections::HashSet::new();
            let mut kept = Vec::new();
            for item in value.items()? {
                if seen.insert(key_of(&item, attribute.as_ref(), case, None)?.key()?) {
                    kept.push(item);
                }
            }
            Value::iter(kept)
        }
        "min" | "max" => {
            let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let case = case.is_some_and(|case| case.truthy());
            let attribute = given(attribute);
            let mut best: Option<(Value, Value)> = None;
            for item in value.items()? {
                let key = key_of(&item, attribute.as_ref(), case, None)?;
                let better = match &best {
                    None => true,
                    Some((old, _)) => ops::order(&key, old)?.is_some_and(|order| {
                        if name == "min" { order.is_lt() } else { order.is_gt() }
                    }),
                };
                if better {
                    best = Some((key, item));
                }
            }
            Ok(best.map_or_else(
                || Value::undefined("No aggregated item, sequence was empty."),
                |(_, item)| item,
            ))
        }
        "sum" => {
            let [attribute, start] = args.bind(name, ["attribute", "start"])?;
            let attribute = given(attribute);
            let mut sum = start.unwrap_or(Value::Int(0));
            if matches!(sum, Value::Str(_)) {
                return Err(Error::new("sum cannot add texts"));
            }
            for item in value.items()? {
                let item = match &attribute {
                    Some(path) => dig(&item, path, None)?,
                    None => item,
                };
                sum = ops::binary(super::ast::BinaryOp::Add, &sum, &item)?;
            }
            Ok(sum)
        }
        "groupby" => group_by(value, args),
        "batch" | "slice" => cut(name, value, args),
        _ => text_filters::apply(name, value, args),
    }
}

/// An argument that was given and is not none.
fn given(value: Option<Value>) -> Option<Value> {
    value.filter(|value| !matches!(value, Value::None))
}

/// The attribute of an item by a path like `a.b.0`, what is missing replaced by `default`.
fn dig(item: &Value, path: &Value, default: Option<&Value>) -> Result<Value> {
    let step = |item: &Value, key: &Value| -> Result<Value> {
        let found = attr::item(item, key)?;
        Ok(match default {
            Some(default) if found.is_undefined() => default.clone(),
            _ => found,
        })
    };
    let Value::Str(path) = path else { return step(item, path) };
    let mut item = item.clone();
    for part in path.text.split('.') {
        let index = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let key = match part.parse() {
            Ok(number) if index => Value::Int(number),
            _ => Value::str(part),
        };
        item = step(&item, &key)?;
    }
    Ok(item)
}

/// What an item is sorted by: its attribute, texts in lower case unless `case` matters.
fn key_of(
    item: &Value,
    path: Option<&Value>,
    case: bool,
    default: Option<&Value>,
) -> Result<Value> {
    let key = match path {
        Some(path) => dig(item, path, default)?,
        None => item.clone(),
    };
    Ok(match &key {
        Value::Str(text) if !case => {
            limits::room(text.text.len())?;
            Value::str(text.text.to_lowercase())
        }
        _ => key,
    })
}

fn map(value: Value, mut args: Arguments) -> Result<Value> {
    if !value.truthy() {
        return Value::iter(Vec::new());
    }
    let by_attribute = args.keyword.iter().any(|(name, _)| &**name == "attribute");
    let items = value.items()?;
    if args.positional.is_empty() && by_attribute {
        let [attribute, default] = args.bind("map", ["attribute", "default"])?;
        let default = given(default);
        let path = required("map", "attribute", attribute)?;
        let mapped = items.iter().map(|item| dig(item, &path, default.as_ref()));
        return Value::iter(mapped.collect::<Result<_>>()?);
    }
    if args.positional.is_empty() {
        return Err(Error::new("map requires a filter argument"));
    }
    let name = args.positional.remove(0);
    let name = name.expect_str("a filter's name")?;
    let mapped = items.into_iter().map(|item| apply(name, item, copy(&args)));
    Value::iter(mapped.collect::<Result<_>>()?)
}

fn copy(args: &Arguments) -> Arguments {
    Arguments { positional: args.positional.clone(), keyword: args.keyword.clone() }
}

/// `select`, `reject` and their forms for attributes.
fn choose(value: Value, mut args: Arguments, keep: bool, by_attribute: bool) -> Result<Value> {
    if !value.truthy() {
        return Value::iter(Vec::new());
    }
    let path = match by_attribute {
        true if args.positional.is_empty() => {
            return Err(Error::new("Missing parameter for attribute name"));
        }
        true => Some(args.positional.remove(0)),
        false => None,
    };
    let test = (!args.positional.is_empty()).then(|| args.positional.remove(0));
    let mut kept = Vec::new();
    for item in value.items()? {
        let looked_at = match &path {
            Some(path) => dig(&item, path, None)?,
            None => item.clone(),
        };
        let passes = match &test {
            Some(test) => tests::apply(test.expect_str("a test's name")?, &looked_at, copy(&args))?,
            None => looked_at.truthy(),
        };
        if passes == keep {
            kept.push(item);
        }
    }
    Value::iter(kept)
}

fn dict_sort(value: Value, args: Arguments) -> Result<Value> {
    let [case, by, reverse] = args.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let case = case.is_some_and(|case| case.truthy());
    let by = match by {
        None => 0,
        Some(by) => match by.as_str() {
            Some("key") => 0,
            Some("value") => 1,
            _ => return Err(Error::new("You can only sort by either \"key\" or \"value\"")),
        },
    };
    value.defined()?;
    let Value::Dict(dict) = &value else {
        return Err(Error::new(format!("{} has no items to sort", value.type_name())));
    };
    let keyed = dict.entries.iter().map(|(key, item)| {
        let sorted_by = if by == 0 { key } else { item };
        let pair = Value::tuple(vec![key.clone(), item.clone()])?;
        Ok((key_of(sorted_by, None, case, None)?, pair))
    });
    let keyed = keyed.collect::<Result<Vec<_>>>()?;
    Value::list(ops::sort(keyed, reverse.is_some_and(|reverse| reverse.truthy()))?)
}

fn group_by(value: Value, args: Arguments) -> Result<Value> {
    let [attribute, default, case] =
        args.bind("groupby", ["attribute", "default", "case_sensitive"])?;
    let path = required("groupby", "attribute", attribute)?;
    let default = given(default);
    let case = case.is_some_and(|case| case.truthy());
    let keyed = value
        .items()?
        .into_iter()
        .map(|item| Ok((key_of(&item, Some(&path), case, default.as_ref())?, item)));
    let sorted = ops::sort(keyed.collect::<Result<Vec<_>>>()?, false)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for item in sorted {
        let key = key_of(&item, Some(&path), case, default.as_ref())?;
        match groups.last_mut() {
            Some((last, items)) if ops::equal(last, &key)? => items.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let groups = groups.into_iter().map(|(key, items)| {
        let key = match items.first() {
            Some(first) if !case => dig(first, &path, default.as_ref())?,
            _ => key,
        };
        Ok(Value::Tuple(Rc::new(List::new(vec![key, Value::list(items)?], true)?)))
    });
    Value::list(groups.collect::<Result<_>>()?)
}

/// `batch` (lists of so many items) and `slice` (so many lists).
fn cut(name: &str, value: Value, args: Arguments) -> Result<Value> {
    let count_name = if name == "batch" { "linecount" } else { "slices" };
    let [count, fill] = args.bind(name, [count_name, "fill_with"])?;
    let count = required(name, count_name, count)?.expect_int("a count")?;
    let fill = given(fill);
    let items = value.items()?;
    let mut lists = Vec::new();
    if name == "batch" {
        // Python compares lengths with the count, so none of 0 or less is ever reached.
        let count = usize::try_from(count).ok().filter(|&count| count > 0);
        let Some(count) = count else {
            return Err(Error::new("a batch needs a count above 0"));
        };
        for chunk in items.chunks(count) {
            let mut list = chunk.to_vec();
            if let (Some(fill), true) = (&fill, list.len() < count) {
                limits::room(count.saturating_mul(size_of::<Value>()))?;
                list.resize(count, fill.clone());
            }
            lists.push(Value::list(list)?);
        }
        return Value::iter(lists);
    }
    let slices = usize::try_from(count).ok().filter(|&slices| slices > 0);
    let Some(slices) = slices else { return Err(Error::new("slice needs a count above 0")) };
    limits::room(slices.saturating_mul(128))?;
    let (each, extra) = (items.len() / slices, items.len() % slices);
    let mut at = 0;
    for slice in 0..slices {
        let end = at + each + usize::from(slice < extra);
        let mut list = items[at..end].to_vec();
        if let (Some(fill), true) = (&fill, slice >= extra) {
            list.push(fill.clone());
        }
        lists.push(Value::list(list)?);
        at = end;
    }
    Value::iter(lists)
}

/// The name of a filter as a value, for messages.
pub fn unknown(name: &str) -> Error {
    let why = if OTHER.contains(&name) { "is not supported" } else { "does not exist" };
    Error::new(format!("the filter {name:?} {why}"))
}

/// Keyword arguments by name, for filters that take any.
pub fn keyword_dict(keyword: &[(Arc<str>, Value)]) -> Result<Value> {
    Value::dict(keyword.iter().map(|(name, value)| (Value::str(&**name), value.clone())).collect())
}
