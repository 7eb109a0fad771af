//! The settings of a training run, resolved and typed.

use std::path::PathBuf;

use super::choice::{DtypeChoice, GradientCheckpointing, Init, LrSchedulerType, QuantType};
use super::lora::LoraConfig;
use super::paths::TemplateSource;
use crate::backend::DeviceSpec;
use crate::data::{DataFile, ExcessLength, Format};
use crate::objective::Chosen;
use crate::ops::Implementation;
use crate::optim;

/// Everything a training run is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainConfig {
    /// A model directory (absolute), or `Org/Name[@revision]` in the local Hugging Face cache.
    pub model: String,
    /// Where the result goes (absolute).
    pub output_dir: PathBuf,
    /// What the run optimizes, with its settings.
    pub objective: Chosen,
    /// The device that computes.
    pub device: DeviceSpec,
    /// The most memory that may be used, in bytes.
    pub max_memory: Option<u64>,
    /// Base weights and activations.
    pub dtype: DtypeChoice,
    /// Where the weights come from.
    pub init: Init,
    /// How attention is computed.
    pub attn_implementation: Implementation,
    /// The run to go on with. Part of this start, not of the run: it is not saved.
    pub resume: Resume,
    /// Quantization of the frozen base weights.
    pub quantization: QuantizationConfig,
    /// LoRA; without it, all weights are trained.
    pub lora: Option<LoraConfig>,
    /// The examples.
    pub data: DataConfig,
    /// The optimization.
    pub train: TrainArgs,
    /// What was read and has no effect here, for the user. Not saved.
    pub notes: Vec<String>,
}

/// Which checkpoint a run starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// None: a new run.
    #[default]
    No,
    /// The newest complete one in `output_dir`.
    Latest,
    /// The one in this directory.
    From(PathBuf),
}

/// Quantization of the frozen base weights, by bitsandbytes' names.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizationConfig {
    /// Whether the weights of linear layers are stored in 4 bits.
    pub load_in_4bit: bool,
    /// The 4-bit data type.
    pub bnb_4bit_quant_type: QuantType,
    /// Whether the scales are quantized too.
    pub bnb_4bit_use_double_quant: bool,
    /// What the weights are decoded to for products.
    pub bnb_4bit_compute_dtype: DtypeChoice,
}

impl QuantizationConfig {
    /// Whether weights are stored in NF4, and then whether their scales are quantized too.
    pub fn nf4(&self) -> Option<bool> {
        self.load_in_4bit.then_some(self.bnb_4bit_use_double_quant)
    }
}

impl Default for QuantizationConfig {
    fn default() -> Self {
        Self {
            load_in_4bit: false,
            bnb_4bit_quant_type: QuantType::Nf4,
            bnb_4bit_use_double_quant: true,
            bnb_4bit_compute_dtype: DtypeChoice::Auto,
        }
    }
}

/// The examples a run sees.
#[derive(Clone, Debug, PartialEq)]
pub struct DataConfig {
    /// The training files (absolute); at least one.
    pub train: Vec<DataFile>,
    /// The held-out examples.
    pub eval: EvalSource,
    /// The form of the examples; told by their keys if not given.
    pub format: Option<Format>,
    /// The chat template; without it, the model's.
    pub chat_template: Option<TemplateSource>,
    /// The longest example in tokens; without it, 1024 or the model's context if that is smaller.
    pub max_length: Option<usize>,
    /// What becomes of longer examples.
    pub excess_length_strategy: ExcessLength,
    /// Several examples in a row, isolated from each other.
    pub packing: bool,
    /// A prompt that several completions share is computed once.
    pub shared_prefix: bool,
    /// Loss on completions and assistant turns only.
    pub completion_only_loss: bool,
    /// A new order every epoch.
    pub shuffle: bool,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            train: Vec::new(),
            eval: EvalSource::None,
            format: None,
            chat_template: None,
            max_length: None,
            excess_length_strategy: ExcessLength::Truncate,
            packing: false,
            shared_prefix: true,
            completion_only_loss: true,
            shuffle: true,
        }
    }
}

/// The held-out examples.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum EvalSource {
    /// None: nothing is evaluated.
    #[default]
    None,
    /// A file (absolute).
    File(PathBuf),
    /// A share of the training examples, above 0 and below 1, drawn by the seed.
    Split(f64),
}

/// When something periodic happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Interval {
    /// Not during the run.
    Never,
    /// At the end of every epoch.
    Epoch,
    /// Every so many optimizer steps.
    Steps(u64),
    /// Every such share of the run's steps, above 0 and below 1, rounded up to whole steps.
    Share(f64),
}

impl Interval {
    /// The interval in a run of `total` steps, where a share is a number of steps.
    pub fn of(self, total: u64) -> Self {
        match self {
            Self::Share(share) => Self::Steps(((total as f64 * share).ceil() as u64).max(1)),
            other => other,
        }
    }

    /// The number as it is written in files: 0 where the interval is not counted in steps.
    pub fn steps(self) -> u64 {
        match self {
            Self::Steps(steps) => steps,
            Self::Never | Self::Epoch | Self::Share(_) => 0,
        }
    }
}

/// The optimization, by Transformers' names.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainArgs {
    /// Examples (packed rows when packing) per micro-batch.
    pub per_device_train_batch_size: usize,
    /// The same, in evaluation.
    pub per_device_eval_batch_size: usize,
    /// Micro-batches per optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Passes over the examples; may be a fraction.
    pub num_train_epochs: f64,
    /// Optimizer steps; takes precedence over the epochs.
    pub max_steps: Option<u64>,
    /// The optimizer.
    pub optim: &'static optim::Kind,
    /// The peak learning rate.
    pub learning_rate: f64,
    /// Its shape over the steps.
    pub lr_scheduler_type: LrSchedulerType,
    /// Steps of warm-up; below 1, a share of all steps, rounded up.
    pub warmup_steps: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW's decay of the mean of gradients.
    pub adam_beta1: f64,
    /// AdamW's decay of the mean of squared gradients.
    pub adam_beta2: f64,
    /// AdamW's term against division by zero.
    pub adam_epsilon: f64,
    /// The global norm above which gradients are scaled down; 0 is never.
    pub max_grad_norm: f64,
    /// Recomputation of activations.
    pub gradient_checkpointing: GradientCheckpointing,
    /// When metrics are logged.
    pub logging_steps: Interval,
    /// When the held-out examples are evaluated.
    pub eval_steps: Interval,
    /// When a checkpoint is saved.
    pub save_steps: Interval,
    /// How many checkpoints are kept; 0 is all.
    pub save_total_limit: usize,
    /// Whether the result is the checkpoint with the lowest evaluation loss.
    pub load_best_model_at_end: bool,
    /// Stop after so many evaluations without a lower loss; 0 is never.
    pub early_stopping_patience: usize,
    /// Noise on embeddings while training (NEFTune, arXiv:2310.05914); 0 is none.
    pub neftune_noise_alpha: f64,
    /// The seed of everything random.
    pub seed: u64,
}

impl Default for TrainArgs {
    fn default() -> Self {
        Self {
            per_device_train_batch_size: 4,
            per_device_eval_batch_size: 8,
            gradient_accumulation_steps: 1,
            num_train_epochs: 1.0,
            max_steps: None,
            optim: optim::KINDS[0],
            learning_rate: 2e-5,
            lr_scheduler_type: LrSchedulerType::Cosine,
            warmup_steps: 0.03,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            gradient_checkpointing: GradientCheckpointing::Auto,
            logging_steps: Interval::Steps(1),
            eval_steps: Interval::Epoch,
            save_steps: Interval::Epoch,
            save_total_limit: 2,
            load_best_model_at_end: false,
            early_stopping_patience: 0,
            neftune_noise_alpha: 0.0,
            seed: 42,
        }
    }
}
