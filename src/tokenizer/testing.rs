//! A tiny byte-level tokenizer for tests: 256 byte tokens, one merge, a few special tokens, and a
//! post-processor that writes `<s>`.

use serde_json::json;

use super::{ChatTemplate, HfTokenizer, TextProcessor, TokenizerFiles};

/// Special tokens, in the order of their ids from 0.
pub const SPECIAL: [&str; 6] = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<pad>"];

fn definition() -> serde_json::Value {
    let mut bytes: Vec<char> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    let mut vocab = serde_json::Map::new();
    for (index, byte) in bytes.iter().enumerate() {
        vocab.insert(byte.to_string(), json!(SPECIAL.len() + index));
    }
    vocab.insert("th".into(), json!(SPECIAL.len() + bytes.len()));
    let added: Vec<_> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    for (id, content) in SPECIAL.iter().enumerate() {
        vocab.insert((*content).into(), json!(id));
    }
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                          "use_regex": false},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                    "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": [["t", "h"]]}
    })
}

fn parse(definition: &serde_json::Value) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_bytes(definition.to_string()).unwrap()
}

/// The bare tokenizer.
pub fn inner() -> tokenizers::Tokenizer {
    parse(&definition())
}

/// Settings that go with it: `<s>`, `</s>`, and `</s>` as padding too.
pub fn files() -> TokenizerFiles {
    let mut files = TokenizerFiles::default();
    for (name, token) in [("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "</s>")] {
        files.special_tokens.insert(name.into(), token.into());
    }
    files
}

/// The tokenizer of most tests.
pub fn tokenizer() -> HfTokenizer {
    HfTokenizer::new(inner(), &files()).unwrap()
}

/// The tokenizer with a chat template of that source, or without one.
pub fn processor(template: Option<&str>) -> TextProcessor {
    let files = files();
    let date = jiff::civil::date(2024, 1, 1).at(0, 0, 0, 0);
    let template = template
        .map(|source| ChatTemplate::new("test", source, &files.special_tokens, date).unwrap());
    TextProcessor { files, tokenizer: Box::new(tokenizer()), template }
}

/// One whose file asks for truncation and padding.
pub fn with_truncation_and_padding(truncation: usize, padding: usize) -> HfTokenizer {
    let mut definition = definition();
    definition["truncation"] = json!({"direction": "Right", "max_length": truncation,
                                      "strategy": "LongestFirst", "stride": 0});
    definition["padding"] = json!({"strategy": {"Fixed": padding}, "direction": "Right",
        "pad_to_multiple_of": null, "pad_id": 5, "pad_type_id": 0, "pad_token": "<pad>"});
    HfTokenizer::new(parse(&definition), &files()).unwrap()
}

/// One that splits words by `pattern`.
pub fn with_pre_tokenizer_regex(pattern: &str) -> HfTokenizer {
    let mut definition = definition();
    definition["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
               "invert": false});
    HfTokenizer::new(parse(&definition), &files()).unwrap()
}
