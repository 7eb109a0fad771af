//! `config.json`: the network it describes, in the words of its family, and what else stands there.
//!
//! Defaults of missing keys and the meaning of every key are those of Transformers' own
//! configuration classes (`models/*/configuration_*.py`). What would change results and is not
//! implemented is refused by name.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::family::Family;
use super::float;
use super::gguf;
use super::json::{Object, parse_object, shorten};
use super::quantization::BnbConfig;
use super::rope::inverse_frequencies;
use super::spec::Spec;
use crate::files::enclosed;
use crate::{DType, Error, Result};

/// config.json, resolved and checked.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Which Transformers class this is.
    pub family: &'static Family,
    /// The network.
    pub spec: Spec,
    /// The longest sequence, as config.json has it; see [`ModelConfig::context`].
    pub max_position_embeddings: usize,
    /// Beginning of sequence.
    pub bos_token_id: Option<u32>,
    /// Ends of sequence; generation stops at any of them.
    pub eos_token_ids: Vec<u32>,
    /// Padding.
    pub pad_token_id: Option<u32>,
    /// How the linear layers are quantized on disk.
    pub quantization: Option<BnbConfig>,
    /// The dtype that the weights were saved in, or are cast to where it is none of the three.
    pub dtype: Option<DType>,
    /// The seed of the score head, where the files have none.
    pub score_seed: Option<u64>,
    /// config.json as it was read, for writing it again.
    raw: Map<String, Value>,
}

impl ModelConfig {
    /// Reads `config.json` of a model directory.
    ///
    /// Errors: no such file, not JSON, or anything [`ModelConfig::from_json`] refuses.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = enclosed::expected_text(dir, "config.json", enclosed::SETTINGS);
        let text = text.map_err(|error| {
            let expected = match gguf::is_gguf(dir) {
                true => "",
                false => "; a model directory has a config.json in Hugging Face form",
            };
            Error::input(format!("{}: {error}{expected}", path.display()))
        })?;
        Self::from_json(&text, &path.display().to_string())
    }

    /// Reads the text of a config.json; `place` is what messages call it.
    ///
    /// Errors: an architecture, activation, RoPE type, quantization or other setting that is not
    /// supported, by name; sizes that do not fit together.
    pub fn from_json(text: &str, place: &str) -> Result<Self> {
        let raw = parse_object(text, place)?;
        let object = Object::new(&raw, place);
        let family = Family::of(&object)?;
        let defaults = &family.defaults;
        let token = |key: &str, default: Option<u32>| match object.has(key) {
            true => read_token(&object, key),
            false => Ok(default),
        };
        let config = Self {
            family,
            spec: {
                let classes = object.texts("architectures")?.unwrap_or_default();
                let is_classifier = classes.contains(&family.classifier);
                Spec { is_classifier, ..(family.describe)(&object)? }
            },
            score_seed: None,
            max_position_embeddings: object
                .count("max_position_embeddings")?
                .unwrap_or(defaults.max_position_embeddings),
            bos_token_id: token("bos_token_id", defaults.bos_token_id)?,
            eos_token_ids: match object.has("eos_token_id") {
                true => read_tokens(&object, "eos_token_id")?,
                false => defaults.eos_token_id.into_iter().collect(),
            },
            pad_token_id: token("pad_token_id", defaults.pad_token_id)?,
            quantization: object
                .object("quantization_config")?
                .map(|config| BnbConfig::read(&config))
                .transpose()?,
            dtype: read_dtype(&object)?,
            raw,
        };
        for rope in &config.spec.ropes {
            inverse_frequencies(rope, config.context())
                .map_err(|error| Error::input(format!("{place}: {error}")))?;
        }
        Ok(config)
    }

    /// The longest sequence: what config.json says, or what RoPE stretches it to.
    pub fn context(&self) -> usize {
        match &self.spec.ropes[..] {
            [rope] => rope.context(self.max_position_embeddings),
            // Files of such models have the stretched context.
            _ => self.max_position_embeddings,
        }
    }

    /// Puts a fresh score, drawn from `seed`, in the place of the head, unless there is one.
    pub fn classify(&mut self, seed: u64) {
        if !self.spec.is_classifier {
            self.spec.is_classifier = true;
            self.score_seed = Some(seed);
        }
    }

    /// Takes the head for a matrix of its own, whatever the file says.
    pub(crate) fn untie(&mut self) {
        self.spec.tie_word_embeddings = false;
        self.raw.insert("tie_word_embeddings".into(), false.into());
    }

    /// What config.json says, as it was read.
    pub fn raw(&self) -> &Map<String, Value> {
        &self.raw
    }

    /// config.json as it was read, for weights saved as `dtype` and quantized as `quantization`
    /// says: the dtype (under the key the file already has) and `quantization_config` are set or
    /// removed, all else stays as it was.
    pub fn to_json(&self, dtype: DType, quantization: Option<&BnbConfig>) -> String {
        let mut raw = self.raw.clone();
        let key = match raw.contains_key("torch_dtype") && !raw.contains_key("dtype") {
            true => "torch_dtype",
            false => "dtype",
        };
        raw.insert(key.into(), dtype.name().into());
        if key == "dtype" {
            raw.shift_remove("torch_dtype");
        }
        if self.spec.is_classifier {
            raw.insert("architectures".into(), json!([self.family.classifier]));
            raw.insert("id2label".into(), json!({"0": "LABEL_0"}));
            raw.insert("label2id".into(), json!({"LABEL_0": 0}));
            raw.insert("pad_token_id".into(), json!(self.pad_token_id));
            raw.shift_remove("num_labels");
        }
        match quantization {
            Some(config) => {
                raw.insert("quantization_config".into(), config.to_json());
            }
            None => {
                raw.shift_remove("quantization_config");
            }
        }
        format!("{:#}\n", Value::Object(raw))
    }
}

/// One token id; a negative one (old Llama files have `pad_token_id: -1`) is none.
fn read_token(object: &Object, key: &str) -> Result<Option<u32>> {
    match read_tokens(object, key)?.as_slice() {
        [] => Ok(None),
        [token] => Ok(Some(*token)),
        _ => Err(object.error(key, "must be one token id, found several")),
    }
}

/// A token id or a list of them.
fn read_tokens(object: &Object, key: &str) -> Result<Vec<u32>> {
    let read = |value: &Value| match value.as_i64() {
        Some(id) if id < 0 => Ok(None),
        Some(id) if id < i64::from(i32::MAX) => Ok(Some(id as u32)),
        _ => Err(object.error(key, format_args!("must be a token id, found {}", shorten(value)))),
    };
    match object.get(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(values)) => {
            values.iter().filter_map(|value| read(value).transpose()).collect()
        }
        Some(value) => Ok(read(value)?.into_iter().collect()),
    }
}

/// The dtype under its new key, else under its old one.
fn read_dtype(object: &Object) -> Result<Option<DType>> {
    let key = if object.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    let Some(name) = object.text(key)? else { return Ok(None) };
    match float::computed_in(name) {
        Some(dtype) => Ok(Some(dtype)),
        None if name == "auto" => Ok(None),
        None => Err(object.error(
            key,
            format_args!(
                "{name:?} is not supported; supported are float32, bfloat16, float16, and float64, \
                 float8_e4m3fn and float8_e5m2, which are cast"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RopeScaling;

    fn read(text: &str) -> Result<ModelConfig> {
        ModelConfig::from_json(text, "config.json")
    }

    fn refusal(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    fn windows(config: &ModelConfig) -> Vec<Option<u32>> {
        config.spec.blocks.iter().map(|block| block.attention.window).collect()
    }

    /// Whether a tensor of the first block is there.
    fn has(config: &ModelConfig, name: &str) -> bool {
        let name = format!("model.layers.0.{name}");
        config.spec.tensors().iter().any(|tensor| tensor.name == name)
    }

    #[test]
    fn missing_keys_take_the_defaults_of_each_family() {
        let llama = read(r#"{"model_type": "llama"}"#).unwrap();
        let block = &llama.spec.blocks[0];
        assert_eq!((llama.spec.vocab_size, block.mlp.width), (32_000, 11_008));
        assert_eq!((block.attention.kv_heads, block.attention.head_dim), (32, 128));
        assert_eq!((llama.bos_token_id, llama.eos_token_ids.as_slice()), (Some(1), &[2][..]));
        assert_eq!(llama.max_position_embeddings, 2048);
        assert!(!llama.spec.tie_word_embeddings);
        assert!(!has(&llama, "self_attn.q_proj.bias") && !has(&llama, "mlp.up_proj.bias"));

        let mistral = read(r#"{"model_type": "mistral"}"#).unwrap();
        assert_eq!(mistral.spec.blocks[0].attention.kv_heads, 8);
        assert_eq!(windows(&mistral), [Some(4096); 32]);

        let qwen2 = read(r#"{"model_type": "qwen2", "hidden_size": 2048}"#).unwrap();
        assert_eq!((qwen2.spec.blocks[0].attention.head_dim, qwen2.bos_token_id), (64, None));
        assert!(has(&qwen2, "self_attn.v_proj.bias") && !has(&qwen2, "self_attn.o_proj.bias"));
        assert!(!has(&qwen2, "self_attn.q_norm.weight"));
        assert_eq!(windows(&qwen2), [None; 32]);

        let qwen3 = read(r#"{"model_type": "qwen3", "hidden_size": 2048}"#).unwrap();
        let attention = &qwen3.spec.blocks[0].attention;
        assert_eq!((attention.head_dim, attention.o.inputs), (128, 4096));
        assert!(has(&qwen3, "self_attn.q_norm.weight") && !has(&qwen3, "self_attn.q_proj.bias"));
    }

    #[test]
    fn null_is_not_the_same_as_missing_where_transformers_tells_them_apart() {
        let text = r#"{"model_type": "mistral", "num_key_value_heads": null,
            "sliding_window": null, "eos_token_id": null, "pad_token_id": -1}"#;
        let mistral = read(text).unwrap();
        assert_eq!(mistral.spec.blocks[0].attention.kv_heads, 32);
        assert_eq!(windows(&mistral), [None; 32]);
        assert!(mistral.eos_token_ids.is_empty() && mistral.pad_token_id.is_none());
    }

    #[test]
    fn qwen_windows_start_at_max_window_layers_or_follow_layer_types() {
        let text = r#"{"model_type": "qwen2", "num_hidden_layers": 3, "sliding_window": 7,
            "use_sliding_window": true, "max_window_layers": 1}"#;
        assert_eq!(windows(&read(text).unwrap()), [None, Some(7), Some(7)]);
        let types = r#""layer_types": ["sliding_attention", "full_attention"]"#;
        let with_types = |used: bool| {
            format!(
                r#"{{"model_type": "qwen3", "num_hidden_layers": 2, "sliding_window": 7,
                "use_sliding_window": {used}, {types}}}"#
            )
        };
        assert_eq!(windows(&read(&with_types(true)).unwrap()), [Some(7), None]);
        assert!(refusal(&with_types(false)).contains("no sliding_window is set"));
        let llama = format!(r#"{{"model_type": "llama", "num_hidden_layers": 2, {types}}}"#);
        assert!(refusal(&llama).contains("sliding"));
    }

    #[test]
    fn gemma_tells_layers_apart_in_both_forms() {
        let old = read(
            r#"{"model_type": "gemma3_text", "num_hidden_layers": 5, "sliding_window_pattern": 3,
            "sliding_window": 9, "rope_theta": 2000000.0, "rope_local_base_freq": 20000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}}"#,
        )
        .unwrap();
        let new = read(
            r#"{"model_type": "gemma3_text", "num_hidden_layers": 5, "sliding_window": 9,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention",
            "sliding_attention", "sliding_attention"], "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 2000000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0}}}"#,
        )
        .unwrap();
        assert_eq!(old.spec, new.spec);
        assert_eq!(windows(&old), [Some(9), Some(9), None, Some(9), Some(9)]);
        let ropes: Vec<_> = old.spec.blocks.iter().map(|block| block.attention.rope).collect();
        assert_eq!(ropes, [1, 1, 0, 1, 1]);
        assert_eq!(old.spec.ropes[0].scaling, RopeScaling::Linear { factor: 8.0 });
        assert_eq!((old.spec.ropes[1].theta, old.pad_token_id), (20_000.0, Some(0)));
        assert!(old.spec.tie_word_embeddings && has(&old, "post_feedforward_layernorm.weight"));
    }

    #[test]
    fn both_forms_of_rope_are_read() {
        let old = read(
            r#"{"model_type": "llama", "rope_theta": 500000.0, "rope_scaling": {"factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"}}"#,
        );
        let new = read(
            r#"{"model_type": "llama", "rope_parameters": {"rope_theta": 500000.0, "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"}}"#,
        );
        let (old, new) = (old.unwrap(), new.unwrap());
        assert_eq!(old.spec.ropes, new.spec.ropes);
        assert_eq!(old.spec.ropes[0].theta, 500_000.0);
        assert!(matches!(
            old.spec.ropes[0].scaling,
            RopeScaling::Llama3 { original_max_position_embeddings: 8192, .. }
        ));
        let legacy = r#"{"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2}}"#;
        let scaling = RopeScaling::Linear { factor: 2.0 };
        assert_eq!(read(legacy).unwrap().spec.ropes[0].scaling, scaling);
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn what_is_not_supported_is_refused_by_name() {
        for (text, expected) in [
            (
                r#"{"model_type": "gemma3"}"#,
                "supported are llama, mistral, qwen2, qwen3, gemma3_text, phi3",
            ),
            (r#"{"model_type": "gemma3_text", "final_logit_softcapping": 30.0}"#, "final_logit"),
            (r#"{"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}"#, "attn_logit"),
            (
                r#"{"model_type": "gemma3_text", "use_bidirectional_attention": true}"#,
                "use_bidirectional_attention",
            ),
            (r#"{"model_type": "gemma3_text", "hidden_activation": "silu"}"#, "gelu_pytorch_tanh"),
            (r#"{"model_type": "gemma3_text", "sliding_window": null}"#, "is null"),
            (
                r#"{"model_type": "gemma3_text", "rope_parameters": {"rope_type": "default"}}"#,
                "`rope_type` is no type of layer",
            ),
            (r#"{"model_type": "phi3", "resid_pdrop": 0.1}"#, "`resid_pdrop`"),
            (r#"{"model_type": "phi3", "embd_pdrop": 0.1}"#, "`embd_pdrop`"),
            (r#"{"model_type": "phi3", "partial_rotary_factor": 0.01}"#, "an even number"),
            (
                r#"{"model_type": "phi3", "rope_scaling": {"type": "linear", "factor": 2.0}}"#,
                "\"default\" or \"longrope\"",
            ),
            (
                r#"{"model_type": "phi3", "rope_scaling": {"type": "su", "short_factor": [1.0],
                "long_factor": [1.0]}, "original_max_position_embeddings": 4096}"#,
                "has 1 numbers; expected 48",
            ),
            (
                r#"{"model_type": "phi3", "head_dim": 4, "rope_scaling": {"type": "longrope",
                "short_factor": [1.0, 1.0], "long_factor": [1.0, 1.0]}}"#,
                "`original_max_position_embeddings` is missing",
            ),
            (
                r#"{"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 1e-300}}"#,
                "a frequency of RoPE is inf",
            ),
            (r#"{"hidden_size": 64}"#, "`model_type` is missing"),
            (
                r#"{"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}"#,
                "\"LlamaForSequenceClassification\" with one label",
            ),
            (r#"{"model_type": "llama", "hidden_act": "gelu"}"#, "\"gelu\" is not supported"),
            (r#"{"model_type": "llama", "attention_dropout": 0.1}"#, "`attention_dropout`"),
            (r#"{"model_type": "mistral", "attention_bias": true}"#, "no such bias"),
            (r#"{"model_type": "llama", "torch_dtype": "int8"}"#, "\"int8\""),
            (r#"{"model_type": "llama", "hidden_size": "4096"}"#, "`hidden_size` must be a whole"),
            (r#"{"model_type": "llama", "hidden_size": 0}"#, "must be above 0"),
            (r#"{"model_type": "llama", "hidden_size": 100}"#, "not a multiple"),
            (r#"{"model_type": "llama", "num_key_value_heads": 5}"#, "num_key_value_heads 5"),
            (r#"{"model_type": "qwen3", "head_dim": 15}"#, "must be even"),
            (r#"{"model_type": "qwen3", "head_dim": 512}"#, "at most 256"),
            (r#"{"model_type": "llama", "rope_scaling": {"type": "longrope"}}"#, "\"longrope\""),
            (r#"{"model_type": "llama", "rope_scaling": {"type": "linear"}}"#, "needs it"),
            (
                r#"{"model_type": "llama", "rope_parameters": {"rope_type": "default", "x": 3}}"#,
                "`x` = 3 is not known",
            ),
            (r#"{"model_type": "llama", "partial_rotary_factor": 0.5}"#, "partial_rotary_factor"),
            (
                r#"{"model_type": "llama", "quantization_config": {"quant_method": "awq"}}"#,
                "config.json: quantization_config: `quant_method` is \"awq\"",
            ),
        ] {
            let message = refusal(text);
            assert!(
                message.starts_with("config.json: ") && message.contains(expected),
                "{message}"
            );
        }
    }

    #[test]
    fn a_saved_config_keeps_every_other_key_in_its_place() {
        let text = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "quantization_config": {"load_in_4bit": true, "bnb_4bit_quant_type": "nf4"},
            "initializer_range": 0.02, "torch_dtype": "float16", "my_note": [1, 2.5e-7]}"#;
        let config = read(text).unwrap();
        assert_eq!(config.dtype, Some(DType::F16));
        let saved = config.to_json(DType::BF16, None);
        let expected = r#"{
  "architectures": [
    "LlamaForCausalLM"
  ],
  "model_type": "llama",
  "initializer_range": 0.02,
  "torch_dtype": "bfloat16",
  "my_note": [
    1,
    2.5e-7
  ]
}
"#;
        assert_eq!(saved, expected);
        let quantized = read(&config.to_json(DType::BF16, config.quantization.as_ref()));
        assert_eq!(quantized.unwrap().quantization, config.quantization);
    }
}
