//! What llama.cpp has to know about the network: its architecture, sizes, rotary embedding, and what
//! which rows of its tensors stand elsewhere.

use super::unsupported;
use crate::error::Result;
use crate::gguf::container::{Entry, Value};
use crate::model::ModelConfig;
use crate::model::rope::{RopeConfig, RopeScaling, inverse_frequencies};
use crate::model::spec::{Block, Divisors, Gguf, QkvSpec, Spec};

/// The sizes and settings of the network.
///
/// The context is the longest sequence for which llama.cpp computes what Transformers does: a sliding
/// window bounds it, where the architecture has none there, and so does LongRoPE's original context, as
/// llama.cpp chooses between the two sets of frequencies by the size of its cache.
///
/// # Errors
/// `Error::Input` for biases, a RoPE type or layers that llama.cpp's architecture does not have.
pub fn metadata(config: &ModelConfig) -> Result<Vec<Entry>> {
    let spec = &config.spec;
    let arch = spec.gguf.architecture;
    let (first, rope) = uniform(spec)?;
    if !spec.gguf.attention_bias && first.linears().iter().any(|linear| linear.bias) {
        return Err(unsupported(format_args!(
            "llama.cpp's {arch} has no biases, but `attention_bias` is true"
        )));
    }
    let attention = &first.attention;
    let size = |key: &str, n: usize| Entry::new(format!("{arch}.{key}"), Value::U32(n as u32));
    let real = |key: &str, x: f32| Entry::new(format!("{arch}.{key}"), Value::F32(x));
    let mut entries = vec![
        size("vocab_size", spec.vocab_size),
        size("context_length", context(config)),
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
    if spec.gguf.windows {
        let [window, pattern, local] = windows(spec)?;
        entries.extend([
            size("attention.sliding_window", window as usize),
            size("attention.sliding_window_pattern", pattern as usize),
            real("rope.freq_base_swa", local as f32),
        ]);
    }
    entries.extend(rope_scaling(arch, rope)?);
    Ok(entries)
}

fn context(config: &ModelConfig) -> usize {
    let Spec { blocks, ropes, gguf, .. } = &config.spec;
    let bounds = blocks.iter().filter_map(|block| block.attention.window).filter(|_| !gguf.windows);
    let bounds = bounds.map(|window| window as usize);
    let bounds = bounds.chain(ropes.iter().filter_map(RopeConfig::original_context));
    bounds.fold(config.max_position_embeddings, usize::min)
}

/// The window, the period of layers without one, and the base of the RoPE of the others.
fn windows(spec: &Spec) -> Result<[f64; 3]> {
    let arch = spec.gguf.architecture;
    let of = |layer: usize| spec.blocks[layer].attention.window;
    let layers = spec.blocks.len();
    let pattern = 1 + (0..layers).position(|layer| of(layer).is_none()).unwrap_or(layers);
    let Some(window) = of(0) else {
        return Err(unsupported(format_args!("llama.cpp's {arch} begins with a sliding layer")));
    };
    let fits = |layer: usize| match (layer + 1) % pattern {
        0 => of(layer).is_none(),
        _ => of(layer) == Some(window),
    };
    match (0..layers).all(fits) && spec.blocks[0].attention.rope + 1 == spec.ropes.len() {
        true => Ok([f64::from(window), pattern as f64, spec.ropes[spec.ropes.len() - 1].theta]),
        false => Err(unsupported(format_args!(
            "llama.cpp's {arch} has sliding layers with every n-th one full, but `layer_types` is \
             another order"
        ))),
    }
}

/// How the frequencies are changed.
fn rope_scaling(arch: &str, rope: &RopeConfig) -> Result<Vec<Entry>> {
    let size = |key: &str, n: usize| {
        Entry::new(format!("{arch}.rope.scaling.{key}"), Value::U32(n as u32))
    };
    let real =
        |key: &str, x: f64| Entry::new(format!("{arch}.rope.scaling.{key}"), Value::F32(x as f32));
    let kind =
        |name: &str| Entry::new(format!("{arch}.rope.scaling.type"), Value::Text(name.into()));
    Ok(match rope.scaling {
        // Dynamic scaling starts beyond the context; Llama 3's is a tensor.
        RopeScaling::Default | RopeScaling::Dynamic { .. } | RopeScaling::Llama3 { .. } => vec![],
        RopeScaling::Linear { factor } => vec![kind("linear"), real("factor", factor)],
        // The divisors are tensors.
        RopeScaling::LongRope {
            original_max_position_embeddings: original,
            attention_factor,
            ..
        } => vec![size("original_context_length", original), real("attn_factor", attention_factor)],
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
            vec![
                kind("yarn"),
                real("factor", factor),
                size("original_context_length", original),
                real("attn_factor", attention_factor / default),
                real("yarn_beta_fast", beta_fast),
                real("yarn_beta_slow", beta_slow),
            ]
        }
    })
}

/// The tensors of what llama.cpp divides frequencies by, [R / 2] each: Llama 3's, and LongRoPE's two.
///
/// # Errors
/// `Error::Input` for a family whose architecture does not read them.
pub fn frequency_factors(config: &ModelConfig) -> Result<Vec<(&'static str, Vec<f32>)>> {
    let spec = &config.spec;
    let (_, rope) = uniform(spec)?;
    let Gguf { architecture: arch, divisors, .. } = spec.gguf;
    match &rope.scaling {
        RopeScaling::Llama3 { .. } if divisors != Divisors::Llama3 => {
            Err(unsupported(format_args!("llama.cpp's {arch} has no rope_type \"llama3\"")))
        }
        RopeScaling::LongRope { .. } if divisors != Divisors::LongRope => {
            Err(unsupported(format_args!("rope_type \"longrope\" in llama.cpp's {arch}")))
        }
        RopeScaling::Llama3 { .. } => {
            let plain = RopeConfig { scaling: RopeScaling::Default, ..rope.clone() };
            let plain = inverse_frequencies(&plain, 1)?;
            let scaled = inverse_frequencies(rope, 1)?;
            let factors = plain.iter().zip(scaled).map(|(plain, scaled)| plain / scaled);
            Ok(vec![("rope_freqs.weight", factors.collect())])
        }
        RopeScaling::LongRope { short_factor, long_factor, .. } => {
            let floats = |factors: &[f64]| factors.iter().map(|&x| x as f32).collect();
            Ok(vec![
                ("rope_factors_long.weight", floats(long_factor)),
                ("rope_factors_short.weight", floats(short_factor)),
            ])
        }
        _ => Ok(Vec::new()),
    }
}

/// The first block and the first RoPE, where what llama.cpp has one number for is one in all blocks.
fn uniform(spec: &Spec) -> Result<(&Block, &RopeConfig)> {
    let (Some(block), Some(rope)) = (spec.blocks.first(), spec.ropes.first()) else {
        return Err(unsupported("a model without layers"));
    };
    let attention = &block.attention;
    let width = match spec.gguf.scale_by_width == Some(spec.blocks.len()) {
        true => spec.hidden_size as f32 / attention.heads as f32,
        false => attention.head_dim as f32,
    };
    let arch = spec.gguf.architecture;
    if (attention.scale * width.sqrt() - 1.0).abs() > 1e-6 {
        return Err(unsupported(format_args!(
            "llama.cpp's {arch} with {} layers multiplies scores by {}, this model by {} \
             (`query_pre_attn_scalar`)",
            spec.blocks.len(),
            1.0 / width.sqrt(),
            attention.scale
        )));
    }
    let fused = matches!(attention.qkv, QkvSpec::Fused(_));
    if fused && attention.o.inputs != spec.hidden_size {
        return Err(unsupported(format_args!(
            "llama.cpp's {arch} has heads of {} in all, not {} (`head_dim`)",
            spec.hidden_size, attention.o.inputs
        )));
    }
    Ok((block, rope))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(family: &str, more: &str) -> ModelConfig {
        let text = format!(
            r#"{{"model_type": "{family}", "vocab_size": 10, "hidden_size": 8,
            "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 4, {more} "max_position_embeddings": 64}}"#
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
        let tensors = frequency_factors(&config("llama", llama3)).unwrap();
        let [("rope_freqs.weight", factors)] = &tensors[..] else { panic!("{tensors:?}") };
        assert_eq!(factors.len(), 2);
        assert!((factors[1] - 8.0).abs() < 1e-5, "{factors:?}");
        let message = frequency_factors(&config("qwen2", llama3)).unwrap_err().to_string();
        assert!(message.contains("qwen2") && message.contains("llama3"), "{message}");
        assert!(metadata(&config("qwen3", r#""attention_bias": true,"#)).is_err());
    }

    #[test]
    fn gemma_says_its_pattern_and_refuses_another() {
        let types = |types: &str| {
            let more = format!(
                r#""query_pre_attn_scalar": 4, "sliding_window": 8, "num_hidden_layers": 4,
                "layer_types": [{types}],"#
            );
            metadata(&config("gemma3_text", &more))
        };
        let (local, full) = (r#""sliding_attention""#, r#""full_attention""#);
        let entries = types(&[local, full, local, full].join(", ")).unwrap();
        let number = |key: &str| value(&entries, &format!("gemma3.{key}"));
        assert_eq!(number("attention.sliding_window"), Some(Value::U32(8)));
        assert_eq!(number("attention.sliding_window_pattern"), Some(Value::U32(2)));
        assert_eq!(number("rope.freq_base"), Some(Value::F32(1e6)));
        assert_eq!(number("rope.freq_base_swa"), Some(Value::F32(1e4)));
        assert_eq!(number("context_length"), Some(Value::U32(64)));
        for order in [[local, full, full, local], [full, local, full, local]] {
            assert!(types(&order.join(", ")).is_err());
        }
        let scaled = config("gemma3_text", r#""query_pre_attn_scalar": 5,"#);
        let message = metadata(&scaled).unwrap_err().to_string();
        assert!(message.contains("query_pre_attn_scalar"), "{message}");
    }

    #[test]
    fn longrope_is_two_tensors_and_a_shorter_context() {
        let rope = r#""original_max_position_embeddings": 16, "rope_scaling": {"type": "longrope",
            "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]},"#;
        let phi3 = config("phi3", rope);
        let names = frequency_factors(&phi3).unwrap();
        assert_eq!(names[0], ("rope_factors_long.weight", vec![2.0, 4.0]));
        assert_eq!(names[1], ("rope_factors_short.weight", vec![1.0, 1.5]));
        let entries = metadata(&phi3).unwrap();
        assert_eq!(value(&entries, "phi3.context_length"), Some(Value::U32(16)));
        let original = value(&entries, "phi3.rope.scaling.original_context_length");
        assert_eq!(original, Some(Value::U32(16)));
        assert!(frequency_factors(&config("llama", rope)).is_err());
    }
}
