//! Llama 2, 3 and 3.x, SmolLM2, TinyLlama.

use super::common::{Biases, Sizes, check_layer_types, decoder, flag, refuse_unsupported, rope};
use super::{Defaults, Family};
use crate::Result;
use crate::model::json::Object;
use crate::model::spec::{Divisors, Gguf, Spec};

pub(super) static FAMILY: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    classifier: "LlamaForSequenceClassification",
    defaults: Defaults {
        vocab_size: 32_000,
        hidden_size: 4096,
        intermediate_size: 11_008,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: None,
        head_dim: None,
        max_position_embeddings: 2048,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: false,
        bos_token_id: Some(1),
        eos_token_id: Some(2),
        pad_token_id: None,
    },
    describe,
};

/// llama.cpp's Llama.
pub(super) const GGUF: Gguf = Gguf {
    architecture: "llama",
    interleaved: true,
    divisors: Divisors::Llama3,
    attention_bias: true,
    windows: false,
    scale_by_width: None,
};

fn describe(config: &Object) -> Result<Spec> {
    refuse_unsupported(config)?;
    let sizes = Sizes::read(config, &FAMILY)?;
    if !sizes.hidden.is_multiple_of(sizes.heads) {
        let what =
            format!("{} is not a multiple of num_attention_heads {}", sizes.hidden, sizes.heads);
        return Err(config.error("hidden_size", what));
    }
    let attention = flag(config, "attention_bias")?;
    let biases = Biases { qkv: attention, o: attention, mlp: flag(config, "mlp_bias")? };
    // Every layer is built alike, whatever `layer_types` says.
    let windows = vec![None; sizes.layers];
    check_layer_types(config, &FAMILY, None, &windows)?;
    Ok(decoder(&sizes, biases, false, windows, rope(config, &sizes)?, GGUF))
}
