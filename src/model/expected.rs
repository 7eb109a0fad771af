//! Which tensors a model has, and whether its weight files have them.

use super::bnb;
use super::config::ModelConfig;
use super::float;
use super::weights::Weights;
use crate::{Error, Result};

/// How many problems one message lists.
const SHOWN: usize = 5;

/// Every parameter of the model, by Hugging Face's names, in the order of the layers. Linear weights
/// are [out, in].
pub fn expected_tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (width, inner) = (config.hidden_size, config.intermediate_size);
    let (q, kv, head) = (config.q_size(), config.kv_size(), config.head_dim);
    let mut tensors =
        vec![("model.embed_tokens.weight".to_string(), vec![config.vocab_size, width])];
    for layer in 0..config.num_hidden_layers {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        let mut linear = |name: &str, rows: usize, columns: usize, bias: bool| {
            add(&format!("{name}.weight"), &[rows, columns]);
            if bias {
                add(&format!("{name}.bias"), &[rows]);
            }
        };
        linear("self_attn.q_proj", q, width, config.qkv_bias);
        linear("self_attn.k_proj", kv, width, config.qkv_bias);
        linear("self_attn.v_proj", kv, width, config.qkv_bias);
        linear("self_attn.o_proj", width, q, config.o_bias);
        linear("mlp.gate_proj", inner, width, config.mlp_bias);
        linear("mlp.up_proj", inner, width, config.mlp_bias);
        linear("mlp.down_proj", width, inner, config.mlp_bias);
        if config.qk_norm {
            add("self_attn.q_norm.weight", &[head]);
            add("self_attn.k_norm.weight", &[head]);
        }
        add("input_layernorm.weight", &[width]);
        add("post_attention_layernorm.weight", &[width]);
    }
    tensors.push(("model.norm.weight".into(), vec![width]));
    if !config.tie_word_embeddings {
        tensors.push(("lm_head.weight".into(), vec![config.vocab_size, width]));
    }
    tensors
}

/// Checks that the weights are those of the model: every expected tensor is there, in its shape,
/// stored as F32, BF16 or F16, or as NF4 where config.json says so. Returns a warning for each
/// tensor that the model has no place for; frequencies of RoPE saved by old versions, and an
/// `lm_head.weight` that repeats the embedding it is tied to, are ignored.
///
/// Errors: one message with the first few problems, each with what was expected and what was found.
pub fn check(weights: &Weights, config: &ModelConfig) -> Result<Vec<String>> {
    let expected = expected_tensors(config);
    let problems: Vec<String> = expected
        .iter()
        .filter_map(|(name, shape)| check_tensor(weights, config, name, shape).err())
        .map(|error| error.to_string())
        .collect();
    if !problems.is_empty() {
        let shown = problems.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>();
        let more = match problems.len() - shown.len() {
            0 => String::new(),
            n => format!("\n  and {n} more"),
        };
        return Err(Error::input(format!(
            "{}: the weights do not fit config.json:\n  {}{more}\nTake both from the same model, \
             whole",
            weights.place(),
            shown.join("\n  ")
        )));
    }
    if config.tie_word_embeddings
        && let (Some(head), Some(embedding)) =
            (weights.get("lm_head.weight"), weights.get("model.embed_tokens.weight"))
        && (head.dtype, head.bytes) != (embedding.dtype, embedding.bytes)
    {
        return Err(Error::input(format!(
            "{}: lm_head.weight differs from model.embed_tokens.weight, but config.json ties them; \
             set `tie_word_embeddings` to false there",
            weights.place()
        )));
    }
    let expected: std::collections::HashSet<&str> =
        expected.iter().map(|(name, _)| name.as_str()).collect();
    let known = |name: &str| {
        expected.contains(name)
            || name.ends_with("rotary_emb.inv_freq")
            || (name == "lm_head.weight" && config.tie_word_embeddings)
            || bnb::owner(name).is_some_and(|owner| expected.contains(owner))
    };
    Ok(weights
        .names()
        .filter(|name| !known(name))
        .map(|name| format!("tensor {name} has no place in the model and is ignored"))
        .collect())
}

/// One expected tensor.
fn check_tensor(
    weights: &Weights,
    config: &ModelConfig,
    name: &str,
    shape: &[usize],
) -> Result<()> {
    let Some(tensor) = weights.get(name) else {
        return Err(Error::input(format!("{name} is missing (expected shape {shape:?})")));
    };
    let found = match bnb::quantized_shape(weights, name)? {
        Some(_) if config.quantization.is_none() => {
            return Err(Error::input(format!(
                "{name} is quantized, but config.json has no quantization_config"
            )));
        }
        Some(_) if !name.ends_with("_proj.weight") => {
            return Err(Error::input(format!("{name} is quantized; only linear layers may be")));
        }
        Some(found) => found.to_vec(),
        None => {
            if let Some(quantization) = &config.quantization
                && name.ends_with("_proj.weight")
                && !skipped(&quantization.skip_modules, name)
            {
                return Err(Error::input(format!(
                    "{name} is not quantized, but quantization_config says so (its \
                     quant_state.bitsandbytes__nf4 is missing)"
                )));
            }
            if float::from_safetensors(tensor.dtype).is_none() {
                return Err(Error::input(format!(
                    "{name} is stored as {}; expected F32, BF16 or F16",
                    tensor.dtype
                )));
            }
            tensor.shape.to_vec()
        }
    };
    match found == shape {
        true => Ok(()),
        false => Err(Error::input(format!("{name} has shape {found:?}, expected {shape:?}"))),
    }
}

/// Whether a module path holds one of `modules` as whole components.
fn skipped(modules: &[String], name: &str) -> bool {
    modules.iter().any(|module| format!(".{name}.").contains(&format!(".{module}.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"model_type": "qwen3", "vocab_size": 10, "hidden_size": 4,
        "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 2, "tie_word_embeddings": true}"#;

    /// Zeros for every tensor, after `edit`.
    fn weights(config: &ModelConfig, edit: impl FnOnce(&mut Vec<(String, Vec<usize>)>)) -> Weights {
        let mut tensors = expected_tensors(config);
        edit(&mut tensors);
        let zeros = vec![0; 4096];
        let views = tensors.iter().map(|(name, shape)| {
            let bytes = &zeros[..2 * shape.iter().product::<usize>()];
            let dtype = safetensors::Dtype::BF16;
            (name, safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes).unwrap())
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        Weights::from_bytes(vec![("x".into(), bytes)]).unwrap()
    }

    #[test]
    fn a_model_has_the_tensors_of_its_family() {
        let config = ModelConfig::from_json(CONFIG, "c").unwrap();
        let names: Vec<_> = expected_tensors(&config).into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&"model.layers.0.self_attn.q_norm.weight".to_string()));
        assert!(!names.iter().any(|name| name.ends_with("bias") || name.starts_with("lm_head")));
        let text = CONFIG.replace("qwen3", "qwen2").replace("true", "false");
        let config = ModelConfig::from_json(&text, "c").unwrap();
        let tensors = expected_tensors(&config);
        let bias = tensors.iter().find(|(name, _)| name.ends_with("k_proj.bias")).unwrap();
        assert_eq!(bias.1, [2]);
        assert_eq!(tensors.last().unwrap(), &("lm_head.weight".to_string(), vec![10, 4]));
    }

    #[test]
    fn missing_and_misshapen_tensors_are_listed_and_extra_ones_warned_of() {
        let config = ModelConfig::from_json(CONFIG, "c").unwrap();
        assert_eq!(check(&weights(&config, |_| {}), &config).unwrap(), [""; 0]);
        let extra = weights(&config, |tensors| {
            tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), vec![1]));
            tensors.push(("lm_head.weight".into(), vec![10, 4]));
            tensors.push(("visual.x".into(), vec![1]));
        });
        let warnings = check(&extra, &config).unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains("visual.x"), "{warnings:?}");
        let bad = weights(&config, |tensors| {
            tensors[1].1 = vec![4, 5];
            tensors.pop();
        });
        let message = check(&bad, &config).unwrap_err().to_string();
        assert!(message.contains("q_proj.weight has shape [4, 5], expected [4, 4]"), "{message}");
        assert!(message.contains("model.norm.weight is missing (expected shape [4])"), "{message}");
    }

    #[test]
    fn quantization_must_be_what_config_says() {
        let quantized = CONFIG.replace(
            r#""head_dim""#,
            r#""quantization_config": {"load_in_4bit": true, "bnb_4bit_quant_type": "nf4",
            "llm_int8_skip_modules": ["self_attn", "mlp.down_proj"]}, "head_dim""#,
        );
        let config = ModelConfig::from_json(&quantized, "c").unwrap();
        let message = check(&weights(&config, |_| {}), &config).unwrap_err().to_string();
        assert!(message.contains("mlp.up_proj.weight is not quantized"), "{message}");
        assert!(!message.contains("self_attn") && !message.contains("down_proj"), "{message}");
    }
}
