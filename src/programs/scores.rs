//! `evaluate --scores`: the scores that a reward model gives to the texts of a file, one by one.

use super::open::OpenModel;
use crate::data::{self, DataFile, Dataset, Encoder, Format, Group, Plan, Rows, Sample};
use crate::error::{Error, Result};
use crate::files;
use crate::nn::{AdapterChoice, Context};
use crate::objective::{Objective, Pass, Reference};
use crate::ops::{Implementation, StepState};
use crate::tape::Tape;
use crate::tokenizer::TextProcessor;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::rc::Rc;

/// Texts of any form, whole: one of a row, or the two of a pair.
struct Texts;

impl Rows for Texts {
    fn name(&self) -> &'static str {
        "scores"
    }

    fn formats(&self) -> &'static [Format] {
        use Format::{Alpaca, Messages, Preference, PromptCompletion, Sharegpt, Text};
        &[Text, Messages, PromptCompletion, Preference, Alpaca, Sharegpt]
    }

    fn cuts(&self) -> bool {
        false
    }

    fn group(&self, sample: &Sample, _: &Map<String, Value>, encoder: &Encoder) -> Result<Group> {
        match sample {
            Sample::Preference(pair) => {
                let sequences =
                    vec![encoder.answer(&pair.chosen)?, encoder.answer(&pair.rejected)?];
                Ok(Group { sequences, ..Group::default() })
            }
            one => encoder.encode(one).map(Group::of),
        }
    }
}

/// The rows of `file`, to be scored.
///
/// # Errors
/// As [`Dataset::load`].
pub fn rows(file: &Path, text: &TextProcessor, options: &data::LoadOptions) -> Result<Dataset> {
    Dataset::load(&[DataFile::new(file)], text, &Texts, options)
}

/// Writes a line of JSON for each row: its `line` in the data, and its `score`, or those of `chosen` and
/// `rejected`.
///
/// # Errors
/// What the ops report, a file that cannot be written.
pub fn write(
    path: &Path,
    objective: &dyn Objective,
    opened: &OpenModel,
    data: &Dataset,
    batch_size: usize,
) -> Result<()> {
    let model = &opened.model;
    let device = model.embed_tokens.device();
    let step_state = StepState::new(device)?;
    let plan = Plan::eval(data, batch_size);
    let mut scores = Vec::new();
    for index in 0..plan.num_batches() {
        let batch = plan.batch(data, index);
        let flash = Implementation::Flash;
        let context = Context::of_batch(device, &batch, flash, None)?;
        let found = objective.scores(&Pass {
            model,
            batch: &batch,
            step: std::slice::from_ref(&batch),
            step_state: &step_state,
            context: Rc::new(Context { adapter: AdapterChoice::default(), ..context }),
            frozen: &Reference::default(),
            tape: Tape::inference(),
            gradient: None,
        })?;
        scores.extend(found.ok_or_else(|| {
            Error::input(
                "--scores is for reward models, and this one gives no scores: give the --adapter or the \
                 --model that was trained as one",
            )
        })?);
    }
    let mut scores = scores.into_iter();
    let mut text = String::new();
    for example in &data.examples {
        let line = example.source.1;
        let mut next = || scores.next();
        let row = match example.sequences.len() {
            2 => json!({"line": line, "chosen": next(), "rejected": next()}),
            _ => json!({"line": line, "score": next()}),
        };
        text += &format!("{row}\n");
    }
    files::write(path, text)
}
