//! Text as it is generated.

use std::ops::ControlFlow;

use super::{Finish, GenerationSettings, Request, Sampler, Session};
use crate::error::Result;
use crate::model::transformer::Model;
use crate::tokenizer::{StreamDecoder, Tokenizer};

/// A generation as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The tokens that were continued.
    pub prompt_token_ids: Vec<u32>,
    /// The new tokens, the stop token left out.
    pub token_ids: Vec<u32>,
    /// Their text, special tokens left out.
    pub text: String,
    /// Why there is no more.
    pub finish: Finish,
}

/// Generates text with one sampler and one KV cache.
pub struct Generator {
    session: Session,
    sampler: Sampler,
    max_new_tokens: usize,
}

impl Generator {
    /// A generator; random choices follow from `seed`.
    pub fn new(settings: &GenerationSettings, seed: u64) -> Self {
        Self {
            session: Session::new(),
            sampler: Sampler::new(settings.sampling, seed),
            max_new_tokens: settings.max_new_tokens,
        }
    }

    /// Forgets what is cached: to be called when the model's weights or adapter change.
    pub fn clear(&mut self) {
        self.session.clear();
    }

    /// Continues the text of `prompt`: the new text is spelled as it is after it.
    ///
    /// `on_text` gets the text in pieces of whole characters, and may end the generation.
    ///
    /// # Errors
    /// Those of [`Session::generate`] and of `on_text`.
    pub fn complete(
        &mut self,
        model: &Model,
        tokenizer: &dyn Tokenizer,
        prompt: Vec<u32>,
        stop_ids: &[u32],
        on_text: &mut dyn FnMut(&str) -> Result<ControlFlow<()>>,
    ) -> Result<Completion> {
        let decoder = StreamDecoder::after(tokenizer, true, &prompt);
        self.run(model, decoder, prompt, stop_ids, on_text)
    }

    /// Answers the conversation `prompt`: the new text begins anew. Else as [`Generator::complete`].
    ///
    /// # Errors
    /// As [`Generator::complete`].
    pub fn answer(
        &mut self,
        model: &Model,
        tokenizer: &dyn Tokenizer,
        prompt: Vec<u32>,
        stop_ids: &[u32],
        on_text: &mut dyn FnMut(&str) -> Result<ControlFlow<()>>,
    ) -> Result<Completion> {
        self.run(model, StreamDecoder::new(tokenizer, true), prompt, stop_ids, on_text)
    }

    fn run(
        &mut self,
        model: &Model,
        mut decoder: StreamDecoder,
        prompt: Vec<u32>,
        stop_ids: &[u32],
        on_text: &mut dyn FnMut(&str) -> Result<ControlFlow<()>>,
    ) -> Result<Completion> {
        let mut text = String::new();
        let mut give = |piece: String| match piece.is_empty() {
            true => Ok(ControlFlow::Continue(())),
            false => {
                text.push_str(&piece);
                on_text(&piece)
            }
        };
        let request = Request { prompt: &prompt, max_new_tokens: self.max_new_tokens, stop_ids };
        let generated = self
            .session
            .generate(model, request, &mut self.sampler, &mut |id| give(decoder.push(id)?))?;
        // What is held back at the end is an unfinished character.
        if generated.finish != Finish::Cancelled {
            let _ = give(decoder.finish()?)?;
        }
        let (token_ids, finish) = (generated.token_ids, generated.finish);
        Ok(Completion { prompt_token_ids: prompt, token_ids, text, finish })
    }
}
