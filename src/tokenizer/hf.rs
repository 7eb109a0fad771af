//! `tokenizer.json` through the `tokenizers` crate.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

use super::bounds::{Bounds, within};
use super::{Encoding, Tokenizer, TokenizerFiles, build};
use crate::{Error, Result};

/// A Hugging Face tokenizer with the special tokens of its model directory.
pub struct HfTokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    bounds: Bounds,
    /// Whether a text took too long: then no other is tried.
    gave_up: AtomicBool,
    bos: Option<u32>,
    eos: Vec<u32>,
    pad: Option<u32>,
    special: Vec<u32>,
    vocab_size: usize,
    /// Whether decoding takes spaces before punctuation away.
    clean_up: bool,
}

impl HfTokenizer {
    /// Loads the tokenizer of a model directory.
    pub fn load(dir: &Path) -> Result<Self> {
        Self::from_files(&TokenizerFiles::load(dir)?)
    }

    /// Makes the tokenizer of the directory whose other files were read already.
    pub fn from_files(files: &TokenizerFiles) -> Result<Self> {
        let path = files.dir.join("tokenizer.json");
        // A definition may be nested as deep as JSON's reader allows, which is deep for its types.
        let load = || {
            let inner = guarded("load", || build::build(files).map_err(Into::into))
                .map_err(|why| Error::input(format!("{}: {why}", path.display())))?;
            Self::new(inner, files)
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, load);
            let thread = thread.map_err(|error| Error::io("no thread to read on", error))?;
            thread.join().unwrap_or_else(|_| {
                Err(Error::input(format!("{}: it cannot be read", path.display())))
            })
        })
    }

    /// Wraps a tokenizer that exists already. Its own truncation and padding are switched off.
    pub fn new(mut inner: tokenizers::Tokenizer, files: &TokenizerFiles) -> Result<Self> {
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| Error::input(format!("tokenizer truncation: {error}")))?;
        let id = |name: &str| -> Option<u32> {
            files.special_tokens.get(name).and_then(|token| inner.token_to_id(token))
        };
        let (bos, pad) = (id("bos_token"), id("pad_token"));
        let mut eos: Vec<u32> = id("eos_token").into_iter().collect();
        for &extra in &files.eos_token_ids {
            if !eos.contains(&extra) {
                eos.push(extra);
            }
        }
        let mut special: Vec<u32> = inner
            .get_added_tokens_decoder()
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(&id, _)| id)
            .chain(eos.iter().copied())
            .collect();
        special.sort_unstable();
        special.dedup();
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        let clean_up = files.settings.clean_up
            && !matches!(inner.get_model(), tokenizers::ModelWrapper::BPE(_));
        let quick_model = match inner.get_model() {
            tokenizers::ModelWrapper::WordPiece(model) => {
                model.max_input_chars_per_word <= LONGEST_WORD
            }
            _ => true,
        };
        let (normalizer, decoder) = (inner.get_normalizer(), inner.get_decoder());
        let bounds = Bounds::new(normalizer, inner.get_pre_tokenizer(), decoder, quick_model);
        let place = files.dir.join("tokenizer.json");
        let bounds = bounds.map_err(|why| Error::input(format!("{}: {why}", place.display())))?;
        let (inner, gave_up) = (Arc::new(inner), AtomicBool::new(false));
        Ok(Self { inner, bounds, gave_up, bos, eos, pad, special, vocab_size, clean_up })
    }

    fn run(&self, text: &str, add_special: bool) -> Result<tokenizers::Encoding> {
        self.bounded(text, add_special).map_err(|why| {
            Error::input(format!(
                "the tokenizer cannot encode a text of {} bytes that begins {:?}: {why}",
                text.len(),
                text.chars().take(40).collect::<String>()
            ))
        })
    }

    /// Encodes within [`Bounds`], or says why not.
    fn bounded(&self, text: &str, add_special: bool) -> Result<tokenizers::Encoding, String> {
        self.bounds.check(text)?;
        let Some(patience) = self.bounds.patience(text.len()) else {
            return guarded("encode", || self.inner.encode(text, add_special));
        };
        let slow = || "its patterns search longer than a text of this length may take".to_owned();
        if self.gave_up.load(Ordering::Relaxed) {
            return Err(slow());
        }
        let (inner, text) = (self.inner.clone(), text.to_owned());
        let work = move || guarded("encode", || inner.encode(text, add_special));
        within(patience, work).unwrap_or_else(|| {
            self.gave_up.store(true, Ordering::Relaxed);
            Err(slow())
        })
    }
}

/// Bytes of the stack of the thread that reads a definition.
const STACK: usize = 64 << 20;

/// Characters of a word up to which a word-piece model is quick.
const LONGEST_WORD: usize = 1000;

impl Tokenizer for HfTokenizer {
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        Ok(self.run(text, add_special)?.get_ids().to_vec())
    }

    fn encode_with_spans(&self, text: &str) -> Result<Encoding> {
        let encoding = self.run(text, false)?;
        Ok(Encoding {
            ids: encoding.get_ids().to_vec(),
            spans: cover(encoding.get_offsets(), text.len()),
        })
    }

    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let text = guarded("decode", || self.inner.decode(ids, skip_special))
            .map_err(|why| Error::run(format!("the tokenizer cannot decode {ids:?}: {why}")))?;
        Ok(if self.clean_up { clean_up(text) } else { text })
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    fn is_special(&self, id: u32) -> bool {
        self.special.binary_search(&id).is_ok()
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn bos_token_id(&self) -> Option<u32> {
        self.bos
    }

    fn eos_token_ids(&self) -> &[u32] {
        &self.eos
    }

    fn pad_token_id(&self) -> Option<u32> {
        self.pad
    }
}

/// Transformers' `clean_up_tokenization`.
fn clean_up(text: String) -> String {
    let pairs = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    pairs.iter().fold(text, |text, (from, to)| text.replace(from, to))
}

/// The bytes each token stands for, from the library's offsets.
///
/// - Tokens that share a range, one for each of its bytes, get their own byte: byte fallback gives
///   a whole run of unknown characters, which may cross from a prompt into an answer, to each.
/// - Each range is widened back to the token before: byte-level post-processors trim leading
///   spaces from offsets and pre-tokenizers may drop characters, and a mask must lose neither.
fn cover(offsets: &[(usize, usize)], len: usize) -> Vec<(usize, usize)> {
    let mut reached = 0;
    let shared =
        offsets.chunk_by(|a, b| a == b).flat_map(|run| {
            let (start, end) = run[0];
            let one_byte_each = run.len() > 1 && end.saturating_sub(start) == run.len();
            run.iter().enumerate().map(move |(i, &span)| {
                if one_byte_each { (start + i, start + i + 1) } else { span }
            })
        });
    shared
        .map(|(start, end)| {
            let span =
                (start.min(reached), end.clamp(start, len.max(start)).max(start.min(reached)));
            reached = reached.max(span.1);
            span
        })
        .collect()
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `call`, turning both its error and a panic into a message.
///
/// The `tokenizers` crate panics on some inputs (a regular expression that gives up, for one).
/// The panic message is not printed: the error that is returned says it.
fn guarded<T>(
    what: &str,
    call: impl FnOnce() -> Result<T, tokenizers::Error>,
) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                previous(info);
            }
        }));
    });
    QUIET.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(call));
    QUIET.set(false);
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(format!("the tokenizer library gave up while it tried to {what}: {text}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn panics_of_the_library_become_errors() {
        let message = guarded::<()>("encode", || panic!("retry-limit-in-match over")).unwrap_err();
        assert!(message.contains("retry-limit-in-match over"), "{message}");
        let tokenizer = testing::with_pre_tokenizer_regex("(a+)+$");
        let error = tokenizer.encode(&format!("{}b", "a".repeat(40)), false).unwrap_err();
        assert_eq!(error.exit_status(), 2);
    }

    #[test]
    fn padding_and_truncation_of_the_file_are_ignored() {
        let tokenizer = testing::with_truncation_and_padding(2, 9);
        assert_eq!(tokenizer.encode("abcd", false).unwrap().len(), 4);
        assert_eq!(tokenizer.encode("a", false).unwrap().len(), 1);
    }

    #[test]
    fn spans_cover_trimmed_offsets() {
        assert_eq!(cover(&[(0, 2), (3, 5), (6, 6), (6, 9)], 9), [(0, 2), (2, 5), (5, 6), (6, 9)]);
        // As many tokens as bytes: one each. Fewer: they share them.
        assert_eq!(cover(&[(0, 2), (0, 2), (2, 3)], 3), [(0, 1), (1, 2), (2, 3)]);
        assert_eq!(cover(&[(0, 4), (0, 4), (4, 5)], 5), [(0, 4), (0, 4), (4, 5)]);
    }

    #[test]
    fn special_tokens_in_text_are_recognised_and_skipped_on_request() {
        let tokenizer = testing::tokenizer();
        let ids = tokenizer.encode("a<|im_end|>", true).unwrap();
        let im_end = tokenizer.token_to_id("<|im_end|>").unwrap();
        assert_eq!(ids[0], tokenizer.bos_token_id().unwrap());
        assert_eq!(*ids.last().unwrap(), im_end);
        assert!(tokenizer.is_special(im_end));
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<s>a<|im_end|>");
    }
}
