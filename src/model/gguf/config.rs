//! config.json, from the keys of a GGUF file: what its conversion from Hugging Face's form read, said
//! back. Sizes of the vocabulary and ties are those of the tensors.

use serde_json::{Map, Value, json};

use super::keys::{Keys, shortest};
use crate::DType;
use crate::gguf::read::{self, Header};
use crate::model::rope::{RopeConfig, RopeScaling, inverse_frequencies};

/// What llama.cpp takes for a base of RoPE that is missing.
const THETA: f64 = 10_000.0;

/// Architectures, with the `model_type` and the class of Transformers.
const ARCHITECTURES: [(&str, &str, &str); 5] = [
    ("llama", "llama", "LlamaForCausalLM"),
    ("qwen2", "qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "qwen3", "Qwen3ForCausalLM"),
    ("gemma3", "gemma3_text", "Gemma3ForCausalLM"),
    ("phi3", "phi3", "Phi3ForCausalLM"),
];

/// Keys that change what a model computes.
const UNSUPPORTED: [&str; 9] = [
    "expert_count",
    "attention.clamp_kqv",
    "attention.scale",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "rope.scaling.yarn_log_multiplier",
];

/// The sizes that RoPE needs.
struct Sizes {
    head_dim: usize,
    rotary: usize,
    context: usize,
    theta: f64,
}

impl Sizes {
    fn read(keys: &Keys, hidden: usize, heads: usize) -> Result<Self, String> {
        let head_dim = match keys.whole("attention.key_length")? {
            Some(width) => width,
            None => hidden / heads.max(1),
        };
        if keys.whole("attention.value_length")?.is_some_and(|width| width != head_dim) {
            let architecture = keys.architecture;
            return Err(format!("{architecture}.attention.value_length differs from key_length"));
        }
        Ok(Self {
            head_dim,
            rotary: keys.whole("rope.dimension_count")?.unwrap_or(head_dim),
            context: keys.needed("context_length")?,
            theta: keys.real("rope.freq_base")?.unwrap_or(THETA),
        })
    }
}

/// The id of a named token, or null.
fn token(keys: &Keys, name: &str) -> Value {
    match keys.of_file(&format!("tokenizer.ggml.{name}_token_id")) {
        Some(read::Value::Whole(id)) => json!(id),
        _ => Value::Null,
    }
}

/// config.json.
///
/// Errors: in words, an architecture or a key that is not supported.
pub fn config(header: &Header) -> Result<Value, String> {
    let keys = Keys::new(header)?;
    let architecture = keys.architecture;
    let found = ARCHITECTURES.iter().find(|(name, ..)| *name == architecture);
    let Some((_, model_type, class)) = found else {
        let known = ARCHITECTURES.map(|(name, ..)| name).join(", ");
        return Err(format!(
            "general.architecture is {architecture:?}, which is not supported; supported are {known}"
        ));
    };
    keys.refuse(&UNSUPPORTED)?;
    let embedding =
        keys.tensor("token_embd.weight").ok_or("there is no tensor token_embd.weight")?;
    let (hidden, heads) = (keys.needed("embedding_length")?, keys.needed("attention.head_count")?);
    let sizes = Sizes::read(&keys, hidden, heads)?;
    let has = |name: &str| keys.tensor(name).is_some();
    let mut config = json!({
        "architectures": [class],
        "model_type": model_type,
        "vocab_size": embedding.shape.first(),
        "hidden_size": hidden,
        "intermediate_size": keys.needed("feed_forward_length")?,
        "num_hidden_layers": keys.needed("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.whole("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": sizes.head_dim,
        "max_position_embeddings": sizes.context,
        "rms_norm_eps": keys.real("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
        "tie_word_embeddings": !has("output.weight"),
        "bos_token_id": token(&keys, "bos"),
        "eos_token_id": token(&keys, "eos"),
        "pad_token_id": token(&keys, "padding"),
        "dtype": keys.kind().dtype().unwrap_or(DType::F32).name(),
    });
    let mut add = |key: &str, value: Value| config[key] = value;
    match architecture {
        "llama" => {
            add("attention_bias", has("blk.0.attn_q.bias").into());
            add("mlp_bias", has("blk.0.ffn_up.bias").into());
        }
        "qwen3" => add("attention_bias", has("blk.0.attn_q.bias").into()),
        "phi3" => {
            let window = keys.whole("attention.sliding_window")?.filter(|window| *window > 0);
            add("sliding_window", json!(window));
        }
        _ => {}
    }
    match architecture {
        "gemma3" => gemma(&keys, &sizes, &mut add)?,
        "phi3" => phi(&keys, &sizes, header, &mut add)?,
        _ => {
            if sizes.rotary != sizes.head_dim {
                return Err(format!("{architecture}.rope.dimension_count is not the heads' width"));
            }
            add("rope_parameters", rope(&keys, &sizes, header)?);
        }
    }
    Ok(config)
}

/// The RoPE of all layers, with its scaling.
fn rope(keys: &Keys, sizes: &Sizes, header: &Header) -> Result<Value, String> {
    let mut found = match keys.text("rope.scaling.type")?.unwrap_or("none") {
        "none" | "" => match keys.real("rope.scale_linear")?.filter(|factor| *factor != 1.0) {
            None => json!({"rope_type": "default"}),
            Some(factor) => json!({"rope_type": "linear", "factor": factor}),
        },
        "linear" => json!({"rope_type": "linear", "factor": factor(keys)?}),
        "yarn" => yarn(keys, sizes)?,
        other => {
            let key = format!("{}.rope.scaling.type", keys.architecture);
            return Err(format!("{key} is {other:?}; supported are none, linear and yarn"));
        }
    };
    if let Some(divisors) = header.reals.get("rope_freqs.weight") {
        if found["rope_type"] != "default" {
            return Err("rope_freqs.weight and a scaling of RoPE are both there".into());
        }
        found = divided(sizes, divisors);
    }
    found["rope_theta"] = json!(sizes.theta);
    Ok(found)
}

fn factor(keys: &Keys) -> Result<f64, String> {
    let key = "rope.scaling.factor";
    keys.real(key)?.ok_or_else(|| format!("{}.{key} is missing", keys.architecture))
}

fn yarn(keys: &Keys, sizes: &Sizes) -> Result<Value, String> {
    let factor = factor(keys)?;
    let original = keys.whole("rope.scaling.original_context_length")?.unwrap_or(sizes.context);
    let mut found = json!({
        "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original,
    });
    // llama.cpp multiplies it with what Transformers takes where nothing is said.
    if let Some(attention) = keys.real("rope.scaling.attn_factor")?.filter(|x| *x != 1.0) {
        let default = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
        found["attention_factor"] = json!(shortest((attention * default) as f32));
    }
    for beta in ["beta_fast", "beta_slow"] {
        if let Some(turns) = keys.real(&format!("rope.scaling.yarn_{beta}"))? {
            found[beta] = json!(turns);
        }
    }
    Ok(found)
}

/// Divisors of frequencies: Llama 3's rule where its usual numbers give them, else the numbers
/// themselves, which LongRoPE has a place for.
fn divided(sizes: &Sizes, divisors: &[f32]) -> Value {
    let factor = divisors.iter().copied().fold(1f32, f32::max);
    let scaling = RopeScaling::Llama3 {
        factor: f64::from(factor),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let plain =
        RopeConfig { width: sizes.rotary, theta: sizes.theta, scaling: RopeScaling::Default };
    let scaled = RopeConfig { scaling, ..plain.clone() };
    let usual = match (inverse_frequencies(&plain, 1), inverse_frequencies(&scaled, 1)) {
        (Ok(plain), Ok(scaled)) => plain.iter().zip(scaled).map(|(p, s)| p / s).collect(),
        _ => Vec::new(),
    };
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b.abs();
    if usual.len() == divisors.len() && usual.iter().zip(divisors).all(close) {
        return json!({
            "rope_type": "llama3", "factor": shortest(factor), "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        });
    }
    let list: Vec<f64> = divisors.iter().map(|x| shortest(*x)).collect();
    json!({
        "rope_type": "longrope", "short_factor": list, "long_factor": list,
        "original_max_position_embeddings": sizes.context, "attention_factor": 1.0,
    })
}

/// Gemma 3: windows in all layers but every n-th, which alone have the scaled RoPE.
fn gemma(keys: &Keys, sizes: &Sizes, add: &mut impl FnMut(&str, Value)) -> Result<(), String> {
    let layers = keys.needed("block_count")?;
    let pattern = keys.whole("attention.sliding_window_pattern")?.unwrap_or(6).max(1);
    let window = keys.needed("attention.sliding_window")?;
    let kind = |layer: usize| match (layer + 1).is_multiple_of(pattern) {
        true => "full_attention",
        false => "sliding_attention",
    };
    let heads = keys.needed("attention.head_count")?.max(1);
    // llama.cpp's rule, by the number of layers that the 27B model has.
    let scalar = match layers == 62 {
        true => keys.needed("embedding_length")? as f64 / heads as f64,
        false => sizes.head_dim as f64,
    };
    let mut global = match keys.text("rope.scaling.type")?.unwrap_or("none") {
        "none" => json!({"rope_type": "default"}),
        "linear" => json!({"rope_type": "linear", "factor": factor(keys)?}),
        other => return Err(format!("gemma3.rope.scaling.type {other:?} is not supported")),
    };
    global["rope_theta"] = json!(sizes.theta);
    let local = keys.real("rope.freq_base_swa")?.unwrap_or(THETA);
    add("sliding_window", json!(window));
    add("layer_types", (0..layers.min(4096)).map(kind).collect());
    add("query_pre_attn_scalar", json!(scalar));
    add("hidden_activation", json!("gelu_pytorch_tanh"));
    add(
        "rope_parameters",
        json!({
            "full_attention": global,
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        }),
    );
    Ok(())
}

/// Phi-3: a RoPE that may turn a part of each head, and LongRoPE's divisors.
fn phi(
    keys: &Keys,
    sizes: &Sizes,
    header: &Header,
    add: &mut impl FnMut(&str, Value),
) -> Result<(), String> {
    let mut rope = Map::new();
    rope.insert("rope_type".into(), json!("default"));
    let factors = |name: &str| -> Option<Vec<f64>> {
        Some(header.reals.get(name)?.iter().map(|x| shortest(*x)).collect())
    };
    let lists = (factors("rope_factors_short.weight"), factors("rope_factors_long.weight"));
    if let (Some(short), Some(long)) = lists {
        let original = keys.whole("rope.scaling.original_context_length")?;
        let original = original.unwrap_or(sizes.context);
        let attention = keys.real("rope.scaling.attn_factor")?.unwrap_or(1.0);
        rope.insert("rope_type".into(), json!("longrope"));
        rope.insert("short_factor".into(), json!(short));
        rope.insert("long_factor".into(), json!(long));
        rope.insert("attention_factor".into(), json!(attention));
        rope.insert("original_max_position_embeddings".into(), json!(original));
        add("original_max_position_embeddings", json!(original));
    }
    if sizes.rotary != sizes.head_dim {
        // Whose product is cut to a whole number again.
        let part = (sizes.rotary as f64 / sizes.head_dim as f64).next_up();
        rope.insert("partial_rotary_factor".into(), json!(part));
        add("partial_rotary_factor", json!(part));
    }
    rope.insert("rope_theta".into(), json!(sizes.theta));
    add("rope_parameters", Value::Object(rope));
    Ok(())
}
