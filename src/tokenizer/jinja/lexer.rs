//! From source to tokens, with Jinja2's rules for white space (`trim_blocks`, `lstrip_blocks`, no
//! trailing newline) as Transformers sets them.

use std::sync::Arc;

use super::ast::Const;
use super::text::{is_space, trim_end};
use super::{Error, Result};

/// A token of a template.
#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// Text outside of tags.
    Data(Arc<str>),
    BlockBegin,
    BlockEnd,
    VariableBegin,
    VariableEnd,
    Name(Arc<str>),
    Str(Arc<str>),
    Int(i128),
    Float(f64),
    /// An operator or a bracket.
    Op(&'static str),
    End,
}

impl Token {
    /// A number as a constant.
    pub fn number(&self) -> Option<Const> {
        match self {
            Token::Int(value) => Some(Const::Int(*value)),
            Token::Float(value) => Some(Const::Float(*value)),
            _ => None,
        }
    }
}

/// Longest first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";",
];

/// Tokens with their lines.
pub fn lex(source: &str) -> Result<Vec<(Token, u32)>> {
    // Every line end is \n, and the last one does not count.
    let mut text = source.replace("\r\n", "\n").replace('\r', "\n");
    if text.ends_with('\n') {
        text.pop();
    }
    let mut lexer =
        Lexer { source: &text, at: 0, line: 1, tokens: Vec::new(), line_starting: true };
    lexer.run()?;
    let line = lexer.line;
    lexer.tokens.push((Token::End, line));
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: u32,
    tokens: Vec<(Token, u32)>,
    /// Whether what was read last ended a line.
    line_starting: bool,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::new(message).at(self.line)
    }

    /// Goes `bytes` on.
    fn skip(&mut self, bytes: usize) {
        let passed = &self.source[self.at..self.at + bytes];
        self.line += passed.bytes().filter(|&byte| byte == b'\n').count() as u32;
        if !passed.is_empty() {
            self.line_starting = passed.ends_with('\n');
        }
        self.at += bytes;
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn run(&mut self) -> Result<()> {
        loop {
            let rest = self.rest();
            let opening = rest
                .match_indices('{')
                .map(|(at, _)| at)
                .find(|&at| matches!(rest.as_bytes().get(at + 1), Some(b'%' | b'{' | b'#')));
            let Some(at) = opening else {
                if !rest.is_empty() {
                    self.push(Token::Data(rest.into()));
                    self.skip(rest.len());
                }
                return Ok(());
            };
            let kind = rest.as_bytes()[at + 1];
            let sign = rest.as_bytes().get(at + 2).copied();
            let sign = sign.filter(|sign| matches!(sign, b'-' | b'+'));
            self.data(&rest[..at], sign, kind != b'{');
            self.skip(at + 2 + usize::from(sign.is_some()));
            match kind {
                b'#' => self.comment()?,
                b'%' if self.raw_begins() => self.raw()?,
                b'%' => self.tag(Token::BlockBegin, Token::BlockEnd, "%}", true)?,
                _ => self.tag(Token::VariableBegin, Token::VariableEnd, "}}", false)?,
            }
        }
    }

    /// Text before a tag, without what the tag strips. `lstrip`: the tag is no variable.
    fn data(&mut self, text: &'s str, sign: Option<u8>, lstrip: bool) {
        let mut kept = text;
        if sign == Some(b'-') {
            kept = trim_end(text);
        } else if sign.is_none() && lstrip {
            let line = text.rfind('\n').map_or(0, |at| at + 1);
            let indent = &text[line..];
            if (line > 0 || self.line_starting)
                && !indent.is_empty()
                && indent.chars().all(is_space)
            {
                kept = &text[..line];
            }
        }
        if !kept.is_empty() {
            self.push(Token::Data(kept.into()));
        }
    }

    /// Bytes of the end mark `end` at the start of `rest`, if it is there, with the white space that
    /// it takes along. `trims`: it takes a newline.
    fn end_mark(rest: &str, end: &str, trims: bool) -> Option<usize> {
        if let Some(after) = rest.strip_prefix('-').and_then(|rest| rest.strip_prefix(end)) {
            let spaces = after.len() - after.trim_start_matches(is_space).len();
            return Some(1 + end.len() + spaces);
        }
        if trims && rest.strip_prefix('+').is_some_and(|rest| rest.starts_with(end)) {
            return Some(1 + end.len());
        }
        let after = rest.strip_prefix(end)?;
        Some(end.len() + usize::from(trims && after.starts_with('\n')))
    }

    fn comment(&mut self) -> Result<()> {
        let rest = self.rest();
        let close = rest.find("#}").ok_or_else(|| self.error("a comment `{#` is never closed"))?;
        let signed = close > 0 && matches!(rest.as_bytes()[close - 1], b'-' | b'+');
        let from = close - usize::from(signed);
        let mark = Self::end_mark(&rest[from..], "#}", true).unwrap_or(2);
        self.skip(from + mark);
        Ok(())
    }

    /// Whether the block that was just opened is `raw`.
    fn raw_begins(&self) -> bool {
        let rest = self.rest().trim_start_matches(is_space);
        let Some(rest) = rest.strip_prefix("raw") else { return false };
        let rest = rest.trim_start_matches(is_space);
        rest.starts_with("%}") || rest.starts_with("-%}")
    }

    fn raw(&mut self) -> Result<()> {
        let rest = self.rest();
        let body = rest.find("%}").map_or(rest.len(), |at| at + 2);
        let dashed = rest[..body].ends_with("-%}");
        self.skip(body);
        if dashed {
            let spaces = self.rest().len() - self.rest().trim_start_matches(is_space).len();
            self.skip(spaces);
        }
        let rest = self.rest();
        for (at, _) in rest.match_indices("{%") {
            let after = &rest[at + 2..];
            let sign = after.as_bytes().first().copied().filter(|sign| matches!(sign, b'-' | b'+'));
            let inner = &after[usize::from(sign.is_some())..];
            let spaces = inner.trim_start_matches(is_space);
            let Some(name_end) = spaces.strip_prefix("endraw") else { continue };
            let close = name_end.trim_start_matches(is_space);
            let Some(mark) = Self::end_mark(close, "%}", true) else { continue };
            self.data(&rest[..at], sign, true);
            self.skip(rest.len() - close.len() + mark);
            return Ok(());
        }
        Err(self.error("a block `{% raw %}` is never closed"))
    }

    /// The inside of a tag up to its end mark.
    fn tag(&mut self, begin: Token, end: Token, mark: &'static str, trims: bool) -> Result<()> {
        self.push(begin);
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            let rest = self.rest();
            let Some(first) = rest.chars().next() else {
                return Err(self.error(format!("a tag is never closed: expected `{mark}`")));
            };
            if open.is_empty()
                && let Some(bytes) = Self::end_mark(rest, mark, trims)
            {
                self.push(end);
                self.skip(bytes);
                return Ok(());
            }
            if is_space(first) {
                self.skip(first.len_utf8());
            } else if first.is_ascii_digit() {
                self.number()?;
            } else if first.is_alphabetic() || first == '_' {
                let length =
                    rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
                self.push(Token::Name(rest[..length].into()));
                self.skip(length);
            } else if first == '"' || first == '\'' {
                self.string(first)?;
            } else {
                self.operator(&mut open)?;
            }
        }
    }

    fn operator(&mut self, open: &mut Vec<&'static str>) -> Result<()> {
        let rest = self.rest();
        let found = OPERATORS.iter().copied().find(|operator| rest.starts_with(operator));
        let Some(operator) = found else {
            let first = rest.chars().next().unwrap_or_default();
            return Err(self.error(format!("unexpected character {first:?}")));
        };
        match operator {
            "(" => open.push(")"),
            "[" => open.push("]"),
            "{" => open.push("}"),
            ")" | "]" | "}" => match open.pop() {
                Some(expected) if expected == operator => {}
                Some(expected) => {
                    return Err(
                        self.error(format!("unexpected `{operator}`, expected `{expected}`"))
                    );
                }
                None => return Err(self.error(format!("unexpected `{operator}`"))),
            },
            _ => {}
        }
        self.push(Token::Op(operator));
        self.skip(operator.len());
        Ok(())
    }

    /// A number, in all of Python's spellings.
    fn number(&mut self) -> Result<()> {
        let rest = self.rest();
        let after_dot = self.at > 0 && self.source.as_bytes()[self.at - 1] == b'.';
        if let (false, Some(length)) = (after_dot, float_length(rest)) {
            let text = rest[..length].replace('_', "");
            let value = text.parse().map_err(|_| self.error(format!("{text} is not a number")))?;
            self.push(Token::Float(value));
            self.skip(length);
            return Ok(());
        }
        let (radix, skip) = match rest.get(..2).map(str::to_ascii_lowercase).as_deref() {
            Some("0b") => (2, 2),
            Some("0o") => (8, 2),
            Some("0x") => (16, 2),
            _ => (10, 0),
        };
        let digits = rest[skip..]
            .find(|c: char| !(c.is_digit(radix) || c == '_'))
            .unwrap_or(rest.len() - skip);
        let text = rest[skip..skip + digits].replace('_', "");
        if radix == 10
            && text.len() > 1
            && text.starts_with('0')
            && !text.trim_matches('0').is_empty()
        {
            return Err(self.error(format!("the number {text} has a leading zero")));
        }
        let value = i128::from_str_radix(&text, radix)
            .map_err(|_| self.error(format!("the number {text} is not one of 127 bits")))?;
        self.push(Token::Int(value));
        self.skip(skip + digits);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<()> {
        let rest = self.rest();
        let mut chars = rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            if c == '\\' {
                chars.next();
            } else if c == quote {
                let value = unescape(&rest[1..at]).map_err(|why| self.error(why))?;
                self.push(Token::Str(value.into()));
                self.skip(at + 1);
                return Ok(());
            }
        }
        Err(self.error("a string is never closed"))
    }
}

/// Bytes of a float at the start of `text`: digits, then a fraction, an exponent, or both.
fn float_length(text: &str) -> Option<usize> {
    let digits = |text: &str| -> usize {
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '_')).unwrap_or(text.len());
        text[..end].trim_end_matches('_').len()
    };
    let whole = digits(text);
    let mut end = whole;
    let fraction = text[end..].strip_prefix('.').map_or(0, digits);
    if fraction > 0 && text.as_bytes()[end + 1] != b'_' {
        end += 1 + fraction;
    }
    if let Some(exponent) = text[end..].strip_prefix(['e', 'E']) {
        let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let length = digits(unsigned);
        if length > 0 && !unsigned.starts_with('_') {
            end += 1 + (exponent.len() - unsigned.len()) + length;
        }
    }
    (end > whole).then_some(end)
}

/// The value of a string literal: Python's `unicode-escape` of it.
fn unescape(text: &str) -> std::result::Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some(kind) = chars.next() else { return Err("a string ends in a backslash".into()) };
        let plain = match kind {
            '\n' => continue,
            '\\' | '\'' | '"' => kind,
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '0'..='7' => {
                let tail = chars.as_str();
                let more = tail.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
                let digits = format!("{kind}{}", &tail[..more]);
                for _ in 0..more {
                    chars.next();
                }
                escape(&digits, 8)?
            }
            'x' | 'u' | 'U' => {
                let length = match kind {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let digits: String = chars.by_ref().take(length).collect();
                if digits.len() != length {
                    return Err(format!("the escape \\{kind}{digits} is cut short"));
                }
                escape(&digits, 16)?
            }
            'N' => return Err("named characters (\\N{...}) are not supported".into()),
            other if other.is_ascii() => {
                out.push('\\');
                other
            }
            // Python reads the bytes of the character's own escape behind the backslash.
            other => {
                out.push('\\');
                let code = other as u32;
                out.push_str(&match code {
                    0..=0xff => format!("x{code:02x}"),
                    0x100..=0xffff => format!("u{code:04x}"),
                    _ => format!("U{code:08x}"),
                });
                continue;
            }
        };
        out.push(plain);
    }
    Ok(out)
}

fn escape(digits: &str, radix: u32) -> std::result::Result<char, String> {
    u32::from_str_radix(digits, radix)
        .ok()
        .and_then(char::from_u32)
        .ok_or_else(|| format!("the escape of {digits} is no character"))
}
