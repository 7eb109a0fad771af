//! The model with its KV cache: prompt in, tokens out.

use std::ops::ControlFlow;

use super::Sampler;
use crate::error::{Error, Result};
use crate::model::cache::LayerCache;
use crate::model::transformer::Model;
use crate::nn::{AdapterChoice, Context, Place};
use crate::ops::Implementation;
use crate::tensor::Tensor;

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The tokens to continue, at least one.
    pub prompt: &'a [u32],
    /// The most new tokens.
    pub max_new_tokens: usize,
    /// Tokens that end the generation.
    pub stop_ids: &'a [u32],
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model chose a stop token.
    Stop,
    /// There are `max_new_tokens`.
    MaxNewTokens,
    /// Prompt and output fill the model's context.
    ContextFull,
    /// The caller wanted no more.
    Cancelled,
}

/// What was generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The new tokens, the stop token left out.
    pub token_ids: Vec<u32>,
    /// Why there are no more.
    pub finish: Finish,
}

/// A KV cache and the tokens in it, kept from one generation to the next: a prompt that begins as
/// the last one did is not computed again.
#[derive(Default)]
pub struct Session {
    layers: Vec<LayerCache>,
    cached: Vec<u32>,
    /// Whether the cached keys have turned at the frequencies of long sequences.
    long: bool,
}

impl Session {
    /// A session with nothing cached.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets everything: to be called when the model's weights or adapter change.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The tokens whose keys and values are held.
    pub fn cached(&self) -> &[u32] {
        &self.cached
    }

    /// Continues a prompt. `on_token` sees each new token as it comes, and may end the generation.
    ///
    /// # Errors
    /// `Error::Input` for a prompt that is empty or leaves no room in the model's context;
    /// `Error::OutOfMemory`; `Error::Run` when the logits are not finite; what `on_token` gives.
    pub fn generate(
        &mut self,
        model: &Model,
        request: Request,
        sampler: &mut Sampler,
        on_token: &mut dyn FnMut(u32) -> Result<ControlFlow<()>>,
    ) -> Result<Generated> {
        let Request { prompt, max_new_tokens, stop_ids } = request;
        let context = context_length(model);
        check_prompt(prompt, context)?;
        let mut tokens = prompt.to_vec();
        let room = context - prompt.len();
        self.begin(model, prompt, prompt.len() + room.min(max_new_tokens))?;
        let done = |tokens: &[u32], finish| {
            Ok(Generated { token_ids: tokens[prompt.len()..].to_vec(), finish })
        };
        for _ in 0..room.min(max_new_tokens) {
            let logits = self.advance(model, &tokens)?;
            let token = sampler.choose(logits, &tokens)?;
            if stop_ids.contains(&token) {
                return done(&tokens, Finish::Stop);
            }
            tokens.push(token);
            if on_token(token)?.is_break() {
                return done(&tokens, Finish::Cancelled);
            }
        }
        let filled = room < max_new_tokens;
        done(&tokens, if filled { Finish::ContextFull } else { Finish::MaxNewTokens })
    }

    /// The logits `[V]` after `tokens`, of which those that are cached already are not computed again.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub fn logits(&mut self, model: &Model, tokens: &[u32]) -> Result<Vec<f32>> {
        // One token more than fits is never asked for, so the whole context may be the prompt.
        check_prompt(tokens, context_length(model) + 1)?;
        self.begin(model, tokens, tokens.len())?;
        self.advance(model, tokens)
    }

    /// Keeps of the cache what `prompt` begins with, and makes room for `capacity` tokens.
    fn begin(&mut self, model: &Model, prompt: &[u32], capacity: usize) -> Result<()> {
        let same = self.cached.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last token is always computed, for its logits.
        self.cached.truncate(same.min(prompt.len() - 1));
        if self.layers.len() != model.layers.len() {
            let (device, dtype) = (model.embed_tokens.device(), model.embed_tokens.dtype());
            let attentions = model.config.spec.blocks.iter().map(|block| &block.attention);
            self.layers = attentions
                .map(|a| LayerCache::new(device, capacity, a.kv_heads, a.head_dim, dtype))
                .collect::<Result<_>>()?;
        }
        for layer in &mut self.layers {
            layer.truncate(self.cached.len());
            layer.reserve(capacity)?;
        }
        Ok(())
    }

    /// Computes the tokens that are not cached yet; the logits [V] after the last.
    fn advance(&mut self, model: &Model, tokens: &[u32]) -> Result<Vec<f32>> {
        let device = model.embed_tokens.device();
        let long = model.is_long(tokens.len());
        if long != self.long {
            self.cached.clear();
            self.layers.iter_mut().for_each(|layer| layer.truncate(0));
            self.long = long;
        }
        let (start, end) = (self.cached.len(), tokens.len());
        let place = |position| Place { position, length: end as u32 };
        let positions: Vec<u32> = (start as u32..end as u32).collect();
        let context = Context {
            positions: Tensor::from_u32(device, &[positions.len()], &positions)?,
            bounds: Tensor::from_u32(device, &[end, 2], [0, end as u32].repeat(end).as_slice())?,
            places: positions.iter().copied().map(place).collect(),
            q_offset: start,
            attention: Implementation::Flash,
            adapter: AdapterChoice::default(),
            noise: None,
        };
        let logits = model.next_logits(&tokens[start..], &context, &mut self.layers)?;
        self.cached.extend(&tokens[start..]);
        logits.read_f32()
    }
}

/// The most tokens that prompt and output may have together: the model's context, or the positions
/// it was loaded for.
fn context_length(model: &Model) -> usize {
    model.config.context().min(model.max_positions())
}

fn check_prompt(prompt: &[u32], context: usize) -> Result<()> {
    match prompt.len() {
        0 => Err(Error::input("the prompt is empty: there is nothing to continue")),
        length if length >= context => Err(Error::input(format!(
            "the prompt has {length} tokens, which leaves no room for an answer in the model's \
             context of {context}; shorten it"
        ))),
        _ => Ok(()),
    }
}
