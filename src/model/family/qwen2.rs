//! Qwen 2 and 2.5: biases on q, k and v.

use super::common::{
    Biases, Sizes, decoder, refuse_biases, refuse_unsupported, rope, sliding_window,
    windows_by_layer,
};
use super::{Defaults, Family};
use crate::Result;
use crate::model::json::Object;
use crate::model::spec::{Divisors, Gguf, Spec};

pub(super) static FAMILY: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    classifier: "Qwen2ForSequenceClassification",
    defaults: Defaults {
        vocab_size: 151_936,
        hidden_size: 4096,
        intermediate_size: 22_016,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: Some(32),
        head_dim: None,
        max_position_embeddings: 32_768,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: false,
        bos_token_id: None,
        eos_token_id: None,
        pad_token_id: None,
    },
    describe,
};

const GGUF: Gguf = Gguf {
    architecture: "qwen2",
    interleaved: false,
    divisors: Divisors::None,
    attention_bias: true,
    windows: false,
    scale_by_width: None,
};

fn describe(config: &Object) -> Result<Spec> {
    refuse_unsupported(config)?;
    // The biases of q, k and v are always there: `attention_bias: true` adds nothing.
    refuse_biases(config, &FAMILY, &["mlp_bias"])?;
    let sizes = Sizes::read(config, &FAMILY)?;
    let biases = Biases { qkv: true, o: false, mlp: false };
    let windows = windows(config, sizes.layers)?;
    Ok(decoder(&sizes, biases, false, windows, rope(config, &sizes)?, GGUF))
}

/// The window of every layer: from `max_window_layers` on, or as `layer_types` says.
pub(super) fn windows(config: &Object, layers: usize) -> Result<Vec<Option<u32>>> {
    let used = config.flag("use_sliding_window")?.unwrap_or(false);
    let window = sliding_window(config, Some(4096))?.filter(|_| used);
    let first = config.count("max_window_layers")?.unwrap_or(28);
    match windows_by_layer(config, window, layers)? {
        Some(windows) => Ok(windows),
        None => Ok((0..layers).map(|layer| window.filter(|_| layer >= first)).collect()),
    }
}
