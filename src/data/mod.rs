//! From data files to collated batches.
//!
//! Read in this order: [`read`] finds rows in files, [`mod@format`] says what a row means, [`encode`]
//! turns texts into tokens and labels, [`Rows`] puts those of a row together as a [`Group`],
//! [`Dataset`] checks the whole set before the first step, [`Plan`] decides which groups a step sees,
//! [`Batch`] lays them end to end, and [`preview`] shows them as the loss sees them. Nothing here
//! knows tensors or devices.

mod batch;
pub mod encode;
pub mod format;
mod group;
mod load;
mod mask;
mod message;
mod plan;
pub mod preview;
pub mod read;
pub mod script;
mod unseen;

pub use batch::{Batch, GroupSpan, Prediction};
pub use encode::Encoder;
pub use format::{Format, Pair, Sample};
pub use group::{Group, NO_LOSS, Sequence};
pub use load::{ExcessLength, LoadOptions, Rows};
pub use mask::Mask;
pub use plan::{BatchOptions, Plan};

use std::path::{Path, PathBuf};

use crate::random::Rng;
use crate::tokenizer::{Tokenizer, check_ids};
use crate::{Error, Result};

/// A data file and how often an epoch samples it.
#[derive(Debug, Clone, PartialEq)]
pub struct DataFile {
    /// Where it is.
    pub path: PathBuf,
    /// The multiple of its rows that an epoch sees: 0.5 is a (seeded, new every epoch) half of
    /// them, 2 is all of them twice.
    pub weight: f64,
}

impl DataFile {
    /// A file of which every epoch sees every row once.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), weight: 1.0 }
    }
}

/// What loading a set did, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Examples in the set.
    pub examples: usize,
    /// Tokens in the set.
    pub tokens: usize,
    /// Tokens that carry loss.
    pub loss_tokens: usize,
    /// Rows that were cut at `max_length`.
    pub truncated: usize,
    /// Rows longer than `max_length` that were left out (`excess_length_strategy = "drop"`).
    pub dropped_too_long: usize,
    /// Rows that had no token with loss left after cutting, and were left out.
    pub dropped_without_loss: usize,
    /// Tokens of the longest row before cutting.
    pub longest: usize,
    /// File (its index) and line of the first row that was cut or left out.
    pub first_cut: Option<(u32, u32)>,
}

/// A tokenized set of examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Where the examples come from.
    pub files: Vec<DataFile>,
    /// The format all rows have.
    pub format: Format,
    /// The examples, file by file, in the order of the lines.
    pub examples: Vec<Group>,
    /// What loading did.
    pub stats: Stats,
    /// What the user should know of the rows, each once.
    pub warnings: Vec<String>,
}

impl Dataset {
    fn new(files: Vec<DataFile>, format: Format, examples: Vec<Group>) -> Self {
        let (stats, warnings) = (Stats::default(), Vec::new());
        let mut set = Self { files, format, examples, stats, warnings };
        set.count();
        set
    }

    /// Counts examples and tokens again.
    fn count(&mut self) {
        self.stats.examples = self.examples.len();
        self.stats.tokens = self.examples.iter().map(Group::num_tokens).sum();
        self.stats.loss_tokens = self.examples.iter().map(Group::num_loss_tokens).sum();
    }

    /// Writes the sequences of groups out where they may not share a prompt: everywhere if not `shared`, and
    /// where RoPE turns the `shortest` and the `longest` of a group at other frequencies, which
    /// `turn_alike(shortest, longest)` says.
    pub fn share_prompts(&mut self, shared: bool, turn_alike: impl Fn(usize, usize) -> bool) {
        for group in self.examples.iter_mut().filter(|group| group.shared > 0) {
            let lengths = group.sequences.iter().map(|sequence| sequence.input_ids.len());
            let shortest = lengths.clone().min().unwrap_or(0);
            if !shared || !turn_alike(shortest, lengths.max().unwrap_or(0)) {
                group.shared = 0;
            }
        }
        self.count();
    }

    /// `file:line` of an example, for messages.
    pub fn place(&self, example: &Group) -> String {
        self.place_of(example.source)
    }

    /// `file:line` of a row, from the index of its file and its line.
    pub fn place_of(&self, (file, line): (u32, u32)) -> String {
        place(&self.files[file as usize].path, line)
    }

    /// Refuses tokens that the model's embedding of `vocab_size` rows does not have.
    pub fn check_vocabulary(&self, vocab_size: usize, tokenizer: &dyn Tokenizer) -> Result<()> {
        for example in &self.examples {
            for sequence in &example.sequences {
                check_ids(&sequence.input_ids, vocab_size, tokenizer, &self.place(example))?;
            }
        }
        Ok(())
    }

    /// Holds out `share` of the examples (above 0, below 1), chosen by `seed`: returns the set to
    /// train on and the set to evaluate on, both in the order of the files.
    pub fn split(mut self, share: f64, seed: u64) -> Result<(Self, Self)> {
        if !(share > 0.0 && share < 1.0) {
            return Err(Error::input(format!(
                "data.eval_split = {share} is not a share; expected a number above 0 and below 1"
            )));
        }
        let total = self.examples.len();
        if total < 2 {
            return Err(Error::input(format!(
                "data.eval_split = {share} needs at least 2 examples, one to train on and one to \
                 evaluate on; there is {total}"
            )));
        }
        let held = ((share * total as f64).round() as usize).clamp(1, total - 1);
        let mut order: Vec<usize> = (0..total).collect();
        Rng::new(seed, "data.eval_split", 0).shuffle(&mut order);
        let mut is_held = vec![false; total];
        order[..held].iter().for_each(|&index| is_held[index] = true);
        let mut marks = is_held.iter();
        let (evaluated, trained) = std::mem::take(&mut self.examples)
            .into_iter()
            .partition(|_| marks.next().is_some_and(|&held| held));
        let eval = Self::new(self.files.clone(), self.format, evaluated);
        self.examples = trained;
        self.count();
        Ok((self, eval))
    }

    /// Indices of the examples that an epoch sees, each as often as its file's weight says. A
    /// fraction of a weight is that share of the file's examples (at least one in all), drawn anew
    /// every epoch.
    fn weighted(&self, seed: u64, epoch: u32) -> Vec<u32> {
        let mut order = Vec::with_capacity(self.examples.len());
        for (file, DataFile { weight, .. }) in self.files.iter().enumerate() {
            let start = self.examples.partition_point(|example| (example.source.0 as usize) < file);
            let end = self.examples.partition_point(|example| (example.source.0 as usize) <= file);
            let all = start as u32..end as u32;
            let whole = weight.floor() as usize;
            for _ in 0..whole {
                order.extend(all.clone());
            }
            let mut some: Vec<u32> = all.collect();
            let share = ((weight - weight.floor()) * some.len() as f64).round() as usize;
            let share = if whole == 0 { share.max(1).min(some.len()) } else { share };
            if share > 0 {
                Rng::new(seed, &format!("data.weight.{file}"), epoch).shuffle(&mut some);
                some.truncate(share);
                some.sort_unstable();
                order.extend(some);
            }
        }
        order
    }

    /// A number that differs when the examples do: a checkpoint keeps it, so that a run is not
    /// resumed on other data (FNV-1a, 64 bits, over ids, labels and numbers).
    pub fn fingerprint(&self) -> u64 {
        let mut hash = 0xCBF2_9CE4_8422_2325_u64;
        let mut mix = |word: u32| {
            for byte in word.to_le_bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
            }
        };
        for example in &self.examples {
            for sequence in &example.sequences {
                mix(sequence.input_ids.len() as u32);
                sequence.input_ids.iter().for_each(|&id| mix(id));
                sequence.labels.iter().for_each(|&label| mix(label as u32));
            }
            if example.shared > 0 {
                mix(example.shared as u32);
            }
            for (_, number) in &example.numbers {
                let bits = number.to_bits();
                mix(bits as u32);
                mix((bits >> 32) as u32);
            }
        }
        hash
    }
}

fn place(path: &Path, line: u32) -> String {
    format!("{}:{line}", path.display())
}
