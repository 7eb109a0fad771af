//! The tokenizer's files and generation_config.json, from the keys of a GGUF file: byte-level BPE (`gpt2`
//! there) with its merges and the way of splitting text that its name says, and SentencePiece's BPE
//! (`llama`), whose merges follow from the scores of its tokens, set up as Transformers does for GGUF
//! files.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::keys::shortest;
use crate::gguf::read::{self, Header};
use crate::tokenizer::pieces::merges_by_score;
use crate::tokenizer::splits::{self, Split};

/// What is made here.
pub const FILES: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"];

/// llama.cpp's kinds of tokens.
mod kind {
    pub const CONTROL: i64 = 3;
    pub const USER_DEFINED: i64 = 4;
    pub const UNUSED: i64 = 5;
}

/// Tokens that llama.cpp ends an answer at, whatever the keys say.
const ENDS: [&str; 4] = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"];

/// The tokenizer, read.
struct Vocabulary<'a> {
    tokens: &'a [String],
    kinds: Vec<i64>,
    header: &'a Header,
}

/// The files by name.
///
/// Errors: in words, a kind of tokenizer or a way of splitting that is not known.
pub fn files(header: &Header) -> Result<BTreeMap<&'static str, Vec<u8>>, String> {
    let Some(read::Value::Texts(tokens)) = header.metadata.get("tokenizer.ggml.tokens") else {
        return Err("tokenizer.ggml.tokens is missing: the file has no tokenizer".into());
    };
    let kinds = match header.metadata.get("tokenizer.ggml.token_type") {
        Some(read::Value::Wholes(kinds)) if kinds.len() == tokens.len() => kinds.clone(),
        _ => vec![1; tokens.len()],
    };
    let vocabulary = Vocabulary { tokens, kinds, header };
    let text = |value: &Value| format!("{value}\n").into_bytes();
    let mut files = BTreeMap::from([
        ("tokenizer.json", text(&vocabulary.definition()?)),
        ("generation_config.json", text(&vocabulary.generation())),
    ]);
    let (config, template) = vocabulary.config();
    files.insert("tokenizer_config.json", text(&config));
    if let Some(template) = template {
        files.insert("chat_template.jinja", template.into_bytes());
    }
    Ok(files)
}

impl<'a> Vocabulary<'a> {
    fn key(&self, name: &str) -> Option<&'a read::Value> {
        self.header.metadata.get(&format!("tokenizer.{name}"))
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        match self.key(name)? {
            read::Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn flag(&self, name: &str) -> Option<bool> {
        match self.key(&format!("ggml.{name}"))? {
            read::Value::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    /// A named token: its id, and how it is written.
    fn named(&self, name: &str) -> Option<(usize, &'a str)> {
        match self.key(&format!("ggml.{name}_token_id"))? {
            read::Value::Whole(id) => {
                let id = usize::try_from(*id).ok()?;
                Some((id, self.tokens.get(id)?))
            }
            _ => None,
        }
    }

    /// tokenizer.json.
    fn definition(&self) -> Result<Value, String> {
        let mut file = match self.text("ggml.model") {
            Some("gpt2") => self.byte_level()?,
            Some("llama") => self.sentence_pieces()?,
            found => {
                return Err(format!(
                    "tokenizer.ggml.model is {found:?}, which is not supported; supported are \
                     \"gpt2\" and \"llama\""
                ));
            }
        };
        file["version"] = json!("1.0");
        file["truncation"] = Value::Null;
        file["padding"] = Value::Null;
        let added = self.tokens.iter().zip(&self.kinds).enumerate();
        let added =
            added.filter(|(_, (_, kind))| [kind::CONTROL, kind::USER_DEFINED].contains(kind));
        file["added_tokens"] = added
            .map(|(id, (token, kind))| {
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": *kind == kind::CONTROL,
                })
            })
            .collect();
        Ok(file)
    }

    /// Tokens and ids, each token `spelled`; what only fills the embedding is left out.
    fn vocab(&self, spelled: impl Fn(&str) -> String) -> Map<String, Value> {
        let tokens = self.tokens.iter().zip(&self.kinds).enumerate();
        tokens
            .filter(|(_, (token, kind))| **kind != kind::UNUSED || !token.starts_with("[PAD"))
            .map(|(id, (token, _))| (spelled(token), json!(id)))
            .collect()
    }

    fn byte_level(&self) -> Result<Value, String> {
        let Some(read::Value::Texts(merges)) = self.key("ggml.merges") else {
            return Err("tokenizer.ggml.merges is missing".into());
        };
        let pairs = merges.iter().map(|line| match line.split_once(' ') {
            Some((left, right)) => Ok(json!([left, right])),
            None => Err(format!("tokenizer.ggml.merges has {line:?}; expected two tokens")),
        });
        let merges: Vec<Value> = pairs.collect::<Result<_, _>>()?;
        let pre = self.text("ggml.pre");
        let Some(split) = pre.and_then(splits::of_name) else {
            return Err(format!(
                "tokenizer.ggml.pre is {}; known are {}",
                pre.map_or("missing".into(), |pre| format!("{pre:?}, which is not known")),
                splits::names().join(", ")
            ));
        };
        let bytes = |regex: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                   "use_regex": regex})
        };
        let sequence = |first: Value, bytes: Value| json!({"type": "Sequence", "pretokenizers": [first, bytes]});
        let pre_tokenizer = match split.split {
            Split::Gpt2 => bytes(true),
            Split::Digits => {
                sequence(json!({"type": "Digits", "individual_digits": true}), bytes(true))
            }
            Split::Pattern(pattern) => {
                let split = json!({"type": "Split", "pattern": {"Regex": pattern},
                                   "behavior": "Isolated", "invert": false});
                sequence(split, bytes(false))
            }
        };
        Ok(json!({
            "normalizer": if split.nfc { json!({"type": "NFC"}) } else { Value::Null },
            "pre_tokenizer": pre_tokenizer,
            "post_processor": self.post_processor(split.begins),
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                        "use_regex": true},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
                "byte_fallback": false, "ignore_merges": split.ignore_merges,
                "vocab": self.vocab(str::to_string), "merges": merges,
            },
        }))
    }

    fn sentence_pieces(&self) -> Result<Value, String> {
        let scores = match self.key("ggml.scores") {
            Some(read::Value::Reals(scores)) if scores.len() == self.tokens.len() => scores,
            _ => return Err("tokenizer.ggml.scores is missing, or of another length".into()),
        };
        let architecture = self.header.metadata.get("general.architecture");
        let is = |name: &str| architecture == Some(&read::Value::Text(name.into()));
        let gemma = is("gemma3");
        // Gemma's tokens of spaces alone are written with spaces here.
        let spelled =
            |token: &str| match gemma && !token.is_empty() && token.trim_matches(' ').is_empty() {
                true => "\u{2581}".repeat(token.len()),
                false => token.to_string(),
            };
        let tokens: Vec<String> = self.tokens.iter().map(|token| spelled(token)).collect();
        // Gemma's scores are in no order of merging; its ids are.
        let order: Vec<f32> = match gemma {
            true => (0..tokens.len()).map(|id| -(id as f32)).collect(),
            false => scores.clone(),
        };
        let merges = merges_by_score(&tokens, &order)?;
        let prefix = self.flag("add_space_prefix").unwrap_or(true);
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let (normalizer, pre_tokenizer) = if gemma {
            let split = json!({"type": "Split", "pattern": {"String": " "},
                               "behavior": "MergedWithPrevious", "invert": false});
            (replace(" ", "\u{2581}"), split)
        } else if is("phi3") && prefix {
            let prepend = json!({"type": "Prepend", "prepend": "\u{2581}"});
            let both = [prepend, replace(" ", "\u{2581}")];
            (json!({"type": "Sequence", "normalizers": both}), Value::Null)
        } else {
            let scheme = if prefix { "first" } else { "never" };
            let split = json!({"type": "Metaspace", "replacement": "\u{2581}",
                               "prepend_scheme": scheme, "split": false});
            (Value::Null, split)
        };
        let mut decoders = vec![
            replace("\u{2581}", " "),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix && !gemma {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let unknown = self.named("unknown").filter(|_| gemma).map(|(_, token)| token);
        Ok(json!({
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": self.post_processor(true),
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": unknown,
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
                "byte_fallback": true, "ignore_merges": false,
                "vocab": self.vocab(spelled), "merges": merges,
            },
        }))
    }

    /// What is put before and after a text; `begins` where no key says whether the first is.
    fn post_processor(&self, begins: bool) -> Value {
        let asked = |name: &str, default: bool| self.flag(name).unwrap_or(default);
        let bos = self.named("bos").filter(|_| asked("add_bos_token", begins));
        let eos = self.named("eos").filter(|_| asked("add_eos_token", false));
        let special = |token: &str, of: u32| json!({"SpecialToken": {"id": token, "type_id": of}});
        let around = |sequence: &str, of: u32| -> Vec<Value> {
            let text = json!({"Sequence": {"id": sequence, "type_id": of}});
            let first = bos.map(|(_, token)| special(token, of));
            let last = eos.map(|(_, token)| special(token, of));
            first.into_iter().chain([text]).chain(last).collect()
        };
        let tokens: Map<String, Value> = [bos, eos]
            .into_iter()
            .flatten()
            .map(|(id, token)| {
                (token.to_string(), json!({"id": token, "ids": [id], "tokens": [token]}))
            })
            .collect();
        let pair: Vec<Value> = around("A", 0).into_iter().chain(around("B", 1)).collect();
        json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair,
               "special_tokens": tokens})
    }

    /// tokenizer_config.json, and the template where there is one alone.
    fn config(&self) -> (Value, Option<String>) {
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
        });
        let names = [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")];
        for (name, key) in names {
            if let Some((_, token)) = self.named(key) {
                config[format!("{name}_token")] = json!(token);
            }
        }
        let main = self.text("chat_template").map(str::to_string);
        let others = match self.key("chat_templates") {
            Some(read::Value::Texts(names)) => names.as_slice(),
            _ => &[],
        };
        let others = others.iter().filter(|name| *name != "default").filter_map(|name| {
            let source = self.text(&format!("chat_template.{name}"))?;
            Some(json!({"name": name, "template": source}))
        });
        let mut list: Vec<Value> = others.collect();
        if list.is_empty() {
            return (config, main);
        }
        list.extend(main.map(|source| json!({"name": "default", "template": source})));
        config["chat_template"] = list.into();
        (config, None)
    }

    /// generation_config.json: what ends an answer, and how to sample where the file says.
    fn generation(&self) -> Value {
        let id = |name: &str| self.named(name).map(|(id, _)| id);
        let mut ends: Vec<usize> = ["eos", "eot", "eom"].into_iter().filter_map(id).collect();
        let control = self.tokens.iter().zip(&self.kinds).enumerate();
        let control = control.filter(|(_, (token, kind))| {
            [kind::CONTROL, kind::USER_DEFINED].contains(kind) && ENDS.contains(&token.as_str())
        });
        ends.extend(control.map(|(id, _)| id));
        let mut seen = Vec::new();
        ends.retain(|id| {
            !seen.contains(id) && {
                seen.push(*id);
                true
            }
        });
        let mut config = json!({
            "bos_token_id": id("bos"), "eos_token_id": ends, "pad_token_id": id("padding"),
        });
        let settings = [
            ("temp", "temperature"),
            ("top_k", "top_k"),
            ("top_p", "top_p"),
            ("min_p", "min_p"),
            ("penalty_repeat", "repetition_penalty"),
        ];
        for (key, name) in settings {
            let value = match self.header.metadata.get(&format!("general.sampling.{key}")) {
                Some(read::Value::Real(x)) => json!(shortest(*x as f32)),
                Some(read::Value::Whole(n)) => json!(n),
                _ => continue,
            };
            config[name] = value;
            config["do_sample"] = json!(true);
        }
        config
    }
}
