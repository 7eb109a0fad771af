//! Collated rows as the loss sees them, for people and for programs.

mod columns;

use serde_json::{Value, json};

use super::{Batch, Dataset, Format, Mask, NO_LOSS, Plan};
use crate::Result;
use crate::tokenizer::{StreamDecoder, Tokenizer};
use columns::{Marks, Stretch, side_by_side};
use std::ops::Range;

/// One collated row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PreviewRow {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// Unshifted labels, -100 where there is no loss.
    pub labels: Vec<i32>,
    /// Positions, from 0 in every example.
    pub position_ids: Vec<u32>,
    /// Which example of the row each token belongs to, from 0.
    pub sequence_ids: Vec<u32>,
    /// How it was told which tokens of each example carry loss.
    pub masks: Vec<Mask>,
}

/// The first `count` rows of a plan, fewer if it has fewer.
pub fn rows(plan: &Plan, data: &Dataset, count: usize) -> Vec<PreviewRow> {
    let rows = (0..plan.num_batches()).flat_map(|batch| {
        let batch = plan.batch(data, batch);
        (0..batch.rows.len()).map(|row| PreviewRow::of(&batch, row)).collect::<Vec<_>>()
    });
    let with_masks = rows.take(count).enumerate().map(|(index, row)| {
        let examples = plan.examples_of_row(index).iter().map(|&at| &data.examples[at as usize]);
        let sequences = examples.flat_map(|example| &example.sequences);
        PreviewRow { masks: sequences.map(|sequence| sequence.mask).collect(), ..row }
    });
    with_masks.collect()
}

impl PreviewRow {
    /// Row number `row` of a batch.
    pub fn of(batch: &Batch, row: usize) -> Self {
        let [start, end] = batch.rows[row].map(|t| t as usize);
        let tokens = start..end;
        let first = batch.ordinals.get(start).copied().unwrap_or(0);
        Self {
            input_ids: batch.input_ids[tokens.clone()].to_vec(),
            labels: tokens.clone().map(|t| batch.label(t)).collect(),
            position_ids: batch.positions[tokens.clone()].to_vec(),
            sequence_ids: batch.ordinals[tokens].iter().map(|ordinal| ordinal - first).collect(),
            masks: Vec::new(),
        }
    }

    /// The row as one JSON object, keys as Transformers names them; `masks` says of each of its sequences
    /// how the tokens that carry loss were told apart.
    pub fn to_json(&self) -> Value {
        json!({
            "input_ids": self.input_ids,
            "labels": self.labels,
            "position_ids": self.position_ids,
            "sequence_ids": self.sequence_ids,
            "masks": self.masks.iter().map(|mask| mask.name()).collect::<Vec<_>>(),
        })
    }

    /// Tokens that carry loss.
    pub fn num_loss_tokens(&self) -> usize {
        self.labels.iter().filter(|&&label| label != NO_LOSS).count()
    }

    /// The row as text with special tokens visible: trained tokens in colour and the rest dimmed,
    /// or, without `colour`, trained stretches between ⟦ and ⟧.
    pub fn to_text(&self, tokenizer: &dyn Tokenizer, colour: bool) -> Result<String> {
        let marks = Marks::new(colour);
        let mut out = String::new();
        for sequence in self.sequences() {
            if sequence.start > 0 {
                out += "\n--- next example of the row ---\n";
            }
            let stretches = self.stretches(tokenizer, sequence)?;
            out.extend(stretches.iter().map(|stretch| marks.mark(stretch)));
        }
        Ok(out)
    }

    /// The pairs of the row as text, chosen and rejected answers side by side.
    fn to_pairs(&self, tokenizer: &dyn Tokenizer, colour: bool) -> Result<String> {
        let marks = Marks::new(colour);
        let mut pairs = Vec::new();
        for pair in self.sequences().chunks(2) {
            let [chosen, rejected] = pair else { continue };
            let chosen = self.stretches(tokenizer, chosen.clone())?;
            let rejected = self.stretches(tokenizer, rejected.clone())?;
            pairs.push(side_by_side(["chosen", "rejected"], [&chosen, &rejected], &marks));
        }
        Ok(pairs.join("--- next pair of the row ---\n"))
    }

    /// The text of some tokens, cut where it begins or ends to carry loss.
    fn stretches(&self, tokenizer: &dyn Tokenizer, tokens: Range<usize>) -> Result<Vec<Stretch>> {
        let mut decoder = StreamDecoder::new(tokenizer, false);
        let mut found: Vec<Stretch> = Vec::new();
        for t in tokens {
            let carries = self.labels[t] != NO_LOSS;
            let text = decoder.push(self.input_ids[t])?;
            match found.last_mut() {
                _ if text.is_empty() => {}
                Some((last, so_far)) if *last == carries => *so_far += &text,
                _ => found.push((carries, text)),
            }
        }
        let rest = decoder.finish()?;
        match found.last_mut() {
            Some((_, text)) => *text += &rest,
            None => found.push((false, rest)),
        }
        Ok(found)
    }

    /// Token ranges of the examples in this row.
    fn sequences(&self) -> Vec<Range<usize>> {
        let length = self.sequence_ids.len();
        let mut starts: Vec<usize> = (0..length)
            .filter(|&t| t == 0 || self.sequence_ids[t] != self.sequence_ids[t - 1])
            .collect();
        starts.push(length);
        starts.windows(2).map(|pair| pair[0]..pair[1]).collect()
    }
}

/// The terminal form of some rows, with what each holds and what loading cut or left out.
pub fn to_text(
    rows: &[PreviewRow],
    data: &Dataset,
    tokenizer: &dyn Tokenizer,
    colour: bool,
) -> Result<String> {
    let mut out = String::new();
    for (index, row) in rows.iter().enumerate() {
        let (tokens, loss) = (row.input_ids.len(), row.num_loss_tokens());
        let mut masks: Vec<&str> = row.masks.iter().map(|mask| mask.name()).collect();
        masks.dedup();
        let masks = masks.join(", ");
        let sequences = row.sequences().len();
        let (held, text) = match data.format {
            Format::Preference => (plural(sequences / 2, "pair"), row.to_pairs(tokenizer, colour)?),
            _ => (plural(sequences, "example"), row.to_text(tokenizer, colour)? + "\n"),
        };
        let share = 100.0 * loss as f64 / tokens.max(1) as f64;
        out += &format!(
            "row {}: {held}, {tokens} tokens, {loss} with loss ({share:.1}%; by {masks})\n{text}\n",
            index + 1,
        );
    }
    let stats = &data.stats;
    out += &format!(
        "all: {}, {} tokens, {} with loss ({:.1}%); {} cut at max_length, {} dropped as too long, \
         {} dropped without loss\n",
        plural(stats.examples, "example"),
        stats.tokens,
        stats.loss_tokens,
        100.0 * stats.loss_tokens as f64 / stats.tokens.max(1) as f64,
        stats.truncated,
        stats.dropped_too_long,
        stats.dropped_without_loss,
    );
    Ok(out)
}

fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(all(test, feature = "tokenizers"))]
mod tests {
    use super::*;
    use crate::data::{BatchOptions, DataFile, Format, Group, Sequence};
    use crate::tokenizer::testing::tokenizer;

    /// Two examples, `<s>é</s>` with é trained in both its bytes, and `<s>b</s>` untrained.
    fn dataset() -> Dataset {
        let tokenizer = tokenizer();
        let example = |text: &str, trained: bool| {
            let input_ids = tokenizer.encode(&format!("{text}</s>"), true).unwrap();
            let labels = input_ids
                .iter()
                .enumerate()
                .map(|(t, &id)| if trained && t > 0 { id as i32 } else { NO_LOSS })
                .collect();
            Group {
                source: (0, 1),
                ..Group::of(Sequence { input_ids, labels, ..Sequence::default() })
            }
        };
        let examples = vec![example("é", true), example("b", false)];
        Dataset::new(vec![DataFile::new("d.jsonl")], Format::Text, examples)
    }

    fn packed(data: &Dataset) -> Vec<PreviewRow> {
        let options = BatchOptions {
            per_device_train_batch_size: 1,
            gradient_accumulation_steps: 1,
            packing: true,
            max_length: 16,
            shuffle: false,
            seed: 1,
        };
        rows(&Plan::epoch(data, &options, 0), data, 5)
    }

    #[test]
    fn the_json_form_has_unshifted_labels_and_restarting_positions() {
        let data = dataset();
        let rows = packed(&data);
        assert_eq!(rows.len(), 1);
        let json = rows[0].to_json();
        assert_eq!(json["position_ids"], json!([0, 1, 2, 3, 0, 1, 2]));
        assert_eq!(json["sequence_ids"], json!([0, 0, 0, 0, 1, 1, 1]));
        let labels: Vec<i32> =
            data.examples.iter().flat_map(|e| e.sequences[0].labels.clone()).collect();
        assert_eq!(json["labels"], json!(labels));
        let keys: Vec<_> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["input_ids", "labels", "position_ids", "sequence_ids", "masks"]);
    }

    #[test]
    fn the_terminal_form_marks_what_is_trained() {
        let data = dataset();
        let rows = packed(&data);
        let tokenizer = tokenizer();
        assert_eq!(
            rows[0].to_text(&tokenizer, false).unwrap(),
            "<s>⟦é</s>⟧\n--- next example of the row ---\n<s>b</s>"
        );
        let coloured = rows[0].to_text(&tokenizer, true).unwrap();
        assert!(coloured.starts_with("\x1b[2m<s>\x1b[0m\x1b[1;32mé</s>\x1b[0m"), "{coloured:?}");
        let text = to_text(&rows, &data, &tokenizer, false).unwrap();
        assert!(
            text.starts_with("row 1: 2 examples, 7 tokens, 3 with loss (42.9%; by every token)\n"),
            "{text}"
        );
        assert!(text.contains("all: 2 examples, 7 tokens, 3 with loss (42.9%); 0 cut"), "{text}");
    }
}
