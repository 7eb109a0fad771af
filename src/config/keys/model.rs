//! The keys of `[quantization]`.

use super::{Key, named, plain};

pub(super) const QUANTIZATION: &[Key] = &[
    Key {
        section: "quantization",
        name: "load_in_4bit",
        aliases: &[],
        doc: "store the frozen weights of linear layers in 4 bits (QLoRA)",
        set: |config, node, _| node.bool().map(|on| config.quantization.load_in_4bit = on),
        show: |config| plain(config.quantization.load_in_4bit),
    },
    Key {
        section: "quantization",
        name: "bnb_4bit_quant_type",
        aliases: &[],
        doc: "the 4-bit data type: nf4",
        set: |config, node, _| {
            node.choice().map(|kind| config.quantization.bnb_4bit_quant_type = kind)
        },
        show: |config| named(config.quantization.bnb_4bit_quant_type),
    },
    Key {
        section: "quantization",
        name: "bnb_4bit_use_double_quant",
        aliases: &["use_bnb_nested_quant", "double_quantization"],
        doc: "quantize the scales too: 0.4 bits less per weight",
        set: |config, node, _| {
            node.bool().map(|on| config.quantization.bnb_4bit_use_double_quant = on)
        },
        show: |config| plain(config.quantization.bnb_4bit_use_double_quant),
    },
    Key {
        section: "quantization",
        name: "bnb_4bit_compute_dtype",
        aliases: &[],
        doc: "what 4-bit weights are decoded to for products; the same as dtype if not given",
        set: |config, node, _| {
            node.choice().map(|dtype| config.quantization.bnb_4bit_compute_dtype = dtype)
        },
        show: |config| named(config.quantization.bnb_4bit_compute_dtype),
    },
];
