//! Tokenizers, chat templates and loss masks against what Transformers makes of the same files.

#![cfg(feature = "tokenizers")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tunesmith::data::format::{Chat, Sample};
use tunesmith::data::{Encoder, NO_LOSS};
use tunesmith::tokenizer::{RenderInput, StreamDecoder, TextProcessor};

const STYLES: [&str; 4] = ["alpaca", "chatml", "llama3", "qwen3"];

fn fixture(style: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers").join(style)
}

fn load(style: &str) -> TextProcessor {
    let date = jiff::civil::date(2026, 1, 1).at(0, 0, 0, 0);
    TextProcessor::load(&fixture(style), None, Path::new(""), date).unwrap()
}

fn cases(style: &str, file: &str) -> Vec<Value> {
    serde_json::from_str(&fs::read_to_string(fixture(style).join(file)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn texts_encode_and_decode_as_in_transformers() {
    for style in STYLES {
        let text = load(style);
        let tokenizer = text.tokenizer.as_ref();
        for case in cases(style, "encodings.json") {
            let input = case["text"].as_str().unwrap();
            let what = format!("{style}: {input:?}");
            let plain = ids(&case["token_ids"]);
            let special = ids(&case["token_ids_with_special"]);
            assert_eq!(tokenizer.encode(input, false).unwrap(), plain, "{what}");
            assert_eq!(tokenizer.encode(input, true).unwrap(), special, "{what}");
            assert_eq!(tokenizer.decode(&plain, false).unwrap(), case["decoded"], "{what}");
            let skipped = &case["decoded_skip_special"];
            assert_eq!(tokenizer.decode(&special, true).unwrap(), *skipped, "{what}");
            assert_eq!(streamed(&text, &plain, false), case["decoded"], "{what}, streamed");
        }
    }
}

/// The text of a stream of ids. No piece of it may hold a part of a character.
fn streamed(text: &TextProcessor, ids: &[u32], skip_special: bool) -> String {
    let mut decoder = StreamDecoder::new(text.tokenizer.as_ref(), skip_special);
    let mut out = String::new();
    for &id in ids {
        let piece = decoder.push(id).unwrap();
        assert!(!piece.contains('\u{FFFD}'), "{piece:?} after {out:?}");
        out += &piece;
    }
    out + &decoder.finish().unwrap()
}

#[test]
fn spans_tile_the_text_they_came_from() {
    for style in STYLES {
        let text = load(style);
        for case in cases(style, "encodings.json") {
            let input = case["text"].as_str().unwrap();
            let encoding = text.tokenizer.encode_with_spans(input).unwrap();
            assert_eq!(encoding.ids, ids(&case["token_ids"]));
            let mut reached = 0;
            for &(start, end) in &encoding.spans {
                assert!(
                    start <= reached && end >= reached,
                    "{style} {input:?} {:?}",
                    encoding.spans
                );
                reached = end;
            }
            assert_eq!(reached, input.len(), "{style} {input:?}");
        }
    }
}

#[test]
fn conversations_render_as_in_transformers() {
    for style in STYLES {
        let text = load(style);
        let template = text.template.as_ref().unwrap();
        for case in cases(style, "renderings.json") {
            let what = format!("{style}, {} {}", case["name"], case["add_generation_prompt"]);
            let rendered = template.render(&RenderInput {
                messages: case["messages"].as_array().unwrap(),
                add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
                ..RenderInput::default()
            });
            if let Some(raised) = case["error"].as_str() {
                let message = rendered.unwrap_err().to_string();
                assert!(
                    message.ends_with(&format!("refuses the conversation: {raised}")),
                    "{message}"
                );
                continue;
            }
            let rendered = rendered.unwrap();
            assert_eq!(rendered, case["text"], "{what}");
            let encoding = text.tokenizer.encode_with_spans(&rendered).unwrap();
            assert_eq!(encoding.ids, ids(&case["token_ids"]), "{what}");
        }
    }
}

/// What the loss sees of every conversation that ends with an answer: the answer, its end of turn
/// and the white space the template adds, and nothing of anyone else's turn.
#[test]
fn masks_cover_the_answers_and_their_ends() {
    for (style, end) in [
        ("alpaca", "</s>\n\n"),
        ("chatml", "<|im_end|>\n"),
        ("llama3", "<|eot_id|>"),
        ("qwen3", "<|im_end|>\n"),
    ] {
        let text = load(style);
        let encoder = Encoder::new(&text, true);
        let mut checked = 0;
        for case in cases(style, "renderings.json") {
            let messages = case["messages"].as_array().unwrap().clone();
            let answers: Vec<String> = messages
                .iter()
                .filter(|message| message["role"] == "assistant")
                .map(|message| message["content"].as_str().unwrap().to_owned())
                .collect();
            if case["add_generation_prompt"] == true
                || answers.is_empty()
                || !case["error"].is_null()
            {
                continue;
            }
            let what = format!("{style}, {}", case["name"]);
            let sample = Sample::Chat(Chat { messages, ..Chat::default() });
            let sequence =
                encoder.encode(&sample).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(sequence.input_ids, ids(&case["token_ids"]), "{what}");
            let trained: Vec<u32> = sequence
                .labels
                .iter()
                .filter(|&&label| label != NO_LOSS)
                .map(|&label| label as u32)
                .collect();
            let learned = text.tokenizer.decode(&trained, false).unwrap();
            assert!(learned.ends_with(end), "{what}: {learned:?}");
            // Each answer as the template writes it: trimmed or not, its thoughts kept, dropped or
            // (qwen3's last turn) written though there were none.
            let mut rest = learned.as_str();
            for answer in &answers {
                if rest.starts_with("<think>") {
                    rest = rest.split_once("</think>").unwrap().1;
                }
                let spoken = answer.rsplit("</think>").next().unwrap().trim();
                let after = rest.trim_start().strip_prefix(spoken);
                let after = after.unwrap_or_else(|| panic!("{what}: {spoken:?} and {rest:?}"));
                let next = after.trim_start().strip_prefix(end);
                rest = next.unwrap_or_else(|| panic!("{what}: no end of turn in {after:?}"));
            }
            assert_eq!(rest, "", "{what}");
            checked += 1;
        }
        assert!(checked >= 5, "{style}: only {checked} conversations");
    }
}
