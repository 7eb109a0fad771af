//! The starter model's tokenizer: byte-level BPE, trained on the text and on the training
//! questions, with ChatML as chat template.

use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

/// Number of tokens, the special ones included.
pub const VOCAB_SIZE: usize = 1536;
/// The longest input the model is made for, in tokens.
pub const MAX_LENGTH: usize = 512;
/// Ends a text.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Fills a batch; never part of a text.
pub const PAD: &str = "<|pad|>";
/// Starts a turn.
pub const TURN_START: &str = "<|im_start|>";
/// Ends a turn.
pub const TURN_END: &str = "<|im_end|>";
/// Ids 0 to 3, in this order; `generation_config.json` relies on it.
pub const SPECIAL: [&str; 4] = [END_OF_TEXT, PAD, TURN_START, TURN_END];

/// ChatML, as everyone writes it.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}\
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}\
{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Trains on `texts`, deterministically.
///
/// # Errors
/// Only when the tokenizers library fails.
pub fn train(texts: &[String]) -> tokenizers::Result<Tokenizer> {
    // ByteLevel: no space is put before a text, words are split as GPT-2 splits them.
    let bytes = ByteLevel::new(false, true, true);
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(bytes)).with_decoder(Some(bytes));
    let special = SPECIAL.map(|token| AddedToken::from(token, true));
    let trainer = BpeTrainerBuilder::new()
        .vocab_size(VOCAB_SIZE)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special.to_vec())
        .build();
    // Markers in the text are tokens of their own, never material for merges.
    tokenizer.add_special_tokens(special)?;
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts.iter().map(String::as_str))?;
    Ok(tokenizer)
}

/// `tokenizer_config.json`, as Transformers reads it.
pub fn config() -> Value {
    let token = |content: &str| {
        json!({
            "content": content, "lstrip": false, "normalized": false, "rstrip": false,
            "single_word": false, "special": true,
        })
    };
    let added: serde_json::Map<String, Value> =
        SPECIAL.iter().enumerate().map(|(id, name)| (id.to_string(), token(name))).collect();
    json!({
        "added_tokens_decoder": added,
        "bos_token": null,
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "unk_token": null,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": false,
        "model_max_length": MAX_LENGTH,
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
}
