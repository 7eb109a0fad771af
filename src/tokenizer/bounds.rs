//! What a tokenizer from anywhere may use: how far its normalizer and decoder may lengthen a text, and how
//! long its patterns may search.
//!
//! A `tokenizer.json` is a program too: replacements that double a text forty times, regular expressions
//! that backtrack without end. The library runs both as they are written, so what they could do is counted
//! before, from the definition and the text; and where that says nothing about time, the library works on a
//! thread that is given up.

use std::sync::mpsc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

/// Steps of a normalizer or decoder.
const STEPS: usize = 128;

/// Bytes that a normalizer may put before every piece of a text.
const PREFIX: usize = 64;

/// Bytes of one replacement in a table of precompiled ones.
const PRECOMPILED: usize = 64;

/// How many times its length a decoded text may have.
const DECODED: f64 = 64.0;

/// Bytes that any text may be normalized to, and times its length that a longer one may.
const NORMALIZED: f64 = 4.0 * 1024.0 * 1024.0;
const LENGTHENED: f64 = 4.0;

/// What encoding may take where patterns are not known to be quick: this long, and as long again for every
/// megabyte.
const PATIENCE: Duration = Duration::from_secs(5);

/// Patterns of tokenizers that many models have, which backtrack no further than a word or a run of spaces.
const QUICK: &[&str] = &[
    // GPT-2
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    // GPT-4, Llama 3
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    // Qwen 2, Qwen 3
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    " {2,}",
    r"\s+",
    r"\p{N}",
    r"\p{N}{1,3}",
    "\n",
    " ",
];

/// What one step of a normalizer does to the length of a text.
enum Step {
    /// Every occurrence of a text is replaced by another.
    Text { from: String, to: String },
    /// Every match of a pattern is replaced by so many bytes, and there may be one at every byte.
    Pattern { bytes: usize },
}

/// The bounds of one tokenizer.
pub struct Bounds {
    normalizer: Vec<Step>,
    /// Whether the time that encoding takes is known to be in proportion to the text.
    quick: bool,
}

impl Bounds {
    /// Those of a tokenizer of these parts. A word-piece model searches a word from each of its characters:
    /// `quick_model` says that it is none with endless words.
    ///
    /// # Errors
    /// What lengthens texts beyond measure, in words.
    pub fn new(
        normalizer: Option<&impl Serialize>,
        pre_tokenizer: Option<&impl Serialize>,
        decoder: Option<&impl Serialize>,
        quick_model: bool,
    ) -> Result<Self, String> {
        let json = |part: Result<Value, serde_json::Error>| part.unwrap_or(Value::Null);
        let [normalizer, pre_tokenizer, decoder] = [
            json(serde_json::to_value(normalizer)),
            json(serde_json::to_value(pre_tokenizer)),
            json(serde_json::to_value(decoder)),
        ];
        let steps = steps_of("normalizer", &normalizer)?;
        let lengthens = |step: &Step| match step {
            Step::Text { from, to } => (to.len() as f64 / from.len().max(1) as f64).max(1.0),
            Step::Pattern { bytes } => 1.0 + *bytes as f64,
        };
        let decoded: f64 = steps_of("decoder", &decoder)?.iter().map(lengthens).product();
        if decoded > DECODED {
            return Err(format!(
                "its decoder may make a text {decoded:.0} times as long, and {DECODED} times is the most"
            ));
        }
        let quick = quick_model && are_quick(&normalizer) && are_quick(&pre_tokenizer);
        Ok(Self { normalizer: steps, quick })
    }

    /// Refuses a text that the normalizer would make too long.
    ///
    /// # Errors
    /// That it would, in words.
    pub fn check(&self, text: &str) -> Result<(), String> {
        let most = (text.len() as f64 * LENGTHENED).max(NORMALIZED);
        let mut length = text.len() as f64;
        // The text itself, while it is known.
        let mut known = Some(std::borrow::Cow::Borrowed(text));
        for step in &self.normalizer {
            let matches = match (step, &known) {
                (Step::Text { from, .. }, Some(text)) => text.matches(from.as_str()).count() as f64,
                (Step::Text { from, .. }, None) => (length / from.len() as f64).floor(),
                (Step::Pattern { .. }, _) => length + 1.0,
            };
            length += match step {
                Step::Text { from, to } => matches * (to.len() as f64 - from.len() as f64).max(0.0),
                Step::Pattern { bytes } => matches * *bytes as f64,
            };
            if length > most {
                return Err(format!(
                    "its normalizer would make more than {} MiB of it",
                    most as u64 >> 20
                ));
            }
            known = match (step, known) {
                (Step::Text { from, to }, Some(text)) => Some(text.replace(from, to).into()),
                _ => None,
            };
        }
        Ok(())
    }

    /// How long encoding a text of so many bytes may take; `None` where that needs no watching.
    pub fn patience(&self, bytes: usize) -> Option<Duration> {
        (!self.quick).then(|| PATIENCE.mul_f64(1.0 + bytes as f64 / 1e6))
    }
}

/// Runs `work` on a thread of its own; `None` where it takes longer than that. The thread then goes on until
/// the program ends: nothing can stop it.
pub fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let run = move || drop(sender.send(work()));
    std::thread::Builder::new().name("tokenizer".into()).spawn(run).ok()?;
    receiver.recv_timeout(patience).ok()
}

/// What the parts of a normalizer or decoder do to the length of a text. Unicode's own normal forms, at most
/// eleven times as long, do not count.
fn steps_of(what: &str, part: &Value) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut count = 0;
    visit(part, &mut |part| {
        count += 1;
        let text = |key: &str| part[key].as_str().unwrap_or_default().to_owned();
        match part["type"].as_str() {
            Some("Prepend") if text("prepend").len() > PREFIX => Err(format!(
                "its {what} puts {} bytes before every piece of a text, and {PREFIX} is the most",
                text("prepend").len()
            )),
            Some("Replace") => {
                let to = text("content");
                steps.push(match part["pattern"]["String"].as_str() {
                    Some(from) if !from.is_empty() => Step::Text { from: from.to_owned(), to },
                    _ => Step::Pattern { bytes: to.len() },
                });
                Ok(())
            }
            Some("Precompiled") => match longest_replacement(&text("precompiled_charsmap")) {
                longest if longest > PRECOMPILED => Err(format!(
                    "its {what} has a replacement of {longest} bytes for a character, and {PRECOMPILED} \
                     is the most"
                )),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    })?;
    if count > STEPS {
        return Err(format!("its {what} has {count} steps, and {STEPS} is the most"));
    }
    Ok(steps)
}

/// Calls `with` for every object that has a type, outer ones first.
fn visit(
    part: &Value,
    with: &mut impl FnMut(&serde_json::Map<String, Value>) -> Result<(), String>,
) -> Result<(), String> {
    match part {
        Value::Array(parts) => parts.iter().try_for_each(|part| visit(part, with)),
        Value::Object(object) => {
            if object.contains_key("type") {
                with(object)?;
            }
            object.values().try_for_each(|part| visit(part, with))
        }
        _ => Ok(()),
    }
}

/// Whether every pattern in a part is a text, or one of the [`QUICK`] ones.
fn are_quick(part: &Value) -> bool {
    let mut quick = true;
    let visited = visit(part, &mut |part| {
        if let Some(pattern) = part.get("pattern").and_then(|pattern| pattern.get("Regex")) {
            quick &= pattern.as_str().is_some_and(|pattern| QUICK.contains(&pattern));
        }
        Ok(())
    });
    quick && visited.is_ok()
}

/// The longest replacement of a table as SentencePiece writes it, in base64: the size of a search tree (u32),
/// the tree, then texts that end with a zero.
fn longest_replacement(table: &str) -> usize {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut values = [None; 256];
    (0..).zip(ALPHABET).for_each(|(value, &letter)| values[usize::from(letter)] = Some(value));
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(table.len()), 0u32, 0);
    for value in table.bytes().filter_map(|letter| values[usize::from(letter)]) {
        (bits, held) = (bits << 6 | value, held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    let Some((size, rest)) = bytes.split_first_chunk::<4>() else { return 0 };
    let texts = rest.get(u32::from_le_bytes(*size) as usize..).unwrap_or_default();
    texts.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn replace(from: &str, to: &str) -> Value {
        json!({"type": "Replace", "pattern": {"String": from}, "content": to})
    }

    fn bounds(normalizer: Value, decoder: Value) -> Result<Bounds, String> {
        Bounds::new(Some(&normalizer), None::<&Value>, Some(&decoder), true)
    }

    #[test]
    fn texts_that_grow_beyond_measure_are_refused() -> Result<(), String> {
        let sequence = |steps: Vec<Value>| json!({"type": "Sequence", "normalizers": steps});
        let doubling = bounds(sequence(vec![replace("a", "aa"); 40]), Value::Null)?;
        assert!(doubling.check(&"b".repeat(1000)).is_ok());
        let why = doubling.check("banana").err().unwrap_or_default();
        assert!(why.contains("more than 4 MiB"), "{why}");
        let pattern =
            json!({"type": "Replace", "pattern": {"Regex": "x*"}, "content": "y".repeat(4096)});
        assert!(bounds(pattern.clone(), Value::Null)?.check(&"b".repeat(2000)).is_err());
        // Llama's: a space becomes three bytes.
        let llama = sequence(vec![json!({"type": "Prepend", "prepend": "▁"}), replace(" ", "▁")]);
        let llama = bounds(llama, replace("▁", " "))?;
        assert!(llama.check(&" ".repeat(5_000_000)).is_ok());
        assert_eq!(llama.patience(1), None);

        for (normalizer, decoder, expected) in [
            (
                json!({"type": "Prepend", "prepend": "x".repeat(100_000)}),
                Value::Null,
                "100000 bytes",
            ),
            (sequence(vec![replace("a", "b"); 1000]), Value::Null, "1001 steps"),
            (Value::Null, sequence(vec![replace("a", "aa"); 40]), "its decoder"),
            (Value::Null, pattern, "its decoder"),
        ] {
            let why = bounds(normalizer, decoder).err().unwrap_or_default();
            assert!(why.contains(expected), "{why}");
        }
        Ok(())
    }

    #[test]
    fn tables_of_replacements_are_read_as_they_are_written() {
        // A tree of four bytes, then "abc", "" and "de".
        assert_eq!(longest_replacement("BAAAAAAAAABhYmMAAGRlAA=="), 3);
        assert_eq!(longest_replacement("!"), 0);
    }

    #[test]
    fn patterns_that_are_not_known_are_watched() {
        let watched = |pattern: &str| {
            let split =
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"});
            let parts = json!({"type": "Sequence", "pretokenizers": [split]});
            let found = Bounds::new(None::<&Value>, Some(&parts), None::<&Value>, true);
            found.is_ok_and(|bounds| bounds.patience(0).is_some())
        };
        assert!(watched("(a+)+$") && !QUICK.iter().any(|pattern| watched(pattern)));
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        let never = || std::thread::sleep(Duration::from_secs(3600));
        assert_eq!(within(Duration::from_millis(20), never), None);
    }
}
