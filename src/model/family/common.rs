//! What families share: sizes, windows, refusals, and the block that most of them have.

use super::Family;
use crate::Result;
use crate::model::json::Object;
use crate::model::rope::{RopeConfig, RopeRules};
use crate::model::spec::{
    Activation, Attention, Block, GateUpSpec, Gguf, HeadNorms, LinearSpec, Mlp, NormSpec,
    Projection, QkvSpec, Spec,
};

/// The widest head that the attention kernels are written for.
const MAX_HEAD_DIM: usize = 256;

/// The sizes of a model, which fit together.
pub(super) struct Sizes {
    pub vocab: usize,
    pub hidden: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub eps: f32,
    pub positions: usize,
    pub tied: bool,
}

impl Sizes {
    /// Reads them, under the names that Transformers' configurations have in common.
    pub fn read(config: &Object, family: &Family) -> Result<Self> {
        let defaults = &family.defaults;
        let size = |key: &str, default: usize| match config.count(key)?.unwrap_or(default) {
            0 => Err(config.error(key, "must be above 0")),
            n => Ok(n),
        };
        let hidden = size("hidden_size", defaults.hidden_size)?;
        let layers = size("num_hidden_layers", defaults.num_hidden_layers)?;
        if layers > 4096 {
            return Err(config.error("num_hidden_layers", "must be at most 4096"));
        }
        let heads = size("num_attention_heads", defaults.num_attention_heads)?;
        // `null` means "as many as query heads" wherever it is written; Transformers' default of
        // the missing key differs by family.
        let kv_default = match config.has("num_key_value_heads") {
            true => heads,
            false => defaults.num_key_value_heads.unwrap_or(heads),
        };
        let kv_heads = size("num_key_value_heads", kv_default)?;
        let head_dim = head_dim(config, family, hidden, heads)?;
        if !heads.is_multiple_of(kv_heads) {
            let what = format!("{heads} is not a multiple of num_key_value_heads {kv_heads}");
            return Err(config.error("num_attention_heads", what));
        }
        let eps = config.number("rms_norm_eps")?.unwrap_or(defaults.rms_norm_eps);
        if !(0.0..1.0).contains(&eps) {
            return Err(config.error("rms_norm_eps", "must be from 0 to 1"));
        }
        Ok(Self {
            vocab: size("vocab_size", defaults.vocab_size)?,
            hidden,
            inner: size("intermediate_size", defaults.intermediate_size)?,
            layers,
            heads,
            kv_heads,
            head_dim,
            eps: eps as f32,
            positions: size("max_position_embeddings", defaults.max_position_embeddings)?,
            tied: config.flag("tie_word_embeddings")?.unwrap_or(defaults.tie_word_embeddings),
        })
    }

    /// Width of all query heads together: rows of q, columns of o.
    pub fn q(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads together: rows of k and of v.
    pub fn kv(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// A norm over `width` elements.
    pub fn norm(&self, path: &str, gguf: &str, width: usize) -> NormSpec {
        NormSpec { path: path.into(), gguf: gguf.into(), width, eps: self.eps, offset: 0.0 }
    }

    /// The norms of the heads of q and k.
    pub fn head_norms(&self) -> HeadNorms {
        HeadNorms {
            q: self.norm("self_attn.q_norm", "attn_q_norm", self.head_dim),
            k: self.norm("self_attn.k_norm", "attn_k_norm", self.head_dim),
        }
    }
}

fn head_dim(config: &Object, family: &Family, hidden: usize, heads: usize) -> Result<usize> {
    let head_dim = match config.count("head_dim")?.or(family.defaults.head_dim) {
        Some(width) => width,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(config.error(
                "hidden_size",
                format_args!(
                    "{hidden} is not a multiple of num_attention_heads {heads}, and there is no \
                     head_dim"
                ),
            ));
        }
    };
    match head_dim == 0 || head_dim % 2 != 0 || head_dim > MAX_HEAD_DIM {
        false => Ok(head_dim),
        true => Err(config.error(
            "head_dim",
            format_args!("is {head_dim}; it must be even, and at most {MAX_HEAD_DIM}"),
        )),
    }
}

/// Which linear layers have biases.
#[derive(Clone, Copy)]
pub(super) struct Biases {
    pub qkv: bool,
    pub o: bool,
    pub mlp: bool,
}

impl Biases {
    pub const NONE: Self = Self { qkv: false, o: false, mlp: false };
}

/// The decoder of Llama, which other families change: norms before attention and MLP, SwiGLU, one RoPE
/// for all layers.
pub(super) fn decoder(
    sizes: &Sizes,
    biases: Biases,
    head_norms: bool,
    windows: Vec<Option<u32>>,
    rope: RopeConfig,
    gguf: Gguf,
) -> Spec {
    let (hidden, q, kv, inner) = (sizes.hidden, sizes.q(), sizes.kv(), sizes.inner);
    let block = |window: Option<u32>| Block {
        input_norm: sizes.norm("input_layernorm", "attn_norm", hidden),
        attention: Attention {
            heads: sizes.heads,
            kv_heads: sizes.kv_heads,
            head_dim: sizes.head_dim,
            qkv: QkvSpec::Separate([
                LinearSpec::new(Projection::Q, q, hidden, biases.qkv),
                LinearSpec::new(Projection::K, kv, hidden, biases.qkv),
                LinearSpec::new(Projection::V, kv, hidden, biases.qkv),
            ]),
            head_norms: head_norms.then(|| sizes.head_norms()),
            o: LinearSpec::new(Projection::O, hidden, q, biases.o),
            rope: 0,
            window,
            scale: 1.0 / (sizes.head_dim as f32).sqrt(),
        },
        post_attention_norm: None,
        mlp_norm: sizes.norm("post_attention_layernorm", "ffn_norm", hidden),
        mlp: Mlp {
            width: inner,
            gate_up: GateUpSpec::Separate([
                LinearSpec::new(Projection::Gate, inner, hidden, biases.mlp),
                LinearSpec::new(Projection::Up, inner, hidden, biases.mlp),
            ]),
            activation: Activation::Silu,
            down: LinearSpec::new(Projection::Down, hidden, inner, biases.mlp),
        },
        post_mlp_norm: None,
    };
    Spec {
        vocab_size: sizes.vocab,
        hidden_size: hidden,
        embedding_scale: None,
        ropes: vec![rope],
        blocks: windows.into_iter().map(block).collect(),
        norm: sizes.norm("model.norm", "output_norm", hidden),
        tie_word_embeddings: sizes.tied,
        is_classifier: false,
        gguf,
    }
}

/// The RoPE of most families.
pub(super) fn rope(config: &Object, sizes: &Sizes) -> Result<RopeConfig> {
    RopeConfig::read(config, RopeRules::new(sizes.head_dim, sizes.positions))
}

/// A flag that is off where it is missing.
pub(super) fn flag(config: &Object, key: &str) -> Result<bool> {
    Ok(config.flag(key)?.unwrap_or(false))
}

/// Refuses settings that would change results and are not implemented.
pub(super) fn refuse_unsupported(config: &Object) -> Result<()> {
    check_activation(config, "hidden_act", &["silu", "swish"])?;
    refuse_dropout(config, "attention_dropout")?;
    refuse_keys(config, &["per_layer_config", "no_rope_layers"])
}

/// Refuses an activation other than the family's, whose names these are.
pub(super) fn check_activation(config: &Object, key: &str, names: &[&str]) -> Result<()> {
    match config.text(key)? {
        Some(act) if !names.contains(&act) => {
            let what = format!("{act:?} is not supported; supported is {:?}", names[0]);
            Err(config.error(key, what))
        }
        _ => Ok(()),
    }
}

/// Refuses keys that are set.
pub(super) fn refuse_keys(config: &Object, keys: &[&str]) -> Result<()> {
    match keys.iter().find(|key| config.get(key).is_some()) {
        Some(key) => Err(config.error(key, "is not supported")),
        None => Ok(()),
    }
}

/// Refuses a dropout other than 0.
pub(super) fn refuse_dropout(config: &Object, key: &str) -> Result<()> {
    match config.number(key)? {
        None | Some(0.0) => Ok(()),
        Some(dropout) => Err(config.error(
            key,
            format_args!("is {dropout}, which is not supported; set it to 0.0 to train without it"),
        )),
    }
}

/// Transformers ignores these keys for the families that do not have them; a file that sets one means
/// a model that Transformers would not build.
pub(super) fn refuse_biases(config: &Object, family: &Family, keys: &[&str]) -> Result<()> {
    for key in keys {
        if config.flag(key)? == Some(true) {
            return Err(config.error(
                key,
                format_args!("is true, but {} has no such bias", family.architecture),
            ));
        }
    }
    Ok(())
}

/// `sliding_window`; `null` is none, and `default` is for the missing key.
pub(super) fn sliding_window(config: &Object, default: Option<u32>) -> Result<Option<u32>> {
    match (config.count("sliding_window")?, config.has("sliding_window")) {
        (Some(0), _) => Err(config.error("sliding_window", "must be above 0 (or null)")),
        (Some(window), _) => Ok(Some(window as u32)),
        (None, true) => Ok(None),
        (None, false) => Ok(default),
    }
}

/// The window of every layer as `layer_types` says, where it is there.
pub(super) fn windows_by_layer(
    config: &Object,
    window: Option<u32>,
    layers: usize,
) -> Result<Option<Vec<Option<u32>>>> {
    let Some(types) = config.texts("layer_types")? else { return Ok(None) };
    let error = |what: String| config.error("layer_types", what);
    if types.len() != layers {
        return Err(error(format!(
            "has {} entries, but num_hidden_layers is {layers}",
            types.len()
        )));
    }
    let windows = types.iter().enumerate().map(|(layer, kind)| match *kind {
        "full_attention" => Ok(None),
        "sliding_attention" if window.is_some() => Ok(window),
        "sliding_attention" => {
            Err(error(format!("has a sliding layer {layer}, but no sliding_window is set")))
        }
        other => Err(error(format!(
            "{other:?} of layer {layer} is not supported; supported are full_attention, \
             sliding_attention"
        ))),
    });
    windows.collect::<Result<_>>().map(Some)
}

/// Refuses a `layer_types` that says other than `windows`, which is how the family builds its layers.
pub(super) fn check_layer_types(
    config: &Object,
    family: &Family,
    window: Option<u32>,
    windows: &[Option<u32>],
) -> Result<()> {
    let Some(found) = windows_by_layer(config, window, windows.len())? else { return Ok(()) };
    match found.iter().zip(windows).position(|(found, built)| found != built) {
        None => Ok(()),
        Some(layer) => Err(config.error(
            "layer_types",
            format_args!(
                "has {} for layer {layer}, which {} does not have",
                if found[layer].is_some() { "sliding_attention" } else { "full_attention" },
                family.architecture
            ),
        )),
    }
}
