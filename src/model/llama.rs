//! The transformer of the Llama family: Llama, Mistral, Qwen2 and Qwen3 differ only in biases,
//! windows and the norms of q and k, which [`ModelConfig`] tells.
//!
//! ```text
//! x = embed(ids)
//! for each layer:   x += o(attention(rope(norm(q(h))), rope(norm(k(h))), v(h))),  h = rms_norm(x)
//!                   x += down(swiglu(gate(h), up(h))),                            h = rms_norm(x)
//! logits = rms_norm(x) · headᵀ
//! ```

use super::ModelConfig;
use super::cache::LayerCache;
use crate::error::Result;
use crate::nn::{Context, Linear};
use crate::ops::{self, AttentionLayout, Neftune};
use crate::random::site;
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::rc::Rc;

/// What the backward pass computes again instead of keeping: a ladder, each rung slower and smaller
/// than the one before, and each recomputing what those before it do. All rungs give the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Recompute {
    /// Keep whatever a backward reads.
    #[default]
    Nothing,
    /// Recompute element-wise results, and no product: the norms' and SwiGLU's.
    Elementwise,
    /// Recompute the MLP's intermediates, the widest tensors of a layer.
    Mlp,
    /// Keep only each layer's input.
    Layer,
}

/// A model on a device.
pub struct Model {
    /// What config.json says.
    pub config: ModelConfig,
    /// [V, C].
    pub embed_tokens: Tensor,
    /// The blocks.
    pub layers: Vec<Rc<Layer>>,
    /// [C]: the final norm.
    pub norm: Tensor,
    /// [V, C]; the embedding itself where the two are tied.
    pub lm_head: Tensor,
    /// The rotary embeddings that layers choose from.
    pub ropes: Vec<Rope>,
    /// What is computed again in the backward pass.
    pub recompute: Recompute,
}

/// Cosines and sines of all positions, f32 [P, width / 2]; the first `width` columns of a head turn.
#[derive(Clone)]
pub struct Rope {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

/// The norms of each head of q and k (Qwen3), [HD] each.
pub struct HeadNorms {
    /// For queries.
    pub q_norm: Tensor,
    /// For keys.
    pub k_norm: Tensor,
}

/// One block.
pub struct Layer {
    /// [C].
    pub input_layernorm: Tensor,
    /// [NH * HD, C].
    pub q_proj: Linear,
    /// [NKV * HD, C].
    pub k_proj: Linear,
    /// [NKV * HD, C].
    pub v_proj: Linear,
    /// Qwen3's norms of q and k.
    pub head_norms: Option<HeadNorms>,
    /// [C, NH * HD].
    pub o_proj: Linear,
    /// [C].
    pub post_attention_layernorm: Tensor,
    /// [F, C].
    pub gate_proj: Linear,
    /// [F, C].
    pub up_proj: Linear,
    /// [C, F].
    pub down_proj: Linear,
    /// Which of the model's rotary embeddings.
    pub rope: usize,
    /// The sliding window, if this layer has one.
    pub window: Option<u32>,
    /// Factor of the attention scores.
    pub scale: f32,
    /// Width of a head.
    pub head_dim: usize,
    /// Added under the root of every norm.
    pub eps: f32,
}

impl Model {
    /// The final hidden states [T, C] of the tokens `ids`, after the last norm.
    pub fn hidden(&self, tape: &Tape, ids: &[u32], context: &Rc<Context>) -> Result<Tensor> {
        let mut x = ops::embedding(tape, &self.embed_tokens, ids)?;
        if let Some(noise) = context.noise.as_ref().filter(|noise| noise.neftune_alpha > 0.0) {
            let noise = Neftune {
                alpha: noise.neftune_alpha,
                seed: noise.seed,
                site: site("model.embed_tokens"),
                ordinals: noise.ordinals.clone(),
                positions: context.positions.clone(),
                bounds: context.bounds.clone(),
                step_state: noise.step_state.clone(),
            };
            x = ops::neftune(tape, &x, &noise)?;
        }
        tape.recompute_elementwise(self.recompute >= Recompute::Elementwise);
        for layer in &self.layers {
            x = self.layer(tape, &x, layer, context)?;
        }
        ops::rms_norm(tape, &x, &self.norm, self.config.spec.norm.eps)
    }

    /// One block, with what is to be recomputed of it in checkpoints. A checkpoint's result is not kept
    /// either: where the MLP's is, only the input of the attention is left of a layer.
    fn layer(
        &self,
        tape: &Tape,
        x: &Tensor,
        layer: &Rc<Layer>,
        context: &Rc<Context>,
    ) -> Result<Tensor> {
        let rope = &self.ropes[layer.rope];
        let again = || (layer.clone(), context.clone());
        let x = if self.recompute >= Recompute::Layer {
            let ((layer, context), rope) = (again(), rope.clone());
            tape.checkpoint(x, move |tape, x| layer.attend(tape, x, &rope, &context, None))?
        } else {
            layer.attend(tape, x, rope, context, None)?
        };
        let h = if self.recompute >= Recompute::Mlp {
            let (layer, context) = again();
            tape.checkpoint(&x, move |tape, x| layer.gated(tape, x, &context))?
        } else {
            layer.gated(tape, &x, context)?
        };
        layer.down(tape, &x, &h, context)
    }

    /// The logits [1, V] after the last of the new tokens `ids`, which follow what `cache` holds and
    /// are added to it.
    pub fn next_logits(
        &self,
        ids: &[u32],
        context: &Context,
        cache: &mut [LayerCache],
    ) -> Result<Tensor> {
        let tape = Tape::inference();
        let mut x = ops::embedding(&tape, &self.embed_tokens, ids)?;
        for (layer, cache) in self.layers.iter().zip(cache) {
            x = layer.attend(&tape, &x, &self.ropes[layer.rope], context, Some(cache))?;
            let h = layer.gated(&tape, &x, context)?;
            x = layer.down(&tape, &x, &h, context)?;
        }
        let last = ops::take_row(&x, ids.len() - 1)?;
        let last = ops::rms_norm(&tape, &last, &self.norm, self.config.spec.norm.eps)?;
        ops::matmul(&tape, &last, &self.lm_head)
    }

    /// The positions that the model was loaded for.
    pub fn max_positions(&self) -> usize {
        let positions = self.ropes.iter().map(|rope| rope.cos.dim(0));
        positions.min().unwrap_or(self.config.max_position_embeddings)
    }

    /// Every linear layer of the blocks, in the order of the forward pass.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(|layer| layer.linears())
    }
}

impl Layer {
    /// x + attention(norm(x)).
    fn attend(
        &self,
        tape: &Tape,
        x: &Tensor,
        rope: &Rope,
        context: &Context,
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor> {
        let h = ops::rms_norm(tape, x, &self.input_layernorm, self.eps)?;
        let heads = |projected: Tensor| {
            projected.reshape(&[x.dim(0), projected.columns() / self.head_dim, self.head_dim])
        };
        let mut q = heads(self.q_proj.forward(tape, &h, context)?)?;
        let mut k = heads(self.k_proj.forward(tape, &h, context)?)?;
        let mut v = heads(self.v_proj.forward(tape, &h, context)?)?;
        if let Some(norms) = &self.head_norms {
            q = ops::rms_norm(tape, &q, &norms.q_norm, self.eps)?;
            k = ops::rms_norm(tape, &k, &norms.k_norm, self.eps)?;
        }
        q = ops::rope(tape, &q, &context.positions, &rope.cos, &rope.sin)?;
        k = ops::rope(tape, &k, &context.positions, &rope.cos, &rope.sin)?;
        if let Some(cache) = cache {
            (k, v) = cache.append(&k, &v)?;
        }
        let layout = AttentionLayout {
            bounds: context.bounds.clone(),
            q_offset: context.q_offset,
            window: self.window,
            scale: self.scale,
        };
        let y = ops::attention(tape, &q, &k, &v, &layout, context.attention)?;
        let y = y.reshape(&[x.dim(0), y.len() / x.dim(0)])?;
        ops::add(tape, x, &self.o_proj.forward(tape, &y, context)?)
    }

    /// The gated middle of the MLP, [T, F]: swiglu(gate(h), up(h)) with h = norm(x).
    fn gated(&self, tape: &Tape, x: &Tensor, context: &Context) -> Result<Tensor> {
        let h = ops::rms_norm(tape, x, &self.post_attention_layernorm, self.eps)?;
        let gate = self.gate_proj.forward(tape, &h, context)?;
        let up = self.up_proj.forward(tape, &h, context)?;
        ops::swiglu(tape, &gate, &up)
    }

    /// x + down(h), which the backward of neither asks for: outside of what is recomputed.
    fn down(&self, tape: &Tape, x: &Tensor, h: &Tensor, context: &Context) -> Result<Tensor> {
        ops::add(tape, x, &self.down_proj.forward(tape, h, context)?)
    }

    /// The seven linear layers.
    pub fn linears(&self) -> [&Linear; 7] {
        let Self { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, .. } = self;
        [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]
    }

    /// The same, to attach adapters to.
    pub fn linears_mut(&mut self) -> [&mut Linear; 7] {
        let Self { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, .. } = self;
        [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]
    }
}
