//! Tokenizers of SentencePiece's `tokenizer.model` alone: the ids and texts of AutoTokenizer.

mod common;

use common::{fixture, json};
use serde_json::Value;
use std::fs;
use std::path::Path;
use tunesmith::tokenizer::{HfTokenizer, Tokenizer};

fn load(case: &Value, dir: &Path) -> HfTokenizer {
    let model = format!("pieces/{}.model", case["model"].as_str().unwrap());
    fs::copy(fixture(&model), dir.join("tokenizer.model")).unwrap();
    let config = serde_json::json!({"model_type": case["model_type"]});
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("tokenizer_config.json"), case["tokenizer_config"].to_string()).unwrap();
    HfTokenizer::load(dir).unwrap()
}

#[test]
fn ids_and_texts_are_those_of_transformers() {
    let file: Value = json(&fixture("pieces/cases.json"));
    let texts: Vec<String> = serde_json::from_value(file["texts"].clone()).unwrap();
    let cases = file["cases"].as_array().unwrap();
    for case in cases {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = load(case, dir.path());
        for (i, text) in texts.iter().enumerate() {
            let what = format!("{} {} {text:?}", case["model"], case["tokenizer_config"]);
            let ids =
                |key: &str| -> Vec<u32> { serde_json::from_value(case[key][i].clone()).unwrap() };
            assert_eq!(tokenizer.encode(text, true).unwrap(), ids("ids"), "{what}");
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids("plain"), "{what}");
            let decoded = tokenizer.decode(&ids("ids"), false).unwrap();
            assert_eq!(decoded, case["decoded"][i].as_str().unwrap(), "{what}");
        }
    }
    assert!(cases.len() > 10 && texts.len() > 8);
}

#[test]
fn a_broken_model_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.model"), b"\x0a\xff").unwrap();
    let message = HfTokenizer::load(dir.path()).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("tokenizer.model is truncated"), "{message}");
}
