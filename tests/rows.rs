//! Rows of odd forms, and templates under which an answer is hard to find: the tokens and the loss are
//! those that Transformers' `apply_chat_template` gives where the template marks what an assistant says
//! (`tests/fixtures/rows`), with the marks and without them.

#![cfg(feature = "tokenizers")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;
use tunesmith::Result;
use tunesmith::data::{DataFile, Dataset, ExcessLength, LoadOptions, Mask, NO_LOSS};
use tunesmith::objective::sft::Sft;
use tunesmith::tokenizer::TextProcessor;

fn fixture(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rows").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The tokenizer of the fixtures with a chat template.
fn text(template: &str) -> TextProcessor {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("template.jinja");
    fs::write(&path, template).unwrap();
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers/qwen3");
    let date = jiff::civil::date(2024, 7, 5).at(13, 4, 9, 0);
    TextProcessor::load(&tokenizer, path.to_str(), Path::new(""), date).unwrap()
}

fn options() -> LoadOptions {
    LoadOptions {
        format: None,
        max_length: 4096,
        excess_length: ExcessLength::Raise,
        completion_only_loss: true,
        require_stop_token: true,
    }
}

fn load(text: &TextProcessor, rows: &str, options: &LoadOptions) -> Result<Dataset> {
    let dir: TempDir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    fs::write(&path, rows).unwrap();
    Dataset::load(&[DataFile::new(path)], text, &Sft, options)
}

/// The texts that are learned in the only row.
fn learned(text: &TextProcessor, data: &Dataset) -> Vec<String> {
    let sequence = &data.examples[0].sequences[0];
    let tokens = sequence.input_ids.iter().zip(&sequence.labels).collect::<Vec<_>>();
    let stretches = tokens.chunk_by(|a, b| (*a.1 == NO_LOSS) == (*b.1 == NO_LOSS));
    let learned = stretches.filter(|stretch| *stretch[0].1 != NO_LOSS);
    let ids = learned.map(|stretch| stretch.iter().map(|(id, _)| **id).collect::<Vec<u32>>());
    ids.map(|ids| text.tokenizer.decode(&ids, false).unwrap()).collect()
}

fn learned_under(template: &str, row: &str) -> Vec<String> {
    let text = text(template);
    let data = load(&text, row, &options()).unwrap_or_else(|error| panic!("{row}: {error}"));
    learned(&text, &data)
}

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}\
                      {% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt }}";

#[test]
fn rows_are_tokens_and_labels_as_transformers_has_them() {
    let (templates, rows) = (fixture("templates.json"), fixture("rows.json"));
    let rows = rows.as_array().unwrap();
    let mut masks = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, sources) in templates.as_object().unwrap() {
        for form in ["plain", "marked"] {
            let text = text(sources[form].as_str().unwrap());
            for case in rows.iter().filter(|case| case["template"] == *name) {
                let what = format!("{name}, {form}: {}: {}", case["about"], case["row"]);
                let data = match load(&text, case["row"].as_str().unwrap(), &options()) {
                    Ok(data) => data,
                    Err(error) => {
                        problems.push(format!("{what}\n  {error}"));
                        continue;
                    }
                };
                let sequence = &data.examples[0].sequences[0];
                let ids: Vec<Value> = sequence.input_ids.iter().map(|&id| id.into()).collect();
                let labels = sequence.labels.iter();
                let carried: String =
                    labels.map(|&label| if label == NO_LOSS { '0' } else { '1' }).collect();
                if Value::from(ids) != case["input_ids"] {
                    let shown = text.tokenizer.decode(&sequence.input_ids, false).unwrap();
                    problems.push(format!("{what}\n  other tokens: {shown:?}"));
                } else if carried != case["learned"] {
                    let shown = learned(&text, &data);
                    problems.push(format!("{what}\n  learned: {shown:?}"));
                }
                *masks.entry(sequence.mask).or_insert(0) += 1;
            }
        }
    }
    assert!(problems.is_empty(), "{} of {masks:?}:\n{}", problems.len(), problems.join("\n"));
    let count = |mask: Mask| masks.get(&mask).copied().unwrap_or(0);
    assert!(rows.len() >= 100 && count(Mask::GenerationMarks) == rows.len(), "{masks:?}");
    assert!(count(Mask::AnswerText) >= 30 && count(Mask::GenerationPrompt) >= 30, "{masks:?}");
}

#[test]
fn turns_that_say_so_are_context() {
    let u = r#"{"role": "user", "content": "a"}"#;
    let row = |first: &str, second: &str| {
        format!(
            r#"{{"messages": [{u}, {{"role": "assistant", "content": "bad", {first}}}, {u},
                {{"role": "assistant", "content": "good", {second}}}]}}"#
        )
        .replace('\n', " ")
    };
    for (first, second) in [
        (r#""weight": 0"#, r#""weight": 1"#),
        (r#""weight": 0.0"#, r#""weight": null"#),
        (r#""train": false"#, r#""train": true"#),
        (r#""training": false"#, r#""id": 3"#),
        (r#""masked": true, "weight": 1"#, r#""masked": false"#),
    ] {
        assert_eq!(learned_under(CHATML, &row(first, second)), ["good<|im_end|>\n"], "{first}");
    }
    let shared = r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "bad", "weight": 0},
                     {"from": "human", "value": "c"}, {"from": "gpt", "value": "good"}]}"#
        .replace('\n', " ");
    assert_eq!(learned_under(CHATML, &shared), ["good<|im_end|>\n"]);
    // If all is learned, all but that turn.
    let text = text(CHATML);
    let all = LoadOptions { completion_only_loss: false, ..options() };
    let data = load(&text, &row(r#""weight": 0"#, r#""weight": 1"#), &all).unwrap();
    let stretches = learned(&text, &data);
    assert_eq!(stretches.len(), 2, "{stretches:?}");
    assert!(stretches[0].ends_with("assistant\n") && stretches[1].starts_with("<|im_start|>user"));
    for (said, expected) in [
        (r#""weight": 0.5"#, "`weight` is `0.5`, expected 0 (no loss) or 1"),
        (r#""weight": "0""#, "`weight` is `\"0\"`"),
        (r#""train": "false""#, "`train` is `\"false\"`, expected true or false"),
        (r#""masked": 1"#, "`masked` is `1`"),
    ] {
        let message = load(&text, &row(said, r#""id": 1"#), &options()).unwrap_err().to_string();
        assert!(message.contains(":1: messages[1]: ") && message.contains(expected), "{message}");
    }
    // What is not heeded is said.
    let asks = r#"{"messages": [{"role": "user", "content": "q", "train": true}, {"role": "assistant", "content": "a"}]}"#;
    let data = load(&text, asks, &options()).unwrap();
    assert_eq!(learned(&text, &data), ["a<|im_end|>\n"]);
    assert!(data.warnings[0].contains("is not heeded (1 row)"), "{:?}", data.warnings);
    let detail = row(r#""train_detail": []"#, r#""id": 1"#);
    let message = load(&text, &detail, &options()).unwrap_err().to_string();
    assert!(message.contains("`train_detail` says which characters"), "{message}");
    // A row that is context from end to end is left out, and counted.
    let rows = format!(
        "{}\n{}\n",
        row(r#""weight": 0"#, r#""weight": 0"#),
        row(r#""id": 1"#, r#""id": 1"#)
    );
    assert_eq!(load(&text, &rows, &options()).unwrap().stats.dropped_without_loss, 1);
}

#[test]
fn calls_of_sharegpt_are_calls_or_their_text() {
    let row = r#"{"system": "S", "conversations": [{"from": "human", "value": "hi"},
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"a\": 1}}"},
        {"from": "observation", "value": "3"}, {"from": "gpt", "value": "yes"}], "tools": ""}"#
        .replace('\n', " ");
    let call = r#"{"name": "f", "arguments": {"a": 1}}<|im_end|>"#.to_owned() + "\n";
    assert_eq!(learned_under(CHATML, &row), [call.as_str(), "yes<|im_end|>\n"]);
    let calls = CHATML.replace(
        "m.content +",
        "m.content + (m.tool_calls[0].function.name ~ m.tool_calls[0].function.arguments.a if m.tool_calls else '') +",
    );
    assert_eq!(learned_under(&calls, &row), ["f1<|im_end|>\n", "yes<|im_end|>\n"]);
    let broken = row.replace("{\\\"name", "{name");
    let message = load(&text(CHATML), &broken, &options()).unwrap_err().to_string();
    assert!(
        message.contains(":1: conversations[1]: `value` is a text that is not JSON"),
        "{message}"
    );
}

#[test]
fn what_the_template_does_not_show_is_said_once() {
    let row = r#"{"messages": [{"role": "user", "content": "hi", "name": "Ann"}, {"role": "assistant", "content": "yes",
        "reasoning": "step", "tool_calls": [], "weight": 1}, {"role": "note", "content": "Unseen?"}], "tools": [{"name": "f"}]}"#
        .replace('\n', " ");
    let hides = CHATML.replace(
        "{{ '<|im_start|>' + m.role",
        "{{ '' if m.role == 'note' else '<|im_start|>' + m.role",
    );
    let warnings = load(&text(&hides), &format!("{row}\n\n{row}\n"), &options()).unwrap().warnings;
    let whats: Vec<&str> = warnings
        .iter()
        .map(|warning| {
            warning.split_once("rows.jsonl:1: ").unwrap().1.split_once(": the").unwrap().0
        })
        .collect();
    let expected = [
        "`tools`",
        "the message key `name`",
        "the message key `reasoning_content`",
        "the messages of the role \"note\"",
    ];
    assert_eq!(whats, expected);
    assert!(warnings.iter().all(|warning| warning.ends_with("(2 rows)")), "{warnings:?}");
    // What is shown is not warned of.
    let shows = "{% for m in messages %}{{ m.name }}{{ m.thinking }}{{ m.content }}{{ eos_token }}{% endfor %}{{ tools }}";
    assert_eq!(load(&text(shows), &row, &options()).unwrap().warnings, [""; 0]);
    let thought = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>Hm.</think>yes"}]}"#;
    let drops = CHATML.replace("m.content +", "m.content.split('</think>')[-1] +");
    let warnings = load(&text(&drops), thought, &options()).unwrap().warnings;
    assert!(
        warnings.len() == 1 && warnings[0].contains("the thought of some learned answers"),
        "{warnings:?}"
    );
    assert!(load(&text(CHATML), thought, &options()).unwrap().warnings.is_empty());
}

#[test]
fn rows_hold_whatever_python_writes() {
    let text = text(
        "{% for m in messages %}{{ m.content }}{{ m.extra | tojson }}{{ eos_token }}{% endfor %}",
    );
    let row = r#"{"id": NaN, "score": [Infinity, -Infinity, 1e999], "messages": [{"role": "user", "content": "q", "extra": -0},
        {"role": "assistant", "content": "a", "extra": [123456789012345678901234567890, -9223372036854775809, 1E+400, NaN, 1e16]}]}"#
        .replace('\n', " ");
    let data = load(&text, &row, &options()).unwrap();
    let shown = text.tokenizer.decode(&data.examples[0].sequences[0].input_ids, false).unwrap();
    assert_eq!(
        shown,
        "q0<|im_end|>a[123456789012345678901234567890, -9223372036854775809, Infinity, NaN, 1e+16]<|im_end|>"
    );
    let too_long = row.replace("123456789012345678901234567890", &"9".repeat(60));
    let message = load(&text, &too_long, &options()).unwrap_err().to_string();
    assert!(message.contains("rows.jsonl:1: ") && message.contains("beyond 127 bits"), "{message}");
    let message = load(&text, r#"{"text": NaN}"#, &options()).unwrap_err().to_string();
    assert!(message.contains("`text` is a number, expected a string"), "{message}");
}

#[test]
fn a_text_that_no_tokenizer_should_hold_at_once_is_refused() {
    let text = text(CHATML);
    let long = "word ".repeat(1 << 20);
    for row in [
        serde_json::json!({"text": long}),
        serde_json::json!({"prompt": long, "completion": "x"}),
        serde_json::json!({"messages": [{"role": "user", "content": long}, {"role": "assistant", "content": "a"}]}),
    ] {
        let message = load(&text, &row.to_string(), &options()).unwrap_err().to_string();
        assert!(
            message.contains("rows.jsonl:1: the text has 52") && message.contains("split the row"),
            "{message}"
        );
    }
}

#[test]
fn an_answer_must_be_in_the_text() {
    let row = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}]}"#;
    for hides in [
        CHATML.replace("m.content +", "(m.content if m.role == 'user' else '') +"),
        CHATML.replace("m.content +", "(m.text or '') +"),
    ] {
        let message = load(&text(&hides), row, &options()).unwrap_err().to_string();
        assert!(
            message.contains("rows.jsonl:1: chat template")
                && message.contains("the text of assistant turn 1 is not"),
            "{message}"
        );
        assert!(!message.contains("completion_only_loss"), "{message}");
    }
    // Marks that hold nothing.
    let marks = CHATML.to_owned() + "{% if false %}{% generation %}{% endgeneration %}{% endif %}";
    let message = load(&text(&marks), row, &options()).unwrap_err().to_string();
    assert!(message.contains("hold no text of this conversation"), "{message}");
}
