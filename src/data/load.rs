//! Files to a [`Dataset`], with everything that can be wrong found before the first step.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::encode::Encoder;
use super::format::Sample;
use super::group::Group;
use super::read::{self, Row};
use super::{DataFile, Dataset, Format, Stats, place};
use crate::tokenizer::{TextProcessor, deep_threads};
use crate::{Error, Result};

/// Rows tokenized at a time: enough for every thread, few enough that an error shows soon.
const CHUNK: usize = 4096;

/// What happens to a row that is longer than `max_length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExcessLength {
    /// Its end is cut off.
    #[default]
    Truncate,
    /// It is left out.
    Drop,
    /// It is an error.
    Raise,
}

/// What an objective makes of the rows of a file.
pub trait Rows: Sync {
    /// The objective's name in configs and messages.
    fn name(&self) -> &'static str;

    /// The formats it learns from.
    fn formats(&self) -> &'static [Format];

    /// Whether the end of a row that is too long may be cut off; else it is left out.
    fn cuts(&self) -> bool {
        true
    }

    /// The group of a row that says `sample`; `row` is the whole object, with whatever further keys
    /// it has.
    ///
    /// # Errors
    /// What is wrong with the row; the caller adds file and line.
    fn group(&self, sample: &Sample, row: &Map<String, Value>, encoder: &Encoder) -> Result<Group>;
}

/// How rows become groups, besides what the objective says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// The format of the rows; `None` tells it from the keys of the first.
    pub format: Option<Format>,
    /// The longest example, in tokens.
    pub max_length: usize,
    /// What happens to longer rows.
    pub excess_length: ExcessLength,
    /// Only completions and assistant turns carry loss.
    pub completion_only_loss: bool,
    /// Whether a set that never trains a stop token is an error. Training wants it, evaluating
    /// does not.
    pub require_stop_token: bool,
}

impl Dataset {
    /// Reads, tokenizes and checks `files`, of which `objective` makes groups.
    ///
    /// # Errors
    /// Anything wrong with a file or row (named as `file:line`), rows of different formats or of one
    /// that the objective cannot use, no row with loss left, or no row that trains a stop token.
    pub fn load(
        files: &[DataFile],
        text: &TextProcessor,
        objective: &dyn Rows,
        options: &LoadOptions,
    ) -> Result<Self> {
        check(files, options)?;
        let mut options = options.clone();
        if !objective.cuts() && options.excess_length == ExcessLength::Truncate {
            options.excess_length = ExcessLength::Drop;
        }
        let options = &options;
        let encoder = Encoder::new(text, options.completion_only_loss);
        let mut collector = Collector::default();
        let mut format = options.format;
        for (index, file) in files.iter().enumerate() {
            let rows = read::read(&file.path)?;
            let format = match format {
                Some(format) => format,
                None => *format.insert(at(file, &rows[0], Format::detect(&rows[0].object))?),
            };
            at(file, &rows[0], check_format(format, objective))?;
            for chunk in rows.chunks(CHUNK) {
                let tokenize = |row: &Row| {
                    at(file, row, Tokenized::of(row, index, format, objective, &encoder))
                };
                let tokenize = || chunk.par_iter().map(tokenize).collect();
                let tokenized: Vec<Result<Tokenized>> = match deep_threads() {
                    Some(threads) => threads.install(tokenize),
                    None => tokenize(),
                };
                // In order, so that the first bad row is the one that is named.
                for (row, tokenized) in chunk.iter().zip(tokenized) {
                    at(file, row, collector.take(tokenized?, options))?;
                }
            }
        }
        collector.finish(files, format.unwrap_or(Format::Text), text, options)
    }
}

fn check(files: &[DataFile], options: &LoadOptions) -> Result<()> {
    if files.is_empty() {
        return Err(Error::input("no data file is given; set data.train to a file or a list"));
    }
    if let Some(file) = files.iter().find(|file| !(file.weight > 0.0 && file.weight <= 1000.0)) {
        return Err(Error::input(format!(
            "the weight {} of {} is not a multiple of its rows; expected a number above 0 and at \
             most 1000 (1 is every row once per epoch)",
            file.weight,
            file.path.display()
        )));
    }
    if options.max_length < 2 {
        return Err(Error::input(format!(
            "data.max_length = {} leaves nothing to predict; expected at least 2",
            options.max_length
        )));
    }
    Ok(())
}

/// Refuses rows of a format that the objective cannot use.
fn check_format(format: Format, objective: &dyn Rows) -> Result<()> {
    let known = objective.formats();
    if known.contains(&format) {
        return Ok(());
    }
    let names: Vec<&str> = known.iter().map(|format| format.name()).collect();
    Err(Error::input(format!(
        "{}, which objective = {:?} cannot use; it learns from {}{}",
        format.describe(),
        objective.name(),
        names.join(", "),
        match format {
            Format::Preference =>
                "; to imitate the chosen answers, write them as prompt and completion",
            _ => "",
        }
    )))
}

/// Puts `file:line` before an error about a row.
fn at<T>(file: &DataFile, row: &Row, result: Result<T>) -> Result<T> {
    result.map_err(|error| match error {
        Error::Input(why) => Error::Input(format!("{}: {why}", place(&file.path, row.line))),
        other => other,
    })
}

/// A row after tokenizing.
struct Tokenized {
    group: Group,
    /// The ids of which the row should train one, and whether it is a conversation.
    stops: Vec<u32>,
    /// What its text does not show.
    unseen: Vec<String>,
}

impl Tokenized {
    fn of(
        row: &Row,
        file: usize,
        format: Format,
        objective: &dyn Rows,
        encoder: &Encoder,
    ) -> Result<Self> {
        let sample = format.sample(&row.object)?;
        let mut group = objective.group(&sample, &row.object, encoder)?;
        group.source = (file as u32, row.line);
        let stops = encoder.stop_ids(&sample).to_vec();
        Ok(Self { group, stops, unseen: encoder.unseen(&sample) })
    }
}

/// Gathers examples and what must be known of the whole set.
#[derive(Default)]
struct Collector {
    examples: Vec<Group>,
    stats: Stats,
    trains_stop: bool,
    /// The stop ids that the first row should have trained.
    stops: Vec<u32>,
    /// What texts do not show: the first row of which that is so, and how many there are.
    unseen: BTreeMap<String, ((u32, u32), usize)>,
}

impl Collector {
    fn take(&mut self, row: Tokenized, options: &LoadOptions) -> Result<()> {
        let Tokenized { mut group, stops, unseen } = row;
        for what in unseen {
            self.unseen.entry(what).or_insert((group.source, 0)).1 += 1;
        }
        let length = group.longest();
        self.stats.longest = self.stats.longest.max(length);
        if length > options.max_length {
            self.stats.first_cut.get_or_insert(group.source);
            match options.excess_length {
                ExcessLength::Truncate => {
                    self.stats.truncated += 1;
                    for sequence in &mut group.sequences {
                        sequence.truncate(options.max_length);
                    }
                }
                ExcessLength::Drop => {
                    self.stats.dropped_too_long += 1;
                    return Ok(());
                }
                ExcessLength::Raise => {
                    return Err(Error::input(format!(
                        "the row has {length} tokens and data.max_length is {} \
                         (excess_length_strategy = \"raise\"); shorten it, raise max_length, or \
                         set excess_length_strategy to \"truncate\" or \"drop\"",
                        options.max_length
                    )));
                }
            }
        }
        if group.sequences.iter().any(|sequence| sequence.num_loss_tokens() == 0) {
            self.stats.first_cut.get_or_insert(group.source);
            self.stats.dropped_without_loss += 1;
            return Ok(());
        }
        let mut labels = group.sequences.iter().flat_map(|sequence| &sequence.labels);
        self.trains_stop |= labels.any(|&label| label >= 0 && stops.contains(&(label as u32)));
        if self.stops.is_empty() {
            self.stops = stops;
        }
        self.examples.push(group);
        Ok(())
    }

    fn finish(
        self,
        files: &[DataFile],
        format: Format,
        text: &TextProcessor,
        options: &LoadOptions,
    ) -> Result<Dataset> {
        let cut = match self.stats.first_cut {
            Some((file, line)) => place(&files[file as usize].path, line),
            None => "(none)".to_string(),
        };
        let Stats { longest, truncated, dropped_too_long, dropped_without_loss, .. } = self.stats;
        if self.examples.is_empty() {
            return Err(Error::input(format!(
                "no row is left to train on: of {} rows, {dropped_too_long} were longer than \
                 data.max_length = {} and dropped, {dropped_without_loss} had no token with loss \
                 within it (the first: {cut}; the longest row has {longest} tokens); raise \
                 max_length",
                dropped_too_long + dropped_without_loss,
                options.max_length,
            )));
        }
        if options.require_stop_token && !self.trains_stop {
            let names: Vec<String> = self
                .stops
                .iter()
                .filter_map(|&id| text.tokenizer.id_to_token(id))
                .map(|name| format!("`{name}`"))
                .collect();
            return Err(Error::input(format!(
                "no row trains a stop token ({}), so the model would never learn to stop: \
                 {truncated} rows are cut at data.max_length = {} before their end (the first: \
                 {cut}; the longest row has {longest} tokens); raise max_length, or split the rows",
                names.join(", "),
                options.max_length,
            )));
        }
        let warnings = self.unseen.iter().map(|(what, ((file, line), rows))| {
            let (first, s) =
                (place(&files[*file as usize].path, *line), if *rows == 1 { "" } else { "s" });
            format!("{first}: {what} ({rows} row{s})")
        });
        let warnings = warnings.collect();
        let (files, examples, stats) = (files.to_vec(), self.examples, self.stats);
        let mut set = Dataset { files, format, examples, stats, warnings };
        set.count();
        Ok(set)
    }
}

#[cfg(all(test, feature = "tokenizers"))]
mod tests {
    use super::*;
    use crate::tokenizer::builtin;
    use crate::tokenizer::testing::processor;

    fn options() -> LoadOptions {
        LoadOptions {
            format: None,
            max_length: 64,
            excess_length: ExcessLength::Truncate,
            completion_only_loss: true,
            require_stop_token: true,
        }
    }

    /// Imitates what it is shown.
    struct Imitate;

    impl Rows for Imitate {
        fn name(&self) -> &'static str {
            "imitate"
        }
        fn formats(&self) -> &'static [Format] {
            &[Format::Text, Format::PromptCompletion, Format::Messages]
        }
        fn group(&self, sample: &Sample, _: &Map<String, Value>, on: &Encoder) -> Result<Group> {
            on.encode(sample).map(Group::of)
        }
    }

    fn load(contents: &[&str], options: &LoadOptions) -> Result<Dataset> {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<DataFile> = contents
            .iter()
            .enumerate()
            .map(|(index, content)| {
                let path = dir.path().join(format!("{index}.jsonl"));
                std::fs::write(&path, content).unwrap();
                DataFile::new(path)
            })
            .collect();
        let text = processor(Some(builtin::find("chatml").unwrap().source));
        Dataset::load(&files, &text, &Imitate, options)
    }

    fn error(contents: &[&str], options: &LoadOptions) -> String {
        load(contents, options).unwrap_err().to_string()
    }

    #[test]
    fn files_become_examples_with_their_source() {
        let set =
            load(&["{\"text\": \"ab\"}\n\n{\"text\": \"c\"}\n", "[{\"text\": \"d\"}]"], &options())
                .unwrap();
        let sources: Vec<_> = set.examples.iter().map(|example| example.source).collect();
        assert_eq!(sources, [(0, 1), (0, 3), (1, 1)]);
        assert_eq!(set.format, Format::Text);
        // <s> a b </s>, <s> c </s>, <s> d </s>.
        assert_eq!((set.stats.examples, set.stats.tokens, set.stats.loss_tokens), (3, 10, 7));
        assert!(set.place(&set.examples[1]).ends_with("0.jsonl:3"));
    }

    #[test]
    fn all_rows_agree_on_the_format() {
        let message =
            error(&["{\"text\": \"a\"}\n{\"prompt\": \"p\", \"completion\": \"c\"}"], &options());
        assert!(message.contains("0.jsonl:2: the key `text`"), "{message}");
        assert!(message.contains("looks like prompt-completion"), "{message}");
        let message = error(&["{\"text\": \"a\"}", "{\"output\": \"b\"}"], &options());
        assert!(message.contains("1.jsonl:1: the key `text`"), "{message}");
        let message = error(&["{\"foo\": 1}"], &options());
        assert!(message.contains("0.jsonl:1: the keys `foo` fit no format"), "{message}");
    }

    #[test]
    fn the_first_bad_row_is_the_one_named() {
        let rows = "{\"text\": \"a\"}\n{\"text\": 1}\n{\"text\": 2}\n";
        let message = error(&[rows], &options());
        assert!(message.contains("0.jsonl:2: `text` is a number"), "{message}");
        let preference = "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}";
        assert!(error(&[preference], &options()).contains("0.jsonl:1: rows of chosen"));
    }

    #[test]
    fn long_rows_are_cut_dropped_or_refused() {
        // <s> + 2 of prompt + completion + </s>.
        let row = |completion: &str| {
            format!("{{\"prompt\": \"pq\", \"completion\": \"{completion}\"}}\n")
        };
        let rows = row("x") + &row("yyyyyyyy");
        let short = LoadOptions { max_length: 6, ..options() };
        let set = load(&[&rows], &short).unwrap();
        assert_eq!((set.stats.truncated, set.stats.longest), (1, 12));
        assert_eq!(set.examples[1].num_tokens(), 6);
        let drop = LoadOptions { excess_length: ExcessLength::Drop, ..short.clone() };
        let set = load(&[&rows], &drop).unwrap();
        assert_eq!((set.examples.len(), set.stats.dropped_too_long), (1, 1));
        let raise = LoadOptions { excess_length: ExcessLength::Raise, ..short };
        let message = error(&[&rows], &raise);
        assert!(
            message.contains("0.jsonl:2: the row has 12 tokens and data.max_length is 6"),
            "{message}"
        );
    }

    #[test]
    fn rows_without_loss_are_dropped_and_all_of_them_is_an_error() {
        let long = "{\"prompt\": \"pppppp\", \"completion\": \"x\"}\n";
        let short = "{\"prompt\": \"p\", \"completion\": \"x\"}\n";
        let options = LoadOptions { max_length: 6, ..options() };
        let set = load(&[&(long.to_string() + short)], &options).unwrap();
        assert_eq!((set.examples.len(), set.stats.dropped_without_loss), (1, 1));
        let message = error(&[long], &options);
        assert!(message.contains("no row is left") && message.contains("the first: "), "{message}");
        assert!(message.contains("0.jsonl:1") && message.contains("has 9 tokens"), "{message}");
        let tiny = LoadOptions { max_length: 1, ..options };
        assert!(error(&[short], &tiny).contains("max_length = 1 leaves nothing to predict"));
    }

    #[test]
    fn a_set_that_never_trains_a_stop_token_is_an_error() {
        let row = r#"{"messages": [{"role": "user", "content": "u"},
                     {"role": "assistant", "content": "aaaaaaaaaa"}]}"#
            .replace('\n', " ");
        let cut = LoadOptions { max_length: 24, ..options() };
        let message = error(&[&row], &cut);
        assert!(message.contains("no row trains a stop token (`<|im_end|>`"), "{message}");
        assert!(message.contains("0.jsonl:1"), "{message}");
        assert!(load(&[&row], &LoadOptions { require_stop_token: false, ..cut }).is_ok());
        // Padding equals end of sequence here, and the end is learned all the same.
        let text = processor(None);
        assert_eq!(text.tokenizer.pad_token_id(), text.tokenizer.eos_token_id());
        let set = load(&["{\"text\": \"a\"}"], &options()).unwrap();
        let last = *set.examples[0].sequences[0].labels.last().unwrap();
        assert_eq!(Some(last as u32), text.tokenizer.eos_token_id());
    }

    #[test]
    fn a_template_that_refuses_a_row_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.jsonl");
        std::fs::write(&path, r#"{"messages": [{"role": "assistant", "content": "a"}]}"#).unwrap();
        let files = [DataFile::new(&path)];
        let text = processor(Some("{{ raise_exception('user first') }}"));
        let message = Dataset::load(&files, &text, &Imitate, &options()).unwrap_err().to_string();
        assert!(
            message.ends_with(
                "d.jsonl:1: chat template test: it refuses the conversation: user first"
            ),
            "{message}"
        );
        let message =
            Dataset::load(&files, &processor(None), &Imitate, &options()).unwrap_err().to_string();
        assert!(
            message.contains("no chat template; set data.chat_template to one of"),
            "{message}"
        );
    }

    #[test]
    fn weights_are_checked() {
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let files = [DataFile { path: "d.jsonl".into(), weight }];
            let error = Dataset::load(&files, &processor(None), &Imitate, &options()).unwrap_err();
            assert!(error.to_string().contains("the weight"), "{error}");
        }
    }

    #[test]
    fn held_out_examples_are_a_seeded_share() {
        let rows: String = (0..20).map(|i| format!("{{\"text\": \"row {i}\"}}\n")).collect();
        let set = load(&[&rows], &options()).unwrap();
        let (train, eval) = set.clone().split(0.25, 1).unwrap();
        assert_eq!((train.examples.len(), eval.examples.len()), (15, 5));
        assert_eq!((train.stats.examples, eval.stats.examples), (15, 5));
        let mut lines: Vec<u32> =
            train.examples.iter().chain(&eval.examples).map(|example| example.source.1).collect();
        lines.sort_unstable();
        assert_eq!(lines, (1..=20).collect::<Vec<u32>>());
        assert_eq!(set.clone().split(0.25, 1).unwrap().1, eval);
        assert_ne!(set.clone().split(0.25, 2).unwrap().1, eval);
        assert_ne!(train.fingerprint(), eval.fingerprint());
        assert_eq!(set.fingerprint(), set.clone().fingerprint());
        for share in [0.0, 1.0, -0.5, f64::NAN] {
            assert!(set.clone().split(share, 1).is_err());
        }
    }

    #[test]
    fn ids_outside_the_models_vocabulary_are_named() {
        let text = processor(None);
        let set = load(&["{\"text\": \"th\"}"], &options()).unwrap();
        let size = text.tokenizer.vocab_size();
        assert!(set.check_vocabulary(size, text.tokenizer.as_ref()).is_ok());
        let message =
            set.check_vocabulary(size - 1, text.tokenizer.as_ref()).unwrap_err().to_string();
        assert!(message.contains("0.jsonl:1: token 262 (\"th\")"), "{message}");
    }
}
