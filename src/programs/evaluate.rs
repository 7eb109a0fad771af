//! Measures loss and perplexity.

use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::open::{Found, OpenModel};
use crate::adapter::{attach, detach};
use crate::cli::EvaluateOptions;
use crate::config::{Choice, DataConfig, TrainConfig};
use crate::data::{Batch, DataFile, Dataset, ExcessLength, LoadOptions, Plan};
use crate::error::{Error, Result};
use crate::evaluate::{Evaluation, evaluate};
use crate::model::ModelConfig;
use crate::model::llama::Model;
use crate::ops::Implementation;
use crate::train::prepare::format_of;

/// The longest example where the command line does not say, as in training.
const MAX_LENGTH: usize = 1024;

/// Examples in a batch, as in training.
const BATCH_SIZE: usize = 8;

/// Runs `evaluate`.
///
/// # Errors
/// What is wrong with the input, or with the run.
pub fn run(options: EvaluateOptions) -> Result<()> {
    let say = |message: &str| {
        if !options.output.quiet {
            // That nobody reads it is no reason to stop.
            let _ = writeln!(io::stderr(), "{message}");
        }
    };
    let adapter = options.model.single_adapter()?;
    let found = Found::new(&options.model, &say)?;
    let trained = adapter.map(|adapter| trained_data(&adapter.path)).transpose()?.flatten();
    let trained = trained.unwrap_or_default();
    let max_length = max_length(options.max_length, trained.max_length, &found.config)?;
    let files = [DataFile::new(&options.data)];
    let text = found.text();
    let load_options = LoadOptions {
        format: format_of(options.format)?,
        max_length,
        excess_length: ExcessLength::from_name(trained.excess_length_strategy.name())?,
        completion_only_loss: trained.completion_only_loss,
        require_stop_token: false,
    };
    let data = Dataset::load(&files, text, &load_options)?;
    data.check_vocabulary(found.config.vocab_size, text.tokenizer.as_ref())?;
    let stats = &data.stats;
    say(&format!("{} examples, {} tokens with loss", stats.examples, stats.loss_tokens));
    if stats.truncated + stats.dropped_too_long + stats.dropped_without_loss > 0 {
        say(&format!(
            "{} examples were cut at {max_length} tokens, {} dropped as longer, {} dropped without \
             loss",
            stats.truncated, stats.dropped_too_long, stats.dropped_without_loss
        ));
    }
    let mut opened = found.load(&options.model, options.device.device, max_length, &say)?;
    let measured = measure(&mut opened, &data)?;
    let shown = if options.output.json { to_json(&measured).to_string() } else { table(&measured) };
    match writeln!(io::stdout(), "{shown}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::run(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// What the run that trained an adapter was told of its data; an adapter from elsewhere says
/// nothing.
fn trained_data(adapter: &Path) -> Result<Option<DataConfig>> {
    let path = adapter.join("config.toml");
    match path.is_file() {
        true => Ok(Some(TrainConfig::load(&path, &[])?.data)),
        false => Ok(None),
    }
}

/// What one pass over the data gives.
struct Measured {
    /// Of the model as it is used: with its adapter, if there is one.
    used: Evaluation,
    /// Of the model without the adapter.
    base: Option<Evaluation>,
}

/// One pass: every batch without the adapter, then with it.
fn measure(opened: &mut OpenModel, data: &Dataset) -> Result<Measured> {
    let plan = Plan::eval(data, BATCH_SIZE);
    let adapter = opened.adapters.first();
    let model = &mut opened.model;
    let mut used = Evaluation::default();
    let mut base = adapter.map(|_| Evaluation::default());
    for index in 0..plan.num_batches() {
        let batch = plan.batch(data, index);
        if let (Some(base), Some(adapter)) = (&mut base, adapter) {
            detach(model)?;
            add(base, model, &batch)?;
            attach(model, &adapter.adapter)?;
        }
        add(&mut used, model, &batch)?;
    }
    match used.loss().is_finite() && base.is_none_or(|base| base.loss().is_finite()) {
        true => Ok(Measured { used, base }),
        false => Err(Error::run(
            "the loss is not finite: the model's weights are broken, or overflow in this dtype; \
             try --dtype float32",
        )),
    }
}

fn add(sum: &mut Evaluation, model: &Model, batch: &Batch) -> Result<()> {
    let found = evaluate(model, Implementation::Flash, std::iter::once(batch.clone()))?;
    sum.loss_sum += found.loss_sum;
    sum.tokens += found.tokens;
    Ok(())
}

/// The longest example: what the command line says, within the model's context; else as the adapter
/// was trained.
fn max_length(asked: Option<u64>, trained: Option<usize>, config: &ModelConfig) -> Result<usize> {
    let context = config.max_position_embeddings;
    match asked.map(|n| usize::try_from(n).unwrap_or(usize::MAX)) {
        None => Ok(trained.unwrap_or(MAX_LENGTH).min(context)),
        Some(n) if n <= context => Ok(n),
        Some(n) => Err(Error::input(format!(
            "--max-length {n} is longer than the model's context of {context} tokens"
        ))),
    }
}

fn to_json(measured: &Measured) -> Value {
    let Measured { used, base } = measured;
    let mut object = json!({
        "loss": used.loss(), "perplexity": used.perplexity(), "tokens": used.tokens,
    });
    if let Some(base) = base {
        object["base_loss"] = base.loss().into();
        object["base_perplexity"] = base.perplexity().into();
    }
    object
}

fn table(measured: &Measured) -> String {
    let row = |name: &str, of: &Evaluation| {
        format!("{name:<12}{:>10.4}{:>14.4}\n", of.loss(), of.perplexity())
    };
    let Measured { used, base } = measured;
    let mut text = format!("{:<12}{:>10}{:>14}\n", "", "loss", "perplexity");
    match base {
        None => text += &row("model", used),
        Some(base) => {
            text += &row("base", base);
            text += &row("tuned", used);
            let (loss, perplexity) =
                (used.loss() - base.loss(), used.perplexity() - base.perplexity());
            text += &format!("{:<12}{loss:>+10.4}{perplexity:>+14.4}\n", "difference");
        }
    }
    text + &format!("over {} tokens that carry loss", used.tokens)
}
