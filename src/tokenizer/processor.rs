//! All that turns a model directory's text into ids and back, loaded together.

use std::path::Path;

use jiff::civil::DateTime;

use super::template::choices;
use super::{ChatTemplate, EndOfTurn, Tokenizer, TokenizerFiles};
use crate::Result;

/// A model's tokenizer, its settings, and the chat template in use.
pub struct TextProcessor {
    /// What the directory says besides `tokenizer.json`.
    pub files: TokenizerFiles,
    /// The tokenizer.
    pub tokenizer: Box<dyn Tokenizer>,
    /// The chat template: the chosen one, or the model's, if there is either.
    pub template: Option<ChatTemplate>,
}

impl TextProcessor {
    /// Loads the tokenizer of the model directory `dir`.
    ///
    /// `chat_template` is the config's choice (a name, or a file relative to `base`); `date` is
    /// what templates that print the date print. See [`ChatTemplate::resolve`].
    #[cfg(feature = "tokenizers")]
    pub fn load(
        dir: &Path,
        chat_template: Option<&str>,
        base: &Path,
        date: DateTime,
    ) -> Result<Self> {
        let files = TokenizerFiles::load(dir)?;
        let tokenizer = Box::new(super::HfTokenizer::from_files(&files)?);
        Self::new(files, tokenizer, chat_template, base, date)
    }

    /// Joins parts that are loaded already.
    pub fn new(
        files: TokenizerFiles,
        tokenizer: Box<dyn Tokenizer>,
        chat_template: Option<&str>,
        base: &Path,
        date: DateTime,
    ) -> Result<Self> {
        let template =
            ChatTemplate::resolve(chat_template, base, &files, tokenizer.as_ref(), date)?;
        Ok(Self { files, tokenizer, template })
    }

    /// The tokens that end an assistant's turn: where a chat stops. Without a template, the
    /// end-of-sequence ids.
    pub fn end_of_turn(&self) -> EndOfTurn {
        match &self.template {
            Some(template) => EndOfTurn::of(template, self.tokenizer.as_ref()),
            None => EndOfTurn { ids: self.tokenizer.eos_token_ids().to_vec(), within: None },
        }
    }

    /// The chat templates to choose from, in words: the end of a message for a missing one.
    pub fn choices(&self) -> String {
        choices(&self.files, self.tokenizer.as_ref())
    }
}
