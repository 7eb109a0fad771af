//! What a model directory says of its tokenizer besides the vocabulary, merged from its files as
//! Transformers 5 merges them (`PreTrainedTokenizerBase._from_pretrained`,
//! `TokenizersBackend.__init__`, `AutoTokenizer.from_pretrained`).
//!
//! - `added_tokens_decoder` of tokenizer_config.json holds every added token with its flags. Where it
//!   is, special_tokens_map.json and added_tokens.json are not looked at.
//! - Without it, special_tokens_map.json wins over tokenizer_config.json, and added_tokens.json and
//!   the added tokens of tokenizer.json take its place.
//! - Named tokens (`eos_token` ...) and `extra_special_tokens` (or `additional_special_tokens`) that
//!   are nowhere in the vocabulary are added to it, behind all others.
//! - The class decides whether tokenizer.json is taken as it is or only its vocabulary is: see
//!   [`Class`].

use serde::Deserialize;
use serde_json::{Map, Value};

/// The special tokens that every tokenizer may name, in the order of Transformers.
pub const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token that is matched in a text before it is split.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AddedToken {
    /// How it is written.
    pub content: String,
    /// Whether it matches whole words only.
    #[serde(default)]
    pub single_word: bool,
    /// Whether it takes white space on its left along.
    #[serde(default)]
    pub lstrip: bool,
    /// Whether it takes white space on its right along.
    #[serde(default)]
    pub rstrip: bool,
    /// Whether it is matched in the normalized text; without a word on it, if it is not special.
    pub normalized: Option<bool>,
    /// Whether decoding may leave it out.
    #[serde(default)]
    pub special: bool,
}

impl AddedToken {
    /// A special token that was named by its text alone.
    pub fn special(content: &str) -> Self {
        Self {
            content: content.to_string(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: None,
            special: true,
        }
    }
}

/// The class that Transformers makes the tokenizer of. Those other than [`Class::Backend`] take the
/// vocabulary and merges (and the post-processor) and set up the rest themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Class {
    /// `TokenizersBackend`, once `PreTrainedTokenizerFast`: tokenizer.json as it is. Classes that are
    /// not in this list are taken for it.
    #[default]
    Backend,
    /// `LlamaTokenizer`: `legacy` puts the space that begins a text before every piece between special
    /// tokens; without it (the default since version 5), before the first alone.
    Llama { legacy: bool, add_prefix_space: bool },
    /// `Qwen2Tokenizer`.
    Qwen2 { add_prefix_space: bool },
    /// `GemmaTokenizer`.
    Gemma,
    /// `GPT2Tokenizer`.
    Gpt2 { add_prefix_space: bool },
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The class that is made.
    pub class: Class,
    /// Added tokens, in the order of their ids.
    pub added: Vec<AddedToken>,
    /// Tokens by name (`eos_token` ...).
    pub named: Vec<(String, AddedToken)>,
    /// Special tokens without a name.
    pub extra: Vec<AddedToken>,
    /// Whether special tokens written in a text are split like any text.
    pub split_special_tokens: bool,
    /// Whether decoding mends spaces before punctuation (not for BPE).
    pub clean_up: bool,
    /// Whether encoding begins with the `bos_token` and ends with the `eos_token`; heeded where there
    /// is no tokenizer.json, whose post-processor says it otherwise.
    pub add_bos_token: bool,
    /// See `add_bos_token`.
    pub add_eos_token: bool,
    /// Whether the regular expression of old Mistral tokenizers is to be replaced.
    pub fix_mistral_regex: bool,
}

/// The files that are merged, read.
pub struct Sources<'a> {
    /// tokenizer_config.json.
    pub config: &'a Map<String, Value>,
    /// special_tokens_map.json.
    pub special_tokens_map: &'a Map<String, Value>,
    /// added_tokens.json: tokens and their ids.
    pub added_tokens: &'a Map<String, Value>,
    /// config.json, for the kind of model.
    pub model: &'a Map<String, Value>,
    /// The text of tokenizer.json, if there is one.
    pub tokenizer: Option<&'a str>,
}

/// What is read of tokenizer.json here.
#[derive(Debug, Default, Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<TokenOfFile>,
    #[serde(default)]
    padding: Option<Padding>,
}

#[derive(Debug, Deserialize)]
struct TokenOfFile {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Debug, Deserialize)]
struct Padding {
    pad_token: String,
}

impl Settings {
    /// Merges the files. An error is a sentence about the key that it names.
    #[expect(clippy::too_many_lines, reason = "a rule for each key")]
    pub fn merge(sources: &Sources) -> Result<Self, String> {
        let config = sources.config;
        let class = class(sources);
        // What cannot be read of tokenizer.json is said when the tokenizer is made from it.
        let file: TokenizerFile =
            sources.tokenizer.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let decoder = config.get("added_tokens_decoder").filter(|decoder| !decoder.is_null());
        let mut keys = config.clone();
        if decoder.is_none() {
            let map = sources.special_tokens_map.iter();
            keys.extend(map.map(|(key, value)| (key.clone(), special(value))));
        }
        let listed = extra_tokens(config, sources.special_tokens_map, decoder.is_none())?;
        let mut added: Vec<(u32, AddedToken)> = Vec::new();
        match decoder {
            Some(decoder) => {
                let decoder = decoder.as_object().ok_or("`added_tokens_decoder` is no object")?;
                for (id, token) in decoder {
                    let id = id.parse().map_err(|_| {
                        format!("`added_tokens_decoder` has the key {id:?}; expected a token id")
                    })?;
                    added.push((id, token_of("added_tokens_decoder", token)?));
                }
            }
            None => {
                let named = NAMED.iter().filter_map(|name| keys.get(*name)).filter_map(content);
                let special: Vec<&str> =
                    named.chain(listed.iter().map(|token| token.content.as_str())).collect();
                for (content, id) in sources.added_tokens {
                    let id =
                        id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                            format!(
                                "added_tokens.json gives {content:?} the id {id}; expected a number"
                            )
                        })?;
                    let is_special = special.contains(&content.as_str());
                    let token = AddedToken { special: is_special, ..AddedToken::special(content) };
                    put(&mut added, id, token);
                }
                for TokenOfFile { id, token } in file.added_tokens {
                    put(&mut added, id, token);
                }
            }
        }
        added.sort_by_key(|(id, _)| *id);
        let added: Vec<AddedToken> = added.into_iter().map(|(_, token)| token).collect();
        let mut named = named_tokens(&keys, class, &added)?;
        if let (Some(padding), None) = (file.padding, keys.get("pad_token")) {
            named.push(("pad_token".into(), AddedToken::special(&padding.pad_token)));
        }
        let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
        let own_post_processor = sources.tokenizer.is_some();
        Ok(Self {
            class,
            added,
            named,
            extra: listed,
            split_special_tokens: flag("split_special_tokens"),
            clean_up: flag("clean_up_tokenization_spaces"),
            add_bos_token: !own_post_processor && flag("add_bos_token"),
            add_eos_token: !own_post_processor && flag("add_eos_token"),
            fix_mistral_regex: flag("fix_mistral_regex"),
        })
    }
}

fn put(added: &mut Vec<(u32, AddedToken)>, id: u32, token: AddedToken) {
    added.retain(|(other, _)| *other != id);
    added.push((id, token));
}

/// A token of special_tokens_map.json, which is special whatever its flags say.
fn special(value: &Value) -> Value {
    let mut value = value.clone();
    if let Value::Object(token) = &mut value
        && token.contains_key("content")
    {
        token.insert("special".into(), Value::Bool(true));
    }
    value
}

fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A token, which is a text or an object with `content`.
fn token_of(key: &str, value: &Value) -> Result<AddedToken, String> {
    match value {
        Value::String(text) => Ok(AddedToken::special(text)),
        Value::Object(_) => serde_json::from_value(value.clone()).map_err(|error| {
            format!(
                "`{key}` has a token that cannot be read: {error}; expected an object with \
                     `content`"
            )
        }),
        other => Err(format!(
            "`{key}` is {}; expected a string or an object with `content`",
            kind(other)
        )),
    }
}

/// The special tokens without a name: those of tokenizer_config.json, else (`legacy`) of
/// special_tokens_map.json.
fn extra_tokens(
    config: &Map<String, Value>,
    map: &Map<String, Value>,
    legacy: bool,
) -> Result<Vec<AddedToken>, String> {
    const EXTRA: &str = "extra_special_tokens";
    let of = |keys: &Map<String, Value>, key: &str| -> Result<Vec<AddedToken>, String> {
        match keys.get(key) {
            // An object names its tokens; see `named_tokens`.
            None | Some(Value::Null | Value::Object(_)) => Ok(Vec::new()),
            Some(Value::Array(list)) => list
                .iter()
                .map(|token| Ok(AddedToken { special: true, ..token_of(key, token)? }))
                .collect(),
            Some(other) => Err(format!("`{key}` is {}; expected a list of tokens", kind(other))),
        }
    };
    let mut tokens = of(config, EXTRA)?;
    if tokens.is_empty() {
        tokens = of(config, "additional_special_tokens")?;
    }
    if legacy {
        let more = of(map, EXTRA)?;
        tokens.extend(more);
        if tokens.is_empty() && !config.contains_key("additional_special_tokens") {
            tokens = of(map, "additional_special_tokens")?;
        }
    }
    Ok(tokens)
}

/// Tokens by name: the usual ones, then the model's own (`image_token`, and those of an object
/// `extra_special_tokens`).
fn named_tokens(
    keys: &Map<String, Value>,
    class: Class,
    added: &[AddedToken],
) -> Result<Vec<(String, AddedToken)>, String> {
    let mut named = Vec::new();
    for name in NAMED {
        let default = default_of(class, name).map(Value::from);
        let token = match keys.get(name).or(default.as_ref()) {
            None | Some(Value::Null) => continue,
            Some(value) => token_of(name, value)?,
        };
        // An added token of the same text brings its flags.
        let token = added
            .iter()
            .rev()
            .find(|other| other.content == token.content)
            .cloned()
            .unwrap_or(token);
        named.push((name.to_string(), token));
    }
    let own = keys.iter().filter(|(key, value)| {
        key.ends_with("_token") && !NAMED.contains(&key.as_str()) && content(value).is_some()
    });
    for (name, value) in own {
        named.push((name.clone(), token_of(name, value)?));
    }
    if let Some(Value::Object(tokens)) = keys.get("extra_special_tokens") {
        for (name, value) in tokens {
            named.push((name.clone(), token_of(name, value)?));
        }
    }
    Ok(named)
}

/// What a class calls a token that no file names.
fn default_of(class: Class, name: &str) -> Option<&'static str> {
    match (class, name) {
        (Class::Llama { .. } | Class::Gemma, "unk_token") => Some("<unk>"),
        (Class::Llama { .. }, "bos_token") => Some("<s>"),
        (Class::Llama { .. }, "eos_token") => Some("</s>"),
        (Class::Gemma, "bos_token") => Some("<bos>"),
        (Class::Gemma, "eos_token") => Some("<eos>"),
        (Class::Gemma, "pad_token") => Some("<pad>"),
        (Class::Gemma, "mask_token") => Some("<mask>"),
        (Class::Qwen2 { .. }, "unk_token" | "eos_token" | "pad_token")
        | (Class::Gpt2 { .. }, "unk_token" | "eos_token" | "bos_token") => Some("<|endoftext|>"),
        _ => None,
    }
}

/// The class that `AutoTokenizer` makes: the files' own, unless the kind of model is known to have
/// another, or tokenizer.json is byte-level where the files say `LlamaTokenizer`.
fn class(sources: &Sources) -> Class {
    let text = |object: &Map<String, Value>, key: &str| -> Option<String> {
        Some(object.get(key)?.as_str()?.to_string())
    };
    let bare = |name: String| name.strip_suffix("Fast").map_or(name.clone(), str::to_string);
    let declared = text(sources.config, "tokenizer_class")
        .or_else(|| text(sources.model, "tokenizer_class"))
        .map(bare);
    let model = text(sources.model, "model_type").unwrap_or_default();
    let registered = match model.as_str() {
        "qwen2" | "qwen3" | "qwen2_moe" | "qwen3_moe" => Some("Qwen2Tokenizer"),
        "gemma" | "gemma2" | "gemma3" | "gemma3_text" => Some("GemmaTokenizer"),
        "gpt2" | "phi" | "starcoder2" => Some("GPT2Tokenizer"),
        "mistral" | "ministral" | "mixtral" | "phi3" | "olmo2" | "granite" | "stablelm" => {
            Some("TokenizersBackend")
        }
        _ => None,
    };
    // Of these, the files on the hub name the wrong class.
    let wrong = matches!(model.as_str(), "qwen2" | "phi3");
    let byte_level = sources.tokenizer.is_some_and(|text| text.contains("\"ByteLevel\""));
    let name = match (declared.as_deref(), registered) {
        (Some("LlamaTokenizer"), _) if byte_level && !wrong => "TokenizersBackend",
        (Some(declared), Some(registered)) if declared != registered => match registered {
            "TokenizersBackend" => registered,
            registered if wrong => registered,
            _ => declared,
        },
        (Some(declared), _) => declared,
        (None, Some(registered)) => registered,
        (None, None) => "TokenizersBackend",
    };
    let flag = |key: &str| sources.config.get(key).and_then(Value::as_bool);
    match name {
        "LlamaTokenizer" => Class::Llama {
            // Whatever is given and false-like means no; absent too.
            legacy: flag("legacy").unwrap_or(false),
            add_prefix_space: flag("add_prefix_space").unwrap_or(true),
        },
        "Qwen2Tokenizer" => {
            Class::Qwen2 { add_prefix_space: flag("add_prefix_space").unwrap_or(false) }
        }
        "GemmaTokenizer" => Class::Gemma,
        "GPT2Tokenizer" => {
            Class::Gpt2 { add_prefix_space: flag("add_prefix_space").unwrap_or(false) }
        }
        _ => Class::Backend,
    }
}

/// What a JSON value is, in words for a message.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
