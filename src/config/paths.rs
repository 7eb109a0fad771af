//! Where relative paths of a config lead.

use std::path::{Path, PathBuf, absolute};

use super::read::Read;
use super::tree::{Node, Place};
use crate::files;
use crate::model::resolve::is_hub_id;

/// A chat template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateSource {
    /// One that this crate carries (`chatml`, `alpaca` ...).
    Named(String),
    /// A Jinja file (absolute).
    File(PathBuf),
}

/// The directories that relative paths start from.
pub struct Bases {
    /// The config file's directory, for what the file says.
    pub config: PathBuf,
    /// The current directory, for what the command line says, as the shell completes it.
    pub current: PathBuf,
}

impl Bases {
    /// The absolute path that `node` names. It need not exist.
    pub fn path(&self, node: &Node) -> Read<PathBuf> {
        self.resolve(node, node.text()?)
    }

    fn resolve(&self, node: &Node, text: &str) -> Read<PathBuf> {
        let base = match node.place {
            Place::Line(..) => &self.config,
            Place::CommandLine(_) => &self.current,
        };
        let path = match text.strip_prefix("~/") {
            Some(rest) => std::env::home_dir()
                .ok_or_else(|| format!("{text:?}: there is no home directory to replace `~`"))?
                .join(rest),
            None => base.join(text),
        };
        let path = absolute(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let path = files::without_detours(&path);
        match path.to_str() {
            // The resolved config is saved as text, so it must be able to say the path.
            None => Err(format!("the path {} is not valid UTF-8", path.display())),
            Some(_) => Ok(path),
        }
    }

    /// A model: `Org/Name[@revision]` as it is, a directory as its absolute path. A name that is
    /// both is the directory.
    pub fn model(&self, node: &Node) -> Read<String> {
        let text = node.text()?;
        let path = self.resolve(node, text)?;
        if is_hub_id(text) && !path.exists() {
            return Ok(text.to_owned());
        }
        Ok(path.to_string_lossy().into_owned())
    }

    /// A chat template: a file where it has a path's or a Jinja file's form, else a name.
    pub fn template(&self, node: &Node) -> Read<TemplateSource> {
        let text = node.text()?;
        let extension = Path::new(text).extension().and_then(|extension| extension.to_str());
        let is_file = text.contains(['/', '\\'])
            || matches!(extension, Some("jinja" | "jinja2" | "j2" | "txt"));
        if is_file {
            return self.resolve(node, text).map(TemplateSource::File);
        }
        Ok(TemplateSource::Named(text.to_owned()))
    }
}
