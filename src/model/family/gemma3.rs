//! Gemma 3, the text models: weights of norms have 1 added, embeddings are scaled, norms stand before and
//! after attention and MLP, and layers with a window have a RoPE of their own.

use super::common::{
    Biases, Sizes, check_activation, decoder, flag, refuse_biases, refuse_dropout, refuse_keys,
    sliding_window, windows_by_layer,
};
use super::{Defaults, Family};
use crate::Result;
use crate::model::json::Object;
use crate::model::rope::{RopeConfig, RopeRules};
use crate::model::spec::{Activation, Divisors, Gguf, NormSpec, Spec};

pub(super) static FAMILY: Family = Family {
    model_type: "gemma3_text",
    architecture: "Gemma3ForCausalLM",
    classifier: "Gemma3TextForSequenceClassification",
    defaults: Defaults {
        vocab_size: 262_208,
        hidden_size: 2304,
        intermediate_size: 9216,
        num_hidden_layers: 26,
        num_attention_heads: 8,
        num_key_value_heads: Some(4),
        head_dim: Some(256),
        max_position_embeddings: 131_072,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: true,
        bos_token_id: Some(2),
        eos_token_id: Some(1),
        pad_token_id: Some(0),
    },
    describe,
};

const GGUF: Gguf = Gguf {
    architecture: "gemma3",
    interleaved: false,
    divisors: Divisors::None,
    attention_bias: false,
    windows: true,
    scale_by_width: Some(62),
};

/// The RoPE of layers that see all positions, and of those with a window.
const GLOBAL: usize = 0;
/// See [`GLOBAL`].
const LOCAL: usize = 1;

fn describe(config: &Object) -> Result<Spec> {
    check_activation(config, "hidden_activation", &["gelu_pytorch_tanh"])?;
    refuse_dropout(config, "attention_dropout")?;
    refuse_keys(
        config,
        &["attn_logit_softcapping", "final_logit_softcapping", "per_layer_config"],
    )?;
    if flag(config, "use_bidirectional_attention")? {
        return Err(config.error("use_bidirectional_attention", "= true is not supported"));
    }
    refuse_biases(config, &FAMILY, &["mlp_bias"])?;
    let sizes = Sizes::read(config, &FAMILY)?;
    let attention_bias = flag(config, "attention_bias")?;
    let biases = Biases { qkv: attention_bias, o: attention_bias, mlp: false };
    let [global, local] = read_ropes(config, &sizes)?;
    let windows = read_windows(config, sizes.layers)?;
    let mut spec = decoder(&sizes, biases, true, windows, global, GGUF);
    spec.ropes.push(local);
    spec.embedding_scale = Some((sizes.hidden as f64).sqrt() as f32);
    spec.norm = plus_one(spec.norm);
    let scale = read_scale(config)?;
    for block in &mut spec.blocks {
        let norm = |path: &str, gguf: &str| plus_one(sizes.norm(path, gguf, sizes.hidden));
        block.input_norm = norm("input_layernorm", "attn_norm");
        block.post_attention_norm = Some(norm("post_attention_layernorm", "post_attention_norm"));
        block.mlp_norm = norm("pre_feedforward_layernorm", "ffn_norm");
        block.post_mlp_norm = Some(norm("post_feedforward_layernorm", "post_ffw_norm"));
        block.mlp.activation = Activation::GeluTanh;
        let attention = &mut block.attention;
        attention.scale = scale;
        attention.rope = if attention.window.is_some() { LOCAL } else { GLOBAL };
        if let Some(norms) = &mut attention.head_norms {
            norms.q.offset = 1.0;
            norms.k.offset = 1.0;
        }
    }
    Ok(spec)
}

fn plus_one(norm: NormSpec) -> NormSpec {
    NormSpec { offset: 1.0, ..norm }
}

/// `query_pre_attn_scalar` to the power of -1/2.
fn read_scale(config: &Object) -> Result<f32> {
    match config.number("query_pre_attn_scalar")?.unwrap_or(256.0) {
        x if x > 0.0 => Ok(x.powf(-0.5) as f32),
        _ => Err(config.error("query_pre_attn_scalar", "must be above 0")),
    }
}

/// The window of every layer: as `layer_types` says, else all but every `sliding_window_pattern`-th.
fn read_windows(config: &Object, layers: usize) -> Result<Vec<Option<u32>>> {
    let window = sliding_window(config, Some(4096))?;
    if let Some(windows) = windows_by_layer(config, window, layers)? {
        return Ok(windows);
    }
    let pattern = match config.count("sliding_window_pattern")?.unwrap_or(6) {
        0 => return Err(config.error("sliding_window_pattern", "must be above 0")),
        pattern => pattern,
    };
    if window.is_none() {
        return Err(config.error("sliding_window", "is null, but layers with a window need it"));
    }
    let is_global = |layer: usize| (layer + 1).is_multiple_of(pattern);
    Ok((0..layers).map(|layer| window.filter(|_| !is_global(layer))).collect())
}

/// Both RoPEs, global and local: a set of parameters per type of layer (Transformers 5), or
/// `rope_theta` with `rope_scaling`, and `rope_local_base_freq`.
fn read_ropes(config: &Object, sizes: &Sizes) -> Result<[RopeConfig; 2]> {
    let scaling = config.object("rope_scaling")?;
    let by_type = config.object("rope_parameters")?;
    if let (Some(_), Some(_)) = (&scaling, &by_type) {
        return Err(config.error("rope_scaling", "and `rope_parameters` are both there"));
    }
    const TYPES: [&str; 2] = ["full_attention", "sliding_attention"];
    if let Some(by_type) = &by_type
        && let Some(key) = by_type.keys().find(|key| !TYPES.contains(key))
    {
        return Err(
            by_type.error(key, format_args!("is no type of layer; expected {}", TYPES.join(", ")))
        );
    }
    let of_type = |kind: &str| by_type.as_ref().map_or(Ok(None), |by_type| by_type.object(kind));
    let read = |nested: Option<Object>, key: &str, default: f64| {
        let theta = config.number(key)?.unwrap_or(default);
        let rules = RopeRules { theta, ..RopeRules::new(sizes.head_dim, sizes.positions) };
        RopeConfig::of(nested.as_ref(), config, rules)
    };
    let global = of_type(TYPES[GLOBAL])?.or(scaling);
    Ok([
        read(global, "rope_theta", 1_000_000.0)?,
        read(of_type(TYPES[LOCAL])?, "rope_local_base_freq", 10_000.0)?,
    ])
}
