//! Qwen 3: RMS norms on the heads of q and k.

use super::common::{Biases, Sizes, decoder, flag, refuse_biases, refuse_unsupported, rope};
use super::{Defaults, Family, qwen2};
use crate::Result;
use crate::model::json::Object;
use crate::model::spec::{Divisors, Gguf, Spec};

pub(super) static FAMILY: Family = Family {
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    classifier: "Qwen3ForSequenceClassification",
    defaults: Defaults { head_dim: Some(128), ..qwen2::FAMILY.defaults },
    describe,
};

const GGUF: Gguf = Gguf {
    architecture: "qwen3",
    interleaved: false,
    divisors: Divisors::None,
    attention_bias: false,
    windows: false,
    scale_by_width: None,
};

fn describe(config: &Object) -> Result<Spec> {
    refuse_unsupported(config)?;
    refuse_biases(config, &FAMILY, &["mlp_bias"])?;
    let sizes = Sizes::read(config, &FAMILY)?;
    let attention = flag(config, "attention_bias")?;
    let biases = Biases { qkv: attention, o: attention, mlp: false };
    let windows = qwen2::windows(config, sizes.layers)?;
    Ok(decoder(&sizes, biases, true, windows, rope(config, &sizes)?, GGUF))
}
