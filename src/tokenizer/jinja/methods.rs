//! Methods of Python's types that templates call.

use super::args::{Arguments, required};
use super::limits;
use super::ops;
use super::text::{self, Class};
use super::value::{Value, to_text};
use super::{Error, Result, attr, printf};

/// Calls the method `name` of `of`.
#[expect(clippy::too_many_lines, reason = "an arm for each method")]
pub fn call(of: &Value, name: &'static str, args: Arguments) -> Result<Value> {
    limits::spend(1)?;
    match of {
        Value::Str(value) => {
            limits::touch(value.text.len())?;
            of_text(&value.text, name, args)
        }
        Value::Dict(dict) => match name {
            "get" => {
                let [key, default] = args.bind(name, ["", ""])?;
                let found = dict.get(&required(name, "key", key)?)?.cloned();
                Ok(found.or(default).unwrap_or(Value::None))
            }
            "copy" => args.none(name).map(|()| of.clone()),
            _ => match attr::view(name) {
                Some(kind) => args.none(name).map(|()| Value::View(kind, dict.clone())),
                None => Err(unsupported(of, name)),
            },
        },
        Value::List(list) | Value::Tuple(list) => match name {
            "copy" => args.none(name).map(|()| of.clone()),
            "count" => {
                let [item] = args.bind(name, [""])?;
                let item = required(name, "value", item)?;
                let mut count = 0;
                for other in &list.items {
                    count += i128::from(ops::equal(other, &item)?);
                }
                Ok(Value::Int(count))
            }
            "index" => {
                let [item] = args.bind(name, [""])?;
                let item = required(name, "value", item)?;
                for (index, other) in list.items.iter().enumerate() {
                    if ops::equal(other, &item)? {
                        return Ok(Value::Int(index as i128));
                    }
                }
                Err(Error::new("the value is not in the list"))
            }
            _ => Err(unsupported(of, name)),
        },
        Value::Range(_) => {
            let [item] = args.bind(name, [""])?;
            let found = ops::contains(of, &required(name, "value", item)?)?;
            match name {
                "count" => Ok(Value::Int(i128::from(found))),
                _ => Err(unsupported(of, name)),
            }
        }
        Value::Loop(looped) => {
            if !args.keyword.is_empty() {
                return Err(Error::new(format!("loop.{name} takes no keyword arguments")));
            }
            match name {
                "cycle" if args.positional.is_empty() => {
                    Err(Error::new("loop.cycle() has no items to cycle through"))
                }
                "cycle" => {
                    let at = looped.index0.get() % args.positional.len();
                    Ok(args.positional[at].clone())
                }
                _ => {
                    let now = Value::tuple(args.positional)?;
                    let before = looped.changed.replace(Some(now.items()?));
                    Ok(Value::Bool(match before {
                        None => true,
                        Some(before) => !ops::equal(&Value::tuple(before)?, &now)?,
                    }))
                }
            }
        }
        Value::Cycler(cycler) => {
            args.none(name)?;
            let at = cycler.1.get();
            if name == "reset" {
                cycler.1.set(0);
                return Ok(Value::None);
            }
            cycler.1.set((at + 1) % cycler.0.items.len());
            Ok(cycler.0.items[at].clone())
        }
        other => Err(unsupported(other, name)),
    }
}

fn unsupported(of: &Value, name: &str) -> Error {
    Error::new(format!("the method {name} of {} is not supported", of.type_name()))
}

/// A method of `str`.
#[expect(clippy::too_many_lines, reason = "an arm for each method")]
fn of_text(of: &str, name: &'static str, args: Arguments) -> Result<Value> {
    let text = |value: &str| Ok(Value::str(value));
    match name {
        "lower" => args.none(name).map(|()| Value::str(of.to_lowercase())),
        "upper" => args.none(name).map(|()| Value::str(of.to_uppercase())),
        "title" => args.none(name).and_then(|()| text::title(of).map(Value::str)),
        "capitalize" => args.none(name).and_then(|()| text::capitalize(of).map(Value::str)),
        "swapcase" => args.none(name).map(|()| Value::str(text::swap_case(of))),
        "casefold" if of.is_ascii() => args.none(name).map(|()| Value::str(of.to_lowercase())),
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.bind(name, [""])?;
            strip(of, name, chars).map(Value::str)
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = args.bind(name, [""])?;
            let affix = required(name, "affix", affix)?;
            let affix = affix.expect_str(name)?;
            let cut = if name == "removeprefix" {
                of.strip_prefix(affix)
            } else {
                of.strip_suffix(affix)
            };
            text(cut.unwrap_or(of))
        }
        "startswith" | "endswith" => affix(of, name, args),
        "split" | "rsplit" => {
            let [separator, most] = args.bind(name, ["sep", "maxsplit"])?;
            split(of, separator, most, name == "rsplit")
        }
        "splitlines" => {
            let [keep] = args.bind(name, ["keepends"])?;
            let lines = text::split_lines(of, keep.is_some_and(|keep| keep.truthy()))?;
            pieces(lines)
        }
        "partition" | "rpartition" => {
            let [separator] = args.bind(name, [""])?;
            let separator = required(name, "sep", separator)?;
            let separator = nonempty(separator.expect_str(name)?)?;
            let at = if name == "partition" { of.find(separator) } else { of.rfind(separator) };
            let parts = match (at, name) {
                (Some(at), _) => [&of[..at], separator, &of[at + separator.len()..]],
                (None, "partition") => [of, "", ""],
                _ => ["", "", of],
            };
            Value::tuple(parts.map(Value::str).to_vec())
        }
        "replace" => {
            let [old, new, count] = args.bind(name, ["", "", ""])?;
            let (old, new) = (required(name, "old", old)?, required(name, "new", new)?);
            let count = count.map_or(Ok(-1), |count| count.expect_int("a count"))?;
            replace(of, old.expect_str(name)?, new.expect_str(name)?, count).map(Value::str)
        }
        "join" => {
            let [items] = args.bind(name, [""])?;
            join(of, required(name, "iterable", items)?.items()?.iter(), false).map(Value::str)
        }
        "count" | "find" | "rfind" | "index" | "rindex" => search(of, name, args),
        "center" | "ljust" | "rjust" | "zfill" => justify(of, name, args),
        "expandtabs" => {
            let [size] = args.bind(name, ["tabsize"])?;
            let size = size.map_or(Ok(8), |size| size.expect_int("a tab size"))?;
            expand_tabs(of, size)
        }
        "format" => printf::format(of, &args).map(Value::str),
        "format_map" => {
            let [map] = args.bind(name, [""])?;
            let Some(Value::Dict(dict)) = map else {
                return Err(Error::new("format_map takes a dict"));
            };
            let pair = |(key, value): &(Value, Value)| Some((key.as_str()?.into(), value.clone()));
            let keyword = dict.entries.iter().filter_map(pair).collect();
            printf::format(of, &Arguments { positional: Vec::new(), keyword }).map(Value::str)
        }
        "isalpha" | "isdecimal" | "isdigit" | "isnumeric" | "isalnum" | "isspace" | "isascii"
        | "islower" | "isupper" | "istitle" | "isprintable" | "isidentifier" => {
            args.none(name)?;
            is(of, name).map(Value::Bool)
        }
        _ => Err(Error::new(format!("the method {name} of str is not supported"))),
    }
}

/// `strip`, `lstrip` or `rstrip`, of white space or of the characters given.
pub fn strip<'t>(of: &'t str, name: &str, chars: Option<Value>) -> Result<&'t str> {
    let chars = chars.filter(|chars| !matches!(chars, Value::None));
    let set: Option<Vec<char>> =
        chars.map(|chars| chars.expect_str(name).map(|text| text.chars().collect())).transpose()?;
    limits::touch(of.len().saturating_mul(set.as_ref().map_or(1, |set| 1 + set.len() / 8)))?;
    let in_set = |c: char| match &set {
        Some(set) => set.contains(&c),
        None => text::is_space(c),
    };
    Ok(match name {
        "lstrip" => of.trim_start_matches(in_set),
        "rstrip" => of.trim_end_matches(in_set),
        _ => of.trim_matches(in_set),
    })
}

/// `startswith` or `endswith`, of one text or any of a tuple, within bounds.
fn affix(of: &str, name: &str, args: Arguments) -> Result<Value> {
    let [affixes, start, stop] = args.bind(name, ["", "", ""])?;
    let affixes = required(name, "affix", affixes)?;
    let Some((part, _)) = part(of, start, stop)? else { return Ok(Value::Bool(false)) };
    let fits = |affix: &Value| -> Result<bool> {
        let affix = affix.expect_str(name)?;
        Ok(if name == "startswith" { part.starts_with(affix) } else { part.ends_with(affix) })
    };
    match &affixes {
        Value::Tuple(list) => {
            for affix in &list.items {
                if fits(affix)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        one => fits(one).map(Value::Bool),
    }
}

/// `of[start:stop]` and the characters before it; `None` if it starts behind the end.
fn part(of: &str, start: Option<Value>, stop: Option<Value>) -> Result<Option<(&str, usize)>> {
    let length = of.chars().count() as i128;
    let bound = |value: Option<Value>, default: i128| -> Result<i128> {
        match value {
            None | Some(Value::None) => Ok(default),
            Some(value) => {
                let value = value.expect_int("a bound")?;
                Ok(if value < 0 { value.saturating_add(length).max(0) } else { value })
            }
        }
    };
    let (start, stop) = (bound(start, 0)?, bound(stop, length)?.min(length));
    if start > stop || start > length {
        return Ok(None);
    }
    let byte = |at: i128| of.char_indices().nth(at as usize).map_or(of.len(), |(byte, _)| byte);
    Ok(Some((&of[byte(start)..byte(stop)], start as usize)))
}

fn search(of: &str, name: &str, args: Arguments) -> Result<Value> {
    let [needle, start, stop] = args.bind(name, ["", "", ""])?;
    let needle = required(name, "sub", needle)?;
    let needle = needle.expect_str(name)?;
    // Counting what is found costs more than looking for it.
    limits::touch(of.len().saturating_mul(8))?;
    let part = part(of, start, stop)?;
    let found = part.and_then(|(part, before)| {
        let at = match name {
            "rfind" | "rindex" => part.rfind(needle),
            _ => part.find(needle),
        };
        at.map(|at| (before + part[..at].chars().count()) as i128)
    });
    Ok(Value::Int(match (name, found) {
        ("count", _) => match part {
            Some((part, _)) if needle.is_empty() => part.chars().count() as i128 + 1,
            Some((part, _)) => part.matches(needle).count() as i128,
            None => 0,
        },
        (_, Some(at)) => at,
        ("find" | "rfind", None) => -1,
        _ => return Err(Error::new("substring not found")),
    }))
}

fn justify(of: &str, name: &str, args: Arguments) -> Result<Value> {
    let [width, fill] = args.bind(name, ["", ""])?;
    let width = required(name, "width", width)?.expect_int("a width")?;
    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
    let fill = match &fill {
        None => {
            if name == "zfill" {
                '0'
            } else {
                ' '
            }
        }
        Some(_) if name == "zfill" => return Err(Error::new("zfill takes one argument")),
        Some(fill) => {
            let mut chars = fill.expect_str("the fill character")?.chars();
            match (chars.next(), chars.next()) {
                (Some(fill), None) => fill,
                _ => return Err(Error::new("the fill character must be exactly one character")),
            }
        }
    };
    limits::room(width.saturating_mul(fill.len_utf8()))?;
    let length = of.chars().count();
    let missing = width.saturating_sub(length);
    let fill = |count: usize| fill.to_string().repeat(count);
    Ok(Value::str(match name {
        "ljust" => format!("{of}{}", fill(missing)),
        "rjust" => format!("{}{of}", fill(missing)),
        "zfill" => {
            let sign = usize::from(of.starts_with(['+', '-']));
            format!("{}{}{}", &of[..sign], fill(missing), &of[sign..])
        }
        _ => {
            // Python's rule for an odd number of fill characters.
            let left = missing / 2 + (missing & width & 1);
            format!("{}{of}{}", fill(left), fill(missing - left))
        }
    }))
}

fn expand_tabs(of: &str, size: i128) -> Result<Value> {
    let size = usize::try_from(size.clamp(0, 1 << 20)).unwrap_or(0);
    limits::room(of.len().saturating_add(of.matches('\t').count().saturating_mul(size)))?;
    let (mut out, mut column) = (String::new(), 0);
    for c in of.chars() {
        match c {
            '\t' if size == 0 => {}
            '\t' => {
                let spaces = size - column % size;
                out.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            c => {
                out.push(c);
                column += 1;
            }
        }
    }
    Ok(Value::str(out))
}

fn nonempty(separator: &str) -> Result<&str> {
    if separator.is_empty() {
        return Err(Error::new("empty separator"));
    }
    Ok(separator)
}

/// A list of texts.
fn pieces(pieces: Vec<&str>) -> Result<Value> {
    limits::room(pieces.len() * 128)?;
    Value::list(pieces.into_iter().map(Value::str).collect())
}

/// `split` or `rsplit`.
fn split(
    of: &str,
    separator: Option<Value>,
    most: Option<Value>,
    from_right: bool,
) -> Result<Value> {
    let most = most.map_or(Ok(-1), |most| most.expect_int("maxsplit"))?;
    let most = usize::try_from(most).unwrap_or(usize::MAX - 1);
    // A list of the pieces is made before they are counted as held.
    let few = |pieces: usize| limits::room(pieces.min(most.saturating_add(1)).saturating_mul(160));
    match separator.filter(|separator| !matches!(separator, Value::None)) {
        Some(separator) => {
            let separator = nonempty(separator.expect_str("a separator")?)?;
            limits::touch(of.len().saturating_mul(8))?;
            few(of.matches(separator).count())?;
            if from_right {
                let mut found: Vec<&str> = of.rsplitn(most.saturating_add(1), separator).collect();
                found.reverse();
                pieces(found)
            } else {
                pieces(of.splitn(most.saturating_add(1), separator).collect())
            }
        }
        None => {
            few(of.split(text::is_space).filter(|piece| !piece.is_empty()).count())?;
            let mut found = Vec::new();
            let mut rest = text::trim(of);
            while !rest.is_empty() {
                let cut =
                    if from_right { rest.rfind(text::is_space) } else { rest.find(text::is_space) };
                let Some(at) = cut.filter(|_| found.len() < most) else {
                    found.push(rest);
                    break;
                };
                let width = rest[at..].chars().next().map_or(1, char::len_utf8);
                let (left, right) = (&rest[..at], &rest[at + width..]);
                if from_right {
                    found.push(right);
                    rest = text::trim_end(left);
                } else {
                    found.push(left);
                    rest = right.trim_start_matches(text::is_space);
                }
            }
            // With a limit, Python leaves the far end's white space to the last piece.
            if found.len() > most
                && let Some(last) = found.last_mut()
            {
                let at = if from_right {
                    0
                } else {
                    of.len() - of.trim_start_matches(text::is_space).len()
                };
                *last = if from_right {
                    let end = last.as_ptr() as usize - of.as_ptr() as usize + last.len();
                    &of[..end]
                } else {
                    let start = last.as_ptr() as usize - of.as_ptr() as usize;
                    &of[start.max(at)..]
                };
            }
            if from_right {
                found.reverse();
            }
            pieces(found)
        }
    }
}

/// `str.replace`, its result no larger than there is room for.
pub fn replace(of: &str, old: &str, new: &str, count: i128) -> Result<String> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    limits::touch(of.len().saturating_mul(8))?;
    let found = if old.is_empty() { of.chars().count() + 1 } else { of.matches(old).count() };
    let larger = found.min(most).saturating_mul(new.len());
    limits::room(of.len().saturating_add(larger))?;
    Ok(of.replacen(old, new, most))
}

/// `separator.join(items)`; `convert` turns what is no text into text first, as the filter does.
pub fn join<'v>(
    separator: &str,
    items: impl Iterator<Item = &'v Value>,
    convert: bool,
) -> Result<String> {
    let mut out = String::new();
    for (index, item) in items.enumerate() {
        let piece = match item {
            Value::Str(text) => std::borrow::Cow::Borrowed(text.text.as_str()),
            other if convert => to_text(other)?.into(),
            other => other.expect_str("an item to join").map(Into::into)?,
        };
        limits::grow(out.len(), piece.len() + separator.len())?;
        if index > 0 {
            out.push_str(separator);
        }
        out.push_str(&piece);
    }
    Ok(out)
}

/// The `is...` methods.
pub fn is(of: &str, name: &str) -> Result<bool> {
    let all = |class: Class| -> Result<bool> {
        for c in of.chars() {
            if !text::is_class(c, class)? {
                return Ok(false);
            }
        }
        Ok(!of.is_empty())
    };
    let cased = |c: char| c.is_lowercase() || c.is_uppercase();
    match name {
        "isalpha" => all(Class::Alpha),
        "isdecimal" => all(Class::Decimal),
        "isdigit" => all(Class::Digit),
        "isnumeric" => all(Class::Numeric),
        "isalnum" => {
            for c in of.chars() {
                if !text::is_class(c, Class::Alpha)? && !text::is_class(c, Class::Numeric)? {
                    return Ok(false);
                }
            }
            Ok(!of.is_empty())
        }
        "isspace" => Ok(!of.is_empty() && of.chars().all(text::is_space)),
        "isascii" => Ok(of.is_ascii()),
        "islower" => Ok(of.chars().any(cased) && !of.chars().any(char::is_uppercase)),
        "isupper" => Ok(of.chars().any(cased) && !of.chars().any(char::is_lowercase)),
        "isprintable" => Ok(of.chars().all(text::is_printable)),
        "isidentifier" if of.is_ascii() => Ok(!of.is_empty()
            && !of.starts_with(|c: char| c.is_ascii_digit())
            && of.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')),
        "istitle" => {
            let (mut before, mut any) = (false, false);
            for c in of.chars() {
                let right = if c.is_uppercase() { !before } else { !c.is_lowercase() || before };
                if !right {
                    return Ok(false);
                }
                before = cased(c);
                any |= before;
            }
            Ok(any)
        }
        _ => Err(Error::new(format!("{name} of {of:?} is not supported"))),
    }
}
