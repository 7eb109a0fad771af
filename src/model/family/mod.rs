//! The families of architectures that are supported: one file and one line each. A family says what
//! Transformers takes for keys that are missing from its config.json, and reads a [`Spec`] off the
//! others.

mod common;
mod gemma3;
mod llama;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;

use super::json::Object;
use super::spec::Spec;
use crate::Result;

/// Every family, in the order that messages list them.
static FAMILIES: [&Family; 6] = [
    &llama::FAMILY,
    &mistral::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &gemma3::FAMILY,
    &phi3::FAMILY,
];

/// A family of architectures: which Transformers class a model directory is for.
#[derive(Debug)]
pub struct Family {
    /// The `model_type` of config.json.
    pub model_type: &'static str,
    /// The class in `architectures` of config.json.
    pub architecture: &'static str,
    /// The class of the same network with a score for a head.
    pub classifier: &'static str,
    /// What Transformers takes for keys that are missing.
    pub(super) defaults: Defaults,
    /// Reads the network off config.json.
    ///
    /// Errors: a setting that would change results and is not implemented, by name; sizes that do not
    /// fit together.
    pub(super) describe: fn(&Object) -> Result<Spec>,
}

/// What Transformers takes for keys that are missing from a family's config.json.
#[derive(Debug)]
pub(super) struct Defaults {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// `None`: as many as query heads.
    pub num_key_value_heads: Option<usize>,
    /// `None`: the model width over the query heads.
    pub head_dim: Option<usize>,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub tie_word_embeddings: bool,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
    pub pad_token_id: Option<u32>,
}

impl Family {
    /// The family by `model_type`, checked against `architectures`.
    pub(super) fn of(config: &Object) -> Result<&'static Self> {
        let supported = || FAMILIES.map(|family| family.model_type).join(", ");
        let Some(model_type) = config.text("model_type")? else {
            return Err(config
                .error("model_type", format_args!("is missing; supported are {}", supported())));
        };
        let Some(family) = FAMILIES.into_iter().find(|family| family.model_type == model_type)
        else {
            return Err(config.error(
                "model_type",
                format_args!("{model_type:?} is not supported; supported are {}", supported()),
            ));
        };
        if let Some(architectures) = config.texts("architectures")?
            && !architectures.is_empty()
            && !architectures.contains(&family.architecture)
            && !(architectures.contains(&family.classifier) && has_one_label(config)?)
        {
            return Err(config.error(
                "architectures",
                format_args!(
                    "{architectures:?} is not supported; a {model_type} model must be {:?}, or {:?} \
                     with one label",
                    family.architecture, family.classifier
                ),
            ));
        }
        Ok(family)
    }
}

/// Whether a classifier gives one score: two are Transformers' default.
fn has_one_label(config: &Object) -> Result<bool> {
    Ok(match config.object("id2label")? {
        Some(labels) => labels.keys().count() == 1,
        None => config.count("num_labels")? == Some(1),
    })
}
