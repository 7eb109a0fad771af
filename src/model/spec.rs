//! What a network is made of: the one description that a family gives of its models. Loading, saving,
//! checking, merging, GGUF files and adapters ask it; none of them knows a family.
//!
//! What published families have that none here needs yet has no field, so that nothing is read and then
//! forgotten: a family refuses such a setting by name. This is where each would be said:
//!
//! | family | as | and |
//! |---|---|---|
//! | Gemma 2 | Gemma 3 without norms of heads, one RoPE | a soft cap in [`Attention`] and one in [`Spec`] |
//! | Phi-4 (14B) | Phi-3 | nothing more |
//! | OLMo 2 | Llama with [`Block::post_attention_norm`] and [`Block::post_mlp_norm`] | `input_norm` and `mlp_norm` become options; [`HeadNorms`] over all heads at once |
//! | SmolLM3 | Llama | [`Attention::rope`] becomes an option: `None` in the layers without positions |
//! | Granite | Llama with [`Spec::embedding_scale`] and [`Attention::scale`] | a factor of what a block adds in [`Block`], one of the logits in [`Spec`] |
//! | mixtures of experts | Llama | [`Mlp`] becomes an enum: gated, or a router and one gated MLP per expert, whose [`LinearSpec::path`] has the expert's number |

use super::rope::RopeConfig;

/// A network.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Rows of the embedding (`V`).
    pub vocab_size: usize,
    /// Model width (`C`).
    pub hidden_size: usize,
    /// What embeddings are multiplied by, after rounding it to their dtype.
    pub embedding_scale: Option<f32>,
    /// The rotary embeddings that blocks choose from.
    pub ropes: Vec<RopeConfig>,
    /// In order (`L`).
    pub blocks: Vec<Block>,
    /// The norm before the head.
    pub norm: NormSpec,
    /// Whether `lm_head` is the embedding itself.
    pub tie_word_embeddings: bool,
    /// Whether the head gives one score and not logits: a sequence classifier with one label.
    pub is_classifier: bool,
    /// The same network in llama.cpp's words.
    pub gguf: Gguf,
}

/// One block: `x += post(attention(input_norm(x)))`, then `x += post(mlp(mlp_norm(x)))`.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Before attention.
    pub input_norm: NormSpec,
    /// Attention.
    pub attention: Attention,
    /// On what attention adds to the residual stream.
    pub post_attention_norm: Option<NormSpec>,
    /// Before the MLP.
    pub mlp_norm: NormSpec,
    /// The MLP.
    pub mlp: Mlp,
    /// On what the MLP adds to the residual stream.
    pub post_mlp_norm: Option<NormSpec>,
}

/// Attention with grouped heads.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Query heads (`NH`).
    pub heads: usize,
    /// Key and value heads (`NKV`); divides `heads`.
    pub kv_heads: usize,
    /// Head width (`HD`), even; need not be the model width over `heads`.
    pub head_dim: usize,
    /// The projections to queries, keys and values.
    pub qkv: QkvSpec,
    /// RMS norms over `head_dim`, before RoPE.
    pub head_norms: Option<HeadNorms>,
    /// The projection back.
    pub o: LinearSpec,
    /// Which of [`Spec::ropes`].
    pub rope: usize,
    /// How many positions a query sees, its own included; `None`: all before it.
    pub window: Option<u32>,
    /// Factor of the scores.
    pub scale: f32,
}

/// The norms of heads.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadNorms {
    /// Of queries.
    pub q: NormSpec,
    /// Of keys.
    pub k: NormSpec,
}

/// How queries, keys and values are projected.
#[derive(Clone, Debug, PartialEq)]
pub enum QkvSpec {
    /// By a layer each: q, k, v.
    Separate([LinearSpec; 3]),
    /// By one layer, whose rows are those of q, then of k, then of v.
    Fused(LinearSpec),
}

/// The gated MLP: `down(act(gate(x)) * up(x))`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mlp {
    /// Its width (`F`).
    pub width: usize,
    /// The projections up.
    pub gate_up: GateUpSpec,
    /// On the gate.
    pub activation: Activation,
    /// The projection back.
    pub down: LinearSpec,
}

/// How gate and up are projected.
#[derive(Clone, Debug, PartialEq)]
pub enum GateUpSpec {
    /// By a layer each: gate, up.
    Separate([LinearSpec; 2]),
    /// By one layer, whose rows are those of gate, then of up.
    Fused(LinearSpec),
}

/// The activation of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU by its tanh formula.
    GeluTanh,
}

/// A linear layer of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearSpec {
    /// Which one.
    pub projection: Projection,
    /// Its path within the block, in Hugging Face's names.
    pub path: String,
    /// The same in GGUF files.
    pub gguf: String,
    /// Rows (`N`).
    pub outputs: usize,
    /// Columns (`K`).
    pub inputs: usize,
    /// Whether it has a bias.
    pub bias: bool,
}

impl LinearSpec {
    /// The layer under its usual names.
    pub fn new(projection: Projection, outputs: usize, inputs: usize, bias: bool) -> Self {
        let (path, gguf) = projection.names();
        Self { projection, path: path.into(), gguf: gguf.into(), outputs, inputs, bias }
    }

    /// Its path in the model, which is its module's name.
    pub fn module(&self, block: usize) -> String {
        in_block(block, &self.path)
    }

    /// Its weight, [N, K].
    pub fn weight_tensor(&self, block: usize) -> TensorSpec {
        let shape = vec![self.outputs, self.inputs];
        self.tensor(block, "weight", shape, Role::Linear(self.projection))
    }

    /// Its bias, `[N]`, where it has one.
    pub fn bias_tensor(&self, block: usize) -> Option<TensorSpec> {
        let role = Role::Bias(self.projection);
        self.bias.then(|| self.tensor(block, "bias", vec![self.outputs], role))
    }

    fn tensor(&self, block: usize, part: &str, shape: Vec<usize>, role: Role) -> TensorSpec {
        TensorSpec {
            name: format!("{}.{part}", self.module(block)),
            shape,
            role,
            block: Some(block),
            gguf: format!("blk.{block}.{}.{part}", self.gguf),
        }
    }
}

/// What a linear layer of a block projects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Projection {
    Q,
    K,
    V,
    Qkv,
    O,
    Gate,
    Up,
    GateUp,
    Down,
}

impl Projection {
    /// Every projection, in the order of the forward pass.
    pub const ALL: [Self; 9] = [
        Self::Q,
        Self::K,
        Self::V,
        Self::Qkv,
        Self::O,
        Self::Gate,
        Self::Up,
        Self::GateUp,
        Self::Down,
    ];

    /// Its usual path within a block, and its name in GGUF files.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Q => ("self_attn.q_proj", "attn_q"),
            Self::K => ("self_attn.k_proj", "attn_k"),
            Self::V => ("self_attn.v_proj", "attn_v"),
            Self::Qkv => ("self_attn.qkv_proj", "attn_qkv"),
            Self::O => ("self_attn.o_proj", "attn_output"),
            Self::Gate => ("mlp.gate_proj", "ffn_gate"),
            Self::Up => ("mlp.up_proj", "ffn_up"),
            // As llama.cpp calls both in one.
            Self::GateUp => ("mlp.gate_up_proj", "ffn_up"),
            Self::Down => ("mlp.down_proj", "ffn_down"),
        }
    }

    /// The module's own name, which PEFT targets.
    pub fn name(self) -> &'static str {
        let (path, _) = self.names();
        path.rsplit('.').next().unwrap_or(path)
    }
}

/// An RMS norm: `x / sqrt(mean(x^2) + eps) * (weight + offset)`.
#[derive(Clone, Debug, PartialEq)]
pub struct NormSpec {
    /// Its path, within the block where it is of one.
    pub path: String,
    /// The same in GGUF files, where weights have the offset added.
    pub gguf: String,
    /// Elements of the weight.
    pub width: usize,
    /// Added under the root.
    pub eps: f32,
    /// Added to the weight.
    pub offset: f32,
}

impl NormSpec {
    /// Its weight, `[C]` or `[HD]`.
    pub fn tensor(&self, block: Option<usize>) -> TensorSpec {
        let (path, gguf) = match block {
            Some(block) => (in_block(block, &self.path), format!("blk.{block}.{}", self.gguf)),
            None => (self.path.clone(), self.gguf.clone()),
        };
        TensorSpec {
            name: format!("{path}.weight"),
            shape: vec![self.width],
            role: Role::Norm { offset: self.offset },
            block,
            gguf: format!("{gguf}.weight"),
        }
    }
}

/// The path of something in a block.
fn in_block(block: usize, path: &str) -> String {
    format!("model.layers.{block}.{path}")
}

/// What llama.cpp has for a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gguf {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// Whether rows of q and k stand with rotary pairs beside each other.
    pub interleaved: bool,
    /// Which tensors it divides the frequencies of RoPE by.
    pub divisors: Divisors,
    /// Whether o may have a bias, and q, k and v.
    pub attention_bias: bool,
    /// Whether it has windows: in all layers but every n-th, which then have a RoPE of their own.
    /// Without, a window bounds the context.
    pub windows: bool,
    /// The number of layers at which it takes the scores' factor from the model's width per head, not
    /// from the head's.
    pub scale_by_width: Option<usize>,
}

/// Tensors that llama.cpp divides the frequencies of RoPE by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divisors {
    /// There are none.
    None,
    /// `rope_freqs`, which say what Llama 3's RoPE does.
    Llama3,
    /// `rope_factors_long` and `rope_factors_short`, LongRoPE's.
    LongRope,
}

/// What a tensor is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    /// The embedding, [V, C].
    Embedding,
    /// The weight of a linear layer of the blocks, [N, K]: what quantization and adapters apply to.
    Linear(Projection),
    /// The bias of one, `[N]`.
    Bias(Projection),
    /// The weight of a norm.
    Norm {
        /// What is added to it.
        offset: f32,
    },
    /// The output head, [V, C].
    Head,
    /// The head of a classifier, [1, C].
    Score,
}

/// A tensor of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Hugging Face's name.
    pub name: String,
    /// Sizes, outermost first; linear weights are [out, in].
    pub shape: Vec<usize>,
    /// What it is.
    pub role: Role,
    /// The block it is of.
    pub block: Option<usize>,
    /// Its name in GGUF files.
    pub gguf: String,
}

impl TensorSpec {
    /// What GGUF files add to the elements.
    pub fn norm_offset(&self) -> f32 {
        match self.role {
            Role::Norm { offset } => offset,
            _ => 0.0,
        }
    }

    /// The path of the linear layer whose weight this is, with its rows and columns.
    pub fn linear(&self) -> Option<(&str, [usize; 2])> {
        match (self.role, &self.shape[..]) {
            (Role::Linear(_), &[outputs, inputs]) => {
                Some((self.name.strip_suffix(".weight")?, [outputs, inputs]))
            }
            _ => None,
        }
    }
}

/// The name of the embedding.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The name of the output head.
pub(crate) const HEAD: &str = "lm_head.weight";
/// The name of a classifier's head.
pub(crate) const SCORE: &str = "score.weight";
/// The module that the embedding is.
pub(crate) const EMBEDDING_MODULE: &str = "model.embed_tokens";
/// The module that the output head is.
pub(crate) const HEAD_MODULE: &str = "lm_head";

impl Spec {
    /// Every parameter of the model, in the order of the blocks.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut tensors = vec![self.embedding()];
        for (index, block) in self.blocks.iter().enumerate() {
            for linear in block.linears() {
                tensors.push(linear.weight_tensor(index));
                tensors.extend(linear.bias_tensor(index));
            }
            tensors.extend(block.norms().map(|norm| norm.tensor(Some(index))));
        }
        tensors.push(self.norm.tensor(None));
        tensors.extend(self.head());
        tensors
    }

    /// Whether sequences between these lengths turn at the same frequencies.
    pub fn turn_alike(&self, shortest: usize, longest: usize) -> bool {
        self.ropes.iter().all(|rope| rope.turns_alike(shortest, longest))
    }

    /// The embedding.
    pub fn embedding(&self) -> TensorSpec {
        self.table(EMBEDDING, Role::Embedding, "token_embd.weight")
    }

    /// The output head, where it is not the embedding.
    pub fn head(&self) -> Option<TensorSpec> {
        if self.is_classifier {
            let table = self.table(SCORE, Role::Score, "cls.output.weight");
            return Some(TensorSpec { shape: vec![1, self.hidden_size], ..table });
        }
        (!self.tie_word_embeddings).then(|| self.own_head())
    }

    /// The output head as a tensor of its own, be it tied or not.
    pub fn own_head(&self) -> TensorSpec {
        self.table(HEAD, Role::Head, "output.weight")
    }

    fn table(&self, name: &str, role: Role, gguf: &str) -> TensorSpec {
        TensorSpec {
            name: name.into(),
            shape: vec![self.vocab_size, self.hidden_size],
            role,
            block: None,
            gguf: gguf.into(),
        }
    }

    /// The heads of a tensor whose rows llama.cpp keeps with rotary pairs beside each other: q and k of
    /// its Llama, weights and biases.
    pub fn interleaved_heads(&self, tensor: &TensorSpec) -> Option<usize> {
        let attention = &self.blocks.get(tensor.block?)?.attention;
        match tensor.role {
            _ if !self.gguf.interleaved => None,
            Role::Linear(Projection::Q) | Role::Bias(Projection::Q) => Some(attention.heads),
            Role::Linear(Projection::K) | Role::Bias(Projection::K) => Some(attention.kv_heads),
            _ => None,
        }
    }

    /// The names of the linear layers, each once, in the order of the forward pass: what PEFT's
    /// `all-linear` stands for.
    pub fn module_names(&self) -> Vec<&'static str> {
        let linears = self.blocks.iter().flat_map(Block::linears);
        let mut names = Vec::new();
        for name in linears.map(|linear| linear.projection.name()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

impl Block {
    /// The linear layers, in the order of the forward pass.
    pub fn linears(&self) -> Vec<&LinearSpec> {
        let qkv = match &self.attention.qkv {
            QkvSpec::Separate(three) => &three[..],
            QkvSpec::Fused(one) => std::slice::from_ref(one),
        };
        let gate_up = match &self.mlp.gate_up {
            GateUpSpec::Separate(two) => &two[..],
            GateUpSpec::Fused(one) => std::slice::from_ref(one),
        };
        qkv.iter().chain([&self.attention.o]).chain(gate_up).chain([&self.mlp.down]).collect()
    }

    /// The norms.
    fn norms(&self) -> impl Iterator<Item = &NormSpec> {
        let heads = self.attention.head_norms.iter().flat_map(|norms| [&norms.q, &norms.k]);
        heads
            .chain([&self.input_norm])
            .chain(&self.post_attention_norm)
            .chain([&self.mlp_norm])
            .chain(&self.post_mlp_norm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;

    fn spec(model_type: &str, tied: bool) -> Spec {
        let text = format!(
            r#"{{"model_type": "{model_type}", "vocab_size": 10, "hidden_size": 4,
            "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 2, "tie_word_embeddings": {tied}}}"#
        );
        ModelConfig::from_json(&text, "c").unwrap().spec
    }

    #[test]
    fn a_model_has_the_tensors_of_its_family() {
        let tensors = spec("qwen3", true).tensors();
        let names: Vec<_> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert!(names.contains(&"model.layers.0.self_attn.q_norm.weight"));
        assert!(!names.iter().any(|name| name.ends_with("bias") || name.starts_with("lm_head")));
        let tensors = spec("qwen2", false).tensors();
        let bias = tensors.iter().find(|tensor| tensor.name.ends_with("k_proj.bias")).unwrap();
        assert_eq!((&bias.shape[..], bias.role), (&[2][..], Role::Bias(Projection::K)));
        assert_eq!(bias.gguf, "blk.0.attn_k.bias");
        let head = tensors.last().unwrap();
        assert_eq!((head.name.as_str(), &head.shape[..]), ("lm_head.weight", &[10, 4][..]));
    }

    #[test]
    fn adapters_target_what_a_family_has() {
        let seven = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        assert_eq!(spec("gemma3_text", true).module_names(), seven);
        let fused = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"];
        let phi3 = spec("phi3", false);
        assert_eq!(phi3.module_names(), fused);
        let shapes: Vec<_> = phi3.tensors().iter().filter_map(|t| Some(t.linear()?.1)).collect();
        assert_eq!(shapes, [[8, 4], [4, 4], [12, 4], [4, 6]]);
    }

    #[test]
    fn no_two_tensors_share_a_name() {
        for model_type in ["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3"] {
            let tensors = spec(model_type, false).tensors();
            for of in [|t: &TensorSpec| t.name.clone(), |t: &TensorSpec| t.gguf.clone()] {
                let names: std::collections::HashSet<_> = tensors.iter().map(of).collect();
                assert_eq!(names.len(), tensors.len(), "{model_type}");
            }
        }
    }
}
