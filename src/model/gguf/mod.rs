//! A GGUF file as a model directory: what a directory has in config.json, the tokenizer's files and
//! generation_config.json is made from its keys, so that all else takes it for a directory.
//!
//! [`crate::files::enclosed`] asks [`read`] for the directory's files. Its tensors get the names, and the order of rows, that Hugging Face's models have
//! when they are opened ([`super::Weights`]).

mod config;
pub(super) mod keys;
mod tokenizer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use crate::gguf::Kind;
use crate::gguf::read::{Header, Tensor};

/// Bytes of a file that are read at first, which most headers fit into.
const BEGINNING: u64 = 32 << 20;

/// The longest tensor of settings, in bytes.
const MAX_REALS: usize = 1 << 16;

/// Whether the path is a GGUF file's.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
        && path.is_file()
}

/// The bytes of a model directory's file that a GGUF file stands for; `None` where it has no such file.
///
/// # Errors
/// What is wrong with the GGUF file.
pub fn read(path: &Path, name: &Path) -> io::Result<Option<Vec<u8>>> {
    match name.to_str() {
        Some(name) => files(path)?.get(name).map_err(io::Error::other),
        None => Ok(None),
    }
}

/// The files that a GGUF file stands for.
struct Files {
    config: Result<Vec<u8>, String>,
    tokenizer: Result<BTreeMap<&'static str, Vec<u8>>, String>,
}

impl Files {
    fn of(header: &Header) -> Self {
        let text = |value: serde_json::Value| format!("{value:#}\n").into_bytes();
        Self { config: config::config(header).map(text), tokenizer: tokenizer::files(header) }
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, String> {
        match name {
            "config.json" => self.config.clone().map(Some),
            _ if !tokenizer::FILES.contains(&name) => Ok(None),
            _ => match &self.tokenizer {
                Ok(files) => Ok(files.get(name).cloned()),
                Err(why) => Err(why.clone()),
            },
        }
    }
}

/// The file that was asked for last, by its path, length and time: its tokenizer's files are asked for
/// one after another, and each takes reading them all.
type Last = Option<((PathBuf, u64, Option<SystemTime>), Arc<Files>)>;

fn files(path: &Path) -> io::Result<Arc<Files>> {
    static LAST: Mutex<Last> = Mutex::new(None);
    let metadata = std::fs::metadata(path)?;
    let key = (path.to_path_buf(), metadata.len(), metadata.modified().ok());
    let mut last = LAST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((_, files)) = last.as_ref().filter(|(found, _)| *found == key) {
        return Ok(files.clone());
    }
    let files = Arc::new(Files::of(&header(path).map_err(io::Error::other)?));
    *last = Some((key, files.clone()));
    Ok(files)
}

/// The header of a file, with the tensors that are settings.
fn header(path: &Path) -> Result<Header, String> {
    let failed = |error: io::Error| error.to_string();
    let mut file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    let whole = usize::try_from(len).map_err(|_| "is too large".to_string())?;
    let (mut data, mut most) = (Vec::new(), BEGINNING);
    let mut header = loop {
        (&mut file).take(most - data.len() as u64).read_to_end(&mut data).map_err(failed)?;
        match Header::read(&data, whole) {
            Err(_) if (data.len() as u64) < len && data.len() as u64 == most => most *= 4,
            read => break read?,
        }
    };
    drop(data);
    for name in keys::OF_ROPE {
        if let Some(Tensor { kind: Kind::F32, bytes, .. }) = header.tensors.get(name)
            && bytes.len() <= MAX_REALS
        {
            let mut content = vec![0; bytes.len()];
            file.seek(SeekFrom::Start(bytes.start as u64)).map_err(failed)?;
            file.read_exact(&mut content).map_err(failed)?;
            header.reals.insert(name.to_string(), Kind::F32.decode(&content));
        }
    }
    Ok(header)
}
