//! Writes a model in another form.

use std::path::Path;

use serde_json::json;

use super::open::{adapter_text, find, now};
use super::train::print;
use crate::adapter::{
    AdapterWeights, LoraWeights, ModuleKind, PeftAdapter, PeftConfig, attach, load_mixed, peft,
};
use crate::backend::Device;
use crate::cli::say;
use crate::cli::{DtypeOption, ExportOptions, ExportTarget, MergeInto};
use crate::config::TrainConfig;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::export::directory::{write_merged, write_nf4};
use crate::export::gguf::adapter::write_lora;
use crate::export::gguf::mix::Mix;
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
    let asked = options.model.dtype;
    if options.to == ExportTarget::GgufLora {
        return write_adapter(&options, &config, adapter_dir, &source.base_id, &say);
    }
    let mut weights = Weights::open(&source.path)?;
    for warning in model::check(&mut weights, &mut config)? {
        say(&format!("{}: {warning}", source.path.display()));
    }
    let base_config = config.clone();
    let dtype = match asked {
        Some(DtypeOption::Blocks(_)) if options.to != ExportTarget::Gguf => {
            options.model.dtype()?
        }
        Some(DtypeOption::Float(choice)) => Some(choice),
        _ => None,
    };
    let dtype = dtype.and_then(|choice| choice.dtype()).or(config.dtype).unwrap_or(DType::F32);
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
    let parts = options.model.adapter.iter();
    let parts: Vec<_> =
        parts.map(|part| (part.path.as_path(), part.weight.unwrap_or(1.0))).collect();
    let adapter = match parts.is_empty() {
        true => None,
        false => Some(load_mixed(&parts, &base_config, Some(&weights))?),
    };
    if let Some((_, adapter)) = &adapter {
        merge = merge.with_adapter(&mut config, adapter.clone())?;
    }
    if options.to == ExportTarget::Gguf {
        let mix = match asked {
            Some(DtypeOption::Blocks(mix)) => mix,
            _ => Mix::Floats(dtype),
        };
        if let Mix::Q8_0 | Mix::Q4_K_M = mix {
            // Blocks are made of the exact sums.
            merge = merge.rounded_to(DType::F32);
        }
        say(&format!("writing {} as {}", options.output.display(), mix.name()));
        let text = text(&source.path, adapter_dir)?;
        let name = model_name(&source.base_id);
        create_parent(&options.output)?;
        write_gguf(&options.output, &name, &config, &text, &merge, mix)?;
        let difference = || {
            check_merged(&merge)?;
            let device = options.device.device.open(&|message| say!("{message}"))?;
            let meant =
                Meant { config: &base_config, weights: &weights, adapter: adapter.as_ref(), base };
            compare_written(&device, &meant, &options.output, merge.dtype())
        };
        let difference = difference().inspect_err(|_| _ = std::fs::remove_file(&options.output))?;
        return report(&options, Some(difference), &merge);
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
        let meant =
            Meant { config: &base_config, weights: &weights, adapter: adapter.as_ref(), base };
        difference = Some(compare_written(&device, &meant, dir, dtype)?);
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
    if let ExportTarget::Gguf | ExportTarget::GgufLora = options.to {
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
    if let ExportTarget::Gguf | ExportTarget::GgufLora = options.to {
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

/// `--to gguf-lora`: the adapter alone.
fn write_adapter(
    options: &ExportOptions,
    config: &ModelConfig,
    adapter: Option<&Path>,
    base_id: &str,
    say: &dyn Fn(&str),
) -> Result<()> {
    let Some(dir) = adapter else {
        return Err(Error::input("--to gguf-lora writes an adapter: give it with --adapter DIR"));
    };
    let dtype = options.model.dtype()?.and_then(|choice| choice.dtype()).unwrap_or(DType::F32);
    let (peft, adapter) = peft::load(dir, config, None)?;
    let is_more = peft.use_dora
        || peft.lora_bias
        || adapter.score.is_some()
        || ![adapter.saved.len(), adapter.rows.len(), adapter.replaced.len()]
            .iter()
            .all(|n| *n == 0)
        || adapter.loras.iter().any(|lora| lora.module.kind == ModuleKind::Embedding);
    if is_more {
        return Err(Error::input(format!(
            "--to gguf-lora: {} has more than low-rank updates of linear layers (DoRA, biases, embeddings \
             or saved modules), which llama.cpp does not load; --to gguf merges it",
            dir.display()
        )));
    }
    let factors: Vec<_> = adapter.loras.iter().map(LoraWeights::flat).collect();
    say(&format!("writing {} as {}", options.output.display(), dtype.name()));
    create_parent(&options.output)?;
    write_lora(&options.output, &model_name(base_id), config, &factors, dtype)?;
    if options.messages.json {
        return print(&format!("{}\n", json!({"output": options.output})));
    }
    say(&format!("result: {}", options.output.display()));
    Ok(())
}

/// The model that was meant to be written: the base with its adapter, as it is used without merging.
struct Meant<'a> {
    config: &'a ModelConfig,
    weights: &'a Weights,
    adapter: Option<&'a (PeftConfig, AdapterWeights)>,
    base: Base,
}

/// The logits of what was meant against those of what was written, both computed in `dtype`.
///
/// # Errors
/// `Error::Run` where they are not finite: weights that overflow in `dtype`.
fn compare_written(
    device: &Device,
    meant: &Meant,
    path: &Path,
    dtype: DType,
) -> Result<Difference> {
    let mut config = ModelConfig::open(path)?;
    let mut weights = Weights::open(path)?;
    model::check(&mut weights, &mut config)?;
    // A GGUF file's context may end where llama.cpp would compute otherwise.
    let max_positions = MAX_POSITIONS.min(meant.config.context()).min(config.context());
    let nf4 = match meant.base {
        Base::Original => None,
        Base::Dequantized { double } => Some(double),
    };
    let options = |nf4| LoadOptions { dtype, nf4, train_all: false, max_positions };
    let source = Source::Weights(meant.weights);
    let (mut model, _) = load(device, meant.config, &source, options(nf4))?;
    if let Some((peft, adapter)) = meant.adapter {
        attach(&mut model, &PeftAdapter::of(peft.clone(), adapter, device, dtype)?)?;
    }
    let expected = logits(&model, max_positions)?;
    drop(model);
    let (model, _) = load(device, &config, &Source::Weights(&weights), options(None))?;
    let outputs = if config.spec.is_classifier { 1 } else { config.spec.vocab_size };
    compare(&expected, &logits(&model, max_positions)?, outputs)
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
