//! Writes a model in another form.

use std::path::Path;

use serde_json::json;

use super::open::{adapter_text, find, now};
use super::train::print;
use crate::adapter::{PeftAdapter, PeftConfig, attach, peft};
use crate::backend::Device;
use crate::cli::say;
use crate::cli::{ExportOptions, ExportTarget, MergeInto};
use crate::config::TrainConfig;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::export::directory::{write_merged, write_nf4};
use crate::export::gguf::{model_name, write_gguf};
use crate::export::{Base, Difference, Merge, compare, logits};
use crate::files;
use crate::model::load::{LoadOptions, Source, load};
use crate::model::save::Companions;
use crate::model::{self, ModelConfig, Weights};
use crate::tokenizer::TextProcessor;
use crate::train::prepare::pad_token;

/// Positions that the models need for being compared.
const MAX_POSITIONS: usize = crate::export::compare::TOKENS;

/// The share of an adapter's updates above which those lost in rounding are no matter for advice.
const KEPT: f64 = 0.9;

/// Runs `export`.
///
/// # Errors
/// What is wrong with the input, or with the run.
#[expect(clippy::too_many_lines, reason = "the steps of the program, in order")]
pub fn run(options: ExportOptions) -> Result<()> {
    let say = |text: &str| {
        if !options.messages.quiet {
            say!("{text}");
        }
    };
    check_output(&options)?;
    if options.model.load_in_4bit {
        return Err(Error::input(
            "--load-in-4bit is for running a model: to write 4-bit weights use --to nf4, to merge \
             into the weights that 4-bit training saw --merge-into dequantized",
        ));
    }
    let adapter_dir = options.model.single_adapter()?.map(|adapter| adapter.path.as_path());
    let source = find(&options.model)?;
    let mut config = ModelConfig::open(&source.path)?;
    let peft = adapter_dir.map(PeftConfig::open).transpose()?;
    if peft.is_some_and(|peft| peft.is_classifier) {
        config.classify(0);
    }
    check_classifier(&options, &mut config, &source.path, adapter_dir)?;
    let mut weights = Weights::open(&source.path)?;
    for warning in model::check(&mut weights, &mut config)? {
        say(&format!("{}: {warning}", source.path.display()));
    }
    let dtype = options.model.dtype.and_then(|choice| choice.dtype());
    let dtype = dtype.or(config.dtype).unwrap_or(DType::F32);
    let trained = adapter_dir.map(trained_double_quant).transpose()?.flatten();
    let base = base(options.merge_into, &config, trained)?;
    if let (Base::Dequantized { .. }, None, Some(_)) = (base, options.merge_into, trained) {
        say(
            "the adapter was trained on 4-bit weights, and is merged into what these decode to, so \
             that the result answers as it does in the chat; --merge-into original adds it to the \
             model's own weights",
        );
    }
    let mut merge = Merge::new(&weights, base, dtype);
    if let Some(dir) = adapter_dir {
        let (peft, adapter) = peft::load(dir, &config)?;
        let score = peft::score(dir, &peft, config.spec.hidden_size)?;
        merge = merge.with_adapter(adapter).with_score(score);
    }
    if options.to == ExportTarget::Gguf {
        say(&format!("writing {} as {}", options.output.display(), dtype.name()));
        let text = text(&source.path, adapter_dir)?;
        let name = model_name(&source.base_id);
        create_parent(&options.output)?;
        write_gguf(&options.output, &name, &config, &text, &merge)?;
        return check_merged(&merge)
            .inspect_err(|_| _ = std::fs::remove_file(&options.output))
            .and_then(|()| report(&options, None, &merge));
    }
    let device = options.device.device.open(&|message| say!("{message}"))?;
    say(&format!("writing {} as {}", options.output.display(), dtype.name()));
    create_parent(&options.output)?;
    let mut difference = None;
    let companions = Companions::read(&source.path)?;
    // The tokenizer and the chat template that the adapter was trained with come later.
    let trained_with = adapter_dir.map(Companions::read).transpose()?;
    files::write_directory(&options.output, |dir| {
        match options.to {
            ExportTarget::Nf4 => write_nf4(dir, &config, &companions, &merge)?,
            _ => write_merged(dir, &config, &companions, &merge)?,
        }
        if let Some(companions) = &trained_with {
            companions.save(dir)?;
        }
        check_merged(&merge)?;
        let meant = with_adapter(&device, &config, &weights, adapter_dir, base, dtype)?;
        let written = reloaded(&device, dir, dtype)?;
        let outputs = if config.spec.is_classifier { 1 } else { config.spec.vocab_size };
        difference = Some(compare(&meant, &written, outputs)?);
        Ok(())
    })?;
    report(&options, difference, &merge)
}

fn create_parent(path: &Path) -> Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => files::create_directory(parent),
        None => Ok(()),
    }
}

/// The tokenizer and template of the adapter, where it has them, else of the model.
fn text(model: &Path, adapter: Option<&Path>) -> Result<TextProcessor> {
    let base = TextProcessor::load(model, None, model, now())?;
    let own = adapter.map(|dir| adapter_text(dir, &base)).transpose()?.flatten();
    Ok(own.unwrap_or(base))
}

/// A reward model is written with the token that it is padded with, and not as GGUF.
fn check_classifier(
    options: &ExportOptions,
    config: &mut ModelConfig,
    model: &Path,
    adapter: Option<&Path>,
) -> Result<()> {
    if !config.spec.is_classifier {
        return Ok(());
    }
    if options.to == ExportTarget::Gguf {
        return Err(Error::input(
            "--to gguf: a reward model gives scores and no text, and GGUF files of this program hold \
             models of text: use --to merged",
        ));
    }
    config.pad_token_id = pad_token(config, &text(model, adapter)?);
    Ok(())
}

/// Refuses to write over anything.
fn check_output(options: &ExportOptions) -> Result<()> {
    let path = &options.output;
    let shown = path.display();
    if options.to == ExportTarget::Gguf {
        return match path.exists() {
            true => Err(Error::input(format!(
                "--output {shown} exists: give the name of a file that does not, such as model.gguf"
            ))),
            false => Ok(()),
        };
    }
    match std::fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(Error::input(format!(
            "--output {shown} is not empty: give a directory that does not exist yet"
        ))),
        Err(_) if path.exists() => {
            Err(Error::input(format!("--output {shown} is a file; expected a new directory")))
        }
        _ => Ok(()),
    }
}

/// Whether the run that trained the adapter had 4-bit weights: with double quantization then?
fn trained_double_quant(adapter: &Path) -> Result<Option<bool>> {
    Ok(TrainConfig::beside(adapter)?.and_then(|config| config.quantization.nf4()))
}

/// What the adapter is added to, if nothing is asked for: the weights that it was trained on, which it
/// makes up for. On others it has not been measured, and answers otherwise than in the chat.
fn base(asked: Option<MergeInto>, config: &ModelConfig, trained: Option<bool>) -> Result<Base> {
    let dequantized = Base::Dequantized { double: trained.unwrap_or(true) };
    match (asked, &config.quantization) {
        (Some(MergeInto::Original), Some(_)) => Err(Error::input(
            "--merge-into original: the base model is a 4-bit checkpoint and has no original \
             weights; give the unquantized model with --model, or --merge-into dequantized",
        )),
        (Some(MergeInto::Dequantized), _) | (None, Some(_)) => Ok(dequantized),
        (None, None) if trained.is_some() => Ok(dequantized),
        (Some(MergeInto::Original) | None, None) => Ok(Base::Original),
    }
}

/// A merge that rounds every update away would silently undo the training.
fn check_merged(merge: &Merge) -> Result<()> {
    let counts = merge.counts();
    match counts.updated > 0 && counts.changed == 0 {
        false => Ok(()),
        true => Err(Error::run(format!(
            "the merged model equals its base: every update of the adapter is lost in rounding to \
             {}; use --dtype float32",
            merge.dtype().name()
        ))),
    }
}

/// The logits of the base with its adapter, as it is used without merging.
fn with_adapter(
    device: &Device,
    config: &ModelConfig,
    weights: &Weights,
    adapter: Option<&Path>,
    base: Base,
    dtype: DType,
) -> Result<Vec<f32>> {
    let nf4 = match base {
        Base::Original => None,
        Base::Dequantized { double } => Some(double),
    };
    let max_positions = MAX_POSITIONS.min(config.context());
    let options = LoadOptions { dtype, nf4, train_all: false, max_positions };
    let (mut model, _) = load(device, config, &Source::Weights(weights), options)?;
    if let Some(dir) = adapter {
        attach(&mut model, &PeftAdapter::load(dir, config, device)?)?;
    }
    logits(&model, max_positions)
}

/// The logits of what was written.
fn reloaded(device: &Device, dir: &Path, dtype: DType) -> Result<Vec<f32>> {
    let mut config = ModelConfig::open(dir)?;
    let mut weights = Weights::open(dir)?;
    model::check(&mut weights, &mut config)?;
    let max_positions = MAX_POSITIONS.min(config.context());
    let options = LoadOptions { dtype, nf4: None, train_all: false, max_positions };
    let (model, _) = load(device, &config, &Source::Weights(&weights), options)?;
    logits(&model, max_positions)
}

/// `difference` is that of the logits, where what was written has been loaded again.
fn report(options: &ExportOptions, difference: Option<Difference>, merge: &Merge) -> Result<()> {
    let counts = merge.counts();
    if options.messages.json {
        let mut text = json!({
            "output": options.output,
            "updated_elements": counts.updated,
            "changed_elements": counts.changed,
        });
        if let Some(Difference { max, mean, kl }) = difference {
            text["max_logit_difference"] = max.into();
            text["mean_logit_difference"] = mean.into();
            text["kl"] = kl.into();
        }
        return print(&format!("{text}\n"));
    }
    if !options.messages.quiet {
        if counts.updated > 0 {
            let share = counts.changed as f64 / counts.updated as f64;
            let advice = match merge.dtype() {
                DType::F32 => "",
                _ if share > KEPT => "",
                _ => "; --dtype float32 keeps the others too (in twice the space)",
            };
            let dtype = merge.dtype().name();
            say!(
                "{:.1}% of the adapter's updates change the weight after rounding to {dtype}{advice}",
                100.0 * share
            );
        }
        if let Some(Difference { max, mean, kl }) = difference {
            say!(
                "logits against the model before export: largest difference {max:.2e}, mean \
                 {mean:.2e}, KL {kl:.2e} nats"
            );
        }
        say!("result: {}", options.output.display());
    }
    Ok(())
}
