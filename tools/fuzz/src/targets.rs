//! The readers, each with the seeds and words of its files.

mod checkpoint;
mod files;
mod texts;

/// A reader.
pub trait Target {
    /// Its name, a part of what inputs are a function of.
    fn name(&self) -> &'static str;

    /// Files that it reads, to be changed.
    fn seeds(&self) -> &[Vec<u8>];

    /// What such files are made of.
    fn words(&self) -> &'static [&'static str];

    /// Reads a file, and uses what it says.
    ///
    /// # Errors
    /// Why it is refused.
    fn read(&mut self, input: &[u8]) -> Result<(), String>;
}

/// What a target is made of.
struct Reader<F> {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    words: &'static [&'static str],
    read: F,
}

impl<F: FnMut(&[u8]) -> tunesmith::Result<()>> Target for Reader<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn seeds(&self) -> &[Vec<u8>] {
        &self.seeds
    }

    fn words(&self) -> &'static [&'static str] {
        self.words
    }

    fn read(&mut self, input: &[u8]) -> Result<(), String> {
        (self.read)(input).map_err(|error| error.to_string())
    }
}

/// Every target. Files are written below `dir`.
pub fn all(dir: &std::path::Path) -> Vec<Box<dyn Target>> {
    let mut targets: Vec<Box<dyn Target>> = Vec::new();
    targets.extend(files::targets(dir));
    targets.extend(texts::targets(dir));
    targets.extend(checkpoint::targets(dir));
    targets
}
