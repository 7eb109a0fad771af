//! What llama.cpp has to know about the network: its architecture, sizes, rotary embedding, and what
//! which rows of its tensors stand elsewhere.

use super::container::{Entry, Value};
use super::unsupported;
use crate::error::Result;
use crate::model::ModelConfig;
use crate::model::rope::{RopeConfig, RopeScaling, inverse_frequencies};
use crate::model::spec::{Block, Projection, Role, Spec, TensorSpec};

/// The sizes and settings of the network.
///
/// The context is the longest sequence for which llama.cpp computes what Transformers does: a sliding
/// window, which the architectures above do not have there, bounds it.
///
/// # Errors
/// `Error::Input` for biases or a RoPE type that llama.cpp's architecture does not have.
pub fn metadata(config: &ModelConfig) -> Result<Vec<Entry>> {
    let spec = &config.spec;
    let arch = spec.gguf.architecture;
    let (first, rope) = uniform(spec)?;
    if !spec.gguf.attention_bias && first.linears().iter().any(|linear| linear.bias) {
        return Err(unsupported(format_args!(
            "llama.cpp's {arch} has no biases, but `attention_bias` is true"
        )));
    }
    let windows = spec.blocks.iter().filter_map(|block| block.attention.window);
    let context = windows.fold(config.max_position_embeddings, |n, w| n.min(w as usize));
    let attention = &first.attention;
    let size = |key: &str, n: usize| Entry::new(format!("{arch}.{key}"), Value::U32(n as u32));
    let real = |key: &str, x: f32| Entry::new(format!("{arch}.{key}"), Value::F32(x));
    let mut entries = vec![
        size("vocab_size", spec.vocab_size),
        size("context_length", context),
        size("embedding_length", spec.hidden_size),
        size("block_count", spec.blocks.len()),
        size("feed_forward_length", first.mlp.width),
        size("attention.head_count", attention.heads),
        size("attention.head_count_kv", attention.kv_heads),
        size("attention.key_length", attention.head_dim),
        size("attention.value_length", attention.head_dim),
        real("attention.layer_norm_rms_epsilon", spec.norm.eps),
        size("rope.dimension_count", rope.width),
        real("rope.freq_base", rope.theta as f32),
    ];
    let kind =
        |name: &str| Entry::new(format!("{arch}.rope.scaling.type"), Value::Text(name.into()));
    match rope.scaling {
        // Dynamic scaling starts beyond the context; Llama 3's is a tensor.
        RopeScaling::Default | RopeScaling::Dynamic { .. } | RopeScaling::Llama3 { .. } => {}
        RopeScaling::LongRope { .. } => {
            return Err(unsupported("rope_type \"longrope\""));
        }
        RopeScaling::Linear { factor } => {
            entries.extend([kind("linear"), real("rope.scaling.factor", factor as f32)]);
        }
        RopeScaling::Yarn { truncate: false, .. } => {
            return Err(unsupported("llama.cpp's YaRN has no `truncate = false`"));
        }
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            attention_factor,
            beta_fast,
            beta_slow,
            truncate: true,
        } => {
            // llama.cpp multiplies what it is told with its own default.
            let default = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
            entries.extend([
                kind("yarn"),
                real("rope.scaling.factor", factor as f32),
                size("rope.scaling.original_context_length", original),
                real("rope.scaling.attn_factor", (attention_factor / default) as f32),
                real("rope.scaling.yarn_beta_fast", beta_fast as f32),
                real("rope.scaling.yarn_beta_slow", beta_slow as f32),
            ]);
        }
    }
    Ok(entries)
}

/// What llama.cpp divides the frequencies of Llama 3's RoPE by, [HD / 2]; `None` for other types.
///
/// # Errors
/// `Error::Input` for a family whose architecture does not read them.
pub fn frequency_factors(config: &ModelConfig) -> Result<Option<Vec<f32>>> {
    let spec = &config.spec;
    let (_, rope) = uniform(spec)?;
    let RopeScaling::Llama3 { .. } = rope.scaling else { return Ok(None) };
    if !spec.gguf.rope_freqs {
        let name = spec.gguf.architecture;
        return Err(unsupported(format_args!("llama.cpp's {name} has no rope_type \"llama3\"")));
    }
    let plain = RopeConfig { scaling: RopeScaling::Default, ..rope.clone() };
    let plain = inverse_frequencies(&plain, 1)?;
    let scaled = inverse_frequencies(rope, 1)?;
    Ok(Some(plain.iter().zip(scaled).map(|(plain, scaled)| plain / scaled).collect()))
}

/// The first block and its RoPE: what llama.cpp has one number for, all blocks must share.
fn uniform(spec: &Spec) -> Result<(&Block, &RopeConfig)> {
    match (spec.blocks.first(), spec.ropes.first()) {
        (Some(block), Some(rope)) => Ok((block, rope)),
        _ => Err(unsupported("a model without layers")),
    }
}

/// The heads of a tensor whose rows llama.cpp keeps with rotary pairs beside each other: q and k of
/// its Llama, weights and biases.
pub fn interleaved_heads(spec: &Spec, tensor: &TensorSpec) -> Option<usize> {
    let attention = &spec.blocks.get(tensor.block?)?.attention;
    match tensor.role {
        _ if !spec.gguf.interleaved => None,
        Role::Linear(Projection::Q) | Role::Bias(Projection::Q) => Some(attention.heads),
        Role::Linear(Projection::K) | Role::Bias(Projection::K) => Some(attention.kv_heads),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(family: &str, more: &str) -> ModelConfig {
        let text = format!(
            r#"{{"model_type": "{family}", "vocab_size": 10, "hidden_size": 8, {more}
            "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 64}}"#
        );
        ModelConfig::from_json(&text, "c").unwrap()
    }

    fn value(entries: &[Entry], key: &str) -> Option<Value> {
        entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.clone())
    }

    #[test]
    fn the_context_ends_where_a_window_begins() {
        let entries = metadata(&config("mistral", r#""sliding_window": 16,"#)).unwrap();
        assert_eq!(value(&entries, "llama.context_length"), Some(Value::U32(16)));
        let entries = metadata(&config("qwen3", r#""sliding_window": 16,"#)).unwrap();
        assert_eq!(value(&entries, "qwen3.context_length"), Some(Value::U32(64)));
    }

    #[test]
    fn rope_types_are_said_or_refused() {
        let yarn = r#""rope_scaling": {"rope_type": "yarn", "factor": 4.0,
            "original_max_position_embeddings": 16},"#;
        let entries = metadata(&config("llama", yarn)).unwrap();
        assert_eq!(value(&entries, "llama.rope.scaling.attn_factor"), Some(Value::F32(1.0)));
        let untruncated = yarn.replace("4.0,", "4.0, \"truncate\": false,");
        assert!(metadata(&config("llama", &untruncated)).is_err());
        let llama3 = r#""rope_scaling": {"rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16},"#;
        let factors = frequency_factors(&config("llama", llama3)).unwrap().unwrap();
        assert_eq!(factors.len(), 2);
        assert!((factors[1] - 8.0).abs() < 1e-5, "{factors:?}");
        let message = frequency_factors(&config("qwen2", llama3)).unwrap_err().to_string();
        assert!(message.contains("qwen2") && message.contains("llama3"), "{message}");
        assert!(metadata(&config("qwen3", r#""attention_bias": true,"#)).is_err());
    }
}
