//! Phi-3, Phi-3.5, Phi-4 and their mini forms: q, k and v in one layer, gate and up in one, LongRoPE, and
//! in Phi-4-mini a RoPE that turns a part of each head.

use super::common::{
    Biases, Sizes, check_layer_types, decoder, refuse_biases, refuse_dropout, refuse_unsupported,
    sliding_window,
};
use super::{Defaults, Family};
use crate::Result;
use crate::model::json::Object;
use crate::model::rope::{RopeConfig, RopeRules, RopeScaling};
use crate::model::spec::{Divisors, GateUpSpec, Gguf, LinearSpec, Projection, QkvSpec, Spec};

pub(super) static FAMILY: Family = Family {
    model_type: "phi3",
    architecture: "Phi3ForCausalLM",
    classifier: "Phi3ForSequenceClassification",
    defaults: Defaults {
        vocab_size: 32_064,
        hidden_size: 3072,
        intermediate_size: 8192,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: None,
        head_dim: None,
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: false,
        bos_token_id: Some(1),
        eos_token_id: Some(32_000),
        pad_token_id: Some(32_000),
    },
    describe,
};

const GGUF: Gguf = Gguf {
    architecture: "phi3",
    interleaved: false,
    divisors: Divisors::LongRope,
    attention_bias: false,
    windows: false,
    scale_by_width: None,
};

fn describe(config: &Object) -> Result<Spec> {
    refuse_unsupported(config)?;
    refuse_dropout(config, "resid_pdrop")?;
    refuse_dropout(config, "embd_pdrop")?;
    refuse_biases(config, &FAMILY, &["attention_bias", "mlp_bias"])?;
    let sizes = Sizes::read(config, &FAMILY)?;
    let window = sliding_window(config, None)?;
    // Every layer is built alike, whatever `layer_types` says.
    let windows = vec![window; sizes.layers];
    check_layer_types(config, &FAMILY, window, &windows)?;
    let rope = read_rope(config, &sizes)?;
    let mut spec = decoder(&sizes, Biases::NONE, false, windows, rope, GGUF);
    let (hidden, qkv) = (sizes.hidden, sizes.q() + 2 * sizes.kv());
    for block in &mut spec.blocks {
        let qkv = LinearSpec::new(Projection::Qkv, qkv, hidden, false);
        block.attention.qkv = QkvSpec::Fused(qkv);
        let gate_up = LinearSpec::new(Projection::GateUp, 2 * sizes.inner, hidden, false);
        block.mlp.gate_up = GateUpSpec::Fused(gate_up);
    }
    Ok(spec)
}

fn read_rope(config: &Object, sizes: &Sizes) -> Result<RopeConfig> {
    let common = RopeRules::new(sizes.head_dim, sizes.positions);
    // Old files' names of what became longrope.
    let rules = RopeRules { partial: true, longrope_names: &["su", "yarn"], ..common };
    let rope = RopeConfig::read(config, rules)?;
    let key = "original_max_position_embeddings";
    match rope.scaling {
        RopeScaling::Default => Ok(rope),
        // Transformers takes 4096 for it, whatever stands beside the other parameters.
        RopeScaling::LongRope { .. } if config.get(key).is_none() => {
            Err(config.error(key, "is missing; rope_type \"longrope\" needs it"))
        }
        RopeScaling::LongRope { .. } => Ok(rope),
        _ => Err(config.error("rope_scaling", "must be of the type \"default\" or \"longrope\"")),
    }
}
