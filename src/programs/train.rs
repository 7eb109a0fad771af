//! Trains a model.

use super::open::now;
use super::progress::Progress;
use super::quickstart::Quickstart;
use super::{in_colour, next_steps, shown};
use crate::backend::Device;
use crate::cli::say;
use crate::cli::{TrainOptions, TrainSource};
use crate::config::{DeviceSpec, DtypeChoice};
use crate::data::{Plan, preview};
use crate::error::{Error, Result};
use crate::train::memory::{self, MemoryPlan};
use crate::train::prepare::Prepared;
use crate::train::run::{Summary, changes, run as run_training};
use crate::train::steps::Steps;
use std::io::{IsTerminal, Write};
use std::path::Path;

/// Runs `train`.
///
/// # Errors
/// What is wrong with the input, or with the run.
pub fn run(options: TrainOptions) -> Result<()> {
    let (config, quickstart) = match options.source()? {
        TrainSource::Config(config) => (*config, None),
        TrainSource::Quickstart { overrides, resume } => {
            let (config, quickstart) = Quickstart::prepare(&overrides, resume)?;
            (config, Some(quickstart))
        }
    };
    let say = |text: &str| {
        if !options.messages.quiet {
            say!("{text}");
        }
    };
    if let Some(quickstart) = &quickstart {
        say(&quickstart.introduction());
    }
    config.notes.iter().for_each(|note| say(&format!("note: {note}")));
    let date = now();
    let mut prepared = match (options.plan, options.preview) {
        (true, _) => Prepared::for_plan(config, date)?,
        (false, Some(_)) => Prepared::for_preview(config, date)?,
        (false, None) => Prepared::new(config, date)?,
    };
    for warning in &prepared.warnings {
        say(&format!("warning: {warning}"));
    }
    if let Some(count) = options.preview {
        return print_preview(&prepared, count as usize, options.messages.json);
    }
    let device = prepared.config.device.open(&|message| say!("{message}"))?;
    if options.memory.is_some() && prepared.config.device == DeviceSpec::Auto {
        // A plan for another device: one that computes bfloat16 fast, as all recent GPUs do.
        if prepared.config.dtype == DtypeChoice::Auto {
            prepared.config.dtype = DtypeChoice::Bfloat16;
        }
    }
    // The run is saved with what `auto` meant, so that it can be repeated elsewhere.
    prepared.config.dtype = prepared.config.dtype.settled(device.capabilities().fast_bf16);
    say(&format!("device: {}", device.capabilities().description));
    if options.plan {
        return print_plan(&mut prepared, &device, options.memory, options.messages.json);
    }
    let plan = memory::choose(&prepared, &device)?;
    say(&describe(&prepared, &plan));

    let mut progress = Progress::new(options.messages.quiet);
    if let Some(quickstart) = quickstart.as_ref().filter(|_| !options.messages.quiet) {
        quickstart.watch(&mut progress, &prepared.text);
    }
    let summary = run_training(&prepared, &device, &plan, &date.to_string(), &mut progress);
    drop(progress);
    if let Err(Error::Interrupted(_)) = &summary {
        say(&next_steps::to_resume(&prepared.config.output_dir));
    }
    report(&summary?, &prepared, quickstart.is_some(), &options)
}

fn print_preview(prepared: &Prepared, count: usize, json: bool) -> Result<()> {
    let plan = Plan::epoch(&prepared.train, &prepared.batching, 0);
    let rows = preview::rows(&plan, &prepared.train, count);
    let text = match json {
        true => rows.iter().map(|row| format!("{}\n", row.to_json())).collect(),
        false => {
            // A batch has a shared prompt once; people read each answer after its own.
            let mut data = prepared.train.clone();
            data.share_prompts(false, |_, _| false);
            let plan = Plan::epoch(&data, &prepared.batching, 0);
            let rows = preview::rows(&plan, &data, count);
            let colour = in_colour(std::io::stdout().is_terminal());
            preview::to_text(&rows, &data, prepared.text.tokenizer.as_ref(), colour)?
        }
    };
    print(&text)
}

fn print_plan(
    prepared: &mut Prepared,
    device: &Device,
    memory_limit: Option<u64>,
    json: bool,
) -> Result<()> {
    prepared.config.max_memory = memory_limit.or(prepared.config.max_memory);
    let plan = memory::choose(prepared, device)?;
    let steps = match prepared.has_data {
        true => {
            let batching = prepared.batching.clone();
            Some(Steps::new(&prepared.train, batching, &prepared.config.train).total())
        }
        false => prepared.config.train.max_steps,
    };
    if json {
        let text = serde_json::json!({
            "trained_parameters": plan.trained,
            "weights_bytes": plan.weights,
            "reference_bytes": plan.reference,
            "optimizer_bytes": plan.optimizer,
            "step_bytes": plan.step,
            "peak_bytes": plan.peak(),
            "max_micro_batch_tokens": plan.tokens,
            "steps": steps,
        });
        return print(&format!("{text}\n"));
    }
    let steps = steps.map_or("unknown without the data".into(), thousands);
    print(&format!("{}\nsteps: {steps}\n", describe(prepared, &plan)))
}

/// What will be trained on what, and the memory it takes.
fn describe(prepared: &Prepared, plan: &MemoryPlan) -> String {
    let stats = &prepared.train.stats;
    let config = &prepared.config;
    let rank = prepared.adapter.as_ref().map(|adapter| adapter.r);
    let rank = rank.or(config.lora.as_ref().map(|lora| lora.r));
    let mode = match (rank, config.quantization.load_in_4bit) {
        (None, _) => "full fine-tuning".to_owned(),
        (Some(rank), false) => format!("LoRA, rank {rank}"),
        (Some(rank), true) => format!("QLoRA (NF4), rank {rank}"),
    };
    let dtype = crate::config::Choice::name(config.dtype);
    let data = match prepared.has_data {
        true => format!(
            "{} examples, {} tokens, {} with loss ({:.1}%)",
            thousands(stats.examples as u64),
            thousands(stats.tokens as u64),
            thousands(stats.loss_tokens as u64),
            100.0 * stats.loss_tokens as f64 / stats.tokens.max(1) as f64,
        ),
        false => format!(
            "not here: counted with {} examples of {} tokens, the most that a micro-batch holds",
            prepared.train.examples.len(),
            prepared.batching.max_length
        ),
    };
    format!(
        "model: {} ({}), {mode}, {dtype}, {} trained parameters\ndata: {data}\nmemory:\n{}",
        shown(Path::new(&config.model)),
        prepared.model_config.family.model_type,
        thousands(plan.trained),
        memory::table(plan)
    )
}

fn report(
    summary: &Summary,
    prepared: &Prepared,
    is_quickstart: bool,
    options: &TrainOptions,
) -> Result<()> {
    if options.messages.json {
        let evaluations = summary.evaluations.as_ref();
        let text = serde_json::json!({
            "steps": summary.steps,
            "output_dir": summary.output_dir,
            "eval_loss_before": evaluations.map(|(before, _)| before.get("eval_loss")),
            "eval_loss_after": evaluations.map(|(_, after)| after.get("eval_loss")),
            "warning": summary.warning,
        });
        return print(&format!("{text}\n"));
    }
    if options.messages.quiet {
        return Ok(());
    }
    if let Some((first, last)) = &summary.evaluations {
        for (name, before, after) in changes(first, last) {
            say!("held-out {name}: {before:.3} before, {after:.3} after");
        }
    }
    if let Some(warning) = &summary.warning {
        say!("warning: {warning}");
    }
    say!("result: {}", shown(&summary.output_dir));
    let chats = prepared.text.template.is_some();
    say!("{}", next_steps::with_result(&prepared.config, chats));
    if is_quickstart {
        say!("{}", Quickstart::next_steps());
    }
    Ok(())
}

/// 1234567 as `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Prints to stdout; a reader that has gone away is no error.
pub fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("cannot write to stdout", error))
        }
        _ => Ok(()),
    }
}
