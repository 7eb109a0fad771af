//! What programs say to their user, on stderr.

use std::io::Write;

/// The most characters of a word, such as a bad value, and of a path.
const WORD: usize = 200;
const PATH: usize = 4096;

/// The most characters of a line.
const LINE: usize = 4000;

/// Prints a line to stderr, as `eprintln!` does. That nobody reads it is no reason to stop: what cannot
/// be written is dropped.
macro_rules! say {
    ($($message:tt)*) => {
        $crate::cli::say::print(&format!($($message)*))
    };
}
pub(crate) use say;

/// What `say!` does.
pub fn print(message: &str) {
    let _ = writeln!(std::io::stderr(), "{}", clean(message));
}

/// A message as it may be printed: names and values in it come from files that come from anywhere.
/// Characters that move the cursor, change colours or turn the text around are escaped; a long word is
/// cut, and of a long line the middle left out.
pub fn clean(message: &str) -> String {
    let lines: Vec<String> = message.split('\n').map(|line| shorten(&visible(line))).collect();
    lines.join("\n")
}

fn visible(line: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200E}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    let mut text = String::with_capacity(line.len());
    for c in line.chars() {
        match (c.is_control() && c != '\t') || turns(c) {
            true => text.extend(c.escape_default()),
            false => text.push(c),
        }
    }
    text
}

fn shorten(line: &str) -> String {
    let words: Vec<String> = line
        .split(' ')
        .map(|word| cut(word, if word.contains(['/', '\\']) { PATH } else { WORD }))
        .collect();
    let line = words.join(" ");
    let count = line.chars().count();
    if count <= LINE {
        return line;
    }
    // Where it is stands first, and what to do about it last.
    let start: String = line.chars().take(LINE / 2).collect();
    let end: String = line.chars().skip(count - LINE / 4).collect();
    format!("{start} ... ({} characters left out) ... {end}", count - LINE / 2 - LINE / 4)
}

/// At most so many characters.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}... ({} characters)", &text[..end], text.chars().count()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_safe_to_print() {
        assert_eq!(
            clean("a\u{1b}[31mb\u{202e}\u{9b}\tc\r\nd"),
            "a\\u{1b}[31mb\\u{202e}\\u{9b}\tc\\r\nd"
        );
        assert_eq!(clean("déjà \"vu\" 漢字"), "déjà \"vu\" 漢字");
    }

    #[test]
    fn long_values_are_cut_and_paths_are_not() {
        let path = format!("/{}", "d".repeat(1000));
        assert_eq!(clean(&path), path);
        let long =
            clean(&format!("{path}: \"{}\" is no key; did you mean `r`?", "é".repeat(100_000)));
        assert!(
            long.starts_with(&path) && long.ends_with("is no key; did you mean `r`?"),
            "{long}"
        );
        assert!(long.contains("... (100002 characters)") && long.chars().count() < 1400, "{long}");
        let wordy = clean(&format!("a: {}: do this", "b ".repeat(9000)));
        assert!(wordy.starts_with("a: b b") && wordy.ends_with(": do this"), "{wordy}");
        assert!(wordy.contains("characters left out") && wordy.len() < 3100, "{}", wordy.len());
    }
}
