//! From what the user writes to the tokens that the model continues, and where it stops.

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::tokenizer::{RenderInput, TextProcessor, check_ids};

/// The tokens of raw text, those of the post-processor included. An empty text is the
/// beginning-of-sequence token.
///
/// # Errors
/// `Error::Input` for a text without tokens, or with tokens that the model does not have.
pub fn raw_prompt(text: &TextProcessor, config: &ModelConfig, prompt: &str) -> Result<Vec<u32>> {
    let tokenizer = text.tokenizer.as_ref();
    let mut ids = tokenizer.encode(prompt, true)?;
    if ids.is_empty() {
        ids.extend(tokenizer.bos_token_id());
    }
    if ids.is_empty() {
        return Err(Error::input("the prompt is empty, and this model has no token to begin with"));
    }
    check_ids(&ids, config.spec.vocab_size, tokenizer, "the prompt")?;
    Ok(ids)
}

/// The tokens of a conversation through the chat template, which ask for the assistant's next turn.
/// The template writes every special token, so the post-processor adds none.
///
/// # Errors
/// `Error::Input` without a template, or when it refuses the conversation.
pub fn chat_prompt(
    text: &TextProcessor,
    config: &ModelConfig,
    messages: &[Value],
) -> Result<Vec<u32>> {
    let Some(template) = &text.template else {
        return Err(Error::input(format!(
            "{} has no chat template, so the model cannot chat: leave out --chat to complete raw \
             text, or put a template in chat_template.jinja there",
            text.files.dir.display()
        )));
    };
    let input = RenderInput { messages, add_generation_prompt: true, ..RenderInput::default() };
    let tokenizer = text.tokenizer.as_ref();
    let ids = tokenizer.encode(&template.render(&input)?, false)?;
    check_ids(&ids, config.spec.vocab_size, tokenizer, "the conversation")?;
    Ok(ids)
}

/// The messages of a conversation that begins with a user's message.
pub fn conversation(system: Option<&str>, prompt: &str) -> Vec<Value> {
    let system = system.map(|content| json!({"role": "system", "content": content}));
    system.into_iter().chain([json!({"role": "user", "content": prompt})]).collect()
}

/// The tokens at which an answer stops: the ends of a turn and of a sequence, as the template, the
/// tokenizer, `generation_config.json` and `config.json` have them.
pub fn stop_ids(text: &TextProcessor, config: &ModelConfig) -> Vec<u32> {
    with_ends_of_sequence(text.end_of_turn().ids, text, config)
}

/// The tokens at which raw text stops: the ends of a sequence alone, as in Transformers.
pub fn raw_stop_ids(text: &TextProcessor, config: &ModelConfig) -> Vec<u32> {
    with_ends_of_sequence(Vec::new(), text, config)
}

fn with_ends_of_sequence(
    mut ids: Vec<u32>,
    text: &TextProcessor,
    config: &ModelConfig,
) -> Vec<u32> {
    for &id in text.tokenizer.eos_token_ids().iter().chain(&config.eos_token_ids) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}
