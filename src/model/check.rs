//! Whether weight files have the tensors that the model has.

use std::collections::HashSet;

use super::bnb;
use super::config::ModelConfig;
use super::spec::{EMBEDDING, HEAD, SCORE, TensorSpec};
use super::weights::Weights;
use crate::{Error, Result};

/// How many problems one message lists.
const SHOWN: usize = 5;

/// What scales of quantized weights are called, after the weight's module.
const SCALES: [&str; 4] =
    ["weight_scale_inv", "weight_scale", "weight_scale_2", "weight_scale_2_inv"];

/// Checks that the weights are those of the model: every expected tensor is there, in its shape,
/// stored as floats, or as NF4 where config.json says so. Returns a warning for each
/// tensor that the model has no place for; frequencies of RoPE saved by old versions are ignored.
///
/// Both are brought together as Transformers does it: names with `model.` before them, or without it
/// where the model has it, are taken for the model's; a model that ties its head to the embedding takes
/// one for the other, whichever is stored, and is untied (with a warning) where both are and differ.
///
/// Errors: one message with the first few problems, each with what was expected and what was found.
pub fn check(weights: &mut Weights, config: &mut ModelConfig) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    rename(weights, config)?;
    refuse_scales(weights, config)?;
    warnings.extend(tie(weights, config));
    let expected = config.spec.tensors();
    let problems: Vec<String> = expected
        .iter()
        // A fresh one is drawn.
        .filter(|tensor| config.score_seed.is_none() || tensor.name != SCORE)
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
    let expected: HashSet<&str> = expected.iter().map(|tensor| tensor.name.as_str()).collect();
    let known = |name: &str| {
        expected.contains(name)
            || name.ends_with("rotary_emb.inv_freq")
            // The embedding, to which it is tied.
            || name == HEAD
            || bnb::owner(name).is_some_and(|owner| expected.contains(owner))
    };
    let unknown = weights.names().filter(|name| !known(name));
    warnings.extend(
        unknown.map(|name| format!("tensor {name} has no place in the model and is ignored")),
    );
    Ok(warnings)
}

/// Calls every tensor what the model calls it: `model.` before a name is added or taken away where that
/// gives one of the model's.
fn rename(weights: &mut Weights, config: &ModelConfig) -> Result<()> {
    let tensors = config.spec.tensors();
    let mut expected: HashSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    expected.insert(HEAD);
    let prefix = "model.";
    weights.rename(|stored| {
        let name = bnb::owner(stored).unwrap_or(stored);
        let rest = &stored[name.len()..];
        let added = format!("{prefix}{name}");
        match name.strip_prefix(prefix).filter(|short| expected.contains(short)) {
            Some(short) => format!("{short}{rest}"),
            None if expected.contains(added.as_str()) => format!("{added}{rest}"),
            None => stored.to_string(),
        }
    })
}

/// Weights that are to be multiplied by scales are not read, and must not be taken for others.
fn refuse_scales(weights: &Weights, config: &ModelConfig) -> Result<()> {
    let tensors = config.spec.tensors();
    let modules = tensors.iter().filter_map(TensorSpec::linear).map(|(module, _)| module);
    let scale = |module: &str| {
        let mut names = SCALES.iter().map(|scale| format!("{module}.{scale}"));
        names.find(|name| weights.get(name).is_some())
    };
    match modules.into_iter().find_map(scale) {
        None => Ok(()),
        Some(name) => Err(Error::input(format!(
            "{}: there is a tensor {name}: weights of 8 bits or less with scales are not supported; \
             use the model's weights in bfloat16, which load_in_4bit quantizes",
            weights.place()
        ))),
    }
}

/// The embedding for a head that is tied to it, or the head for the embedding; a warning where they
/// differ, and are untied.
fn tie(weights: &mut Weights, config: &mut ModelConfig) -> Option<String> {
    if !config.spec.tie_word_embeddings
        || (config.spec.is_classifier && weights.get(EMBEDDING).is_some())
    {
        return None;
    }
    let (head, embedding) = match (weights.get(HEAD), weights.get(EMBEDDING)) {
        (Some(_), None) => {
            weights.alias(HEAD, EMBEDDING);
            return None;
        }
        (Some(head), Some(embedding)) => (head, embedding),
        (None, _) => return None,
    };
    let same_bytes = (head.stored_as(), head.bytes) == (embedding.stored_as(), embedding.bytes);
    if same_bytes || head.shape != embedding.shape || head.to_f32() == embedding.to_f32() {
        return None;
    }
    config.untie();
    Some(format!(
        "{HEAD} differs from {EMBEDDING}, though config.json ties them: each is used as it is, as \
         Transformers does (`tie_word_embeddings` is taken for false)"
    ))
}

/// One expected tensor.
fn check_tensor(weights: &Weights, config: &ModelConfig, expected: &TensorSpec) -> Result<()> {
    let TensorSpec { name, shape, .. } = expected;
    let is_linear = expected.linear().is_some();
    let Some(tensor) = weights.get(name) else {
        return Err(Error::input(format!(
            "{name} is missing (expected shape {shape:?}){}",
            weights.promised(name)
        )));
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
            if !tensor.is_float() {
                return Err(Error::input(format!(
                    "{name} is stored as {}; expected F32, BF16, F16, F64, F8_E4M3 or F8_E5M2",
                    tensor.stored_as()
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
        let config = &mut ModelConfig::from_json(CONFIG, "c").unwrap();
        assert_eq!(check(&mut weights(config, |_| {}), config).unwrap(), [""; 0]);
        let mut extra = weights(config, |tensors| {
            tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), vec![1]));
            tensors.push(("lm_head.weight".into(), vec![10, 4]));
            tensors.push(("visual.x".into(), vec![1]));
        });
        let warnings = check(&mut extra, config).unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains("visual.x"), "{warnings:?}");
        let mut bad = weights(config, |tensors| {
            tensors[1].1 = vec![4, 5];
            tensors.pop();
        });
        let message = check(&mut bad, config).unwrap_err().to_string();
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
        let config = &mut ModelConfig::from_json(&quantized, "c").unwrap();
        let message = check(&mut weights(config, |_| {}), config).unwrap_err().to_string();
        assert!(message.contains("mlp.up_proj.weight is not quantized"), "{message}");
        assert!(!message.contains("self_attn") && !message.contains("down_proj"), "{message}");
    }

    #[test]
    fn names_are_the_models_with_and_without_their_prefix() {
        let fresh = || ModelConfig::from_json(CONFIG, "c").unwrap();
        let named = |name: &dyn Fn(&str) -> String| {
            weights(&fresh(), |tensors| tensors.iter_mut().for_each(|(n, _)| *n = name(n)))
        };
        let without = |name: &str| name.strip_prefix("model.").unwrap_or(name).to_string();
        let twice = |name: &str| format!("model.{name}");
        let some = |name: &str| if name.contains("mlp") { without(name) } else { name.into() };
        for mut weights in [named(&without), named(&twice), named(&some)] {
            assert_eq!(check(&mut weights, &mut fresh()).unwrap(), [""; 0]);
            assert!(weights.get("model.layers.0.mlp.up_proj.weight").is_some());
        }
        let mut both = weights(&fresh(), |tensors| {
            tensors.push(("norm.weight".into(), vec![4]));
        });
        let message = check(&mut both, &mut fresh()).unwrap_err().to_string();
        assert!(message.contains("are both model.norm.weight"), "{message}");
    }

    #[test]
    fn a_tied_matrix_may_have_either_name_and_is_untied_where_there_are_two() {
        let mut config = ModelConfig::from_json(CONFIG, "c").unwrap();
        let mut head = weights(&config, |tensors| tensors[0].0 = HEAD.into());
        assert_eq!(check(&mut head, &mut config).unwrap(), [""; 0]);
        assert!(head.get(EMBEDDING).is_some() && config.spec.tie_word_embeddings);

        let values = |value: f32| vec![value; 40].into_iter().flat_map(f32::to_le_bytes).collect();
        let tensors: [(&str, Vec<u8>); 2] = [(EMBEDDING, values(1.0)), (HEAD, values(2.0))];
        let views = tensors.iter().map(|(name, bytes)| {
            let dtype = safetensors::Dtype::F32;
            (name, safetensors::tensor::TensorView::new(dtype, vec![10, 4], bytes).unwrap())
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        let mut both = Weights::from_bytes(vec![("x".into(), bytes)]).unwrap();
        assert!(tie(&mut both, &mut config).unwrap().contains("differs"));
        assert!(!config.spec.tie_word_embeddings);
        assert!(config.to_json(crate::DType::F32, None).contains("\"tie_word_embeddings\": false"));
    }

    #[test]
    fn scales_are_refused_by_name() {
        let mut config = ModelConfig::from_json(CONFIG, "c").unwrap();
        let mut scaled = weights(&config, |tensors| {
            tensors.push(("model.layers.0.mlp.up_proj.weight_scale_inv".into(), vec![1, 1]));
        });
        let message = check(&mut scaled, &mut config).unwrap_err().to_string();
        assert!(message.contains("up_proj.weight_scale_inv"), "{message}");
    }
}
