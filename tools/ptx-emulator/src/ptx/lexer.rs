//! PTX text to tokens.

use super::ParseError;

/// One token. Identifiers keep their dots and sigils: `ld.global.f32`, `.reg`, `%r1`, `$L__BB0_2`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Token<'a> {
    Word(&'a str),
    Int(u64),
    F32(u32),
    F64(u64),
    Text(&'a str),
    Punct(char),
}

/// A token and the line it starts on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spanned<'a> {
    pub token: Token<'a>,
    pub line: u32,
}

/// Splits `text` into tokens; comments vanish.
#[expect(clippy::too_many_lines, reason = "an arm for each kind of token")]
pub(crate) fn tokenize(text: &str) -> Result<Vec<Spanned<'_>>, ParseError> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::with_capacity(text.len() / 4);
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let start = at;
        let first_line = line;
        let token = match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' | 0 => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let end = text[at..]
                    .find("*/")
                    .ok_or_else(|| ParseError::new(line, "comment without an end"))?;
                line += text[at..at + end].matches('\n').count() as u32;
                at += end + 2;
                continue;
            }
            b'"' => {
                let end = text[at + 1..]
                    .find('"')
                    .ok_or_else(|| ParseError::new(line, "string without an end"))?;
                at += end + 2;
                Token::Text(&text[start + 1..at - 1])
            }
            b'0'..=b'9' => {
                while at < bytes.len() && is_number_byte(bytes, at) {
                    at += 1;
                }
                number(&text[start..at], line)?
            }
            byte if is_word_byte(byte) => {
                while at < bytes.len() {
                    if is_word_byte(bytes[at]) || bytes[at].is_ascii_digit() {
                        at += 1;
                    } else if bytes[at..].starts_with(b"::") {
                        at += 2;
                    } else {
                        break;
                    }
                }
                Token::Word(&text[start..at])
            }
            byte if byte.is_ascii() => {
                at += 1;
                Token::Punct(byte as char)
            }
            _ => return Err(ParseError::new(line, "a byte that is not ASCII")),
        };
        tokens.push(Spanned { token, line: first_line });
    }
    Ok(tokens)
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

fn is_number_byte(bytes: &[u8], at: usize) -> bool {
    let byte = bytes[at];
    byte.is_ascii_alphanumeric()
        || byte == b'.'
        || (matches!(byte, b'+' | b'-')
            && matches!(bytes[at - 1], b'e' | b'E')
            && bytes_are_decimal(bytes, at))
}

/// Whether the literal that ends before `at` is decimal with a point, so that `e-3` is its exponent.
fn bytes_are_decimal(bytes: &[u8], at: usize) -> bool {
    let digits = bytes[..at - 1].iter().rev().take_while(|b| b.is_ascii_digit() || **b == b'.');
    digits.clone().any(|b| *b == b'.')
}

fn number(text: &str, line: u32) -> Result<Token<'_>, ParseError> {
    let bad = || ParseError::new(line, format!("`{text}` is not a number"));
    let hex = |digits: &str| u64::from_str_radix(digits, 16).map_err(|_| bad());
    let lower = text.get(..2).unwrap_or("");
    match lower {
        "0f" | "0F" => return Ok(Token::F32(u32::try_from(hex(&text[2..])?).map_err(|_| bad())?)),
        "0d" | "0D" => return Ok(Token::F64(hex(&text[2..])?)),
        _ => {}
    }
    if text.contains('.') {
        return text.parse::<f64>().map(|v| Token::F64(v.to_bits())).map_err(|_| bad());
    }
    let digits = text.strip_suffix('U').unwrap_or(text);
    let value = match lower {
        "0x" | "0X" => hex(&digits[2..])?,
        "0b" | "0B" => u64::from_str_radix(&digits[2..], 2).map_err(|_| bad())?,
        _ if digits.len() > 1 && digits.starts_with('0') => {
            u64::from_str_radix(&digits[1..], 8).map_err(|_| bad())?
        }
        _ => digits.parse().map_err(|_| bad())?,
    };
    Ok(Token::Int(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token<'_>> {
        tokenize(text).unwrap().into_iter().map(|s| s.token).collect()
    }

    #[test]
    fn words_numbers_and_comments() {
        assert_eq!(
            tokens("ld.shared::cta.f32 %f1, [%rd2+-4]; // tail\n/* a\nb */ 0f3F800000 0x10U 017"),
            [
                Token::Word("ld.shared::cta.f32"),
                Token::Word("%f1"),
                Token::Punct(','),
                Token::Punct('['),
                Token::Word("%rd2"),
                Token::Punct('+'),
                Token::Punct('-'),
                Token::Int(4),
                Token::Punct(']'),
                Token::Punct(';'),
                Token::F32(0x3f80_0000),
                Token::Int(16),
                Token::Int(15),
            ]
        );
    }

    #[test]
    fn lines_are_counted_through_comments() {
        let spanned = tokenize("a /* \n\n */ b\nc").unwrap();
        assert_eq!(spanned.iter().map(|s| s.line).collect::<Vec<_>>(), [1, 3, 4]);
    }

    #[test]
    fn bad_numbers_name_their_line() {
        assert_eq!(tokenize("a\n12zz").unwrap_err().line, 2);
    }
}
