//! `quantization_config` of config.json: bitsandbytes NF4, the one quantization that is supported.

use serde_json::{Value, json};

use super::float;
use super::json::{Object, shorten};
use crate::{DType, Result};

/// How the linear layers of a model directory are quantized: bitsandbytes' NF4.
///
/// Which tensors really are quantized is decided by what the weight files hold, not by this.
#[derive(Clone, Debug, PartialEq)]
pub struct BnbConfig {
    /// Whether the block scales are themselves quantized to 8 bits.
    pub double_quant: bool,
    /// The dtype that products are computed in.
    pub compute_dtype: DType,
    /// Modules left unquantized, by name (`lm_head` always is).
    pub skip_modules: Vec<String>,
}

impl BnbConfig {
    /// Reads `quantization_config`; anything but bitsandbytes NF4 is refused by name.
    #[expect(clippy::too_many_lines, reason = "a check for each key of the format")]
    pub(crate) fn read(object: &Object) -> Result<Self> {
        let four_bit = object.flag("load_in_4bit")?.or(object.flag("_load_in_4bit")?);
        let eight_bit = object.flag("load_in_8bit")?.or(object.flag("_load_in_8bit")?);
        // Files from before `quant_method` existed have the two flags alone.
        match object.text("quant_method")? {
            Some("bitsandbytes") => {}
            None if four_bit.is_some() || eight_bit.is_some() => {}
            Some(other) => {
                return Err(object.error(
                    "quant_method",
                    format_args!(
                        "is {other:?}, which is not supported; use the unquantized model, or one \
                         quantized by bitsandbytes (4-bit, nf4)"
                    ),
                ));
            }
            None => {
                return Err(object.error("quant_method", "is missing; expected \"bitsandbytes\""));
            }
        }
        if eight_bit == Some(true) {
            return Err(object.error(
                "load_in_8bit",
                "is true: 8-bit weights are not supported; use the unquantized model",
            ));
        }
        if four_bit != Some(true) {
            return Err(object.error("load_in_4bit", "must be true for a bitsandbytes model"));
        }
        match object.text("bnb_4bit_quant_type")? {
            Some("nf4") => {}
            // fp4 is what bitsandbytes takes a missing key for.
            found => {
                return Err(object.error(
                    "bnb_4bit_quant_type",
                    format_args!(
                        "is {:?}: only \"nf4\" is supported; use the unquantized model with \
                         load_in_4bit",
                        found.unwrap_or("fp4")
                    ),
                ));
            }
        }
        if let Some(storage) = object.text("bnb_4bit_quant_storage")?
            && !["uint8", "float32", "bfloat16", "float16"].contains(&storage)
        {
            return Err(object.error(
                "bnb_4bit_quant_storage",
                format_args!(
                    "is {storage:?}; expected uint8, float32, bfloat16 or float16 (they hold the \
                     same bytes)"
                ),
            ));
        }
        let compute_dtype = match object.get("bnb_4bit_compute_dtype") {
            None => DType::F32,
            Some(value) => value.as_str().and_then(float::from_torch_name).ok_or_else(|| {
                object.error(
                    "bnb_4bit_compute_dtype",
                    format_args!("must be float32, bfloat16 or float16, found {}", shorten(value)),
                )
            })?,
        };
        let skip = object.texts("llm_int8_skip_modules")?.unwrap_or_default();
        Ok(Self {
            double_quant: object.flag("bnb_4bit_use_double_quant")?.unwrap_or(false),
            compute_dtype,
            skip_modules: skip.into_iter().map(String::from).collect(),
        })
    }

    /// The value of `quantization_config`, with every key that Transformers writes.
    pub fn to_json(&self) -> Value {
        let skip_modules = match self.skip_modules.as_slice() {
            [] => Value::Null,
            names => json!(names),
        };
        json!({
            "_load_in_4bit": true,
            "_load_in_8bit": false,
            "bnb_4bit_compute_dtype": self.compute_dtype.name(),
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": self.double_quant,
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false,
            "llm_int8_skip_modules": skip_modules,
            "llm_int8_threshold": 6.0,
            "load_in_4bit": true,
            "load_in_8bit": false,
            "quant_method": "bitsandbytes",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Result<BnbConfig> {
        let map = value.as_object().cloned().unwrap_or_default();
        BnbConfig::read(&Object::new(&map, "config.json: quantization_config"))
    }

    #[test]
    fn reads_what_it_writes() {
        let config = BnbConfig {
            double_quant: true,
            compute_dtype: DType::BF16,
            skip_modules: vec!["lm_head".into()],
        };
        assert_eq!(read(config.to_json()).unwrap(), config);
    }

    #[test]
    fn refuses_other_quantizations_by_name() {
        for (value, expected) in [
            (json!({"quant_method": "gptq", "bits": 4}), "\"gptq\""),
            (json!({"load_in_8bit": true, "quant_method": "bitsandbytes"}), "8-bit"),
            (json!({"load_in_4bit": true, "quant_method": "bitsandbytes"}), "\"fp4\""),
            (json!({"load_in_4bit": true, "bnb_4bit_quant_type": "fp4"}), "\"fp4\""),
            (json!({"bits": 4}), "`quant_method` is missing"),
        ] {
            let message = read(value).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
