//! Files of a directory that may come from anywhere, such as a model's: regular files of a sensible size,
//! that lie in the directory. A link must not make this program read other files, whose content a
//! result would carry.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read, Result};
use std::path::{Path, PathBuf};

use crate::model::gguf;

/// The most bytes of a file of settings.
pub const SETTINGS: u64 = 64 << 20;

/// The most bytes of a file with a vocabulary.
pub const VOCABULARY: u64 = 512 << 20;

/// Where `name` lies in `dir`; `None` where there is nothing of that name.
///
/// The files of a Hugging Face cache are links from `snapshots/<revision>/` into `blobs/` beside it, so
/// a link that leads there is followed too.
///
/// # Errors
/// What lies there is no regular file, or a link out of the directory or to nowhere.
pub fn find(dir: &Path, name: impl AsRef<Path>) -> Result<Option<PathBuf>> {
    let path = dir.join(name);
    let is_link = match fs::symlink_metadata(&path) {
        Ok(found) => found.is_symlink(),
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let target = path.canonicalize().map_err(|error| match is_link {
        true => Error::new(error.kind(), "is a link to a file that is not there"),
        false => error,
    })?;
    let dir = dir.canonicalize()?;
    let snapshots = dir.parent().filter(|parent| parent.ends_with("snapshots"));
    let blobs = snapshots.and_then(Path::parent).map(|model| model.join("blobs"));
    if !target.starts_with(&dir) && !blobs.is_some_and(|blobs| target.starts_with(blobs)) {
        return Err(Error::other(format!(
            "is a link out of the directory, to {}: put the file itself there",
            target.display()
        )));
    }
    match fs::metadata(&target)?.is_file() {
        true => Ok(Some(path)),
        false => Err(Error::other("is not a regular file")),
    }
}

/// The content of `name` in `dir`, or in what a GGUF file stands for; `None` where there is nothing of that name.
///
/// # Errors
/// As [`find`]; more than `most` bytes; what the system says.
pub fn read(dir: &Path, name: impl AsRef<Path>, most: u64) -> Result<Option<Vec<u8>>> {
    if gguf::is_gguf(dir) {
        return gguf::read(dir, name.as_ref());
    }
    let Some(path) = find(dir, name)? else { return Ok(None) };
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    if len > most {
        return Err(Error::other(format!("has {len} bytes, and may have {most}")));
    }
    let mut content = Vec::new();
    file.take(most).read_to_end(&mut content)?;
    Ok(Some(content))
}

/// The same of a file that is text.
///
/// # Errors
/// As [`read`]; bytes that are not UTF-8.
pub fn text(dir: &Path, name: impl AsRef<Path>, most: u64) -> Result<Option<String>> {
    let content = read(dir, name, most)?;
    let text = |bytes| String::from_utf8(bytes).map_err(|_| Error::other("is not UTF-8"));
    content.map(text).transpose()
}

/// [`text`] of a file that must be there.
///
/// # Errors
/// As [`text`]; [`ErrorKind::NotFound`].
pub fn expected_text(dir: &Path, name: &str, most: u64) -> Result<String> {
    text(dir, name, most)?.ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such file"))
}

/// No such name, or a file in the place of a directory.
fn is_absent(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_read_up_to_a_size() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "text").unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/b"), [255]).unwrap();
        assert_eq!(text(dir.path(), "a", 4).unwrap().as_deref(), Some("text"));
        assert_eq!(read(dir.path(), "sub/b", 1).unwrap(), Some(vec![255]));
        for name in ["none", "none/a", "a/none"] {
            assert_eq!(read(dir.path(), name, 4).unwrap(), None, "{name}");
        }
        let message = |result: Result<Option<String>>| result.unwrap_err().to_string();
        assert!(message(text(dir.path(), "a", 3)).contains("has 4 bytes, and may have 3"));
        assert!(message(text(dir.path(), "sub/b", 1)).contains("not UTF-8"));
        assert!(message(text(dir.path(), "sub", 1)).contains("not a regular file"));
    }

    #[cfg(unix)]
    #[test]
    fn links_may_lead_into_a_cache_but_not_elsewhere() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let snapshot = root.path().join("snapshots/abc");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(root.path().join("blobs")).unwrap();
        for file in ["blobs/1", "outside", "snapshots/abc/own"] {
            fs::write(root.path().join(file), file).unwrap();
        }
        for (target, link) in [
            ("../../blobs/1", "blob"),
            ("own", "inner"),
            ("../../outside", "outer"),
            ("nowhere", "dangling"),
            ("/dev/zero", "device"),
        ] {
            symlink(target, snapshot.join(link)).unwrap();
        }
        let found = |name: &str| text(&snapshot, name, 99).map_err(|error| error.to_string());
        assert_eq!(found("blob").unwrap().unwrap(), "blobs/1");
        assert_eq!(found("inner").unwrap().unwrap(), "snapshots/abc/own");
        assert!(found("outer").unwrap_err().contains("a link out of the directory"));
        assert!(found("dangling").unwrap_err().contains("a link to a file that is not there"));
        assert!(found("device").unwrap_err().contains("a link out of the directory"));
    }
}
