//! Compiled kernels on disk, so that only the first run ever waits for the compiler.

use super::nvrtc::Image;
use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

/// First line of an entry; changes with the form of the entries.
const MAGIC: &[u8] = b"tunesmith compiled kernel 1\n";

/// A directory of images, each in a file named by a hash of its key.
///
/// An entry holds its whole key, so that two keys of one hash are no harm, and a check sum, so that
/// a damaged file counts as absent. A cache that cannot be written only costs time.
pub(super) struct Cache {
    directory: Option<PathBuf>,
}

impl Cache {
    /// The cache of this user: `tunesmith/kernels` in the system's directory for caches.
    pub(super) fn of_user() -> Self {
        let home = env::home_dir();
        let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let caches = if cfg!(windows) {
            env::var_os("LOCALAPPDATA").map(PathBuf::from)
        } else if cfg!(target_os = "macos") {
            below_home("Library/Caches")
        } else {
            env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| below_home(".cache"))
        };
        Self { directory: caches.map(|caches| caches.join("tunesmith").join("kernels")) }
    }

    /// The image of `key`: everything that the image depends on.
    pub(super) fn get(&self, key: &str) -> Option<Image> {
        decode(&fs::read(self.path(key)?).ok()?, key)
    }

    /// Keeps an image, whole or not at all.
    pub(super) fn put(&self, key: &str, image: &Image) {
        let Some(path) = self.path(key) else { return };
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        let write = || {
            fs::create_dir_all(path.parent()?).ok()?;
            fs::write(&partial, encode(key, image)).ok()?;
            fs::rename(&partial, &path).ok()
        };
        if write().is_none() {
            let _ = fs::remove_file(&partial);
        }
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join(format!("{:016x}", hash(key.as_bytes()))))
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Magic, check sum of the rest, then key, log and image, each behind its length.
fn encode(key: &str, image: &Image) -> Vec<u8> {
    let mut body = Vec::new();
    for part in [key.as_bytes(), image.log.as_bytes(), &image.bytes] {
        body.extend_from_slice(&(part.len() as u64).to_le_bytes());
        body.extend_from_slice(part);
    }
    [MAGIC, &hash(&body).to_le_bytes(), &body].concat()
}

fn decode(entry: &[u8], key: &str) -> Option<Image> {
    let (sum, body) = entry.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    if hash(body) != u64::from_le_bytes(*sum) {
        return None;
    }
    let mut rest = body;
    let mut part = || {
        let (length, after) = rest.split_first_chunk::<8>()?;
        let (part, after) = after.split_at_checked(u64::from_le_bytes(*length) as usize)?;
        rest = after;
        Some(part)
    };
    if part()? != key.as_bytes() {
        return None;
    }
    let log = String::from_utf8(part()?.to_vec()).ok()?;
    Some(Image { log, bytes: part()?.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_entries_and_other_keys_count_as_absent() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache { directory: Some(directory.path().join("kernels")) };
        let image = Image { bytes: vec![1, 2, 3], log: "Used 8 registers".into() };
        assert_eq!(cache.get("key"), None);
        cache.put("key", &image);
        assert_eq!(cache.get("key"), Some(image.clone()));
        assert_eq!(decode(&encode("key", &image), "other"), None);

        let path = cache.path("key").unwrap();
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(cache.get("key"), None);
        fs::write(&path, &bytes[..20]).unwrap();
        assert_eq!(cache.get("key"), None);
    }
}
