//! Where a model is: a directory, a GGUF file, or `Org/Name[@revision]` in the local Hugging Face cache.
//!
//! The cache is `models--Org--Name/` with `refs/<branch or tag>` (a file that holds a commit) and
//! `snapshots/<commit>/`. Nothing is downloaded.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A model that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSource {
    /// Its directory.
    pub path: PathBuf,
    /// What an adapter calls its base: `Org/Name` from a cache, else the directory as given.
    pub base_id: String,
    /// The commit, for a model from a cache.
    pub revision: Option<String>,
}

/// Finds the model that `spec` names. A directory goes before a name in the cache.
///
/// Errors: neither is there, with the command that downloads it; a file where a directory was
/// expected; a name that is not `Org/Name[@revision]`.
pub fn resolve(spec: &str) -> Result<ModelSource> {
    resolve_in(spec, hub_cache(|name| std::env::var_os(name)).as_deref())
}

/// The cache's directory, by the variables that `huggingface_hub` reads.
fn hub_cache(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    path("HF_HUB_CACHE")
        .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| path("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| {
            let home = path("HOME").or_else(|| path("USERPROFILE"));
            home.map(|home| home.join(".cache/huggingface/hub"))
        })
}

fn resolve_in(spec: &str, cache: Option<&Path>) -> Result<ModelSource> {
    let path = Path::new(spec);
    if super::gguf::is_gguf(path) {
        return Ok(ModelSource { path: path.into(), base_id: spec.to_string(), revision: None });
    }
    if path.is_dir() {
        let (base_id, revision) = match snapshot_of(path) {
            Some((id, revision)) => (id, Some(revision)),
            None => (spec.to_string(), None),
        };
        return Ok(ModelSource { path: path.to_path_buf(), base_id, revision });
    }
    if path.is_file() {
        return Err(Error::input(format!(
            "{spec} is a file; a model is a directory in Hugging Face form (config.json, \
             model.safetensors, tokenizer.json) or a .gguf file"
        )));
    }
    let (id, revision) = match spec.split_once('@') {
        Some((id, revision)) => (id, Some(revision)),
        None => (spec, None),
    };
    if !is_model_id(id) || revision.is_some_and(|revision| !is_revision(revision)) {
        return Err(Error::input(format!(
            "there is no directory {spec}, and it is not a model's name; expected a directory, or \
             Org/Name or Org/Name@revision in the local Hugging Face cache"
        )));
    }
    let missing = |why: String| {
        let at = revision.map(|revision| format!(" --revision {revision}")).unwrap_or_default();
        Error::input(format!(
            "model {spec} is not in the local Hugging Face cache ({why}), and there is no such \
             directory; download it with\n  hf download {id}{at}"
        ))
    };
    let Some(cache) = cache else {
        return Err(missing("none was found: HF_HOME and HOME are not set".into()));
    };
    let model = cache.join(format!("models--{}", id.replace('/', "--")));
    let name = revision.unwrap_or("main");
    let commit = match std::fs::read_to_string(model.join("refs").join(name)) {
        Ok(commit) => commit.trim().to_string(),
        // A revision may also be a commit itself.
        Err(_) => name.to_string(),
    };
    let path = model.join("snapshots").join(&commit);
    if !is_revision(&commit) || !path.is_dir() {
        return Err(missing(format!("looked in {}", model.display())));
    }
    if !path.join("config.json").exists() {
        return Err(missing(format!("{} has no config.json", path.display())));
    }
    Ok(ModelSource { path, base_id: id.to_string(), revision: Some(commit) })
}

/// Whether `text` has the form `Org/Name` or `Org/Name@revision` of a model on a hub.
pub fn is_hub_id(text: &str) -> bool {
    is_model_id(text.split_once('@').map_or(text, |(id, _)| id))
}

/// `Org/Name`: the characters that the hub allows, and no `.` or `..` as a part.
pub(crate) fn is_model_id(id: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    id.split_once('/').is_some_and(|(org, name)| part(org) && part(name))
}

/// A branch, tag or commit, which must not lead out of the cache.
fn is_revision(revision: &str) -> bool {
    let part = |part: &str| {
        let clean = part.chars().all(|c| c.is_ascii_graphic() && c != '\\' && c != ':');
        !part.is_empty() && part != "." && part != ".." && clean
    };
    revision.split('/').all(part)
}

/// The name and commit of a directory within a cache.
fn snapshot_of(path: &Path) -> Option<(String, String)> {
    let path = path.canonicalize().ok()?;
    let snapshots = path.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let model = snapshots.parent()?.file_name()?.to_str()?;
    let id = model.strip_prefix("models--")?.replacen("--", "/", 1);
    Some((id, path.file_name()?.to_str()?.to_string()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn cache() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("models--Org--My--Name");
        fs::create_dir_all(model.join("refs")).unwrap();
        fs::create_dir_all(model.join("snapshots/abc123")).unwrap();
        fs::write(model.join("refs/main"), "abc123\n").unwrap();
        fs::write(model.join("refs/bad"), "../../..").unwrap();
        fs::write(model.join("snapshots/abc123/config.json"), "{}").unwrap();
        dir
    }

    #[test]
    fn hub_ids_have_two_plain_parts() {
        assert!(is_hub_id("HuggingFaceTB/SmolLM2-135M-Instruct"));
        assert!(is_hub_id("Qwen/Qwen3-0.6B@refs/pr/1"));
        for path in ["model", "./a/b", "../m", "/abs/m", "a/b/c", "~/m", "a/"] {
            assert!(!is_hub_id(path), "{path}");
        }
    }

    #[test]
    fn a_name_is_found_by_branch_and_by_commit() {
        let cache = cache();
        for spec in ["Org/My--Name", "Org/My--Name@main", "Org/My--Name@abc123"] {
            let found = resolve_in(spec, Some(cache.path())).unwrap();
            assert!(found.path.ends_with("models--Org--My--Name/snapshots/abc123"));
            assert_eq!(found.base_id, "Org/My--Name");
            assert_eq!(found.revision.as_deref(), Some("abc123"));
            // The same by its path.
            let path = found.path.to_str().unwrap().to_string();
            let by_path = resolve_in(&path, None).unwrap();
            assert_eq!((by_path.base_id, by_path.revision), (found.base_id, found.revision));
        }
    }

    #[test]
    fn what_is_not_there_comes_with_the_command_that_downloads_it() {
        let cache = cache();
        let message = |spec: &str| resolve_in(spec, Some(cache.path())).unwrap_err().to_string();
        assert!(message("Org/Other").ends_with("hf download Org/Other"));
        let pinned = message("Org/My--Name@v2");
        assert!(pinned.ends_with("hf download Org/My--Name --revision v2"), "{pinned}");
        assert!(message("Org/My--Name@bad").contains("hf download"));
        for spec in ["name", "../x", "Org/../x", "a/b/c", "Org/Name@../../x", ""] {
            assert!(message(spec).contains("expected a directory"), "{spec}");
        }
        let file = cache.path().join("model.bin");
        fs::write(&file, "").unwrap();
        assert!(message(file.to_str().unwrap()).contains("is a file"));
        let file = cache.path().join("model.gguf");
        fs::write(&file, "").unwrap();
        assert_eq!(resolve_in(file.to_str().unwrap(), None).unwrap().path, file);
    }

    #[test]
    fn a_directory_is_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let spec = dir.path().to_str().unwrap();
        let found = resolve_in(spec, None).unwrap();
        assert_eq!((found.base_id.as_str(), found.revision), (spec, None));
    }

    #[test]
    fn the_cache_follows_the_variables_of_huggingface_hub() {
        let with = |pairs: &'static [(&str, &str)]| {
            hub_cache(|name| pairs.iter().find(|p| p.0 == name).map(|p| p.1.into()))
        };
        let all = &[("HF_HUB_CACHE", "/a"), ("HF_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(with(all), Some("/a".into()));
        assert_eq!(with(&[("HF_HOME", "/b"), ("HOME", "/c")]), Some("/b/hub".into()));
        assert_eq!(with(&[("HOME", "/c")]), Some("/c/.cache/huggingface/hub".into()));
        assert_eq!(with(&[]), None);
    }
}
