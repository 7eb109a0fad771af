//! Files that appear whole or not at all.
//!
//! A file is written beside its place under a hidden name, synced to the disk, renamed over, and
//! then the directory is synced, so that after a crash or a full disk there is either the old file
//! or the new one. Directories (checkpoints) are built and renamed the same way.

pub mod checksum;
pub mod enclosed;
mod lock;
pub mod manifest;

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Component, Path, PathBuf};

pub use lock::Lock;

use crate::error::{Error, Result};

/// What hidden names end with: a file or directory that is being written, that another takes the place of,
/// that is being removed.
const PARTIAL: &str = "partial";
const REPLACED: &str = "replaced";
const REMOVED: &str = "removed";

/// Writes a file whole or not at all: `fill` writes its content.
///
/// # Errors
/// [`Error::Run`] where the disk is full or the file cannot be written, and the errors of `fill`;
/// what was at `path` before is then still there.
pub fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let partial = hidden(path, PARTIAL)?;
    let write = || -> io::Result<()> {
        let mut out = BufWriter::new(File::create(&partial)?);
        fill(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&partial, path)?;
        sync_directory(parent(path))
    };
    write().map_err(|error| {
        // The error that matters is the one of the write.
        let _ = fs::remove_file(&partial);
        write_error(path, error)
    })
}

/// Writes `bytes` as a file, whole or not at all.
///
/// # Errors
/// As [`write_with`].
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    write_with(path, |out| out.write_all(bytes.as_ref()))
}

/// Writes a directory whole or not at all: `fill` gets an empty directory beside `path` and writes
/// its files there. A directory that was at `path` is replaced.
///
/// # Errors
/// As [`write_with`].
pub fn write_directory(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let partial = hidden(path, PARTIAL)?;
    let replaced = hidden(path, REPLACED)?;
    let in_place = |step: io::Result<()>| step.map_err(|error| write_error(path, error));
    let build = || -> Result<()> {
        in_place(remove_directory(&partial))?;
        in_place(fs::create_dir(&partial))?;
        fill(&partial)?;
        in_place(sync_tree(&partial))?;
        // A rename does not replace a directory that has files in it: move the old one away. A
        // crash between the two renames leaves both, complete, under hidden names.
        in_place(remove_directory(&replaced))?;
        if path.exists() {
            in_place(fs::rename(path, &replaced))?;
        }
        in_place(fs::rename(&partial, path).and_then(|()| sync_directory(parent(path))))?;
        in_place(remove_directory(&replaced))
    };
    build().inspect_err(|_| {
        let _ = fs::remove_dir_all(&partial);
        if replaced.exists() && !path.exists() {
            let _ = fs::rename(&replaced, path);
        }
    })
}

/// Checks, leaving nothing behind, that a run may write to `path`: it is absent or an empty
/// directory (or `resuming`), and files can be made there.
///
/// # Errors
/// [`Error::Input`] that says what is in the way.
pub fn check_output_dir(path: &Path, resuming: bool) -> Result<()> {
    let shown = path.display();
    let is_link = path.symlink_metadata().is_ok_and(|found| found.is_symlink());
    if is_link && !path.exists() {
        return Err(Error::input(format!(
            "output_dir {shown} is a link to a directory that is not there: make it, or remove the link"
        )));
    }
    let is_empty = match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == ErrorKind::NotFound => true,
        Err(_) if path.is_file() => {
            return Err(Error::input(format!(
                "output_dir {shown} is a file: give a directory that is new or empty"
            )));
        }
        Err(error) => {
            return Err(Error::input(format!("output_dir {shown} cannot be used: {error}")));
        }
    };
    if !is_empty && !resuming {
        return Err(Error::input(format!(
            "output_dir {shown} is not empty: give another one, or go on with the run in it with \
             --resume"
        )));
    }
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let probe = existing.join(format!(".tunesmith-probe-{}", std::process::id()));
    let probed = File::create_new(&probe).and_then(|_| fs::remove_file(&probe));
    probed.map_err(|error| Error::input(format!("output_dir {shown} cannot be written: {error}")))
}

/// Creates a directory with its parents, so that they survive a crash.
///
/// # Errors
/// [`Error::Run`] where that is not possible.
pub fn create_directory(path: &Path) -> Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
    let create = || {
        fs::create_dir_all(path)?;
        missing
            .into_iter()
            .filter(|path| !path.as_os_str().is_empty())
            .try_for_each(|path| sync_directory(parent(path)))
    };
    create().map_err(|error| write_error(path, error))
}

/// Removes a directory. What a crash leaves of it has a hidden name, which [`clean_up`] knows.
///
/// # Errors
/// What the system says.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = hidden(path, REMOVED).map_err(io::Error::other)?;
    remove_directory(&removed)?;
    fs::rename(path, &removed)?;
    remove_directory(&removed)
}

/// Takes away what a process that was killed while it wrote or removed files in `dir` left behind; a
/// directory that it had moved away to replace it comes back.
///
/// # Errors
/// What the system says.
pub fn clean_up(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name =
            path.file_name().and_then(|name| name.to_str()).and_then(|n| n.strip_prefix('.'));
        let Some((name, suffix)) = name.and_then(|name| name.rsplit_once('.')) else { continue };
        let whole = path.with_file_name(name);
        match suffix {
            REPLACED if !whole.exists() => fs::rename(&path, whole)?,
            PARTIAL | REPLACED | REMOVED if path.is_dir() => remove_directory(&path)?,
            PARTIAL => fs::remove_file(&path)?,
            _ => {}
        }
    }
    Ok(())
}

/// The first of `path`, `path-2`, `path-3` ... that is absent or an empty directory.
pub fn next_free(path: &Path) -> PathBuf {
    numbered(path).find(|path| is_free(path)).unwrap_or_else(|| path.to_owned())
}

/// The last before that one; `path` if there is none.
pub fn last_taken(path: &Path) -> PathBuf {
    numbered(path).take_while(|path| !is_free(path)).last().unwrap_or_else(|| path.to_owned())
}

fn is_free(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// `path`, `path-2`, `path-3` ...
fn numbered(path: &Path) -> impl Iterator<Item = PathBuf> {
    let further = |number: u64| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("-{number}"));
        PathBuf::from(name)
    };
    std::iter::once(path.to_owned()).chain((2..).map(further))
}

/// The same path without `.` and, where that is the same place, without `..`: a link is not left by
/// what seems to be its parent.
pub fn without_detours(path: &Path) -> PathBuf {
    let mut direct = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if direct.file_name().is_some() && !direct.is_symlink() => {
                direct.pop();
            }
            other => direct.push(other),
        }
    }
    direct
}

/// The error of a write to `path`; a full disk says what to do about it.
pub fn write_error(path: &Path, error: io::Error) -> Error {
    let shown = path.display();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::Io {
            message: format!(
                "no space left for {shown} ({error}): nothing of it was kept, and what was there before \
                 is as it was; free some space and start again"
            ),
            source: error,
        },
        _ => Error::io(format_args!("cannot write {shown}"), error),
    }
}

/// `.NAME.SUFFIX` beside `path`.
fn hidden(path: &Path, suffix: &str) -> Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| Error::input(format!("{}: the path names no file", path.display())))?;
    Ok(path.with_file_name(format!(".{}.{suffix}", name.to_string_lossy())))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Syncs every file under `path`, then the directories.
fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            // Windows syncs only handles that may write.
            File::options().write(true).open(entry.path())?.sync_all()?;
        }
    }
    sync_directory(path)
}

/// Makes renames in the directory survive a crash.
#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Elsewhere a directory cannot be synced; its entries are journalled by the file system.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_or_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write(&path, "old").unwrap();
        let full = || io::Error::from(ErrorKind::StorageFull);
        let error = write_with(&path, |out| out.write_all(b"new").and(Err(full()))).unwrap_err();
        assert_eq!(error.exit_status(), 1);
        assert!(error.to_string().contains("no space left"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(dir.path()), ["a.json"]);
        write(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(names(dir.path()), ["a.json"]);
        let error = write(&dir.path().join("none/a.json"), "x").unwrap_err();
        assert!(error.to_string().contains("none/a.json"), "{error}");
    }

    #[test]
    fn a_directory_is_replaced_or_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint-5");
        // What a killed process left behind is not taken over.
        fs::create_dir(dir.path().join(".checkpoint-5.partial")).unwrap();
        fs::write(dir.path().join(".checkpoint-5.partial/stale"), "").unwrap();
        write_directory(&path, |partial| {
            assert!(!path.exists());
            fs::create_dir(partial.join("sub")).unwrap();
            write(&partial.join("sub/a"), "old")
        })
        .unwrap();
        assert_eq!(names(&path), ["sub"]);
        let result = write_directory(&path, |partial| {
            write(&partial.join("b"), "new")?;
            Err(Error::run("device lost"))
        });
        assert_eq!(result.unwrap_err().to_string(), "device lost");
        assert_eq!(names(&path), ["sub"]);
        write_directory(&path, |partial| write(&partial.join("b"), "new")).unwrap();
        assert_eq!(names(&path), ["b"]);
        assert_eq!(names(dir.path()), ["checkpoint-5"]);
    }

    #[test]
    fn what_a_killed_process_left_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in
            ["a", ".a.replaced", ".a.partial", ".b.replaced", ".c.removed", ".git", ".x.other"]
        {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("of"), name).unwrap();
        }
        fs::write(path(".d.json.partial"), "").unwrap();
        fs::write(path("e.partial"), "").unwrap();
        clean_up(dir.path()).unwrap();
        assert_eq!(names(dir.path()), [".git", ".x.other", "a", "b", "e.partial"]);
        assert_eq!(fs::read_to_string(path("a/of")).unwrap(), "a");
        assert_eq!(fs::read_to_string(path("b/of")).unwrap(), ".b.replaced");
        remove(&path("a")).unwrap();
        assert_eq!(names(dir.path()), [".git", ".x.other", "b", "e.partial"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nowhere_is_no_output_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("none", dir.path().join("out")).unwrap();
        let error = check_output_dir(&dir.path().join("out"), false).unwrap_err();
        assert!(error.to_string().contains("a link to a directory that is not there"), "{error}");
    }

    #[test]
    fn the_output_directory_is_checked_without_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("runs/a");
        check_output_dir(&absent, false).unwrap();
        assert!(names(dir.path()).is_empty());
        fs::create_dir_all(&absent).unwrap();
        check_output_dir(&absent, false).unwrap();
        fs::write(absent.join("x"), "").unwrap();
        let error = check_output_dir(&absent, false).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains("--resume"), "{error}");
        check_output_dir(&absent, true).unwrap();
        let under_a_file = absent.join("x/y");
        assert_eq!(check_output_dir(&under_a_file, false).unwrap_err().exit_status(), 2);
        assert_eq!(check_output_dir(&absent.join("x"), false).unwrap_err().exit_status(), 2);
        assert_eq!(names(&absent), ["x"]);
    }

    #[test]
    fn the_next_free_name_skips_what_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("quickstart");
        assert_eq!(next_free(&path), path);
        fs::create_dir(&path).unwrap();
        assert_eq!(next_free(&path), path);
        fs::write(path.join("x"), "").unwrap();
        fs::write(dir.path().join("quickstart-2"), "a file").unwrap();
        assert_eq!(next_free(&path), dir.path().join("quickstart-3"));
    }
}
