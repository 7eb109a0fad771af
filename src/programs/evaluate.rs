//! Measures loss and perplexity.

use std::io::{self, ErrorKind, Write};

use serde_json::{Map, Value};

use super::open::{Found, OpenModel};
use super::scores;
use crate::adapter::attach;
use crate::cli::EvaluateOptions;
use crate::config::TrainConfig;
use crate::data::{self, DataFile, Dataset, Plan};
use crate::error::{Error, Result};
use crate::evaluate::Evaluation;
use crate::model::ModelConfig;
use crate::model::load::LoadOptions;
use crate::model::transformer::Model;
use crate::nn::AdapterChoice;
use crate::objective::{self, Chosen, Objective, Reference};
use crate::ops::Implementation;
use crate::train::reference::{Trained, make};

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
    let trained = adapter.map(|adapter| TrainConfig::beside(&adapter.path)).transpose()?.flatten();
    let mut config = trained.unwrap_or_default();
    if found.config.spec.is_classifier && !config.objective.has_score() {
        config.objective = scoring()?;
    }
    let config = config;
    let TrainConfig { objective, data: trained, .. } = &config;
    let max_length = max_length(options.max_length, trained.max_length, &found.config)?;
    let files = [DataFile::new(&options.data)];
    let text = found.text();
    let load_options = data::LoadOptions {
        format: options.format,
        max_length,
        excess_length: trained.excess_length_strategy,
        completion_only_loss: trained.completion_only_loss,
        require_stop_token: false,
    };
    let mut data = match &options.scores {
        Some(_) => scores::rows(&options.data, text, &load_options)?,
        None => Dataset::load(&files, text, &**objective, &load_options)?,
    };
    data.share_prompts(trained.shared_prefix, |a, b| found.config.spec.turn_alike(a, b));
    data.check_vocabulary(found.config.spec.vocab_size, text.tokenizer.as_ref())?;
    let stats = &data.stats;
    say(&format!("{} examples, {} tokens with loss", stats.examples, stats.loss_tokens));
    if stats.truncated + stats.dropped_too_long + stats.dropped_without_loss > 0 {
        say(&format!(
            "{} examples were cut at {max_length} tokens, {} dropped as longer, {} dropped without \
             loss",
            stats.truncated, stats.dropped_too_long, stats.dropped_without_loss
        ));
    }
    data.warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
    let mut opened = found.load(&options.model, options.device.device, max_length, &say)?;
    if let Some(path) = &options.scores {
        if let Some(adapter) = opened.adapters.first() {
            attach(&mut opened.model, &adapter.adapter)?;
        }
        return scores::write(path, &**objective, &opened, &data, BATCH_SIZE);
    }
    let reference = reference(&config, &mut opened.model)?;
    let measured = measure(&**objective, &mut opened, &reference, &data)?;
    let shown = match options.output.json {
        true => to_json(&**objective, &measured).to_string(),
        false => table(&**objective, &measured),
    };
    match writeln!(io::stdout(), "{shown}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io("cannot write to stdout", error))
        }
        _ => Ok(()),
    }
}

/// The objective of models that give scores.
fn scoring() -> Result<Chosen> {
    let found = objective::all().into_iter().find(|objective| objective.has_score());
    found.ok_or_else(|| Error::internal("evaluate", "no objective has scores"))
}

/// The policy that the run of the adapter compared with.
fn reference(config: &TrainConfig, model: &mut Model) -> Result<Reference> {
    let (Some(options), Some(lora)) = (config.objective.reference(), &config.lora) else {
        return Ok(Reference::default());
    };
    let load = LoadOptions {
        dtype: model.embed_tokens.dtype(),
        nf4: config.quantization.nf4(),
        train_all: false,
        max_positions: model.max_positions(),
    };
    let adapter = lora.adapter.as_deref();
    make(options, model, &Trained { source: None, options: load, lora: true, adapter })
}

/// What one pass over the data gives.
struct Measured {
    /// Of the model as it is used: with its adapter, if there is one.
    used: Evaluation,
    /// Of the model without the adapter.
    base: Option<Evaluation>,
}

/// One pass: every batch without the adapter, then with it.
fn measure(
    objective: &dyn Objective,
    opened: &mut OpenModel,
    reference: &Reference,
    data: &Dataset,
) -> Result<Measured> {
    let plan = Plan::eval(data, BATCH_SIZE);
    let model = &mut opened.model;
    let mut used = Evaluation::default();
    let mut base = None;
    if let Some(adapter) = opened.adapters.first() {
        attach(model, &adapter.adapter)?;
        // Without its adapter a reward model has no score.
        base = (!objective.has_score()).then(Evaluation::default);
    }
    for index in 0..plan.num_batches() {
        let batch = plan.batch(data, index);
        let add = |sum: &mut Evaluation, adapter| {
            sum.add(objective, model, Implementation::Flash, adapter, reference, &batch)
        };
        if let Some(base) = &mut base {
            add(base, AdapterChoice::Off)?;
        }
        add(&mut used, AdapterChoice::default())?;
    }
    match used.loss().is_finite() && base.as_ref().is_none_or(|base| base.loss().is_finite()) {
        true => Ok(Measured { used, base }),
        false => Err(Error::run(
            "the loss is not finite: the model's weights are broken, or overflow in this dtype; \
             try --dtype float32",
        )),
    }
}

/// The longest example: what the command line says, within the model's context; else as the adapter
/// was trained.
fn max_length(asked: Option<u64>, trained: Option<usize>, config: &ModelConfig) -> Result<usize> {
    let context = config.context();
    match asked.map(|n| usize::try_from(n).unwrap_or(usize::MAX)) {
        None => Ok(trained.unwrap_or(MAX_LENGTH).min(context)),
        Some(n) if n <= context => Ok(n),
        Some(n) => Err(Error::input(format!(
            "--max-length {n} is longer than the model's context of {context} tokens"
        ))),
    }
}

/// The metrics, those of the base under `base_`, and what they are means over.
fn to_json(objective: &dyn Objective, measured: &Measured) -> Value {
    let Measured { used, base } = measured;
    let mut object = Map::new();
    for (name, value) in used.metrics(objective) {
        object.insert(name, value.into());
    }
    object.insert(objective.unit().to_owned(), (used.divisor as u64).into());
    for (name, value) in base.iter().flat_map(|base| base.metrics(objective)) {
        object.insert(format!("base_{name}"), value.into());
    }
    object.into()
}

fn table(objective: &dyn Objective, measured: &Measured) -> String {
    let Measured { used, base } = measured;
    let row = |name: &str, values: &[(String, f64)], sign: bool| {
        let cell = |(at, (name, value)): (usize, &(String, f64))| match sign {
            false => format!("{value:>width$.4}", width = width(at, name)),
            true => format!("{value:>+width$.4}", width = width(at, name)),
        };
        format!("{name:<12}{}\n", values.iter().enumerate().map(cell).collect::<String>())
    };
    let found = used.metrics(objective);
    let names = found.iter().enumerate();
    let mut text = format!("{:<12}", "");
    text.extend(names.map(|(at, (name, _))| format!("{name:>width$}", width = width(at, name))));
    text.push('\n');
    match base.as_ref().map(|base| base.metrics(objective)) {
        None => text += &row("model", &found, false),
        Some(base) => {
            text += &row("base", &base, false);
            text += &row("tuned", &found, false);
            let pairs = found.iter().zip(&base);
            let differences: Vec<_> =
                pairs.map(|((name, tuned), (_, base))| (name.clone(), tuned - base)).collect();
            text += &row("difference", &differences, true);
        }
    }
    text + &format!("over {} {} that carry loss", used.divisor, objective.unit())
}

/// Width of a column: the loss's, or that of a metric after it.
fn width(column: usize, name: &str) -> usize {
    if column == 0 { 10 } else { 14.max(name.len() + 2) }
}
