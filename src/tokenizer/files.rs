//! What lies beside `tokenizer.json` in a model directory: special tokens, stop tokens, chat
//! templates. All of it is JSON and text, so reading it needs no tokenizer library.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::sentencepiece;
use super::settings::{AddedToken, Class, Settings, Sources, kind};
use crate::files::enclosed;
use crate::{Error, Result};

/// Files of a tokenizer that a trained result carries along, where the model has them.
const CARRIED: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
];

/// The folder of further templates, one Jinja file each, named by its stem.
const ADDITIONAL_TEMPLATES: &str = "additional_chat_templates";

/// The tokenizer's settings of a model directory.
#[derive(Debug, Clone, Default)]
pub struct TokenizerFiles {
    /// The directory they were read from.
    pub dir: PathBuf,
    /// Special tokens by Transformers' name (`bos_token` ...), as text.
    pub special_tokens: BTreeMap<String, String>,
    /// End-of-sequence ids of `generation_config.json`, then of `config.json`, without repeats.
    pub eos_token_ids: Vec<u32>,
    /// Chat templates by name; the model's main one is `default`.
    pub chat_templates: BTreeMap<String, String>,
    /// What the files say of the tokenizer besides its vocabulary, merged.
    #[cfg_attr(not(feature = "tokenizers"), allow(dead_code))]
    pub(super) settings: Settings,
}

impl TokenizerFiles {
    /// Reads what is there; a file that is missing is not an error, one that is broken is.
    pub fn load(dir: &Path) -> Result<Self> {
        let config = read_object(dir, "tokenizer_config.json")?;
        let settings = settings(dir, &config)?;
        let special_tokens = settings.named.iter();
        let special_tokens =
            special_tokens.map(|(name, token)| (name.clone(), token.content.clone())).collect();
        let mut eos_token_ids = Vec::new();
        for file in ["generation_config.json", "config.json"] {
            let path = dir.join(file);
            for id in eos_ids(&read_object(dir, file)?, &path)? {
                if !eos_token_ids.contains(&id) {
                    eos_token_ids.push(id);
                }
            }
        }
        let chat_templates = chat_templates(dir, &config)?;
        let dir = dir.to_path_buf();
        Ok(Self { dir, special_tokens, eos_token_ids, chat_templates, settings })
    }

    /// Names and contents of the files that a trained result carries: the tokenizer's own, and
    /// the chat template the run used, which takes the place of the model's.
    ///
    /// `template` is the source of the template that was used, `None` to keep the model's.
    pub fn to_save(&self, template: Option<&str>) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut names: Vec<PathBuf> = CARRIED.iter().map(PathBuf::from).collect();
        let additional = jinja_files(&self.dir.join(ADDITIONAL_TEMPLATES))?;
        names.extend(
            additional
                .keys()
                .map(|stem| Path::new(ADDITIONAL_TEMPLATES).join(format!("{stem}.jinja"))),
        );
        let mut files = Vec::new();
        for name in names {
            if let (Some("chat_template.jinja"), Some(source)) = (name.to_str(), template) {
                files.push((name, source.as_bytes().to_vec()));
                continue;
            }
            if let Some(bytes) = read(&self.dir, &name)? {
                files.push((name, bytes));
            }
        }
        Ok(files)
    }
}

/// The templates of a model by name. `chat_template.jinja` wins over `tokenizer_config.json`.
fn chat_templates(dir: &Path, config: &Map<String, Value>) -> Result<BTreeMap<String, String>> {
    let mut templates = BTreeMap::new();
    let place = dir.join("tokenizer_config.json");
    match config.get("chat_template") {
        None | Some(Value::Null) => {}
        Some(Value::String(source)) => {
            templates.insert("default".to_string(), source.clone());
        }
        Some(Value::Array(list)) => {
            for entry in list {
                let field = |key| entry.get(key).and_then(Value::as_str);
                let (Some(name), Some(source)) = (field("name"), field("template")) else {
                    return Err(Error::input(format!(
                        "{}: an entry of `chat_template` is not {{\"name\": ..., \"template\": \
                         ...}}, both strings; correct it or put the template in \
                         chat_template.jinja",
                        place.display()
                    )));
                };
                templates.insert(name.to_string(), source.to_string());
            }
        }
        Some(other) => {
            return Err(Error::input(format!(
                "{}: `chat_template` is {}; expected a string or a list of name and template",
                place.display(),
                kind(other)
            )));
        }
    }
    if let Some(main) = read_text(dir, "chat_template.jinja")? {
        templates.insert("default".to_string(), main);
    }
    for (stem, path) in jinja_files(&dir.join(ADDITIONAL_TEMPLATES))? {
        let name = path.strip_prefix(dir).unwrap_or(&path);
        templates.extend(read_text(dir, name)?.map(|source| (stem, source)));
    }
    Ok(templates)
}

/// Stem and path of every `.jinja` file in `dir`, by stem; nothing if there is no such folder.
fn jinja_files(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    if !dir.is_dir() {
        return Ok(files);
    }
    for entry in std::fs::read_dir(dir).map_err(|error| unreadable(dir, &error))? {
        let path = entry.map_err(|error| unreadable(dir, &error))?.path();
        let is_jinja = path.extension().is_some_and(|extension| extension == "jinja");
        if let (true, Some(stem)) = (is_jinja, path.file_stem().and_then(|stem| stem.to_str())) {
            files.insert(stem.to_string(), path);
        }
    }
    Ok(files)
}

/// The tokenizer's settings, from all files that hold a part of them.
fn settings(dir: &Path, config: &Map<String, Value>) -> Result<Settings> {
    let tokenizer = read_text(dir, "tokenizer.json")?;
    let sources = Sources {
        config,
        special_tokens_map: &read_object(dir, "special_tokens_map.json")?,
        added_tokens: &read_object(dir, "added_tokens.json")?,
        model: &read_object(dir, "config.json")?,
        tokenizer: tokenizer.as_deref(),
    };
    let mut settings = Settings::merge(&sources).map_err(|why| {
        Error::input(format!("{}: {why}", dir.join("tokenizer_config.json").display()))
    })?;
    if settings.class == Class::Backend {
        let model = sentencepiece::Model::of(dir)
            .map_err(|why| Error::input(format!("{}: {why}", dir.display())))?;
        for (name, token) in model.iter().flat_map(sentencepiece::Model::named) {
            if !settings.named.iter().any(|(known, _)| known == name) {
                settings.named.push((name.to_string(), AddedToken::special(token)));
            }
        }
    }
    Ok(settings)
}

/// `eos_token_id`: a number or a list of numbers.
fn eos_ids(object: &Map<String, Value>, path: &Path) -> Result<Vec<u32>> {
    let ids: Vec<&Value> = match object.get("eos_token_id") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => list.iter().collect(),
        Some(one) => vec![one],
    };
    ids.into_iter()
        .map(|id| {
            id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                Error::input(format!(
                    "{}: `eos_token_id` holds {id}; expected a token id or a list of token ids",
                    path.display()
                ))
            })
        })
        .collect()
}

/// The object in a JSON file; empty if there is no such file.
fn read_object(dir: &Path, name: &str) -> Result<Map<String, Value>> {
    let Some(text) = read_text(dir, name)? else { return Ok(Map::new()) };
    let place = dir.join(name);
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(Error::input(format!(
            "{}: expected an object, found {}",
            place.display(),
            kind(&other)
        ))),
        Err(error) => Err(Error::input(format!("{}: not valid JSON: {error}", place.display()))),
    }
}

/// The content of a file of the directory, if it has it.
fn read(dir: &Path, name: &Path) -> Result<Option<Vec<u8>>> {
    enclosed::read(dir, name, enclosed::VOCABULARY)
        .map_err(|error| unreadable(&dir.join(name), &error))
}

/// The text of a file of the directory, if it has it.
fn read_text(dir: &Path, name: impl AsRef<Path>) -> Result<Option<String>> {
    let name = name.as_ref();
    enclosed::text(dir, name, enclosed::VOCABULARY)
        .map_err(|error| unreadable(&dir.join(name), &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::input(format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        dir
    }

    #[test]
    fn reads_special_tokens_stop_ids_and_templates_by_precedence() {
        let dir = dir_with(&[
            (
                "tokenizer_config.json",
                r#"{"bos_token": {"content": "<s>"}, "pad_token": null,
                    "chat_template": [{"name": "default", "template": "old"},
                                      {"name": "tool_use", "template": "tools"}]}"#,
            ),
            ("special_tokens_map.json", r#"{"bos_token": "<other>", "eos_token": "</s>"}"#),
            ("generation_config.json", r#"{"eos_token_id": [7, 2]}"#),
            ("config.json", r#"{"eos_token_id": 2}"#),
            ("chat_template.jinja", "new"),
            ("additional_chat_templates/rag.jinja", "rag"),
        ]);
        let files = TokenizerFiles::load(dir.path()).unwrap();
        // Without `added_tokens_decoder`, the map wins.
        assert_eq!(files.special_tokens["bos_token"], "<other>");
        assert_eq!(files.special_tokens["eos_token"], "</s>");
        assert!(!files.special_tokens.contains_key("pad_token"));
        assert_eq!(files.eos_token_ids, [7, 2]);
        let templates: Vec<_> =
            files.chat_templates.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(templates, [("default", "new"), ("rag", "rag"), ("tool_use", "tools")]);
    }

    #[test]
    fn the_template_a_run_used_is_saved_in_place_of_the_models() {
        let dir = dir_with(&[
            ("tokenizer.json", "{}"),
            ("chat_template.jinja", "model's"),
            ("additional_chat_templates/rag.jinja", "rag"),
        ]);
        let files = TokenizerFiles::load(dir.path()).unwrap();
        let names = |saved: &[(PathBuf, Vec<u8>)]| {
            saved.iter().map(|(name, _)| name.display().to_string()).collect::<Vec<_>>()
        };
        let saved = files.to_save(Some("used")).unwrap();
        assert_eq!(
            names(&saved),
            ["tokenizer.json", "chat_template.jinja", "additional_chat_templates/rag.jinja"]
        );
        assert_eq!(saved[1].1, b"used");
        assert_eq!(files.to_save(None).unwrap()[1].1, b"model's");
    }

    #[test]
    fn a_broken_file_is_named() {
        for (name, content, expected) in [
            ("config.json", r#"{"eos_token_id": "x"}"#, "`eos_token_id` holds \"x\""),
            ("tokenizer_config.json", "{", "not valid JSON"),
            ("tokenizer_config.json", r#"{"chat_template": 3}"#, "`chat_template` is a number"),
            ("tokenizer_config.json", r#"{"bos_token": 1}"#, "`bos_token` is a number"),
        ] {
            let dir = dir_with(&[(name, content)]);
            let message = TokenizerFiles::load(dir.path()).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains(expected), "{message}");
        }
    }
}
