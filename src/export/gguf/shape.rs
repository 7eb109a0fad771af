//! What llama.cpp has to know about the network: its architecture, sizes, rotary embedding, and what
//! its tensors are called.

use super::container::{Entry, Value};
use super::unsupported;
use crate::error::{Error, Result};
use crate::model::rope::{RopeConfig, RopeScaling, inverse_frequencies};
use crate::model::{Family, ModelConfig};

/// The architecture of llama.cpp that computes what the family does. Mistral is a Llama there.
pub fn architecture(family: Family) -> &'static str {
    match family {
        Family::Llama | Family::Mistral => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
    }
}

/// The sizes and settings of the network.
///
/// The context is the longest sequence for which llama.cpp computes what Transformers does: a sliding
/// window, which the architectures above do not have there, bounds it.
///
/// # Errors
/// `Error::Input` for biases or a RoPE type that llama.cpp's architecture does not have.
pub fn metadata(config: &ModelConfig) -> Result<Vec<Entry>> {
    let family = config.family;
    if family == Family::Qwen3 && (config.qkv_bias || config.o_bias) {
        return Err(unsupported("llama.cpp's qwen3 has no biases, but `attention_bias` is true"));
    }
    let windows = config.sliding_window.iter().flatten().map(|&window| window as usize);
    let context = windows.fold(config.max_position_embeddings, usize::min);
    let arch = architecture(family);
    let size = |key: &str, n: usize| Entry::new(format!("{arch}.{key}"), Value::U32(n as u32));
    let real = |key: &str, x: f32| Entry::new(format!("{arch}.{key}"), Value::F32(x));
    let mut entries = vec![
        size("vocab_size", config.vocab_size),
        size("context_length", context),
        size("embedding_length", config.hidden_size),
        size("block_count", config.num_hidden_layers),
        size("feed_forward_length", config.intermediate_size),
        size("attention.head_count", config.num_attention_heads),
        size("attention.head_count_kv", config.num_key_value_heads),
        size("attention.key_length", config.head_dim),
        size("attention.value_length", config.head_dim),
        real("attention.layer_norm_rms_epsilon", config.rms_norm_eps),
        size("rope.dimension_count", config.head_dim),
        real("rope.freq_base", config.rope.theta as f32),
    ];
    let kind =
        |name: &str| Entry::new(format!("{arch}.rope.scaling.type"), Value::Text(name.into()));
    match config.rope.scaling {
        // Dynamic scaling starts beyond the context; Llama 3's is a tensor.
        RopeScaling::Default | RopeScaling::Dynamic { .. } | RopeScaling::Llama3 { .. } => {}
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
    let RopeScaling::Llama3 { .. } = config.rope.scaling else { return Ok(None) };
    if architecture(config.family) != "llama" {
        let name = config.family.model_type();
        return Err(unsupported(format_args!("llama.cpp's {name} has no rope_type \"llama3\"")));
    }
    let plain = RopeConfig { theta: config.rope.theta, scaling: RopeScaling::Default };
    let plain = inverse_frequencies(&plain, config.head_dim, 1)?;
    let scaled = inverse_frequencies(&config.rope, config.head_dim, 1)?;
    Ok(Some(plain.iter().zip(scaled).map(|(plain, scaled)| plain / scaled).collect()))
}

/// The heads of a tensor whose rows llama.cpp keeps with rotary pairs beside each other: q and k of
/// its Llama, weights and biases.
pub fn interleaved_heads(config: &ModelConfig, name: &str) -> Option<usize> {
    let (module, _) = name.rsplit_once('.')?;
    match module.rsplit('.').next()? {
        _ if architecture(config.family) != "llama" => None,
        "q_proj" => Some(config.num_attention_heads),
        "k_proj" => Some(config.num_key_value_heads),
        _ => None,
    }
}

/// ggml's name of a tensor.
///
/// # Errors
/// `Error::Internal` for one that no architecture has.
pub fn tensor_name(name: &str) -> Result<String> {
    let unknown = || Error::internal("gguf", format!("no name for {name}"));
    match name {
        "model.embed_tokens.weight" => return Ok("token_embd.weight".into()),
        "model.norm.weight" => return Ok("output_norm.weight".into()),
        "lm_head.weight" => return Ok("output.weight".into()),
        _ => {}
    }
    let rest = name.strip_prefix("model.layers.").ok_or_else(unknown)?;
    let (layer, rest) = rest.split_once('.').ok_or_else(unknown)?;
    let (module, kind) = rest.rsplit_once('.').ok_or_else(unknown)?;
    let module = match module {
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        _ => return Err(unknown()),
    };
    Ok(format!("blk.{layer}.{module}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::expected_tensors;

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
    fn every_tensor_of_every_family_has_a_name() {
        for family in ["llama", "mistral", "qwen2", "qwen3"] {
            let config = config(family, "");
            let names: Vec<_> =
                expected_tensors(&config).iter().map(|(name, _)| tensor_name(name)).collect();
            assert!(names.iter().all(Result::is_ok), "{family}: {names:?}");
        }
        assert!(tensor_name("model.layers.0.x.weight").is_err());
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
