//! A directory that one process at a time writes to.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use crate::error::{Error, Result};

/// Holds a directory, until it is dropped or the process ends, however that ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a directory that exists; `None` where its file system has no locks.
    ///
    /// # Errors
    /// [`Error::Input`] where another process, or another part of this one, holds it.
    pub fn take(dir: &Path) -> Result<Option<Self>> {
        let shown = dir.display();
        let file =
            open(dir).map_err(|error| Error::io(format_args!("cannot open {shown}"), error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Err(Error::input(format!(
                "another run writes to output_dir {shown}: wait until it has ended, or give another \
                 output_dir"
            ))),
            Err(TryLockError::Error(_)) => Ok(None),
        }
    }
}

/// The directory itself, which leaves no trace in it.
#[cfg(unix)]
fn open(dir: &Path) -> io::Result<File> {
    File::open(dir)
}

/// Elsewhere directories cannot be locked, but a file in them can.
#[cfg(not(unix))]
fn open(dir: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(dir.join(".lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_a_directory_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let Some(first) = Lock::take(dir.path()).unwrap() else { panic!("no locks") };
        let error = Lock::take(dir.path()).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains("another run writes to output_dir"), "{error}");
        drop(first);
        assert!(Lock::take(dir.path()).unwrap().is_some());
    }
}
