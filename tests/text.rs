//! Tokenizer directories of every lawful form, and chat templates of every family, against what
//! Transformers makes of the same files (`tests/fixtures/text`).

#![cfg(feature = "tokenizers")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tunesmith::tokenizer::{HfTokenizer, Tokenizer, TokenizerFiles};

fn read(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The directory of a case: its base with some keys replaced, and the further files.
fn lay_out(bases: &Value, case: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    if let Some(base) = case["base"].as_str() {
        let mut tokenizer = bases[base].clone();
        for (key, value) in case["replace"].as_object().unwrap() {
            tokenizer[key] = value.clone();
        }
        write("tokenizer.json", &tokenizer.to_string());
    }
    for (name, content) in case["files"].as_object().unwrap() {
        match content {
            Value::String(text) => write(name, text),
            other => write(name, &other.to_string()),
        }
    }
    dir
}

fn check(case: &Value, texts: &[Value], tokenizer: &HfTokenizer, where_from: &str) {
    let name = &case["name"];
    let expected = &case["expected"];
    let id = |key: &str| expected[key].as_u64().map(|id| id as u32);
    assert_eq!(tokenizer.bos_token_id(), id("bos"), "{name}{where_from}");
    assert_eq!(tokenizer.eos_token_id(), id("eos"), "{name}{where_from}");
    assert_eq!(tokenizer.pad_token_id(), id("pad"), "{name}{where_from}");
    for (i, text) in texts.iter().enumerate() {
        let (what, text) = (format!("{name}{where_from}: {text}"), text.as_str().unwrap());
        let special = ids(&expected["special"][i]);
        assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&expected["ids"][i]), "{what}");
        assert_eq!(tokenizer.encode(text, true).unwrap(), special, "{what}");
        assert_eq!(tokenizer.decode(&special, false).unwrap(), expected["decoded"][i], "{what}");
        assert_eq!(tokenizer.decode(&special, true).unwrap(), expected["skipped"][i], "{what}");
    }
}

/// Tokens in every file that may hold some, their flags, the classes that are made anew.
#[test]
fn directories_read_as_from_pretrained_reads_them() {
    let (bases, cases, texts) = (read("bases.json"), read("tokenizers.json"), read("texts.json"));
    let (cases, texts) = (cases.as_array().unwrap(), texts.as_array().unwrap());
    assert!(cases.len() >= 60 && texts.len() >= 40);
    for case in cases {
        let dir = lay_out(&bases, case);
        let tokenizer = HfTokenizer::load(dir.path());
        let tokenizer = tokenizer.unwrap_or_else(|error| panic!("{}: {error}", case["name"]));
        check(case, texts, &tokenizer, "");
        // What a result carries reads back as the same tokenizer. Transformers reads it likewise:
        // these are the very files.
        let saved = tempfile::tempdir().unwrap();
        for (name, bytes) in TokenizerFiles::load(dir.path()).unwrap().to_save(None).unwrap() {
            fs::write(saved.path().join(name), bytes).unwrap();
        }
        if let Some(config) = case["files"].get("config.json") {
            fs::write(saved.path().join("config.json"), config.to_string()).unwrap();
        }
        check(case, texts, &HfTokenizer::load(saved.path()).unwrap(), ", saved");
    }
}

#[test]
fn a_directory_without_tokenizer_json_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |dir: &PathBuf| HfTokenizer::load(dir).err().unwrap().to_string();
    let path = dir.path().to_path_buf();
    let message = refused(&path);
    assert!(message.contains("a model directory needs a tokenizer.json"), "{message}");
    fs::write(path.join("tokenizer.model"), "pieces").unwrap();
    let message = refused(&path);
    assert!(message.contains("only tokenizer.model, which is not read here"), "{message}");
    assert!(message.contains("save_pretrained("), "{message}");
}
