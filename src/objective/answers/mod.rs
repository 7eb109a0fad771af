//! What the objectives on whole answers share: pairs as groups, log-probabilities of answers under the
//! trained policy and under the one it is compared with, metrics under TRL's names, and advice.

mod advice;
mod logprobs;
mod metrics;

pub use advice::{Usual, advise, advise_at, review};
pub use logprobs::{Answers, Selection, policy_logprobs, reference_logprobs};
pub use metrics::{Compared, PairMetrics};

use super::ReferenceOptions;
use crate::config::key::{Bases, Node, Read, quoted};
use crate::data::{Batch, Encoder, Format, Group, NO_LOSS, Sample, Sequence};
use crate::error::{Error, Result};

/// What pairs are read from.
pub const FORMATS: &[Format] = &[Format::Preference];

/// The group of a pair: the chosen answer and the rejected one, each after the prompt.
///
/// # Errors
/// As [`Encoder::answer`]; answers that are equal as tokens.
pub fn pair(sample: &Sample, encoder: &Encoder) -> Result<Group> {
    let Sample::Preference(pair) = sample else {
        return Err(Error::internal("pair", "a row of another format"));
    };
    let read = |sample: &Sample, what: &str| {
        encoder.answer(sample).map_err(|error| match error {
            Error::Input(why) => Error::Input(format!("the {what} answer: {why}")),
            other => other,
        })
    };
    let sequences = vec![read(&pair.chosen, "chosen")?, read(&pair.rejected, "rejected")?];
    if sequences[0].input_ids == sequences[1].input_ids {
        return Err(Error::input(
            "the chosen and the rejected answer are the same tokens: there is nothing to prefer; \
             remove the row",
        ));
    }
    Ok(Group::sharing(sequences))
}

/// The largest pair there may be: two answers that fill `max_length`.
pub fn largest_pair(max_length: usize) -> Group {
    let labels: Vec<i32> = (0..max_length).map(|t| if t == 0 { NO_LOSS } else { 0 }).collect();
    let sequence = Sequence { input_ids: vec![0; max_length], labels, ..Sequence::default() };
    Group { sequences: vec![sequence.clone(), sequence], ..Group::default() }
}

/// log(1 / (1 + e^-x)).
pub fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// 1 / (1 + e^-x).
pub fn sigmoid(x: f64) -> f64 {
    log_sigmoid(x).exp()
}

/// The learning rate where none is given: TRL's without LoRA, ten times that with it.
pub fn learning_rate(lora: bool) -> f64 {
    if lora { 1e-5 } else { 1e-6 }
}

/// The groups of a step: its pairs, or its rows.
pub fn pairs(step: &[Batch]) -> f64 {
    step.iter().map(|batch| batch.groups.len()).sum::<usize>() as f64
}

/// Tokens of the chosen answers of a step.
pub fn chosen_tokens(step: &[Batch]) -> f64 {
    let groups = step.iter().flat_map(|batch| &batch.groups);
    f64::from(groups.map(|group| group.losses[0][1] - group.losses[0][0]).sum::<u32>())
}

/// Reads the key `reference`: "base", or a directory.
///
/// # Errors
/// What is wrong with the value.
pub fn set_reference(options: &mut ReferenceOptions, node: &Node, bases: &Bases) -> Read<()> {
    options.directory = match node.text()? {
        "base" => None,
        _ => Some(bases.path(node)?),
    };
    Ok(())
}

/// The value of the key `reference`.
pub fn show_reference(options: &ReferenceOptions) -> Option<String> {
    let directory = options.directory.as_ref();
    Some(quoted(&directory.map_or("base".into(), |path| path.to_string_lossy())))
}
