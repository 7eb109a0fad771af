//! Mistral: one sliding window for all layers.

use super::common::{
    Biases, Sizes, check_layer_types, decoder, refuse_biases, refuse_unsupported, rope,
    sliding_window,
};
use super::{Defaults, Family, llama};
use crate::Result;
use crate::model::json::Object;
use crate::model::spec::Spec;

pub(super) static FAMILY: Family = Family {
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    classifier: "MistralForSequenceClassification",
    defaults: Defaults {
        intermediate_size: 14_336,
        num_key_value_heads: Some(8),
        max_position_embeddings: 131_072,
        ..llama::FAMILY.defaults
    },
    describe,
};

fn describe(config: &Object) -> Result<Spec> {
    refuse_unsupported(config)?;
    refuse_biases(config, &FAMILY, &["attention_bias", "mlp_bias"])?;
    let sizes = Sizes::read(config, &FAMILY)?;
    let window = sliding_window(config, Some(4096))?;
    // Every layer is built alike, whatever `layer_types` says.
    let windows = vec![window; sizes.layers];
    check_layer_types(config, &FAMILY, window, &windows)?;
    Ok(decoder(&sizes, Biases::NONE, false, windows, rope(config, &sizes)?, llama::GGUF))
}
