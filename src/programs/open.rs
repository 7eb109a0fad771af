//! From `--model`, `--adapter`, `--load-in-4bit`, `--dtype` and `--device` to a model that is ready:
//! what generate and evaluate have in common.

use std::path::{Path, PathBuf};

use jiff::civil::DateTime;

use crate::adapter::{PeftAdapter, PeftConfig, load_mixed};
use crate::backend::Device;
use crate::cli::say;
use crate::cli::{AdapterOption, ModelOptions};
use crate::config::{DeviceSpec, DtypeChoice, TrainConfig};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::model::load::{LoadOptions, Source, load};
use crate::model::transformer::Model;
use crate::model::{self, ModelConfig, ModelSource, Weights, resolve};
use crate::tokenizer::{HfTokenizer, TextProcessor, TokenizerFiles};
use crate::train::prepare::other_base;

/// What the options name, found and read, before anything large is loaded: mistakes in the rest of
/// the command line should show now.
pub struct Found {
    /// Where the model is from.
    pub source: ModelSource,
    /// Its config.json.
    pub config: ModelConfig,
    /// Its tokenizer and chat template.
    pub text: TextProcessor,
    weights: Weights,
    adapters: Vec<FoundAdapter>,
    trained: Option<Trained>,
}

struct FoundAdapter {
    name: String,
    path: PathBuf,
    weight: Option<f64>,
    text: Option<TextProcessor>,
}

/// A model on a device, with its tokenizer and adapters.
pub struct OpenModel {
    /// The model, without an adapter.
    pub model: Model,
    /// Its tokenizer and chat template.
    pub text: TextProcessor,
    /// The adapters, loaded and not attached.
    pub adapters: Vec<OpenAdapter>,
}

/// An adapter on the model's device.
pub struct OpenAdapter {
    /// What the user calls it: the name given, else the directory's.
    pub name: String,
    /// The factors.
    pub adapter: PeftAdapter,
    /// The tokenizer and chat template it was trained with, where they lie beside it.
    pub text: Option<TextProcessor>,
}

impl OpenAdapter {
    /// The tokenizer and template to use with the adapter, on a model that has `base`.
    pub fn text_or<'a>(&'a self, base: &'a TextProcessor) -> &'a TextProcessor {
        self.text.as_ref().unwrap_or(base)
    }
}

/// What a run of this trainer trained an adapter with: the settings it is used with by default.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Trained {
    dtype: DtypeChoice,
    /// 4-bit weights, and whether their scales are quantized too.
    nf4: Option<bool>,
}

impl Trained {
    /// From the config.toml beside an adapter; an adapter from elsewhere has none.
    fn of(adapter: &Path) -> Result<Option<Self>> {
        let config = TrainConfig::beside(adapter)?;
        Ok(config.map(|config| Self { dtype: config.dtype, nf4: config.quantization.nf4() }))
    }
}

impl Found {
    /// Finds what the options name; `say` gets messages for the user.
    ///
    /// # Errors
    /// `Error::Input` for a model or adapter that is not there, not readable or not supported.
    pub fn new(options: &ModelOptions, say: &dyn Fn(&str)) -> Result<Self> {
        let source = find(options)?;
        let mut config = ModelConfig::open(&source.path)?;
        for AdapterOption { path, .. } in &options.adapter {
            if PeftConfig::open(path)?.is_classifier {
                // Its own head takes the place of this one.
                config.classify(0);
            }
        }
        let text = TextProcessor::load(&source.path, None, &source.path, now())?;
        let mut weights = Weights::open(&source.path)?;
        for warning in model::check(&mut weights, &mut config)? {
            say(&format!("{}: {warning}", source.path.display()));
        }
        let adapters = options
            .adapter
            .iter()
            .map(|AdapterOption { name, path, weight }| {
                let name = name.clone().unwrap_or_else(|| name_of(path));
                let text = adapter_text(path, &text)?;
                Ok(FoundAdapter { name, path: path.clone(), weight: *weight, text })
            })
            .collect::<Result<_>>()?;
        if options.model.is_some() {
            for AdapterOption { path, .. } in &options.adapter {
                if let Some(warning) = other_base(path, &PeftConfig::open(path)?, &source) {
                    say(&format!("warning: {warning}"));
                }
            }
        }
        let trained = trained(&options.adapter, say)?;
        Ok(Self { source, config, text, weights, adapters, trained })
    }

    /// The tokenizer and template of the first adapter, else of the model.
    pub fn text(&self) -> &TextProcessor {
        let first = self.adapters.first().and_then(|adapter| adapter.text.as_ref());
        first.unwrap_or(&self.text)
    }

    /// Loads the model for sequences of at most `max_positions` tokens, and the adapters.
    ///
    /// # Errors
    /// `Error::Input` for weights that do not fit the config; `Error::Device` when the device is
    /// not there; `Error::OutOfMemory`.
    pub fn load(
        self,
        options: &ModelOptions,
        device: DeviceSpec,
        max_positions: usize,
        say: &dyn Fn(&str),
    ) -> Result<OpenModel> {
        let Self { source, config, text, weights, adapters, trained } = self;
        let device = device.open(&|message| say!("{message}"))?;
        let dtype = dtype(options.dtype()?, trained, &device);
        let nf4 = match options.load_in_4bit {
            true => Some(trained.and_then(|trained| trained.nf4).unwrap_or(true)),
            false => trained.and_then(|trained| trained.nf4),
        };
        let four_bit = if nf4.is_some() || config.quantization.is_some() { ", 4-bit" } else { "" };
        let description = &device.capabilities().description;
        say(&format!("{} on {description}, {}{four_bit}", source.base_id, dtype.name()));
        let load_options = LoadOptions { dtype, nf4, train_all: false, max_positions };
        let (model, _) = load(&device, &config, &Source::Weights(&weights), load_options)?;
        // Those with weights are one.
        let (mixed, others): (Vec<_>, Vec<_>) =
            adapters.into_iter().partition(|adapter| adapter.weight.is_some());
        let groups = std::iter::once(mixed).filter(|mixed| !mixed.is_empty());
        let groups = groups.chain(others.into_iter().map(|adapter| vec![adapter]));
        let opened = groups.map(|group| {
            let parts: Vec<_> =
                group.iter().map(|one| (one.path.as_path(), one.weight.unwrap_or(1.0))).collect();
            let (peft, weights) = load_mixed(&parts, &config, Some(&weights))?;
            let adapter = PeftAdapter::of(peft, &weights, &device, dtype)?;
            let names: Vec<_> = group.iter().map(|one| one.name.clone()).collect();
            let text = group.into_iter().next().and_then(|one| one.text);
            Ok(OpenAdapter { name: names.join("+"), adapter, text })
        });
        let adapters = opened.collect::<Result<_>>()?;
        Ok(OpenModel { model, text, adapters })
    }
}

/// The model that the options name, or the base of the adapter they name.
///
/// # Errors
/// `Error::Input` when it is not there, or adapters are for different models.
pub fn find(options: &ModelOptions) -> Result<ModelSource> {
    if let Some(model) = &options.model {
        return resolve(model);
    }
    let mut found: Option<(String, &Path)> = None;
    for AdapterOption { path, .. } in &options.adapter {
        let base = PeftConfig::base_of(path)?;
        match &found {
            Some((first, from)) if *first != base => {
                return Err(Error::input(format!(
                    "the adapters are for different models: {} for {first}, {} for {base}; give \
                     --model to choose one",
                    from.display(),
                    path.display()
                )));
            }
            _ => found = Some((base, path)),
        }
    }
    let Some((base, adapter)) = found else {
        return Err(Error::input("give --model DIR, or --adapter DIR of an adapter that names it"));
    };
    resolve(&base).map_err(|error| match error {
        Error::Input(why) => Error::input(format!(
            "{}: the adapter's base model: {why}; or give --model",
            adapter.display()
        )),
        other => other,
    })
}

/// The settings that the adapters were trained with; where they differ, those of the first.
fn trained(adapters: &[AdapterOption], say: &dyn Fn(&str)) -> Result<Option<Trained>> {
    let mut first: Option<(Trained, &PathBuf)> = None;
    for AdapterOption { path, .. } in adapters {
        match (Trained::of(path)?, &first) {
            (Some(settings), None) => first = Some((settings, path)),
            (Some(settings), Some((used, from))) if settings != *used => say(&format!(
                "{} was trained with another dtype or quantization than {}, whose are used",
                path.display(),
                from.display()
            )),
            _ => {}
        }
    }
    Ok(first.map(|(settings, _)| settings))
}

/// The dtype asked for, else trained with, else the one this device is fast in.
fn dtype(asked: Option<DtypeChoice>, trained: Option<Trained>, device: &Device) -> DType {
    let choice = asked.or(trained.map(|trained| trained.dtype)).unwrap_or_default();
    choice.dtype_on(device.capabilities().fast_bf16)
}

/// The name of an adapter that was given none.
fn name_of(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    dir.file_name().map_or("adapter".into(), |name| name.to_string_lossy().into_owned())
}

/// The tokenizer and template that an adapter was trained with, where its directory has them.
pub(super) fn adapter_text(dir: &Path, base: &TextProcessor) -> Result<Option<TextProcessor>> {
    let own = TokenizerFiles::load(dir)?;
    let mut files = match dir.join("tokenizer.json").is_file() {
        true => own.clone(),
        false if own.chat_templates.is_empty() => return Ok(None),
        false => base.files.clone(),
    };
    // Training may add a token that ends a turn; the model's files know the others.
    files.eos_token_ids.clone_from(&own.eos_token_ids);
    let more = base.files.eos_token_ids.iter().filter(|id| !own.eos_token_ids.contains(id));
    files.eos_token_ids.extend(more);
    files.chat_templates = match own.chat_templates.is_empty() {
        true => base.files.chat_templates.clone(),
        false => own.chat_templates,
    };
    let tokenizer = Box::new(HfTokenizer::from_files(&files)?);
    TextProcessor::new(files, tokenizer, None, dir, now()).map(Some)
}

/// The date that templates print.
pub(super) fn now() -> DateTime {
    jiff::ZonedDateTime::now().datetime()
}
