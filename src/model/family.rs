//! The families of architectures that are supported, and what Transformers takes for keys that are
//! missing from their config.json.

/// A family of architectures: which Transformers class a model directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Llama 2, 3 and 3.x, SmolLM2, TinyLlama.
    Llama,
    /// Mistral: one sliding window for all layers.
    Mistral,
    /// Qwen 2 and 2.5: biases on q, k and v.
    Qwen2,
    /// Qwen 3: RMS norms on the heads of q and k.
    Qwen3,
}

/// Every family, in the order that messages list them.
pub(super) const FAMILIES: [Family; 4] =
    [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3];

impl Family {
    /// The `model_type` of config.json.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The class in `architectures` of config.json.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// The sizes that Transformers takes for keys missing from a family's config.json.
pub(super) struct Defaults {
    pub vocab_size: usize,
    pub intermediate_size: usize,
    pub num_key_value_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub max_position_embeddings: usize,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
}

impl Family {
    pub(super) fn defaults(self) -> Defaults {
        let qwen2 = Defaults {
            vocab_size: 151_936,
            intermediate_size: 22_016,
            num_key_value_heads: Some(32),
            head_dim: None,
            max_position_embeddings: 32_768,
            bos_token_id: None,
            eos_token_id: None,
        };
        match self {
            Self::Llama => Defaults {
                vocab_size: 32_000,
                intermediate_size: 11_008,
                num_key_value_heads: None,
                head_dim: None,
                max_position_embeddings: 2048,
                bos_token_id: Some(1),
                eos_token_id: Some(2),
            },
            Self::Mistral => Defaults {
                vocab_size: 32_000,
                intermediate_size: 14_336,
                num_key_value_heads: Some(8),
                head_dim: None,
                max_position_embeddings: 131_072,
                bos_token_id: Some(1),
                eos_token_id: Some(2),
            },
            Self::Qwen2 => qwen2,
            Self::Qwen3 => Defaults { head_dim: Some(128), ..qwen2 },
        }
    }
}
