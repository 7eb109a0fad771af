//! The place of a tokenizer that is not needed: a memory plan without data reads no text.

use std::path::Path;

use super::{Encoding, TextProcessor, Tokenizer, TokenizerFiles};
use crate::{Error, Result};

/// A tokenizer of no tokens.
struct Absent;

fn missing<T>() -> Result<T> {
    Err(Error::internal("tokenizer", "a model without a tokenizer was given text"))
}

impl Tokenizer for Absent {
    fn encode(&self, _text: &str, _add_special: bool) -> Result<Vec<u32>> {
        missing()
    }

    fn encode_with_spans(&self, _text: &str) -> Result<Encoding> {
        missing()
    }

    fn decode(&self, _ids: &[u32], _skip_special: bool) -> Result<String> {
        missing()
    }

    fn token_to_id(&self, _token: &str) -> Option<u32> {
        None
    }

    fn id_to_token(&self, _id: u32) -> Option<String> {
        None
    }

    fn is_special(&self, _id: u32) -> bool {
        false
    }

    fn vocab_size(&self) -> usize {
        0
    }

    fn bos_token_id(&self) -> Option<u32> {
        None
    }

    fn eos_token_ids(&self) -> &[u32] {
        &[]
    }

    fn pad_token_id(&self) -> Option<u32> {
        None
    }
}

impl TextProcessor {
    /// Whether a model directory has any file of a tokenizer.
    pub fn is_in(dir: &Path) -> bool {
        let files = ["tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json"];
        files.iter().any(|file| dir.join(file).is_file())
    }

    /// In the place of a tokenizer that is not there and not needed.
    pub fn absent() -> Self {
        Self { files: TokenizerFiles::default(), tokenizer: Box::new(Absent), template: None }
    }
}
