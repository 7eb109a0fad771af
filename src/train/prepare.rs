//! Everything that is checked before a device is opened: model, tokenizer, template, data, output.

use super::run_state::RunState;
use super::start;
use crate::adapter::{PeftConfig, peft};
use crate::config::{EvalSource, Init, Resume, TemplateSource, TrainConfig};
use crate::data::{BatchOptions, DataFile, Dataset, LoadOptions, Stats};
use crate::error::{Error, Result};
use crate::files::{self, Lock};
use crate::model::load::check_floats;
use crate::model::resolve::{ModelSource, resolve};
use crate::model::save::Companions;
use crate::model::{Fingerprint, ModelConfig, Weights, check};
use crate::tokenizer::TextProcessor;
use jiff::civil::DateTime;
use std::path::{Path, PathBuf};

/// `data.max_length` where neither the config nor a smaller context says otherwise.
const DEFAULT_MAX_LENGTH: usize = 1024;

/// What is prepared for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Run,
    Preview,
    Plan,
}

/// A run that may start.
pub struct Prepared {
    /// The settings.
    pub config: TrainConfig,
    /// Where the model is.
    pub source: ModelSource,
    /// Its config.json.
    pub model_config: ModelConfig,
    /// Its weights; none with `init = "random"`, nor for a plan where they are elsewhere.
    pub weights: Option<Weights>,
    /// Tokenizer and chat template.
    pub text: TextProcessor,
    /// What the result carries along of the model's directory.
    pub companions: Companions,
    /// The examples.
    pub train: Dataset,
    /// The held-out examples.
    pub eval: Option<Dataset>,
    /// How examples become batches.
    pub batching: BatchOptions,
    /// The checkpoint that the run goes on from.
    pub checkpoint: Option<Checkpoint>,
    /// Holds `output_dir` where it is there already.
    pub lock: Option<Lock>,
    /// The adapter that the run starts from.
    pub adapter: Option<PeftConfig>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// Whether `train` is real; else it is one full micro-batch, to plan with.
    pub has_data: bool,
}

/// A whole checkpoint.
pub struct Checkpoint {
    /// Where it is.
    pub dir: PathBuf,
    /// What it says of the run.
    pub state: RunState,
}

impl Prepared {
    /// Reads and checks everything that `config` names. `date` is what templates that print a date
    /// print.
    ///
    /// # Errors
    /// `Error::Input` for the first thing that is wrong.
    pub fn new(config: TrainConfig, date: DateTime) -> Result<Self> {
        Self::prepare(config, date, Purpose::Run)
    }

    /// The same for a look at the rows: nothing is written, so output_dir may hold a run.
    ///
    /// # Errors
    /// As [`Prepared::new`].
    pub fn for_preview(config: TrainConfig, date: DateTime) -> Result<Self> {
        Self::prepare(config, date, Purpose::Preview)
    }

    /// The same for a plan, which nothing is written for either, and for which all but config.json
    /// may be elsewhere: where no data is named, there are examples as long as they may be.
    ///
    /// # Errors
    /// As [`Prepared::new`].
    pub fn for_plan(config: TrainConfig, date: DateTime) -> Result<Self> {
        Self::prepare(config, date, Purpose::Plan)
    }

    /// The saved adapter that the run starts from.
    pub fn starting_adapter(&self) -> Option<&Path> {
        starting_adapter(&self.config)
    }

    #[expect(clippy::too_many_lines, reason = "what is checked, in the order of what needs what")]
    fn prepare(config: TrainConfig, date: DateTime, purpose: Purpose) -> Result<Self> {
        let for_plan = purpose == Purpose::Plan;
        let has_data = !config.data.train.is_empty() || !for_plan;
        let mut output = Output::default();
        if purpose == Purpose::Run {
            output = Output::open(&config)?;
        }
        let date = match &output.checkpoint {
            None => date,
            Some(Checkpoint { dir, state }) => state
                .date
                .parse()
                .map_err(|error| Error::input(format!("{}: date: {error}", dir.display())))?,
        };
        let source = resolve(&config.model)?;
        let mut model_config = ModelConfig::open(&source.path)?;
        choose_head(&config, &mut model_config, &source.path)?;
        let max_length = max_length(&config, &model_config)?;
        let (weights, mut warnings) = match config.init {
            Init::Random => (None, Vec::new()),
            Init::Pretrained if for_plan && !Weights::are_in(&source.path) => (None, Vec::new()),
            Init::Pretrained => {
                let mut weights = Weights::open(&source.path)?;
                let warnings = check(&mut weights, &mut model_config)?;
                (Some(weights), warnings)
            }
        };
        check_modes(&config, &model_config)?;
        let saved_adapter = starting_adapter(&config);
        let adapter = match saved_adapter {
            None => None,
            Some(dir) => {
                let (adapter, _) = peft::load(dir, &model_config, weights.as_ref())?;
                warnings.extend(other_base(dir, &adapter, &source));
                Some(adapter)
            }
        };
        let text = match has_data || TextProcessor::is_in(&source.path) {
            true => text_processor(&config, &source, date)?,
            false => TextProcessor::absent(),
        };
        let companions = Companions::read(&source.path)?;
        warnings.extend(pad_classifier(&mut model_config, &text));
        let (mut train, mut eval) = match has_data {
            true => read_data(&config, &text, max_length)?,
            false => (full_batch(&config, max_length)?, None),
        };
        for data in std::iter::once(&mut train).chain(&mut eval) {
            share_prompts(data, &config, &model_config, purpose);
        }
        if has_data {
            for data in std::iter::once(&train).chain(&eval) {
                data.check_vocabulary(model_config.spec.vocab_size, text.tokenizer.as_ref())?;
            }
        }
        warnings.splice(0..0, output.notes);
        warnings.extend(what_was_cut(&train, max_length));
        warnings.extend(train.warnings.iter().cloned());
        warnings.extend(eval.iter().flat_map(|eval| eval.warnings.clone()));
        warnings.extend(config.objective.advise(&config.train, config.lora.is_some()));
        let batching = BatchOptions {
            per_device_train_batch_size: config.train.per_device_train_batch_size,
            gradient_accumulation_steps: config.train.gradient_accumulation_steps,
            packing: config.data.packing,
            max_length,
            shuffle: config.data.shuffle,
            seed: config.train.seed,
        };
        Ok(Self {
            config,
            source,
            model_config,
            weights,
            text,
            companions,
            train,
            eval,
            batching,
            checkpoint: output.checkpoint,
            lock: output.lock,
            adapter,
            warnings,
            has_data,
        })
    }

    /// What tells the base model from others.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.model_config.raw(), self.weights.as_ref())
    }
}

/// What is in `output_dir` for the run.
#[derive(Default)]
struct Output {
    checkpoint: Option<Checkpoint>,
    lock: Option<Lock>,
    notes: Vec<String>,
}

impl Output {
    /// Checks that a run may write there, and finds the checkpoint to go on from.
    fn open(config: &TrainConfig) -> Result<Self> {
        let dir = &config.output_dir;
        files::check_output_dir(dir, config.resume != Resume::No)?;
        let lock = if dir.is_dir() { Lock::take(dir)? } else { None };
        let mut said = Vec::new();
        if config.resume != Resume::No && dir.is_dir() {
            // What a killed run left; it may have a checkpoint under another name.
            let cleaned = files::clean_up(dir);
            said.extend(cleaned.err().map(|error| {
                format!("cannot take away what a killed run left in {}: {error}", dir.display())
            }));
        }
        let start::Start { checkpoint, mut notes } = start::find(config)?;
        notes.extend(said);
        let read = |dir: PathBuf| RunState::read(&dir).map(|state| Checkpoint { dir, state });
        Ok(Self { checkpoint: checkpoint.map(read).transpose()?, lock, notes })
    }
}

/// The saved adapter that `config` starts from.
fn starting_adapter(config: &TrainConfig) -> Option<&Path> {
    config.lora.as_ref().and_then(|lora| lora.adapter.as_deref())
}

/// Refuses a model that gives scores and no text.
///
/// # Errors
/// `Error::Input`.
pub fn refuse_classifier(model: &ModelConfig, dir: &Path) -> Result<()> {
    match model.spec.is_classifier {
        false => Ok(()),
        true => Err(Error::input(format!(
            "{} is a sequence classifier (a reward model), which gives scores and no text: use it with \
             evaluate",
            dir.display()
        ))),
    }
}

/// A score in the place of the head, where the objective has one; else a head that gives text.
fn choose_head(config: &TrainConfig, model: &mut ModelConfig, dir: &Path) -> Result<()> {
    if config.objective.has_score() {
        model.classify(config.train.seed);
        return Ok(());
    }
    refuse_classifier(model, dir)
}

/// Says in a classifier's config what it is padded with; a warning where there is no such token.
fn pad_classifier(model: &mut ModelConfig, text: &TextProcessor) -> Option<String> {
    if !model.spec.is_classifier {
        return None;
    }
    model.pad_token_id = pad_token(model, text);
    model.pad_token_id.is_none().then(|| {
        "the tokenizer has no token to pad with but the end of sequence: score one text at a time with \
         Transformers"
            .to_owned()
    })
}

/// The token that a classifier is padded with: not one that ends sequences or turns, or their scores
/// would be read before it.
pub fn pad_token(model: &ModelConfig, text: &TextProcessor) -> Option<u32> {
    const NAMES: [&str; 8] = [
        "<pad>",
        "[PAD]",
        "<|pad|>",
        "<|padding|>",
        "<|finetune_right_pad_id|>",
        "<unk>",
        "<|endoftext|>",
        "<|end_of_text|>",
    ];
    let ends = text.tokenizer.eos_token_ids();
    let turn = text.template.as_ref().map(|_| text.end_of_turn().ids).unwrap_or_default();
    let named = NAMES.iter().filter_map(|name| text.tokenizer.token_to_id(name));
    let known = [model.pad_token_id, text.tokenizer.pad_token_id()].into_iter().flatten();
    known
        .chain(named)
        .find(|id| !model.eos_token_ids.contains(id) && !ends.contains(id) && !turn.contains(id))
}

/// Lets the sequences of groups share their prompts, where that changes no result: noise on embeddings is
/// drawn for each sequence, in its prompt too. People read whole sequences.
fn share_prompts(data: &mut Dataset, config: &TrainConfig, model: &ModelConfig, purpose: Purpose) {
    let wanted = config.data.shared_prefix && purpose != Purpose::Preview;
    let noisy = config.train.neftune_noise_alpha > 0.0;
    data.share_prompts(wanted && !noisy, |a, b| model.spec.turn_alike(a, b));
}

/// The longest example, within the model's context.
fn max_length(config: &TrainConfig, model: &ModelConfig) -> Result<usize> {
    let context = model.context();
    let max_length = config.data.max_length.unwrap_or(DEFAULT_MAX_LENGTH.min(context));
    if max_length > context {
        return Err(Error::input(format!(
            "data.max_length = {max_length}, but the model's context is {context} tokens \
             (max_position_embeddings, or what its RoPE stretches it to): lower max_length"
        )));
    }
    Ok(max_length)
}

/// The model's tokenizer, with the chat template that the config names, else the model's.
fn text_processor(
    config: &TrainConfig,
    source: &ModelSource,
    date: DateTime,
) -> Result<TextProcessor> {
    let template = config.data.chat_template.as_ref().map(|template| match template {
        TemplateSource::Named(name) => name.clone(),
        TemplateSource::File(path) => path.display().to_string(),
    });
    TextProcessor::load(&source.path, template.as_deref(), Path::new(""), date)
}

/// The examples to train on, and those held out.
fn read_data(
    config: &TrainConfig,
    text: &TextProcessor,
    max_length: usize,
) -> Result<(Dataset, Option<Dataset>)> {
    let options = LoadOptions {
        format: config.data.format,
        max_length,
        excess_length: config.data.excess_length_strategy,
        completion_only_loss: config.data.completion_only_loss,
        require_stop_token: true,
    };
    let objective = &*config.objective;
    let train = Dataset::load(&config.data.train, text, objective, &options)?;
    Ok(match &config.data.eval {
        EvalSource::None => (train, None),
        EvalSource::Split(share) => {
            let (train, eval) = train.split(*share, config.train.seed)?;
            (train, Some(eval))
        }
        EvalSource::File(path) => {
            let options = LoadOptions { require_stop_token: false, ..options };
            (train, Some(Dataset::load(&[DataFile::new(path)], text, objective, &options)?))
        }
    })
}

/// Tokens of the largest micro-batch that is planned without data.
const MOST_TOKENS: usize = 1 << 24;

/// The largest micro-batch there may be, in the place of data that is not here.
fn full_batch(config: &TrainConfig, max_length: usize) -> Result<Dataset> {
    let objective = &config.objective;
    let rows = config.train.per_device_train_batch_size;
    if rows.saturating_mul(max_length) > MOST_TOKENS {
        return Err(Error::input(format!(
            "{rows} rows (per_device_train_batch_size) of {max_length} tokens (max_length) are too many \
             to plan: at most {MOST_TOKENS} tokens fit into a micro-batch"
        )));
    }
    Ok(Dataset {
        // Its weight says that each example is seen.
        files: vec![DataFile::new("no data")],
        format: objective.formats()[0],
        examples: vec![objective.largest_group(max_length); rows],
        stats: Stats::default(),
        warnings: Vec::new(),
    })
}

/// Warnings about examples that were cut or left out.
fn what_was_cut(data: &Dataset, max_length: usize) -> Vec<String> {
    let stats = &data.stats;
    let mut warnings = Vec::new();
    if stats.truncated > 0 {
        warnings.push(format!(
            "{} of {} examples are longer than max_length = {max_length} and were truncated",
            stats.truncated, stats.examples
        ));
    }
    let dropped = stats.dropped_too_long + stats.dropped_without_loss;
    if dropped > 0 {
        let first =
            stats.first_cut.map(|source| format!(" (the first: {})", data.place_of(source)));
        let first = first.unwrap_or_default();
        warnings.push(format!(
            "{dropped} examples were dropped: too long, or with no token that carries loss within \
             max_length = {max_length}{first}"
        ));
    }
    warnings
}

/// A warning where an adapter says that it is for a model of another name. (Names are not enough to
/// refuse it: models are moved and copied.)
pub fn other_base(dir: &Path, adapter: &PeftConfig, model: &ModelSource) -> Option<String> {
    let base = adapter.base_model_name_or_path.as_ref()?;
    let name = |path: &str| Path::new(path).file_name().map(ToOwned::to_owned);
    (name(base) != name(&model.base_id)).then(|| {
        format!(
            "the adapter {} was trained on {base}, and is used with {}",
            dir.display(),
            model.base_id
        )
    })
}

/// Settings that do not go together.
fn check_modes(config: &TrainConfig, model: &ModelConfig) -> Result<()> {
    if config.lora.is_none() {
        check_floats(model, config.quantization.load_in_4bit)?;
    }
    if config.init == Init::Random && config.lora.is_some() {
        return Err(Error::input(
            "init = \"random\" with [lora] would adapt a model that knows nothing: remove one of them",
        ));
    }
    match &config.lora {
        Some(lora) if lora.adapter.is_none() => {
            lora.target_modules.refuse_unknown(&model.spec)?;
            let adapter = lora.peft(&model.spec);
            adapter.modules(model)?;
            adapter.saved_tensors(&model.spec)?;
            adapter.token_rows(&model.spec).map(|_| ())
        }
        _ => Ok(()),
    }
}
