//! What the tensors of a file are stored as: one type of floats, or blocks, by llama.cpp's names and in
//! its mix of types (`llama_tensor_get_type` of `llama-quant.cpp`, without an importance matrix).

use crate::dtype::DType;
use crate::gguf::Kind;
use crate::model::spec::{Projection, Role, Spec, TensorSpec};

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum Mix {
    /// Matrices in one float type, vectors in f32.
    Floats(DType),
    /// Matrices in `Q8_0`.
    Q8_0,
    /// Matrices in `Q4_K`, and `Q6_K` for the head and for v and down in half of the blocks.
    Q4_K_M,
}

impl Mix {
    /// llama.cpp's name, and that of a float type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Floats(dtype) => dtype.name(),
            Self::Q8_0 => "q8_0",
            Self::Q4_K_M => "q4_k_m",
        }
    }

    /// `general.file_type` of llama.cpp: which type most of the tensors have.
    pub fn file_type(self) -> u32 {
        match self {
            Self::Floats(DType::F16) => 1,
            Self::Floats(DType::BF16) => 32,
            Self::Floats(_) => 0,
            Self::Q8_0 => 7,
            Self::Q4_K_M => 15,
        }
    }

    /// How a tensor is stored. Rows that are no whole blocks take the blocks of 32 that llama.cpp falls
    /// back to, and then halves.
    pub fn kind(self, spec: &Spec, tensor: &TensorSpec) -> Kind {
        let [_, columns] = tensor.shape[..] else { return Kind::F32 };
        let fits = |kind: Kind| columns.is_multiple_of(kind.block().0);
        let wanted = match self {
            Self::Floats(dtype) => return Kind::of(dtype),
            Self::Q8_0 => Kind::Q8_0,
            Self::Q4_K_M => match q4_k_m(spec, tensor) {
                kind if fits(kind) => return kind,
                Kind::Q4_K => Kind::Q5_0,
                Kind::Q5_K => Kind::Q5_1,
                _ => Kind::Q8_0,
            },
        };
        if fits(wanted) { wanted } else { Kind::F16 }
    }
}

fn q4_k_m(spec: &Spec, tensor: &TensorSpec) -> Kind {
    let blocks = spec.blocks.len();
    let more = tensor.block.is_some_and(|block| more_bits(block, blocks));
    match tensor.role {
        Role::Head => Kind::Q6_K,
        Role::Embedding if spec.tie_word_embeddings => Kind::Q6_K,
        Role::Linear(Projection::V | Projection::Qkv | Projection::Down) if more => Kind::Q6_K,
        // v of the 70B models is an eighth of q.
        Role::Linear(Projection::V | Projection::Qkv) if is_70b(spec) => Kind::Q5_K,
        _ => Kind::Q4_K,
    }
}

/// The first and last eighth of the blocks, and every third between.
fn more_bits(block: usize, blocks: usize) -> bool {
    let eighth = blocks / 8;
    block < eighth || block >= 7 * blocks / 8 || (block - eighth) % 3 == 2
}

/// What llama.cpp takes for a model of 70B: by its number of blocks.
fn is_70b(spec: &Spec) -> bool {
    let grouped = spec.blocks.first().is_some_and(|block| {
        spec.gguf.architecture == "qwen2" || block.attention.heads != block.attention.kv_heads
    });
    spec.blocks.len() == 80 && grouped && ["llama", "qwen2"].contains(&spec.gguf.architecture)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;

    fn kinds(hidden: usize, layers: usize, tied: bool, of: &str) -> Vec<Kind> {
        let text = format!(
            r#"{{"model_type": "llama", "vocab_size": 300, "hidden_size": {hidden},
            "intermediate_size": 512, "num_hidden_layers": {layers}, "num_attention_heads": 8,
            "num_key_value_heads": 2, "tie_word_embeddings": {tied}}}"#
        );
        let spec = ModelConfig::from_json(&text, "c").unwrap().spec;
        let tensors = spec.tensors();
        let of = tensors.iter().filter(|tensor| tensor.name.contains(of));
        of.map(|tensor| Mix::Q4_K_M.kind(&spec, tensor)).collect()
    }

    #[test]
    fn tensors_have_llama_cpps_types() {
        use Kind::{F16, F32, Q4_K, Q5_0, Q5_K, Q6_K, Q8_0};
        let v = [Q6_K, Q4_K, Q4_K, Q6_K, Q4_K, Q4_K, Q6_K, Q6_K];
        assert_eq!(kinds(256, 8, true, "v_proj"), v);
        assert_eq!(kinds(256, 8, true, "down_proj"), v);
        assert_eq!(kinds(256, 8, true, "q_proj"), [Q4_K; 8]);
        assert_eq!(kinds(256, 1, true, "embed_tokens"), [Q6_K]);
        assert_eq!(kinds(256, 1, false, "embed_tokens"), [Q4_K]);
        assert_eq!(kinds(256, 1, false, "lm_head"), [Q6_K]);
        assert_eq!(kinds(256, 1, false, "norm"), [F32; 3]);
        assert_eq!(kinds(256, 80, false, "v_proj")[10..13], [Q5_K, Q5_K, Q6_K]);
        // Rows of 320 and of 48.
        assert_eq!(kinds(320, 1, false, "up_proj"), [Q5_0]);
        assert_eq!(kinds(320, 1, false, "lm_head"), [Q8_0]);
        assert_eq!(kinds(48, 1, false, "up_proj"), [F16]);
    }
}
