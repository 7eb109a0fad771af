//! From text to token ids and back: tokenizers, chat templates, the streaming decoder.
//!
//! Data code and generation work against the small [`Tokenizer`] trait; `HfTokenizer` (feature
//! `tokenizers`) is the one that reads `tokenizer.json`. What lies beside it in a model directory
//! (special tokens, stop tokens, chat templates) is read by [`TokenizerFiles`].

mod absent;
#[cfg(feature = "tokenizers")]
mod bounds;
#[cfg(feature = "tokenizers")]
mod build;
pub mod builtin;
pub mod end_of_turn;
mod files;
#[cfg(feature = "tokenizers")]
mod hf;
mod jinja;
pub(crate) mod pieces;
mod processor;
mod python_json;
mod sentencepiece;
mod settings;
pub(crate) mod splits;
mod stream;
mod template;
#[cfg(all(test, feature = "tokenizers"))]
pub(crate) mod testing;

pub use end_of_turn::EndOfTurn;
pub use files::TokenizerFiles;
#[cfg(feature = "tokenizers")]
pub use hf::HfTokenizer;
pub use jinja::Rendered;
pub(crate) use jinja::deep_threads;
pub use processor::TextProcessor;
pub(crate) use python_json::{kind as json_kind, read as read_json};
pub use stream::StreamDecoder;
pub(crate) use template::json_text;
pub use template::{ChatTemplate, RenderInput};

use crate::{Error, Result};

/// The ids and the byte ranges of a tokenized text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoding {
    /// One id per token.
    pub ids: Vec<u32>,
    /// The bytes `start..end` of the text that each token came from. Ranges never decrease; every
    /// byte that some token stands for is inside that token's range.
    pub spans: Vec<(usize, usize)>,
}

/// What the rest of the crate needs of a tokenizer.
pub trait Tokenizer: Send + Sync {
    /// The ids of `text`; with `add_special`, the post-processor's tokens (such as a leading
    /// beginning-of-sequence token) too. Special tokens written in the text are recognised.
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>>;

    /// The ids of `text` without the post-processor's tokens, and where each came from.
    fn encode_with_spans(&self, text: &str) -> Result<Encoding>;

    /// The text of `ids`, with or without the special tokens among them.
    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String>;

    /// The id of a token, or `None` if it is not in the vocabulary.
    fn token_to_id(&self, token: &str) -> Option<u32>;

    /// The token of an id, as the vocabulary spells it.
    fn id_to_token(&self, id: u32) -> Option<String>;

    /// Whether the id is a special token (written by templates, left out of decoded text).
    fn is_special(&self, id: u32) -> bool;

    /// One more than the highest id.
    fn vocab_size(&self) -> usize;

    /// The beginning-of-sequence id.
    fn bos_token_id(&self) -> Option<u32>;

    /// The ids that end a sequence: the tokenizer's own first, then those of
    /// `generation_config.json` and `config.json`.
    fn eos_token_ids(&self) -> &[u32];

    /// The padding id. Nothing here masks by it: it may well equal an end-of-sequence id.
    fn pad_token_id(&self) -> Option<u32>;

    /// The id appended to texts and completions.
    fn eos_token_id(&self) -> Option<u32> {
        self.eos_token_ids().first().copied()
    }
}

/// Refuses ids that the model's embedding does not have.
///
/// `place` says where the ids come from; `vocab_size` is the model's.
pub fn check_ids(
    ids: &[u32],
    vocab_size: usize,
    tokenizer: &dyn Tokenizer,
    place: &str,
) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocab_size) {
        None => Ok(()),
        Some(&id) => Err(Error::input(format!(
            "{place}: token {id} ({:?}) is outside the model's vocabulary of {vocab_size} ids; the \
             tokenizer has {} tokens and does not belong to this model, or tokens were added to it \
             without resizing the embedding: use the tokenizer files the model came with",
            tokenizer.id_to_token(id).unwrap_or_default(),
            tokenizer.vocab_size(),
        ))),
    }
}
