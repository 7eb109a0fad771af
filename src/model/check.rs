//! Whether weight files have the tensors that the model has.

use super::bnb;
use super::config::ModelConfig;
use super::float;
use super::spec::{EMBEDDING, HEAD, TensorSpec};
use super::weights::Weights;
use crate::{Error, Result};

/// How many problems one message lists.
const SHOWN: usize = 5;

/// Checks that the weights are those of the model: every expected tensor is there, in its shape,
/// stored as F32, BF16 or F16, or as NF4 where config.json says so. Returns a warning for each
/// tensor that the model has no place for; frequencies of RoPE saved by old versions, and an
/// `lm_head.weight` that repeats the embedding it is tied to, are ignored.
///
/// Errors: one message with the first few problems, each with what was expected and what was found.
pub fn check(weights: &Weights, config: &ModelConfig) -> Result<Vec<String>> {
    let expected = config.spec.tensors();
    let tied = config.spec.tie_word_embeddings;
    let problems: Vec<String> = expected
        .iter()
        .filter_map(|tensor| check_tensor(weights, config, tensor).err())
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
    if tied
        && let (Some(head), Some(embedding)) = (weights.get(HEAD), weights.get(EMBEDDING))
        && (head.dtype, head.bytes) != (embedding.dtype, embedding.bytes)
    {
        return Err(Error::input(format!(
            "{}: {HEAD} differs from {EMBEDDING}, but config.json ties them; set \
             `tie_word_embeddings` to false there",
            weights.place()
        )));
    }
    let expected: std::collections::HashSet<&str> =
        expected.iter().map(|tensor| tensor.name.as_str()).collect();
    let known = |name: &str| {
        expected.contains(name)
            || name.ends_with("rotary_emb.inv_freq")
            || (name == HEAD && tied)
            || bnb::owner(name).is_some_and(|owner| expected.contains(owner))
    };
    Ok(weights
        .names()
        .filter(|name| !known(name))
        .map(|name| format!("tensor {name} has no place in the model and is ignored"))
        .collect())
}

/// One expected tensor.
fn check_tensor(weights: &Weights, config: &ModelConfig, expected: &TensorSpec) -> Result<()> {
    let TensorSpec { name, shape, .. } = expected;
    let is_linear = expected.linear().is_some();
    let Some(tensor) = weights.get(name) else {
        return Err(Error::input(format!("{name} is missing (expected shape {shape:?})")));
    };
    let found = match bnb::quantized_shape(weights, name)? {
        Some(_) if config.quantization.is_none() => {
            return Err(Error::input(format!(
                "{name} is quantized, but config.json has no quantization_config"
            )));
        }
        Some(_) if !is_linear => {
            return Err(Error::input(format!("{name} is quantized; only linear layers may be")));
        }
        Some(found) => found.to_vec(),
        None => {
            if let Some(quantization) = &config.quantization
                && is_linear
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
    match found == *shape {
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
        let tensors = config.spec.tensors().into_iter();
        let mut tensors = tensors.map(|tensor| (tensor.name, tensor.shape)).collect();
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
