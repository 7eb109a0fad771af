//! `config.json`: the shape of a model, for the families this crate knows.
//!
//! Defaults of missing keys and the meaning of every key are those of Transformers' own
//! configuration classes (`models/*/configuration_*.py`). What would change results and is not
//! implemented is refused by name.

use std::path::Path;

use serde_json::{Map, Value};

use super::family::{FAMILIES, Family};
use super::float;
use super::json::{Object, parse_object, shorten};
use super::quantization::BnbConfig;
use super::rope::RopeConfig;
use crate::{DType, Error, Result};

/// The widest head that the attention kernels are written for.
pub const MAX_HEAD_DIM: usize = 256;

/// The shape of a model: config.json, resolved and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Which Transformers class this is.
    pub family: Family,
    /// Rows of the embedding (`V`).
    pub vocab_size: usize,
    /// Model width (`C`).
    pub hidden_size: usize,
    /// Width of the MLP between its up and down projections.
    pub intermediate_size: usize,
    /// Layers (`L`).
    pub num_hidden_layers: usize,
    /// Query heads (`NH`).
    pub num_attention_heads: usize,
    /// Key and value heads (`NKV`); divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Head width (`HD`), even; need not be `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Epsilon of every RMS norm.
    pub rms_norm_eps: f32,
    /// Whether `lm_head` is the embedding itself.
    pub tie_word_embeddings: bool,
    /// Biases on q, k and v.
    pub qkv_bias: bool,
    /// A bias on o.
    pub o_bias: bool,
    /// Biases on gate, up and down.
    pub mlp_bias: bool,
    /// RMS norms over `head_dim` on q and k, before RoPE.
    pub qk_norm: bool,
    /// Per layer, how many positions a query sees, its own included; `None`: all before it.
    pub sliding_window: Vec<Option<u32>>,
    /// The longest sequence that the model was made for.
    pub max_position_embeddings: usize,
    /// Beginning of sequence.
    pub bos_token_id: Option<u32>,
    /// Ends of sequence; generation stops at any of them.
    pub eos_token_ids: Vec<u32>,
    /// Padding.
    pub pad_token_id: Option<u32>,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// How the linear layers are quantized on disk.
    pub quantization: Option<BnbConfig>,
    /// The dtype that the weights were saved in.
    pub dtype: Option<DType>,
    /// config.json as it was read, for writing it again.
    raw: Map<String, Value>,
}

impl ModelConfig {
    /// Reads `config.json` of a model directory.
    ///
    /// Errors: no such file, not JSON, or anything [`ModelConfig::from_json`] refuses.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Error::input(format!(
                "{}: {error}; a model directory has a config.json in Hugging Face form",
                path.display()
            ))
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
        let family = read_family(&object)?;
        refuse_unsupported(&object, family)?;
        let defaults = family.defaults();

        let size = |key: &str, default: usize| match object.count(key)?.unwrap_or(default) {
            0 => Err(object.error(key, "must be above 0")),
            n => Ok(n),
        };
        let hidden_size = size("hidden_size", 4096)?;
        let num_hidden_layers = size("num_hidden_layers", 32)?;
        if num_hidden_layers > 4096 {
            return Err(object.error("num_hidden_layers", "must be at most 4096"));
        }
        let num_attention_heads = size("num_attention_heads", 32)?;
        // `null` means "as many as query heads" wherever it is written; Transformers' default of
        // the missing key differs by family.
        let kv_default = match raw.contains_key("num_key_value_heads") {
            true => num_attention_heads,
            false => defaults.num_key_value_heads.unwrap_or(num_attention_heads),
        };
        let num_key_value_heads = size("num_key_value_heads", kv_default)?;
        let head_dim = match object.count("head_dim")?.or(defaults.head_dim) {
            Some(width) => width,
            None if hidden_size.is_multiple_of(num_attention_heads) => {
                hidden_size / num_attention_heads
            }
            None => {
                return Err(object.error(
                    "hidden_size",
                    format_args!(
                        "{hidden_size} is not a multiple of num_attention_heads \
                         {num_attention_heads}, and there is no head_dim"
                    ),
                ));
            }
        };
        if head_dim == 0 || head_dim % 2 != 0 || head_dim > MAX_HEAD_DIM {
            return Err(object.error(
                "head_dim",
                format_args!("is {head_dim}; it must be even, and at most {MAX_HEAD_DIM}"),
            ));
        }
        if family == Family::Llama && !hidden_size.is_multiple_of(num_attention_heads) {
            return Err(object.error(
                "hidden_size",
                format_args!(
                    "{hidden_size} is not a multiple of num_attention_heads {num_attention_heads}"
                ),
            ));
        }
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            return Err(object.error(
                "num_attention_heads",
                format_args!(
                    "{num_attention_heads} is not a multiple of num_key_value_heads \
                     {num_key_value_heads}"
                ),
            ));
        }
        let rms_norm_eps = object.number("rms_norm_eps")?.unwrap_or(1e-6);
        if !(0.0..1.0).contains(&rms_norm_eps) {
            return Err(object.error("rms_norm_eps", "must be from 0 to 1"));
        }
        let flag = |key: &str| object.flag(key).map(|value| value.unwrap_or(false));
        let attention_bias = flag("attention_bias")?;
        let max_position_embeddings =
            size("max_position_embeddings", defaults.max_position_embeddings)?;

        Ok(Self {
            family,
            vocab_size: size("vocab_size", defaults.vocab_size)?,
            hidden_size,
            intermediate_size: size("intermediate_size", defaults.intermediate_size)?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            rms_norm_eps: rms_norm_eps as f32,
            tie_word_embeddings: flag("tie_word_embeddings")?,
            // Qwen2's biases and Mistral's lack of them are not read from the file.
            qkv_bias: match family {
                Family::Llama | Family::Qwen3 => attention_bias,
                Family::Qwen2 => true,
                Family::Mistral => false,
            },
            o_bias: matches!(family, Family::Llama | Family::Qwen3) && attention_bias,
            mlp_bias: family == Family::Llama && flag("mlp_bias")?,
            qk_norm: family == Family::Qwen3,
            sliding_window: read_sliding_window(&object, family, num_hidden_layers)?,
            max_position_embeddings,
            bos_token_id: match raw.contains_key("bos_token_id") {
                true => read_token(&object, "bos_token_id")?,
                false => defaults.bos_token_id,
            },
            eos_token_ids: match raw.contains_key("eos_token_id") {
                true => read_tokens(&object, "eos_token_id")?,
                false => defaults.eos_token_id.into_iter().collect(),
            },
            pad_token_id: read_token(&object, "pad_token_id")?,
            rope: RopeConfig::read(&object, max_position_embeddings)?,
            quantization: object
                .object("quantization_config")?
                .map(|config| BnbConfig::read(&config))
                .transpose()?,
            dtype: read_dtype(&object)?,
            raw,
        })
    }

    /// Width of all query heads together: rows of q, columns of o.
    pub fn q_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads together: rows of k and of v.
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
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

/// The family by `model_type`, checked against `architectures`.
fn read_family(object: &Object) -> Result<Family> {
    let supported = || FAMILIES.map(Family::model_type).join(", ");
    let Some(model_type) = object.text("model_type")? else {
        return Err(
            object.error("model_type", format_args!("is missing; supported are {}", supported()))
        );
    };
    let Some(family) = FAMILIES.into_iter().find(|family| family.model_type() == model_type) else {
        return Err(object.error(
            "model_type",
            format_args!("{model_type:?} is not supported; supported are {}", supported()),
        ));
    };
    if let Some(architectures) = object.texts("architectures")?
        && !architectures.is_empty()
        && !architectures.contains(&family.architecture())
    {
        return Err(object.error(
            "architectures",
            format_args!(
                "{architectures:?} is not supported; a {model_type} model must be {:?}",
                family.architecture()
            ),
        ));
    }
    Ok(family)
}

/// Refuses settings that would change results and are not implemented.
fn refuse_unsupported(object: &Object, family: Family) -> Result<()> {
    if let Some(act) = object.text("hidden_act")?
        && act != "silu"
        && act != "swish"
    {
        return Err(object
            .error("hidden_act", format_args!("{act:?} is not supported; supported is \"silu\"")));
    }
    if let Some(dropout) = object.number("attention_dropout")?
        && dropout != 0.0
    {
        return Err(object.error(
            "attention_dropout",
            format_args!("is {dropout}, which is not supported; set it to 0.0 to train without it"),
        ));
    }
    for key in ["per_layer_config", "no_rope_layers"] {
        if object.get(key).is_some() {
            return Err(object.error(key, "is not supported"));
        }
    }
    // Transformers ignores these keys for the families that do not have them; a file that sets one
    // means a model that Transformers would not build.
    let ignored: &[&str] = match family {
        Family::Llama => &[],
        Family::Qwen3 => &["mlp_bias"],
        Family::Mistral | Family::Qwen2 => &["attention_bias", "mlp_bias"],
    };
    for key in ignored {
        // Qwen2's q, k and v biases are always there: `attention_bias: true` adds nothing.
        let says_nothing = family == Family::Qwen2 && *key == "attention_bias";
        if object.flag(key)? == Some(true) && !says_nothing {
            return Err(object.error(
                key,
                format_args!("is true, but {} has no such bias", family.architecture()),
            ));
        }
    }
    Ok(())
}

/// The window of every layer.
fn read_sliding_window(object: &Object, family: Family, layers: usize) -> Result<Vec<Option<u32>>> {
    let window = match (object.count("sliding_window")?, object.has("sliding_window")) {
        (Some(0), _) => return Err(object.error("sliding_window", "must be above 0 (or null)")),
        (Some(window), _) => Some(window as u32),
        (None, true) => None,
        (None, false) => Some(4096),
    };
    let (window, first) = match family {
        Family::Llama => (None, 0),
        Family::Mistral => (window, 0),
        Family::Qwen2 | Family::Qwen3 => {
            let used = object.flag("use_sliding_window")?.unwrap_or(false);
            (window.filter(|_| used), object.count("max_window_layers")?.unwrap_or(28))
        }
    };
    let windows: Vec<_> = (0..layers).map(|layer| window.filter(|_| layer >= first)).collect();
    let Some(types) = object.texts("layer_types")? else { return Ok(windows) };
    if types.len() != layers {
        return Err(object.error(
            "layer_types",
            format_args!("has {} entries, but num_hidden_layers is {layers}", types.len()),
        ));
    }
    types
        .iter()
        .zip(&windows)
        .enumerate()
        .map(|(layer, (kind, by_family))| {
            let by_type = match *kind {
                "full_attention" => None,
                "sliding_attention" if window.is_some() => window,
                "sliding_attention" => {
                    return Err(object.error(
                        "layer_types",
                        format_args!("has a sliding layer {layer}, but no sliding_window is set"),
                    ));
                }
                other => {
                    return Err(object.error(
                        "layer_types",
                        format_args!(
                            "{other:?} of layer {layer} is not supported; supported are \
                             full_attention, sliding_attention"
                        ),
                    ));
                }
            };
            // Llama and Mistral build every layer alike, whatever this list says.
            if matches!(family, Family::Llama | Family::Mistral) && by_type != *by_family {
                return Err(object.error(
                    "layer_types",
                    format_args!(
                        "has {kind:?} for layer {layer}, which {} does not have",
                        family.architecture()
                    ),
                ));
            }
            Ok(by_type)
        })
        .collect()
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
    match float::from_torch_name(name) {
        Some(dtype) => Ok(Some(dtype)),
        None if name == "auto" => Ok(None),
        None => Err(object.error(
            key,
            format_args!("{name:?} is not supported; supported are float32, bfloat16 and float16"),
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

    #[test]
    fn missing_keys_take_the_defaults_of_each_family() {
        let llama = read(r#"{"model_type": "llama"}"#).unwrap();
        assert_eq!((llama.vocab_size, llama.intermediate_size), (32_000, 11_008));
        assert_eq!((llama.num_key_value_heads, llama.head_dim), (32, 128));
        assert_eq!((llama.bos_token_id, llama.eos_token_ids.as_slice()), (Some(1), &[2][..]));
        assert_eq!(llama.max_position_embeddings, 2048);
        assert!(!llama.tie_word_embeddings && !llama.qkv_bias && !llama.mlp_bias);

        let mistral = read(r#"{"model_type": "mistral"}"#).unwrap();
        assert_eq!(mistral.num_key_value_heads, 8);
        assert_eq!(mistral.sliding_window, [Some(4096); 32]);

        let qwen2 = read(r#"{"model_type": "qwen2", "hidden_size": 2048}"#).unwrap();
        assert_eq!((qwen2.head_dim, qwen2.bos_token_id), (64, None));
        assert!(qwen2.qkv_bias && !qwen2.o_bias && !qwen2.qk_norm);
        assert_eq!(qwen2.sliding_window, [None; 32]);

        let qwen3 = read(r#"{"model_type": "qwen3", "hidden_size": 2048}"#).unwrap();
        assert_eq!((qwen3.head_dim, qwen3.q_size()), (128, 4096));
        assert!(qwen3.qk_norm && !qwen3.qkv_bias);
    }

    #[test]
    fn null_is_not_the_same_as_missing_where_transformers_tells_them_apart() {
        let text = r#"{"model_type": "mistral", "num_key_value_heads": null,
            "sliding_window": null, "eos_token_id": null, "pad_token_id": -1}"#;
        let mistral = read(text).unwrap();
        assert_eq!(mistral.num_key_value_heads, 32);
        assert_eq!(mistral.sliding_window, [None; 32]);
        assert!(mistral.eos_token_ids.is_empty() && mistral.pad_token_id.is_none());
    }

    #[test]
    fn qwen_windows_start_at_max_window_layers_or_follow_layer_types() {
        let text = r#"{"model_type": "qwen2", "num_hidden_layers": 3, "sliding_window": 7,
            "use_sliding_window": true, "max_window_layers": 1}"#;
        assert_eq!(read(text).unwrap().sliding_window, [None, Some(7), Some(7)]);
        let types = r#""layer_types": ["sliding_attention", "full_attention"]"#;
        let with_types = |used: bool| {
            format!(
                r#"{{"model_type": "qwen3", "num_hidden_layers": 2, "sliding_window": 7,
                "use_sliding_window": {used}, {types}}}"#
            )
        };
        assert_eq!(read(&with_types(true)).unwrap().sliding_window, [Some(7), None]);
        assert!(refusal(&with_types(false)).contains("no sliding_window is set"));
        let llama = format!(r#"{{"model_type": "llama", "num_hidden_layers": 2, {types}}}"#);
        assert!(refusal(&llama).contains("sliding"));
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
        assert_eq!(old.rope, new.rope);
        assert_eq!(old.rope.theta, 500_000.0);
        assert!(matches!(
            old.rope.scaling,
            RopeScaling::Llama3 { original_max_position_embeddings: 8192, .. }
        ));
        let legacy = r#"{"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2}}"#;
        assert_eq!(read(legacy).unwrap().rope.scaling, RopeScaling::Linear { factor: 2.0 });
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (text, expected) in [
            (r#"{"model_type": "gemma3"}"#, "supported are llama, mistral, qwen2, qwen3"),
            (r#"{"hidden_size": 64}"#, "`model_type` is missing"),
            (
                r#"{"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}"#,
                "must be \"LlamaForCausalLM\"",
            ),
            (r#"{"model_type": "llama", "hidden_act": "gelu"}"#, "\"gelu\" is not supported"),
            (r#"{"model_type": "llama", "attention_dropout": 0.1}"#, "`attention_dropout`"),
            (r#"{"model_type": "mistral", "attention_bias": true}"#, "no such bias"),
            (r#"{"model_type": "llama", "torch_dtype": "float64"}"#, "\"float64\""),
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
