//! Checks the gradients of a very model on a device.

use serde_json::{Map, Value, json};

use super::comparisons::{Row, table};
use super::open::now;
use super::train::print;
use crate::cli::VerifyOptions;
use crate::cli::say;
use crate::config::DtypeChoice;
use crate::data::{DataFile, Dataset, ExcessLength, LoadOptions, Sequence};
use crate::error::{Error, Result};
use crate::gradients::{Found, RANK, SCALE, Subject, TOKENS, random_rows, window};
use crate::model::{self, ModelConfig, Weights, resolve};
use crate::objective::Chosen;
use crate::tokenizer::TextProcessor;
use std::path::Path;

/// Rows that are looked at.
const ROWS: usize = 3;

/// The script that repeats the check in Python.
const SCRIPT: &str = include_str!("verify_model.py");

/// Runs `verify --model`.
///
/// # Errors
/// What is wrong with the input or the device; `Error::Run` that names the gradients that are wrong.
pub fn run(options: &VerifyOptions, model: &str) -> Result<()> {
    let say = |text: &str| {
        if !options.output.quiet {
            say!("{text}");
        }
    };
    let source = resolve(model)?;
    let mut config = ModelConfig::open(&source.path)?;
    let mut weights = Weights::open(&source.path)?;
    for warning in model::check(&mut weights, &mut config)? {
        say(&format!("{}: {warning}", source.path.display()));
    }
    let sequences = match &options.data {
        Some(data) => rows(data, &source.path, &config)?,
        None => random_rows(config.spec.vocab_size),
    };
    let device = options.device.device.open(&|message| say!("{message}"))?;
    let description = device.capabilities().description.clone();
    let dtype = options.dtype.unwrap_or(DtypeChoice::Auto);
    let subject = Subject {
        config: &config,
        weights: &weights,
        dtype: dtype.dtype_on(device.capabilities().fast_bf16),
        nf4: options.load_in_4bit.then_some(true),
        sequences: &sequences,
    };
    let blocks = subject.blocks().iter().map(usize::to_string).collect::<Vec<_>>().join(" and ");
    let tokens: usize = sequences.iter().map(|sequence| sequence.input_ids.len()).sum();
    let dtype = subject.dtype.name();
    say(&format!(
        "device: {description}\n{}: embedding, block {blocks} with LoRA, head; {dtype}, {tokens} \
         tokens, against the definition in f64",
        source.base_id
    ));
    let definition = subject.define()?;
    let compared = subject.verify(&device, &definition)?;
    let rows: Vec<Row> = compared.iter().map(Row::of_model).collect();
    if options.output.json {
        print(&rows.iter().map(|row| format!("{}\n", row.to_json())).collect::<String>())?;
    } else if options.python {
        say(&table(&rows));
        print(&script(&subject, &source.path, &definition)?)?;
    } else if !options.output.quiet {
        print(&table(&rows))?;
    }
    let wrong: Vec<&str> =
        compared.iter().filter(|found| !found.passed()).map(|found| &*found.tensor).collect();
    if !wrong.is_empty() {
        return Err(Error::run(format!(
            "{description}: {} of {} tensors of {} are wrong, the first {}; do not train this model \
             on this device: `verify` without --model finds the kernel, and --device cpu trains",
            wrong.len(),
            compared.len(),
            source.base_id,
            wrong[0]
        )));
    }
    say(&format!("{} gradients and the loss: all agree", compared.len().saturating_sub(1)));
    Ok(())
}

/// Windows of the first rows of a file.
fn rows(data: &Path, model: &Path, config: &ModelConfig) -> Result<Vec<Sequence>> {
    let text = TextProcessor::load(model, None, model, now())?;
    let options = LoadOptions {
        format: None,
        max_length: config.context(),
        excess_length: ExcessLength::Truncate,
        completion_only_loss: true,
        require_stop_token: false,
    };
    let objective = Chosen::default();
    let data = Dataset::load(&[DataFile::new(data)], &text, &*objective, &options)?;
    data.check_vocabulary(config.spec.vocab_size, text.tokenizer.as_ref())?;
    let sequences = data.examples.iter().flat_map(|example| &example.sequences);
    Ok(sequences.take(ROWS).map(|sequence| window(sequence, TOKENS)).collect())
}

/// The script with what it needs to know.
fn script(subject: &Subject, model: &Path, definition: &Found) -> Result<String> {
    let path = std::path::absolute(model).map_err(|error| Error::io(model.display(), error))?;
    let rows: Vec<Value> = subject
        .sequences
        .iter()
        .map(|Sequence { input_ids, labels, .. }| json!({ "input_ids": input_ids, "labels": labels }))
        .collect();
    let expected: Map<String, Value> =
        definition.summary()?.into_iter().map(|(name, numbers)| (name, json!(numbers))).collect();
    let check = json!({
        "model": path,
        "dtype": subject.dtype.name(),
        "layers": subject.blocks(),
        "rank": RANK,
        "scale": SCALE,
        "rows": rows,
        "expected": expected,
    });
    Ok(SCRIPT.replace("@CHECK@", &check.to_string()))
}
