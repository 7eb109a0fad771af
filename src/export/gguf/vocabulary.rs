//! The tokenizer as llama.cpp has it, from `tokenizer.json`.
//!
//! Two kinds go over: byte-level BPE (`gpt2` there), whose way of splitting text is one of llama.cpp's
//! named ones, and SentencePiece's BPE (`llama` there), which merges by the score of the result
//! instead of by a list of merges.

use std::collections::HashMap;

use serde_json::{Map, Value as Json};

use super::unsupported;
use crate::error::{Error, Result};
use crate::files::enclosed;
use crate::gguf::container::{Entry, Value};
use crate::tokenizer::splits::{self, Split};
use crate::tokenizer::{TextProcessor, Tokenizer};

/// llama.cpp's kinds of tokens.
mod kind {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

/// What stands for a space in SentencePiece's tokens.
const SPACE: char = '\u{2581}';

/// Every key of the tokenizer, its chat templates included, for an embedding of `vocab_size` rows.
///
/// # Errors
/// `Error::Input` for a tokenizer that llama.cpp does not have, by name of what differs.
pub fn metadata(text: &TextProcessor, vocab_size: usize) -> Result<Vec<Entry>> {
    let path = text.files.dir.join("tokenizer.json");
    let place = path.display().to_string();
    let content = enclosed::expected_text(&text.files.dir, "tokenizer.json", enclosed::VOCABULARY)
        .map_err(|error| Error::input(format!("cannot read {place}: {error}")))?;
    let file: Json = serde_json::from_str(&content)
        .map_err(|error| Error::input(format!("{place}: not valid JSON: {error}")))?;
    let model = file.get("model").and_then(Json::as_object);
    let model = model.ok_or_else(|| Error::input(format!("{place}: `model` is missing")))?;
    match model.get("type").and_then(Json::as_str) {
        Some("BPE") => {}
        found => {
            let found = found.unwrap_or("unknown");
            return Err(unsupported(format_args!(
                "{place}: the tokenizer's type is {found}; llama.cpp's models of this family have BPE"
            )));
        }
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model.get(key).and_then(Json::as_str).is_some_and(|text| !text.is_empty()) {
            return Err(unsupported(format_args!("{place}: the tokenizer's `{key}` is set")));
        }
    }
    let merges = read_merges(model, &place)?;
    let mut tokens = Tokens::read(&file, model, vocab_size, &place)?;
    tokens.add_those_of_other_files(text.tokenizer.as_ref(), &place)?;
    let mut entries = Vec::new();
    let mut add = |key: &str, value: Value| {
        entries.push(Entry::new(format!("tokenizer.ggml.{key}"), value));
    };
    match byte_level(&file) {
        true => {
            add("model", Value::Text("gpt2".into()));
            add("pre", Value::Text(pre_type(&file, model, &place)?.into()));
            let lines = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
            add("merges", Value::Texts(lines));
        }
        false => {
            add("model", Value::Text("llama".into()));
            add("pre", Value::Text("default".into()));
            add("add_space_prefix", Value::Bool(adds_space(&file, &place)?));
            tokens.mark_bytes(model);
            add("scores", Value::F32s(scores(&tokens, &merges, &place)?));
        }
    }
    tokens.mark_unknown(text);
    add("tokens", Value::Texts(tokens.texts));
    add("token_type", Value::I32s(tokens.kinds));
    special_tokens(text, &mut add, &place)?;
    entries.extend(templates(text));
    Ok(entries)
}

/// Every id of the embedding: its token and llama.cpp's kind.
struct Tokens {
    texts: Vec<String>,
    kinds: Vec<i32>,
}

impl Tokens {
    fn read(file: &Json, model: &Map<String, Json>, size: usize, place: &str) -> Result<Self> {
        let mut tokens = Self {
            texts: (0..size).map(|id| format!("[PAD{id}]")).collect(),
            kinds: vec![kind::UNUSED; size],
        };
        let mut put = |id: Option<u64>, text: &str, kind: i32| match id {
            Some(id) if (id as usize) < size => {
                tokens.texts[id as usize] = text.to_string();
                tokens.kinds[id as usize] = kind;
                Ok(())
            }
            _ => Err(no_id_below(text, size, place)),
        };
        for (text, id) in model.get("vocab").and_then(Json::as_object).into_iter().flatten() {
            put(id.as_u64(), text, kind::NORMAL)?;
        }
        for token in file.get("added_tokens").and_then(Json::as_array).into_iter().flatten() {
            let special = token.get("special").and_then(Json::as_bool).unwrap_or(false);
            let text = token.get("content").and_then(Json::as_str).unwrap_or_default();
            match special {
                true => put(token.get("id").and_then(Json::as_u64), text, kind::CONTROL)?,
                // llama.cpp looks for these in the text as the user wrote it.
                false => put(
                    token.get("id").and_then(Json::as_u64),
                    &text.replace(SPACE, " "),
                    kind::USER_DEFINED,
                )?,
            }
        }
        Ok(tokens)
    }

    /// Tokens that the files beside tokenizer.json add, and what they make special.
    fn add_those_of_other_files(&mut self, tokenizer: &dyn Tokenizer, place: &str) -> Result<()> {
        let size = self.texts.len();
        for id in 0..tokenizer.vocab_size() as u32 {
            let Some(token) = tokenizer.id_to_token(id) else { continue };
            let Some(found) = self.kinds.get_mut(id as usize) else {
                return Err(no_id_below(&token, size, place));
            };
            *found = match (*found, tokenizer.is_special(id)) {
                (kind::UNUSED | kind::NORMAL, true) => kind::CONTROL,
                (kind::UNUSED, false) => kind::USER_DEFINED,
                _ => continue,
            };
            self.texts[id as usize] = token;
        }
        Ok(())
    }

    /// The tokens `<0x00>` to `<0xFF>`, where the tokenizer falls back to them.
    fn mark_bytes(&mut self, model: &Map<String, Json>) {
        if model.get("byte_fallback").and_then(Json::as_bool) == Some(true) {
            for (text, kind) in self.texts.iter().zip(&mut self.kinds) {
                let hex = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                if hex.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok()) {
                    *kind = kind::BYTE;
                }
            }
        }
    }

    fn mark_unknown(&mut self, text: &TextProcessor) {
        let unknown = text.files.special_tokens.get("unk_token");
        if let Some(id) = unknown.and_then(|token| text.tokenizer.token_to_id(token))
            && let Some(kind) = self.kinds.get_mut(id as usize)
        {
            *kind = kind::UNKNOWN;
        }
    }
}

fn no_id_below(token: &str, size: usize, place: &str) -> Error {
    Error::input(format!(
        "{place}: the token {token:?} has no id below the model's vocab_size {size}; the tokenizer does \
         not belong to this model"
    ))
}

/// The pairs of `merges`, which newer files have as lists and older ones as "left right".
fn read_merges(model: &Map<String, Json>, place: &str) -> Result<Vec<(String, String)>> {
    let bad =
        |entry: &Json| Error::input(format!("{place}: `merges` holds {entry}; expected a pair"));
    let merges = model.get("merges").and_then(Json::as_array).into_iter().flatten();
    merges
        .map(|entry| match entry {
            Json::String(line) => {
                let (left, right) = line.split_once(' ').ok_or_else(|| bad(entry))?;
                Ok((left.to_string(), right.to_string()))
            }
            Json::Array(pair) => match &pair[..] {
                [Json::String(left), Json::String(right)] => Ok((left.clone(), right.clone())),
                _ => Err(bad(entry)),
            },
            _ => Err(bad(entry)),
        })
        .collect()
}

/// The parts of `normalizer` or `pre_tokenizer`, whether in a sequence or alone.
fn parts<'a>(file: &'a Json, key: &str, list: &str) -> Vec<&'a Json> {
    match file.get(key) {
        None | Some(Json::Null) => Vec::new(),
        Some(one) => match one.get(list).and_then(Json::as_array) {
            Some(list) => list.iter().collect(),
            None => vec![one],
        },
    }
}

fn type_of(part: &Json) -> &str {
    part.get("type").and_then(Json::as_str).unwrap_or_default()
}

fn flag(part: &Json, key: &str, default: bool) -> bool {
    part.get(key).and_then(Json::as_bool).unwrap_or(default)
}

fn byte_level(file: &Json) -> bool {
    parts(file, "pre_tokenizer", "pretokenizers").iter().any(|part| type_of(part) == "ByteLevel")
}

/// llama.cpp's name of how a byte-level tokenizer splits text before merging.
fn pre_type(file: &Json, model: &Map<String, Json>, place: &str) -> Result<&'static str> {
    // NFC is what llama.cpp leaves to the caller for Qwen, too.
    for part in parts(file, "normalizer", "normalizers") {
        if type_of(part) != "NFC" {
            return Err(unsupported(format_args!("{place}: the normalizer {part} is not known")));
        }
    }
    let ignore_merges = model.get("ignore_merges").and_then(Json::as_bool).unwrap_or(false);
    let split = parts(file, "pre_tokenizer", "pretokenizers");
    let unknown = || {
        let split = split.iter().map(|part| part.to_string()).collect::<Vec<_>>().join(", ");
        Err(unsupported(format_args!(
            "{place}: llama.cpp has no name for this way of splitting text (ignore_merges \
             {ignore_merges}): {split}"
        )))
    };
    let Some((bytes, before)) = split.split_last() else { return unknown() };
    if type_of(bytes) != "ByteLevel" || flag(bytes, "add_prefix_space", true) {
        return unknown();
    }
    let pattern = |part: &Json| {
        // What the pattern matches is kept as it is; there is nothing between matches to remove.
        let kept = match part.get("behavior").and_then(Json::as_str) {
            Some("Isolated") => !flag(part, "invert", false),
            Some("Removed") => flag(part, "invert", false),
            _ => false,
        };
        let regex = part.get("pattern").and_then(|pattern| pattern.get("Regex"));
        let regex = regex.and_then(Json::as_str).unwrap_or_default().to_string();
        (type_of(part) == "Split" && kept).then_some(regex)
    };
    let found = match (before, flag(bytes, "use_regex", true)) {
        ([], true) => Some(Split::Gpt2),
        ([digits], true)
            if type_of(digits) == "Digits" && flag(digits, "individual_digits", false) =>
        {
            Some(Split::Digits)
        }
        ([one], false) => pattern(one).and_then(|pattern| splits::of_pattern(&pattern)),
        _ => None,
    };
    match found.and_then(|split| splits::name_of(split, ignore_merges)) {
        Some(name) => Ok(name),
        None => unknown(),
    }
}

/// Whether SentencePiece's dummy space is put before a text.
fn adds_space(file: &Json, place: &str) -> Result<bool> {
    let (mut adds, mut replaces) = (false, false);
    let normalizers = parts(file, "normalizer", "normalizers");
    for part in normalizers.into_iter().chain(parts(file, "pre_tokenizer", "pretokenizers")) {
        let text = |key: &str| part.get(key).and_then(Json::as_str).unwrap_or_default();
        let is_space = |found: &str| found.chars().eq([SPACE]);
        let replaced = part.get("pattern").and_then(|p| p.get("String")).and_then(Json::as_str);
        match type_of(part) {
            "Prepend" if is_space(text("prepend")) => adds = true,
            "Replace" if replaced == Some(" ") && is_space(text("content")) => replaces = true,
            // Gemma's, which finds no space any more.
            "Split" if replaces && replaced == Some(" ") => {}
            "Metaspace" if is_space(text("replacement")) && !flag(part, "split", true) => {
                replaces = true;
                adds |= text("prepend_scheme") != "never";
            }
            _ => {
                return Err(unsupported(format_args!(
                    "{place}: {part} is no part of llama.cpp's SentencePiece tokenizer"
                )));
            }
        }
    }
    match replaces {
        true => Ok(adds),
        false => Err(unsupported(format_args!(
            "{place}: neither a byte-level tokenizer nor one that writes {SPACE} for a space"
        ))),
    }
}

/// A score for every token: the earlier its merges stand in the list, the higher. llama.cpp merges
/// any two neighbours whose joint text is a token, the one of the highest score first.
///
/// # Errors
/// `Error::Input` where that would not give the merges of the list.
fn scores(tokens: &Tokens, merges: &[(String, String)], place: &str) -> Result<Vec<f32>> {
    let ids: HashMap<&str, usize> = tokens
        .texts
        .iter()
        .enumerate()
        .filter(|(id, _)| tokens.kinds[*id] == kind::NORMAL)
        .map(|(id, text)| (text.as_str(), id))
        .collect();
    let mut scores = vec![0.0; tokens.texts.len()];
    let mut pairs_of = vec![0usize; tokens.texts.len()];
    let (mut rank, mut last) = (0, None);
    for (left, right) in merges {
        let joint = format!("{left}{right}");
        let Some(&id) = ids.get(joint.as_str()) else { continue };
        if last != Some(id) {
            if pairs_of[id] > 0 {
                return Err(unsupported(format_args!(
                    "{place}: the merges into {joint:?} stand at several places of the list; \
                     llama.cpp has one score for all of them"
                )));
            }
            (rank, last) = (rank + 1, Some(id));
        }
        scores[id] = -(rank as f32);
        pairs_of[id] += 1;
    }
    for (text, &id) in &ids {
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let possible =
            cuts.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right)).count();
        if possible != pairs_of[id] {
            return Err(unsupported(format_args!(
                "{place}: {text:?} can be joined in {possible} ways from other tokens, but merges \
                 list {}; llama.cpp would use all of them",
                pairs_of[id]
            )));
        }
    }
    Ok(scores)
}

/// Beginning, ends and padding, and whether texts are wrapped in them.
fn special_tokens(
    text: &TextProcessor,
    add: &mut impl FnMut(&str, Value),
    place: &str,
) -> Result<()> {
    let tokenizer = text.tokenizer.as_ref();
    let eos = tokenizer.eos_token_id();
    let unknown = text.files.special_tokens.get("unk_token");
    let ids = [
        ("bos_token_id", tokenizer.bos_token_id()),
        ("eos_token_id", eos),
        ("unknown_token_id", unknown.and_then(|token| tokenizer.token_to_id(token))),
        ("padding_token_id", tokenizer.pad_token_id()),
        // The end of an assistant's turn, where it is another token than the end of a text.
        ("eot_token_id", text.end_of_turn().ids.first().copied().filter(|&id| Some(id) != eos)),
    ];
    for (key, id) in ids {
        if let Some(id) = id {
            add(key, Value::U32(id));
        }
    }
    let (plain, wrapped) = (tokenizer.encode("a", false)?, tokenizer.encode("a", true)?);
    let around = wrapped.windows(plain.len().max(1)).position(|window| window == plain);
    let (before, after) = match around {
        Some(at) => (&wrapped[..at], &wrapped[at + plain.len()..]),
        None => (&wrapped[..], &[][..]),
    };
    let is = |found: &[u32], id: Option<u32>| found.is_empty() || found == id.as_slice();
    if !is(before, tokenizer.bos_token_id()) || !is(after, eos) {
        return Err(unsupported(format_args!(
            "{place}: the post-processor adds {before:?} before and {after:?} after a text; \
             llama.cpp can add the beginning- and end-of-sequence ids alone"
        )));
    }
    add("add_bos_token", Value::Bool(!before.is_empty()));
    add("add_eos_token", Value::Bool(!after.is_empty()));
    Ok(())
}

/// The chat templates: the one in use, and the model's others by name.
fn templates(text: &TextProcessor) -> Vec<Entry> {
    let mut entries = Vec::new();
    if let Some(template) = &text.template {
        let source = Value::Text(template.source().to_string());
        entries.push(Entry::new("tokenizer.chat_template", source));
    }
    let others = text.files.chat_templates.iter().filter(|(name, _)| *name != "default");
    let (names, more): (Vec<_>, Vec<_>) = others
        .map(|(name, source)| {
            let key = format!("tokenizer.chat_template.{name}");
            (name.clone(), Entry::new(key, Value::Text(source.clone())))
        })
        .unzip();
    if !names.is_empty() {
        entries.push(Entry::new("tokenizer.chat_templates", Value::Texts(names)));
        entries.extend(more);
    }
    entries
}
