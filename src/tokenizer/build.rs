//! Makes the tokenizer of a model directory from its files, as the class that Transformers makes
//! (see [`super::settings`]).

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::AddedToken as Added;
use tokenizers::processors::template::TemplateProcessing;

use super::TokenizerFiles;
use super::sentencepiece;
use super::settings::{AddedToken, Class, Settings};
use super::splits::QWEN2;
use crate::files::enclosed;

/// Why a tokenizer cannot be made, in words.
pub type Reason = String;

/// The tokenizer of `files`, all its tokens added.
pub fn build(files: &TokenizerFiles) -> Result<tokenizers::Tokenizer, Reason> {
    let settings = &files.settings;
    if settings.fix_mistral_regex {
        return Err(
            "`fix_mistral_regex` is not supported; apply it once in Transformers and save \
                    the tokenizer"
                .into(),
        );
    }
    let text = definition_of(files)?;
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(text)
        .map_err(|error| format!("not a tokenizer this version reads: {error}"))?;
    let model = sentencepiece::Model::of(&files.dir)?;
    let mut settings = settings.clone();
    settings.extra.extend(model.iter().flat_map(sentencepiece::Model::added));
    complete(&mut tokenizer, &settings).map_err(|error| error.to_string())?;
    if read(files, "tokenizer.json")?.is_none() {
        begin_and_end(&mut tokenizer, &settings)?;
    }
    Ok(tokenizer)
}

/// The text of tokenizer.json: the file's, or what its class makes of the vocabulary in it or in other
/// files.
pub fn definition_of(files: &TokenizerFiles) -> Result<Vec<u8>, Reason> {
    let settings = &files.settings;
    if let Some(text) = read(files, "tokenizer.json")? {
        return match settings.class {
            Class::Backend => Ok(text),
            _ => {
                let file: Value = serde_json::from_slice(&text)
                    .map_err(|error| format!("tokenizer.json: not valid JSON: {error}"))?;
                let merges = file["model"]["merges"].clone();
                let vocab = vocabulary(file["model"]["vocab"].clone())?;
                definition(settings, vocab, merges, &file["post_processor"])
            }
        };
    }
    match (sentencepiece::Model::of(&files.dir)?, settings.class) {
        (Some(model), Class::Backend) => {
            serde_json::to_vec(&model.definition()?).map_err(|error| error.to_string())
        }
        (Some(model), Class::Llama { .. } | Class::Gemma) => {
            definition(settings, model.vocab(), model.merges()?, &Value::Null)
        }
        _ => from_vocabulary_and_merges(files),
    }
}

/// The content of a file of the directory, if it has it.
fn read(files: &TokenizerFiles, name: &str) -> Result<Option<Vec<u8>>, Reason> {
    enclosed::read(&files.dir, name, enclosed::VOCABULARY)
        .map_err(|error| format!("{name} {error}"))
}

/// Adds the tokens of the other files to a tokenizer.
pub fn complete(
    tokenizer: &mut tokenizers::Tokenizer,
    settings: &Settings,
) -> Result<(), tokenizers::Error> {
    tokenizer.set_encode_special_tokens(settings.split_special_tokens);
    let known: Vec<String> =
        tokenizer.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    let named = |content: &str| settings.named.iter().any(|(_, token)| token.content == content);
    let mut tokens: Vec<AddedToken> = settings.added.clone();
    let further = settings.named.iter().map(|(_, token)| token).chain(&settings.extra);
    for token in further {
        let there = known.contains(&token.content)
            || tokens.iter().any(|other| other.content == token.content);
        if !there {
            tokens.push(token.clone());
        }
    }
    let tokens = tokens.into_iter().map(|token| {
        let special = token.special || named(&token.content);
        Added::from(token.content, special)
            .single_word(token.single_word)
            .lstrip(token.lstrip)
            .rstrip(token.rstrip)
            .normalized(token.normalized.unwrap_or(!token.special))
    });
    tokenizer.add_tokens(tokens.collect::<Vec<_>>())?;
    if let Class::Qwen2 { .. } = settings.class {
        // This class marks every special token as such once more, without its other flags.
        let all = settings.named.iter().map(|(_, token)| token).chain(&settings.extra);
        let all: Vec<Added> = all.map(|token| Added::from(token.content.clone(), true)).collect();
        tokenizer.add_tokens(all)?;
    }
    Ok(())
}

/// Token and id of each entry; a list counts its entries.
fn vocabulary(vocab: Value) -> Result<Value, Reason> {
    match vocab {
        Value::Object(_) => Ok(vocab),
        Value::Array(list) => {
            let entry = |(id, token): (usize, &Value)| {
                let token = token.get(0).unwrap_or(token).as_str()?;
                Some((token.to_string(), Value::from(id)))
            };
            let entries: Option<serde_json::Map<_, _>> =
                list.iter().enumerate().map(entry).collect();
            entries.map(Value::Object).ok_or_else(|| {
                "tokenizer.json: its vocabulary has an entry that is no token".into()
            })
        }
        _ => Err("tokenizer.json has no vocabulary".into()),
    }
}

/// A tokenizer.json as the class sets it up, added tokens left out.
#[expect(clippy::too_many_lines, reason = "an arm for each class")]
fn definition(
    settings: &Settings,
    vocab: Value,
    merges: Value,
    post_processor: &Value,
) -> Result<Vec<u8>, Reason> {
    let unknown = settings.named.iter().find(|(name, _)| name == "unk_token");
    let mut model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
    });
    let byte_level = |prefix: bool, regex: bool| {
        json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true,
               "use_regex": regex})
    };
    let to_space = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let pieces = [to_space, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    let (normalizer, pre_tokenizer, decoder) = match settings.class {
        Class::Backend => return Err("the class has no setup of its own".into()),
        Class::Llama { legacy, add_prefix_space } => {
            model["fuse_unk"] = json!(true);
            model["byte_fallback"] = json!(true);
            let scheme = match (add_prefix_space, legacy) {
                (false, _) => "never",
                (true, true) => "always",
                (true, false) => "first",
            };
            let mut decoders = pieces.to_vec();
            if add_prefix_space {
                decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
            }
            let split = json!({"type": "Metaspace", "replacement": "▁",
                               "prepend_scheme": scheme, "split": false});
            (Value::Null, split, json!({"type": "Sequence", "decoders": decoders}))
        }
        Class::Gemma => {
            model["fuse_unk"] = json!(true);
            model["byte_fallback"] = json!(true);
            model["unk_token"] = json!(unknown.map(|(_, token)| token.content.as_str()));
            (
                json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
                json!({"type": "Split", "pattern": {"String": " "},
                       "behavior": "MergedWithPrevious", "invert": false}),
                json!({"type": "Sequence", "decoders": pieces}),
            )
        }
        Class::Qwen2 { add_prefix_space } => (
            json!({"type": "NFC"}),
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated",
                 "invert": false},
                byte_level(add_prefix_space, false),
            ]}),
            byte_level(true, true),
        ),
        Class::Gpt2 { add_prefix_space } => {
            (Value::Null, byte_level(add_prefix_space, true), byte_level(true, true))
        }
    };
    model["vocab"] = vocab;
    model["merges"] = if merges.is_array() { merges } else { json!([]) };
    let whole = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder,
        "post_processor": post_processor, "model": model,
    });
    serde_json::to_vec(&whole).map_err(|error| error.to_string())
}

/// A tokenizer.json from vocab.json and merges.txt, for the classes that read them.
fn from_vocabulary_and_merges(files: &TokenizerFiles) -> Result<Vec<u8>, Reason> {
    let read = |name: &str| -> Result<Option<String>, Reason> {
        let text = |bytes| String::from_utf8(bytes).map_err(|_| format!("{name} is not UTF-8"));
        read(files, name)?.map(text).transpose()
    };
    let class = files.settings.class;
    let readable = matches!(class, Class::Qwen2 { .. } | Class::Gpt2 { .. });
    let (Some(vocab), Some(merges), true) = (read("vocab.json")?, read("merges.txt")?, readable)
    else {
        return Err(lacking(&files.dir));
    };
    let vocab: Value = serde_json::from_str(&vocab)
        .map_err(|error| format!("vocab.json: not valid JSON: {error}"))?;
    let merges: Vec<Value> = merges
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.is_empty())
        .map(|line| match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok(json!([left, right])),
            _ => Err(format!("merges.txt: {line:?} is not two tokens")),
        })
        .collect::<Result<_, _>>()?;
    definition(&files.settings, vocab, Value::Array(merges), &Value::Null)
}

/// What to do about a directory without a tokenizer.json.
fn lacking(dir: &Path) -> Reason {
    let others = ["tiktoken.model", "tekken.json", "vocab.json", "spiece.model"];
    let found: Vec<&str> = others.iter().copied().filter(|name| dir.join(name).is_file()).collect();
    let found = match found.is_empty() {
        true => "a model directory needs a tokenizer.json".to_string(),
        false => format!("there is only {}, which is not read here", found.join(" and ")),
    };
    format!(
        "no such file; {found}. Transformers saves one: python -c \"from transformers import \
         AutoTokenizer as T; T.from_pretrained({0:?}).save_pretrained({0:?})\"",
        dir.display().to_string()
    )
}

/// The post-processor of a tokenizer that came without one.
fn begin_and_end(tokenizer: &mut tokenizers::Tokenizer, settings: &Settings) -> Result<(), Reason> {
    let token = |name: &str, wanted: bool| -> Option<(String, u32)> {
        let (_, token) = settings.named.iter().find(|(known, _)| wanted && known == name)?;
        Some((token.content.clone(), tokenizer.token_to_id(&token.content)?))
    };
    let bos = token("bos_token", settings.add_bos_token);
    let eos = token("eos_token", settings.add_eos_token);
    let mut parts: Vec<String> = bos.iter().map(|(token, _)| format!("{token}:0")).collect();
    parts.push("$A:0".into());
    parts.extend(eos.iter().map(|(token, _)| format!("{token}:0")));
    let processor = TemplateProcessing::builder()
        .try_single(parts)
        .map_err(|error| error.to_string())?
        .special_tokens(bos.into_iter().chain(eos).collect::<Vec<_>>())
        .build()
        .map_err(|error| error.to_string())?;
    tokenizer.with_post_processor(Some(processor));
    Ok(())
}
