//! Reward models (Ouyang et al., 2022, arXiv:2203.02155): a score for a whole text, learned from pairs of
//! which one is better, by the Bradley-Terry model of choices.
//!
//! ```text
//! r    = hidden state of the last token · score.weight
//! loss = mean over pairs of -log sigmoid(r_chosen - r_rejected - margin)
//!        + center_rewards_coefficient (r_chosen + r_rejected)²
//! ```
//!
//! The head is a row of f32 in the place of the output layer; with LoRA it is trained beside the adapter.

use super::answers::{self, Usual, log_sigmoid, sigmoid};
use super::{Best, Measures, Objective, Pass, Sum};
use crate::config::TrainArgs;
use crate::config::key::{Key, Keys, plain};
use crate::data::{Batch, Encoder, Format, Group, GroupSpan, Rows, Sample};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::{self, RowSelection};
use crate::tensor::Tensor;
use serde_json::{Map, Value};

/// The number of a group by which the chosen answer should be better.
const MARGIN: &str = "margin";

/// Reward modelling.
#[derive(Clone, Debug, Default)]
pub struct Reward {
    center_rewards_coefficient: Option<f64>,
}

impl Keys for Reward {
    const KEYS: &'static [Key<Self>] = &[Key {
        section: "reward",
        name: "center_rewards_coefficient",
        aliases: &[],
        doc: "how strongly the mean of all rewards is drawn to 0, such as 0.01",
        set: |reward, node, _| {
            node.non_negative().map(|share| reward.center_rewards_coefficient = Some(share))
        },
        show: |reward| reward.center_rewards_coefficient.and_then(plain),
    }];
}

impl Rows for Reward {
    fn name(&self) -> &'static str {
        "reward"
    }

    fn formats(&self) -> &'static [Format] {
        answers::FORMATS
    }

    /// A text that is cut has another last token than the whole.
    fn cuts(&self) -> bool {
        false
    }

    fn group(&self, sample: &Sample, row: &Map<String, Value>, encoder: &Encoder) -> Result<Group> {
        let mut group = answers::pair(sample, encoder)?;
        if let Some(margin) = row.get(MARGIN).filter(|margin| !margin.is_null()) {
            let wrong = || Error::input(format!("`margin` is {margin}, expected a number"));
            group.numbers.push((MARGIN, margin.as_f64().ok_or_else(wrong)?));
        }
        Ok(group)
    }
}

impl Objective for Reward {
    fn doc(&self) -> &'static str {
        "a reward model: a score that tells chosen answers from rejected ones"
    }

    fn unit(&self) -> &'static str {
        "pairs"
    }

    fn divisor(&self, step: &[Batch]) -> f64 {
        answers::pairs(step)
    }

    fn accumulate(&self, pass: &Pass) -> Result<Measures> {
        let tensor = last_scores(pass)?;
        let scores = tensor.read_f32()?;
        let mut derivative = vec![0.0; scores.len()];
        let (mut loss, mut right, mut margins) = (0.0, 0.0, 0.0);
        for (number, group) in pass.batch.groups.iter().enumerate() {
            let [chosen, rejected] = [0, 1].map(|side| f64::from(scores[2 * number + side]));
            let h = chosen - rejected - group.number(MARGIN).unwrap_or(0.0);
            let center = self.center_rewards_coefficient.unwrap_or(0.0);
            let sum = chosen + rejected;
            loss += center * sum * sum - log_sigmoid(h);
            derivative[2 * number] = (2.0 * center * sum - sigmoid(-h)) as f32;
            derivative[2 * number + 1] = (2.0 * center * sum + sigmoid(-h)) as f32;
            right += f64::from(u8::from(chosen > rejected));
            margins += chosen - rejected;
        }
        pass.backward(&[(&tensor, &derivative)])?;
        let pairs = pass.batch.groups.len() as f64;
        let sum = scores.iter().map(|&score| f64::from(score)).sum();
        let least = scores.iter().copied().fold(f32::INFINITY, f32::min);
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let lengths = pass.batch.groups.iter().zip(scores.chunks(2)).map(|(group, scores)| {
            let [chosen, rejected] = [0, 1].map(|side| length(group.sequences[side]));
            [chosen - rejected, f64::from(scores[0] - scores[1])]
        });
        Ok(Measures::new(Sum::Known(loss))
            .mean("accuracy", Sum::Known(right), pairs)
            .mean("margin", Sum::Known(margins), pairs)
            .mean("mean_reward", Sum::Known(sum), 2.0 * pairs)
            .mean("min_reward", Sum::Known(f64::from(least)), 1.0)
            .mean("max_reward", Sum::Known(f64::from(most)), 1.0)
            .correlation("rewards/length_correlation", lengths))
    }

    fn scores(&self, pass: &Pass) -> Result<Option<Vec<f32>>> {
        last_scores(pass)?.read_f32().map(Some)
    }

    fn has_score(&self) -> bool {
        true
    }

    fn best(&self) -> Best {
        Best { metric: "eval_accuracy", greater_is_better: true }
    }

    fn drops_out(&self) -> bool {
        false
    }

    /// TRL's.
    fn learning_rate(&self, _lora: bool) -> f64 {
        1e-4
    }

    fn advise(&self, train: &TrainArgs, lora: bool) -> Vec<String> {
        let range = if lora { [1e-5, 5e-4] } else { [1e-6, 1e-4] };
        let center = self.center_rewards_coefficient.unwrap_or(0.01);
        let usual = Usual { key: "reward.center_rewards_coefficient", range: [0.0, 0.1] };
        answers::advise_at(&[(usual, center)], train.learning_rate, range)
    }

    fn review(&self, history: &[&Map<String, Value>]) -> Vec<String> {
        answers::review(history)
    }

    fn largest_group(&self, max_length: usize) -> Group {
        answers::largest_pair(max_length)
    }
}

fn length([start, end]: [u32; 2]) -> f64 {
    f64::from(end - start)
}

/// The scores of all sequences of the batch, f32 [sequences, 1], on the tape.
fn last_scores(pass: &Pass) -> Result<Tensor> {
    let last_of = |group: &GroupSpan| -> Vec<u32> {
        (0..group.sequences.len()).map(|sequence| group.last(sequence)).collect()
    };
    let last: Vec<u32> = pass.batch.groups.iter().flat_map(last_of).collect();
    let hidden = pass.hidden()?;
    let selection = RowSelection::new(hidden.device(), hidden.rows(), &last)?;
    let last = ops::gather_rows(&pass.tape, &hidden, &selection)?;
    let last = ops::cast(&pass.tape, &last, DType::F32)?;
    ops::matmul(&pass.tape, &last, &pass.model.lm_head)
}
