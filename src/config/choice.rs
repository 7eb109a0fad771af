//! Settings that take one of a few names.

use crate::data::{ExcessLength, Format};
use crate::dtype::DType;
use crate::ops::Implementation;
use crate::suggest::nearest;

/// An enum whose values are written as names in configs and on the command line.
pub trait Choice: Copy + PartialEq + 'static {
    /// Every accepted name. The first name of a value is the one that is written; later ones are
    /// synonyms that other tools use.
    const NAMES: &'static [(&'static str, Self)];

    /// The value's name.
    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, value)| *value == self).map_or("", |(name, _)| name)
    }

    /// The value of that name; the message of the error lists the choices.
    fn parse(text: &str) -> Result<Self, String> {
        if let Some((_, value)) = Self::NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*value);
        }
        let hint = match nearest(text, Self::NAMES.iter().map(|(name, _)| *name)) {
            Some(name) => format!(" (did you mean {name:?}?)"),
            None => String::new(),
        };
        Err(format!("expected {}, found {text:?}{hint}", Self::expected()))
    }

    /// The choices in words, synonyms left out.
    fn expected() -> String {
        let names: Vec<String> = Self::NAMES
            .iter()
            .filter(|(name, value)| value.name() == *name)
            .map(|(name, _)| format!("{name:?}"))
            .collect();
        match names.as_slice() {
            [only] => only.clone(),
            [first, second] => format!("{first} or {second}"),
            names => format!("one of {}", names.join(", ")),
        }
    }
}

/// The dtype of base weights and activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DtypeChoice {
    /// `bfloat16` where the device computes it fast, else `float32`.
    #[default]
    Auto,
    /// 32-bit IEEE floats.
    Float32,
    /// The upper half of a 32-bit float: its range, 8 bits of precision.
    Bfloat16,
    /// 16-bit IEEE floats.
    Float16,
}

impl Choice for DtypeChoice {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("float32", Self::Float32),
        ("bfloat16", Self::Bfloat16),
        ("float16", Self::Float16),
        ("fp32", Self::Float32),
        ("bf16", Self::Bfloat16),
        ("fp16", Self::Float16),
        ("torch.float32", Self::Float32),
        ("torch.bfloat16", Self::Bfloat16),
        ("torch.float16", Self::Float16),
    ];
}

impl DtypeChoice {
    /// The element type; `None` leaves it to the device.
    pub fn dtype(self) -> Option<DType> {
        match self {
            Self::Auto => None,
            Self::Float32 => Some(DType::F32),
            Self::Bfloat16 => Some(DType::BF16),
            Self::Float16 => Some(DType::F16),
        }
    }

    /// The element type on a device that computes bfloat16 fast, or does not.
    pub fn dtype_on(self, fast_bf16: bool) -> DType {
        self.dtype().unwrap_or(if fast_bf16 { DType::BF16 } else { DType::F32 })
    }

    /// The same choice with `auto` settled for such a device.
    pub fn settled(self, fast_bf16: bool) -> Self {
        match self {
            Self::Auto if fast_bf16 => Self::Bfloat16,
            Self::Auto => Self::Float32,
            named => named,
        }
    }
}

/// Where the model's weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Init {
    /// The model's weight files.
    #[default]
    Pretrained,
    /// `config.json` alone; weights are drawn from the seed.
    Random,
}

impl Choice for Init {
    const NAMES: &'static [(&'static str, Self)] =
        &[("pretrained", Self::Pretrained), ("random", Self::Random)];
}

impl Choice for Implementation {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("flash", Self::Flash),
        ("eager", Self::Eager),
        ("flash_attention_2", Self::Flash),
        ("flash_attention_3", Self::Flash),
        ("sdpa", Self::Flash),
    ];
}

/// The 4-bit data type of quantized weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QuantType {
    /// 4-bit NormalFloat (QLoRA, arXiv:2305.14314).
    #[default]
    Nf4,
}

impl Choice for QuantType {
    const NAMES: &'static [(&'static str, Self)] = &[("nf4", Self::Nf4)];
}

/// `auto` is none: it is told by the keys of the first row.
impl Choice for Option<Format> {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("auto", None),
        (Format::Text.name(), Some(Format::Text)),
        (Format::Messages.name(), Some(Format::Messages)),
        (Format::PromptCompletion.name(), Some(Format::PromptCompletion)),
        (Format::Preference.name(), Some(Format::Preference)),
        (Format::Alpaca.name(), Some(Format::Alpaca)),
        (Format::Sharegpt.name(), Some(Format::Sharegpt)),
        ("prompt_completion", Some(Format::PromptCompletion)),
    ];
}

impl Choice for ExcessLength {
    const NAMES: &'static [(&'static str, Self)] =
        &[("truncate", Self::Truncate), ("drop", Self::Drop), ("raise", Self::Raise)];
}

/// The shape of the learning rate over the steps, by Transformers' names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LrSchedulerType {
    /// Warm-up, then half a cosine to 0.
    #[default]
    Cosine,
    /// Warm-up, then a straight line to 0.
    Linear,
    /// Constant from the first step; there is no warm-up.
    Constant,
    /// Warm-up, then constant.
    ConstantWithWarmup,
}

impl Choice for LrSchedulerType {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("cosine", Self::Cosine),
        ("linear", Self::Linear),
        ("constant", Self::Constant),
        ("constant_with_warmup", Self::ConstantWithWarmup),
    ];
}

/// Whether activations are recomputed in the backward pass to save memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GradientCheckpointing {
    /// As little recomputation as the memory allows.
    #[default]
    Auto,
    /// Always, whole layers.
    On,
    /// Never.
    Off,
}

/// A Transformers strategy: when something periodic happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    No,
    Epoch,
    Steps,
}

impl Choice for Strategy {
    const NAMES: &'static [(&'static str, Self)] =
        &[("no", Self::No), ("epoch", Self::Epoch), ("steps", Self::Steps)];
}
