//! The files that the repository carries are the ones this crate writes, and fit each other.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use starter::files::{SEED, carried, corpus, write};
use starter::passages::passages;
use starter::tokenizer::{CHAT_TEMPLATE, MAX_LENGTH, SPECIAL, VOCAB_SIZE};
use starter::world::World;
use tokenizers::Tokenizer;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(name: &str) -> String {
    let path = repository().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json(name: &str) -> Value {
    serde_json::from_str(&read(name)).unwrap()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_file(repository().join("examples/starter/tokenizer.json")).unwrap()
}

#[test]
fn the_repository_carries_what_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let files = carried(&World::new(SEED)).unwrap();
    write(directory.path(), &files).unwrap();
    let mut size = 0;
    for (name, text) in &files {
        assert!(read(&format!("examples/{name}")) == *text, "examples/{name} is out of date");
        assert_eq!(fs::read_to_string(directory.path().join(name)).unwrap(), *text);
        size += text.len();
    }
    assert!(size < 600_000, "{size} bytes");
}

#[test]
fn held_out_text_is_not_in_the_training_text() {
    let [(_, train), (_, eval)] = corpus(&World::new(SEED), 3000);
    let train: HashSet<&str> = train.lines().collect();
    assert!(eval.lines().count() > 200);
    assert!(eval.lines().all(|line| !train.contains(line)));
}

#[test]
fn the_tokenizer_gives_every_text_back() {
    let tokenizer = tokenizer();
    let mut texts = passages(&World::new(SEED), SEED, 4, 300);
    texts.push(" Two  spaces,\ttabs\n\nlines, é, 猫, 🦆 and 1234".to_owned());
    let (mut tokens, mut bytes) = (0, 0);
    for text in &texts {
        let encoding = tokenizer.encode(text.as_str(), true).unwrap();
        assert_eq!(tokenizer.decode(encoding.get_ids(), false).unwrap(), *text);
        assert!(encoding.len() <= MAX_LENGTH, "{text}");
        tokens += encoding.len();
        bytes += text.len();
    }
    let bytes_per_token = bytes as f64 / tokens as f64;
    assert!(bytes_per_token > 4.0, "{bytes_per_token}");
}

#[test]
fn special_tokens_have_the_ids_the_configs_name() {
    let tokenizer = tokenizer();
    for (id, token) in SPECIAL.iter().enumerate() {
        assert_eq!(tokenizer.token_to_id(token), Some(id as u32));
        let encoding = tokenizer.encode(format!("Mara{token}\n"), false).unwrap();
        assert!(encoding.get_ids().contains(&(id as u32)), "{token} is split");
    }
    assert_eq!(tokenizer.get_vocab_size(true), VOCAB_SIZE);
    let model = json("examples/starter/config.json");
    assert_eq!(model["vocab_size"], VOCAB_SIZE);
    assert_eq!(model["max_position_embeddings"], MAX_LENGTH);
    assert_eq!((&model["eos_token_id"], &model["pad_token_id"]), (&0.into(), &1.into()));
    let stops = &json("examples/starter/generation_config.json")["eos_token_id"];
    assert_eq!(*stops, Value::from(vec![0, 3]));
    let config = json("examples/starter/tokenizer_config.json");
    assert_eq!(config["chat_template"], CHAT_TEMPLATE);
    assert_ne!(config["pad_token"], config["eos_token"]);
}

/// Even saved as float32, the model stays below the 8 MB that the repository allows it.
#[test]
fn the_model_has_the_planned_size() {
    let config = json("examples/starter/config.json");
    let size = |key: &str| config[key].as_u64().unwrap();
    let (c, layers, vocab) = (size("hidden_size"), size("num_hidden_layers"), size("vocab_size"));
    let hd = size("head_dim");
    let (q, kv) = (hd * size("num_attention_heads"), hd * size("num_key_value_heads"));
    let attention = 2 * c * q + 2 * c * kv;
    let mlp = 3 * c * size("intermediate_size");
    let parameters = vocab * c + layers * (attention + mlp + 2 * c) + c;
    assert!((1_000_000..2_000_000).contains(&parameters), "{parameters}");
}

#[test]
fn the_training_configs_name_files_that_are_there() {
    for config in ["tools/starter/pretrain.toml", "examples/quickstart/quickstart.toml"] {
        let table: toml::Table = read(config).parse().unwrap();
        let folder = repository().join(config).parent().unwrap().to_owned();
        let path = |section: Option<&str>, key: &str| {
            let table = section.map_or(&table, |name| table[name].as_table().unwrap());
            folder.join(table[key].as_str().unwrap())
        };
        assert!(path(None, "model").join("config.json").exists(), "{config}");
        if config.contains("quickstart") {
            assert!(path(Some("data"), "train").exists() && path(Some("data"), "eval").exists());
        }
    }
}
