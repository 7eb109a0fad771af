//! Decoding while tokens arrive, for printing a generation as it grows.

use super::Tokenizer;
use crate::Result;

/// What decoders write for bytes that are not (yet) a whole character.
const REPLACEMENT: char = '\u{FFFD}';

/// Turns a stream of ids into text, giving out whole UTF-8 characters only.
///
/// A token may be a part of a character, and the text of a token may depend on those before it
/// (a leading space that is dropped at the start). So a window of ids that begins at the last
/// boundary is decoded with and without the new token, and the difference is the new text.
pub struct StreamDecoder<'a> {
    tokenizer: &'a dyn Tokenizer,
    skip_special: bool,
    ids: Vec<u32>,
    /// How many of `ids` have been given out; the rest are an unfinished character.
    given: usize,
}

impl<'a> StreamDecoder<'a> {
    /// A decoder at the start of a text.
    pub fn new(tokenizer: &'a dyn Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, ids: Vec::new(), given: 0 }
    }

    /// A decoder that continues `prompt`: the first text given out is spelled as it is after it.
    pub fn after(tokenizer: &'a dyn Tokenizer, skip_special: bool, prompt: &[u32]) -> Self {
        // Eight tokens are more than one character (at most four bytes) can span.
        let window = prompt[prompt.len().saturating_sub(8)..].to_vec();
        Self { tokenizer, skip_special, given: window.len(), ids: window }
    }

    /// Takes the next id and returns the text that became certain, possibly empty.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        self.advance(false)
    }

    /// The text that was held back because its last character is incomplete.
    pub fn finish(mut self) -> Result<String> {
        self.advance(true)
    }

    fn advance(&mut self, last: bool) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.given], self.skip_special)?;
        let after = self.tokenizer.decode(&self.ids, self.skip_special)?;
        let incomplete = after.ends_with(REPLACEMENT);
        if (incomplete && !last) || after.len() <= before.len() {
            return Ok(String::new());
        }
        // A decoder that rewrites what came before gives no clean difference; the longest common
        // prefix is then where the new text starts.
        let common: usize = before
            .chars()
            .zip(after.chars())
            .take_while(|(a, b)| a == b)
            .map(|(a, _)| a.len_utf8())
            .sum();
        // The window restarts at what was just given out, so that it stays short.
        self.ids.drain(..self.given);
        self.given = self.ids.len();
        Ok(after[common..].to_string())
    }
}
