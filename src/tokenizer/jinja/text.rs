//! What Python's `str` knows about characters.

use super::{Error, Result, limits};

/// Whether Python's `str.isspace` (and `\s` of its patterns) takes `c` for white space.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.rstrip()`.
pub fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// `str.strip()`.
pub fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.splitlines(keepends)`.
pub fn split_lines(text: &str, keep_ends: bool) -> Result<Vec<&str>> {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    limits::room(text.chars().filter(|&c| is_end(c)).count().saturating_mul(32))?;
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some((at, end)) = rest.char_indices().find(|&(_, c)| is_end(c)) else {
            lines.push(rest);
            break;
        };
        let mut next = at + end.len_utf8();
        if end == '\r' && rest[next..].starts_with('\n') {
            next += 1;
        }
        lines.push(&rest[..if keep_ends { next } else { at }]);
        rest = &rest[next..];
    }
    Ok(lines)
}

/// A kind of character that Python and Rust may see differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// `str.isalpha`.
    Alpha,
    /// `str.isdecimal`.
    Decimal,
    /// `str.isdigit`.
    Digit,
    /// `str.isnumeric`.
    Numeric,
}

/// Whether `c` is of the class, for characters where that is beyond doubt: ASCII, letters of the
/// larger scripts, spaces and common punctuation. An error for others.
pub fn is_class(c: char, class: Class) -> Result<bool> {
    if c.is_ascii() {
        return Ok(match class {
            Class::Alpha => c.is_ascii_alphabetic(),
            _ => c.is_ascii_digit(),
        });
    }
    let letter = matches!(c, '\u{aa}' | '\u{b5}' | '\u{ba}' | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}'
        | '\u{f8}'..='\u{2af}' | '\u{386}' | '\u{388}'..='\u{38a}' | '\u{38e}'..='\u{3a1}'
        | '\u{3a3}'..='\u{3f5}' | '\u{400}'..='\u{481}' | '\u{48a}'..='\u{52f}' | '\u{5d0}'..='\u{5ea}'
        | '\u{620}'..='\u{64a}' | '\u{904}'..='\u{939}' | '\u{e01}'..='\u{e30}' | '\u{1e00}'..='\u{1eff}'
        | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{ac00}'..='\u{d7a3}');
    let ideograph = matches!(c, '\u{4e00}'..='\u{9fef}');
    let neither = is_space(c)
        || matches!(c, '\u{a1}'..='\u{a9}' | '\u{ab}'..='\u{b1}' | '\u{b4}' | '\u{b6}'..='\u{b8}' | '\u{bb}' | '\u{bf}'
            | '\u{d7}' | '\u{f7}' | '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}' | '\u{20a0}'..='\u{20bf}'
            | '\u{2190}'..='\u{23ff}' | '\u{2500}'..='\u{2767}' | '\u{3001}'..='\u{3004}' | '\u{3008}'..='\u{3020}'
            | '\u{ff01}'..='\u{ff0f}' | '\u{1f300}'..='\u{1f64f}' | '\u{1f680}'..='\u{1f6c5}');
    match class {
        Class::Alpha if letter || ideograph => Ok(true),
        _ if neither || letter => Ok(false),
        Class::Decimal | Class::Digit if ideograph => Ok(false),
        _ => {
            Err(Error::new(format!("whether {c:?} is of a class of characters is not known here")))
        }
    }
}

/// The first character of a word, as `str.title` and `str.capitalize` write it.
pub fn title_case(c: char) -> Result<String> {
    Ok(match c {
        'ß' => "Ss".into(),
        'ﬁ' => "Fi".into(),
        'ﬂ' => "Fl".into(),
        'Ǆ'..='ǌ' | 'Ǳ'..='ǳ' => return Err(unknown_case(c)),
        c => {
            let upper: String = c.to_uppercase().collect();
            if upper.chars().count() > 1 {
                return Err(unknown_case(c));
            }
            upper
        }
    })
}

fn unknown_case(c: char) -> Error {
    Error::new(format!("how {c:?} begins a title is not known here"))
}

/// `str.lower` of what follows the first character of a word: a final sigma depends on what stands
/// before, so the whole word is given.
pub fn capitalize(word: &str) -> Result<String> {
    let mut chars = word.chars();
    let Some(first) = chars.next() else { return Ok(String::new()) };
    let mut out = title_case(first)?;
    // The first character is lowered with the rest for its context, then left out.
    let lower = word.to_lowercase();
    let skip: usize = first.to_lowercase().map(char::len_utf8).sum();
    out.push_str(&lower[skip..]);
    Ok(out)
}

/// `str.title`.
pub fn title(text: &str) -> Result<String> {
    let cased = |c: char| c.is_lowercase() || c.is_uppercase();
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    for c in text.chars() {
        if cased(c) {
            word.push(c);
        } else {
            out.push_str(&capitalize(&word)?);
            word.clear();
            out.push(c);
        }
    }
    out.push_str(&capitalize(&word)?);
    Ok(out)
}

/// `str.swapcase`.
pub fn swap_case(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_uppercase() { out.extend(c.to_lowercase()) } else { out.extend(c.to_uppercase()) }
    }
    out
}

/// A string as Python's `repr` writes it.
pub fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_ascii_graphic() || c == ' ' => out.push(c),
            c if c.is_ascii() || !is_printable(c) => match c as u32 {
                code @ 0..=0xff => out.push_str(&format!("\\x{code:02x}")),
                code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// `str.isprintable` of a character. Rust's debug form escapes what is not printable by the same
/// categories; behind another character, so that combining marks are left alone.
pub fn is_printable(c: char) -> bool {
    let mut pair = String::from("a");
    pair.push(c);
    matches!(c, '"' | '\'' | '\\') || pair.escape_debug().count() == 2
}

/// A float as Python's `repr` writes it: the shortest digits that read back, with an exponent below
/// 1e-4 and from 1e16 on.
pub fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf".into() } else { "-inf".into() };
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

/// `float(text)`; `None` where Python raises.
pub fn parse_float(text: &str) -> Option<f64> {
    let text = without_underscores(trim(text))?;
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(&text);
    let word = unsigned.to_ascii_lowercase();
    let named = matches!(word.as_str(), "inf" | "infinity" | "nan");
    let numeric = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    if named || numeric { text.parse().ok() } else { None }
}

/// `int(text, base)`: `Ok(None)` where Python raises, an error for what is beyond 127 bits.
pub fn parse_int(text: &str, base: u32) -> Result<Option<i128>> {
    let text = trim(text);
    if text.chars().any(|c| !c.is_ascii() && c.is_numeric()) {
        return Err(Error::new("numbers in digits other than 0 to 9 are not supported"));
    }
    let (negative, mut digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut radix = base;
    let prefix = digits.get(..2).map(str::to_ascii_lowercase);
    let prefixed = match prefix.as_deref() {
        Some("0x") => 16,
        Some("0o") => 8,
        Some("0b") => 2,
        _ => 0,
    };
    if prefixed != 0 && (base == 0 || base == prefixed) {
        radix = prefixed;
        digits = &digits[2..];
        digits = digits.strip_prefix('_').unwrap_or(digits);
    } else if base == 0 {
        radix = 10;
        if digits.starts_with('0') && !digits.trim_matches(['0', '_']).is_empty() {
            return Ok(None);
        }
    }
    if !(2..=36).contains(&radix) {
        return Ok(None);
    }
    let Some(digits) = without_underscores(digits) else { return Ok(None) };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Ok(None);
    }
    match i128::from_str_radix(&digits, radix) {
        Ok(value) => Ok(Some(if negative { -value } else { value })),
        Err(_) => Err(Error::new("integers beyond 127 bits are not supported")),
    }
}

/// The digits without the underscores that Python allows between them; `None` for one elsewhere.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        if byte == b'_' {
            let digit = |at: Option<usize>| {
                at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_alphanumeric)
            };
            if !digit(at.checked_sub(1)) || !digit(Some(at + 1)) {
                return None;
            }
        }
    }
    Some(text.replace('_', ""))
}
