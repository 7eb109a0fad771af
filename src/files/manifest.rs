//! `manifest.json`: sizes and checksums of all files of a directory. It is written last, so a directory that
//! has one was once complete, and what has been damaged since is told.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::checksum::Checksum;
use super::enclosed;
use crate::error::{Error, Result};

/// Its name.
pub const NAME: &str = "manifest.json";

#[derive(Serialize, Deserialize)]
struct Manifest {
    /// By the path from the directory, with `/`.
    files: BTreeMap<String, Entry>,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    /// Sixteen hexadecimal digits.
    xxh64: String,
}

/// Writes the manifest of all files that are in `dir` now.
///
/// # Errors
/// [`Error::Run`] where one cannot be read, or the manifest not written.
pub fn write(dir: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    collect(dir, "", &mut files)
        .map_err(|error| Error::io(format_args!("cannot read {}", dir.display()), error))?;
    let text = serde_json::to_string_pretty(&Manifest { files })
        .map_err(|error| Error::internal("manifest", error.to_string()))?;
    super::write(&dir.join(NAME), text + "\n")
}

/// Whether every file that the manifest of `dir` names is as it was; if not, what is wrong, in words. Files
/// that it does not name do not matter.
///
/// # Errors
/// The first file that is missing or changed.
pub fn verify(dir: &Path) -> Result<(), String> {
    let text = match enclosed::text(dir, NAME, enclosed::SETTINGS) {
        Ok(Some(text)) => text,
        Ok(None) => return Err(format!("{NAME} is missing")),
        Err(error) => return Err(format!("{NAME}: {error}")),
    };
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|error| format!("{NAME}: {error}"))?;
    for (name, expected) in &manifest.files {
        let found = match enclosed::find(dir, name) {
            Ok(Some(path)) => entry(&path),
            Ok(None) => return Err(format!("{name} is missing")),
            Err(error) => Err(error),
        };
        let found = found.map_err(|error| format!("{name}: {error}"))?;
        if found.bytes != expected.bytes {
            let (found, expected) = (found.bytes, expected.bytes);
            return Err(format!("{name} has {found} bytes, and had {expected}"));
        }
        if found != *expected {
            return Err(format!("the content of {name} has changed"));
        }
    }
    Ok(())
}

fn collect(dir: &Path, prefix: &str, files: &mut BTreeMap<String, Entry>) -> io::Result<()> {
    for found in fs::read_dir(dir)? {
        let path = found?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{prefix}{name}");
        match path.is_dir() {
            true => collect(&path, &format!("{name}/"), files)?,
            false if name == NAME => {}
            false => _ = files.insert(name, entry(&path)?),
        }
    }
    Ok(())
}

fn entry(path: &Path) -> io::Result<Entry> {
    let (mut file, mut sum) = (File::open(path)?, Checksum::default());
    let mut piece = vec![0; 1 << 18];
    let mut bytes = 0;
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok(Entry { bytes, xxh64: format!("{:016x}", sum.finish()) });
        }
        sum.add(&piece[..count]);
        bytes += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        assert_eq!(verify(dir.path()), Err("manifest.json is missing".into()));
        fs::create_dir(path("sub")).unwrap();
        let large: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        fs::write(path("a.bin"), &large).unwrap();
        fs::write(path("sub/b.txt"), "text").unwrap();
        write(dir.path()).unwrap();
        assert_eq!(verify(dir.path()), Ok(()));
        fs::write(path("more"), "does not matter").unwrap();
        assert_eq!(verify(dir.path()), Ok(()));

        let mut flipped = large.clone();
        flipped[999_999] ^= 1;
        fs::write(path("a.bin"), &flipped).unwrap();
        assert_eq!(verify(dir.path()), Err("the content of a.bin has changed".into()));
        fs::write(path("a.bin"), &large[1..]).unwrap();
        assert_eq!(verify(dir.path()), Err("a.bin has 999999 bytes, and had 1000000".into()));
        fs::write(path("a.bin"), &large).unwrap();
        fs::remove_file(path("sub/b.txt")).unwrap();
        assert_eq!(verify(dir.path()), Err("sub/b.txt is missing".into()));
        fs::write(path(NAME), "{").unwrap();
        assert!(verify(dir.path()).unwrap_err().starts_with("manifest.json: "));
    }
}
