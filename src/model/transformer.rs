//! The transformer, of every family: what differs between them, [`Spec`](super::Spec) tells.
//!
//! ```text
//! x = embed(ids)                                                                        (scaled: Gemma)
//! for each layer:   x += o(attention(rope(norm(q(h))), rope(norm(k(h))), v(h))),  h = rms_norm(x)
//!                   x += down(act(gate(h)) * up(h)),                              h = rms_norm(x)
//! logits = rms_norm(x) · headᵀ
//! ```
//!
//! The norms of q and k are there in some families, and so are norms of what is added to x.

use super::cache::LayerCache;
use super::spec::{Activation, Block, EMBEDDING_MODULE, HEAD_MODULE};
use super::{ModelConfig, RopeConfig, RopeTables};
use crate::dtype::DType;
use crate::error::Result;
use crate::nn::{
    AdapterChoice, Context, EmbeddingUpdate, HeadUpdate, Linear, Place, RmsNorm, Weight,
};
use crate::ops::{self, AttentionLayout, Head, Neftune};
use crate::random::site;
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::collections::BTreeMap;
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
    /// What adapters make of the embedding, by their names.
    pub embedding_updates: BTreeMap<&'static str, EmbeddingUpdate>,
    /// The blocks.
    pub layers: Vec<Rc<Layer>>,
    /// `[C]`: the final norm.
    pub norm: RmsNorm,
    /// [V, C]; the embedding itself where the two are tied.
    pub lm_head: Tensor,
    /// What adapters make of the head, by their names.
    pub head_updates: BTreeMap<&'static str, HeadUpdate>,
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
    /// `P`.
    pub positions: usize,
    /// Where longer sequences than this turn at other frequencies (LongRoPE): the rows of those are
    /// `P..2 P`.
    pub long_above: Option<usize>,
    /// Where sequences beyond a context turn at frequencies of their length (dynamic RoPE): that context,
    /// and how.
    pub by_length: Option<(usize, RopeConfig)>,
}

/// A rotary embedding with the rows of its tables that a batch's tokens turn by.
#[derive(Clone)]
struct Turn {
    rope: Rope,
    /// u32 [T].
    rows: Tensor,
}

impl Rope {
    fn of(&self, context: &Context) -> Result<Turn> {
        if let Some((context_length, config)) = &self.by_length
            && context.places.iter().any(|place| place.length as usize > *context_length)
        {
            return self.by_length(config, context);
        }
        let rows = match self.long_above {
            None => context.positions.clone(),
            Some(original) => {
                let row = |place: &Place| match place.length as usize > original {
                    true => place.position + self.positions as u32,
                    false => place.position,
                };
                let rows: Vec<u32> = context.places.iter().map(row).collect();
                Tensor::from_u32(context.positions.device(), &[rows.len()], &rows)?
            }
        };
        Ok(Turn { rope: self.clone(), rows })
    }

    /// Tables with a row for each token.
    fn by_length(&self, config: &RopeConfig, context: &Context) -> Result<Turn> {
        let device = context.positions.device();
        let tokens = context.places.iter().map(|p| (p.position as usize, p.length as usize));
        let tables = RopeTables::by_length(config, tokens)?;
        let shape = [context.places.len(), config.width / 2];
        let table = |values| Tensor::from_f32(device, &shape, DType::F32, values);
        let rows: Vec<u32> = (0..shape[0] as u32).collect();
        let rows = Tensor::from_u32(device, &[rows.len()], &rows)?;
        let rope = Self { cos: table(&tables.cos)?, sin: table(&tables.sin)?, ..self.clone() };
        Ok(Turn { rope, rows })
    }
}

/// The norms of each head of q and k, `[HD]` each.
pub struct HeadNorms {
    /// For queries.
    pub q_norm: RmsNorm,
    /// For keys.
    pub k_norm: RmsNorm,
}

/// The layers that give queries, keys and values.
// One per block, so its size does not matter.
#[allow(clippy::large_enum_variant)]
pub enum Qkv {
    /// A layer each.
    Separate {
        /// [NH * HD, C].
        q_proj: Linear,
        /// [NKV * HD, C].
        k_proj: Linear,
        /// [NKV * HD, C].
        v_proj: Linear,
    },
    /// [(NH + 2 NKV) * HD, C]: the rows of q, then of k, then of v.
    Fused(Linear),
}

/// The layers before the gate.
// One per block, so its size does not matter.
#[allow(clippy::large_enum_variant)]
pub enum GateUp {
    /// A layer each.
    Separate {
        /// [F, C].
        gate_proj: Linear,
        /// [F, C].
        up_proj: Linear,
    },
    /// [2 F, C]: the rows of gate, then of up.
    Fused(Linear),
}

/// One block.
pub struct Layer {
    /// `[C]`: before attention.
    pub input_norm: RmsNorm,
    /// To queries, keys and values.
    pub qkv: Qkv,
    /// On the heads of q and k.
    pub head_norms: Option<HeadNorms>,
    /// [C, NH * HD].
    pub o_proj: Linear,
    /// `[C]`: on what attention adds.
    pub post_attention_norm: Option<RmsNorm>,
    /// `[C]`: before the MLP.
    pub mlp_norm: RmsNorm,
    /// To the gate and what it lets through.
    pub gate_up: GateUp,
    /// [C, F].
    pub down_proj: Linear,
    /// `[C]`: on what the MLP adds.
    pub post_mlp_norm: Option<RmsNorm>,
    /// Its sizes and numbers.
    pub spec: Block,
}

impl Model {
    /// The final hidden states [T, C] of the tokens `ids`, after the last norm.
    pub fn hidden(&self, tape: &Tape, ids: &[u32], context: &Rc<Context>) -> Result<Tensor> {
        let mut x = self.embed(tape, ids, context)?;
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
        let turns = self.turns(context)?;
        for layer in &self.layers {
            x = self.layer(tape, &x, layer, &turns[layer.spec.attention.rope], context)?;
        }
        self.norm.forward(tape, &x, context.adapter)
    }

    /// The rows `ids` of the embedding, [T, C], scaled where the family does.
    fn embed(&self, tape: &Tape, ids: &[u32], context: &Context) -> Result<Tensor> {
        let x = match context.adapter.of(&self.embedding_updates) {
            None => ops::embedding(tape, &self.embed_tokens, ids)?,
            Some((_, update)) => update.forward(tape, &self.embed_tokens, ids)?,
        };
        match self.config.spec.embedding_scale {
            Some(scale) => ops::scale(tape, &x, x.dtype().round(scale)),
            None => Ok(x),
        }
    }

    fn turns(&self, context: &Context) -> Result<Vec<Turn>> {
        self.ropes.iter().map(|rope| rope.of(context)).collect()
    }

    /// One block, with what is to be recomputed of it in checkpoints. A checkpoint's result is not kept
    /// either: where the MLP's is, only the input of the attention is left of a layer.
    fn layer(
        &self,
        tape: &Tape,
        x: &Tensor,
        layer: &Rc<Layer>,
        turn: &Turn,
        context: &Rc<Context>,
    ) -> Result<Tensor> {
        let again = || (layer.clone(), context.clone());
        let x = if self.recompute >= Recompute::Layer {
            let ((layer, context), turn) = (again(), turn.clone());
            tape.checkpoint(x, move |tape, x| layer.attend(tape, x, &turn, &context, None))?
        } else {
            layer.attend(tape, x, turn, context, None)?
        };
        let h = if self.recompute >= Recompute::Mlp {
            let (layer, context) = again();
            tape.checkpoint(&x, move |tape, x| layer.gated(tape, x, &context))?
        } else {
            layer.gated(tape, &x, context)?
        };
        // Nobody reads what down_proj gives, unless it is normed: then even that is run again.
        let y = if self.recompute >= Recompute::Layer && layer.post_mlp_norm.is_some() {
            let (layer, context) = again();
            tape.checkpoint(&h, move |tape, h| layer.down(tape, h, &context))?
        } else {
            layer.down(tape, &h, context)?
        };
        ops::add(tape, &x, &y)
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
        let mut x = self.embed(&tape, ids, context)?;
        let turns = self.turns(context)?;
        for (layer, cache) in self.layers.iter().zip(cache) {
            let turn = &turns[layer.spec.attention.rope];
            x = layer.attend(&tape, &x, turn, context, Some(cache))?;
            let h = layer.gated(&tape, &x, context)?;
            x = ops::add(&tape, &x, &layer.down(&tape, &h, context)?)?;
        }
        let last = ops::take_row(&x, ids.len() - 1)?;
        let last = self.norm.forward(&tape, &last, context.adapter)?;
        self.logits(&tape, &last, context)
    }

    /// The output head for `hidden` [T, C], what [`Model::hidden`] gives, under the adapter in use.
    ///
    /// # Errors
    /// What the ops report.
    pub fn head(&self, tape: &Tape, hidden: &Tensor, context: &Context) -> Result<Head> {
        match context.adapter.of(&self.head_updates) {
            None => Ok(Head::from(&self.lm_head)),
            Some((adapter, update)) => {
                update.head(tape, &self.lm_head, hidden, [HEAD_MODULE, adapter], context)
            }
        }
    }

    /// The logits [T, V] of `hidden` [T, C], whole: for a few tokens, without gradients.
    ///
    /// # Errors
    /// What the ops report.
    pub fn logits(&self, tape: &Tape, hidden: &Tensor, context: &Context) -> Result<Tensor> {
        self.head(tape, hidden, context)?.logits(tape, hidden)
    }

    /// The positions that the model was loaded for.
    pub fn max_positions(&self) -> usize {
        let positions = self.ropes.iter().map(|rope| rope.positions);
        positions.min().unwrap_or(self.config.context())
    }

    /// Whether a sequence of so many tokens turns at other frequencies than short ones.
    pub fn is_long(&self, tokens: usize) -> bool {
        self.ropes.iter().any(|rope| rope.long_above.is_some_and(|original| tokens > original))
    }

    /// The float tensors of the base, by their names; the head is one even where it is the embedding.
    pub fn floats(&self) -> Vec<(String, &Tensor)> {
        let weight = |path: &str| format!("{path}.weight");
        let mut found = vec![
            (weight(EMBEDDING_MODULE), &self.embed_tokens),
            (weight(HEAD_MODULE), &self.lm_head),
        ];
        let norms = self.layers.iter().flat_map(|layer| layer.norms()).chain([&self.norm]);
        found.extend(norms.map(|norm| (weight(&norm.path), &norm.weight)));
        for linear in self.linears() {
            if let Weight::Dense(dense) = &linear.weight {
                found.push((weight(&linear.path), dense));
            }
            found.extend(linear.bias.iter().map(|bias| (format!("{}.bias", linear.path), bias)));
        }
        found
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
        turn: &Turn,
        context: &Context,
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor> {
        let spec = &self.spec.attention;
        let h = self.input_norm.forward(tape, x, context.adapter)?;
        let [mut q, mut k, mut v] = self.heads(tape, &h, context)?;
        if let Some(norms) = &self.head_norms {
            q = norms.q_norm.forward(tape, &q, context.adapter)?;
            k = norms.k_norm.forward(tape, &k, context.adapter)?;
        }
        let Turn { rope, rows } = turn;
        q = ops::rope(tape, &q, rows, &rope.cos, &rope.sin)?;
        k = ops::rope(tape, &k, rows, &rope.cos, &rope.sin)?;
        if let Some(cache) = cache {
            (k, v) = cache.append(&k, &v)?;
        }
        let layout = AttentionLayout {
            bounds: context.bounds.clone(),
            q_offset: context.q_offset,
            window: spec.window,
            scale: spec.scale,
        };
        let y = ops::attention(tape, &q, &k, &v, &layout, context.attention)?;
        let y = y.reshape(&[x.dim(0), y.len() / x.dim(0)])?;
        let y = self.o_proj.forward(tape, &y, context)?;
        ops::add(tape, x, &normed(tape, &self.post_attention_norm, y, context.adapter)?)
    }

    /// The heads of q, k and v of `h` [T, C], as [T, NH, HD] and [T, NKV, HD].
    fn heads(&self, tape: &Tape, h: &Tensor, context: &Context) -> Result<[Tensor; 3]> {
        let spec = &self.spec.attention;
        let width = spec.head_dim;
        let shaped = |x: Tensor| x.reshape(&[h.dim(0), x.columns() / width, width]);
        match &self.qkv {
            Qkv::Separate { q_proj, k_proj, v_proj } => Ok([
                shaped(q_proj.forward(tape, h, context)?)?,
                shaped(k_proj.forward(tape, h, context)?)?,
                shaped(v_proj.forward(tape, h, context)?)?,
            ]),
            Qkv::Fused(qkv_proj) => {
                let all = qkv_proj.forward(tape, h, context)?;
                let (q, kv) = (spec.heads * width, spec.kv_heads * width);
                let part = |range| shaped(ops::slice_columns(tape, &all, range)?);
                Ok([part(0..q)?, part(q..q + kv)?, part(q + kv..q + 2 * kv)?])
            }
        }
    }

    /// The gated middle of the MLP, [T, F]: act(gate(h)) * up(h) with h = norm(x).
    fn gated(&self, tape: &Tape, x: &Tensor, context: &Context) -> Result<Tensor> {
        let h = self.mlp_norm.forward(tape, x, context.adapter)?;
        let [gate, up] = match &self.gate_up {
            GateUp::Separate { gate_proj, up_proj } => {
                [gate_proj.forward(tape, &h, context)?, up_proj.forward(tape, &h, context)?]
            }
            GateUp::Fused(gate_up_proj) => {
                let (both, width) = (gate_up_proj.forward(tape, &h, context)?, self.spec.mlp.width);
                let part = |range| ops::slice_columns(tape, &both, range);
                [part(0..width)?, part(width..2 * width)?]
            }
        };
        match self.spec.mlp.activation {
            Activation::Silu => ops::swiglu(tape, &gate, &up),
            Activation::GeluTanh => ops::geglu(tape, &gate, &up),
        }
    }

    /// down(h), what the MLP adds.
    fn down(&self, tape: &Tape, h: &Tensor, context: &Context) -> Result<Tensor> {
        let y = self.down_proj.forward(tape, h, context)?;
        normed(tape, &self.post_mlp_norm, y, context.adapter)
    }

    /// The linear layers, in the order of the forward pass.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut linears = match &self.qkv {
            Qkv::Separate { q_proj, k_proj, v_proj } => vec![q_proj, k_proj, v_proj],
            Qkv::Fused(qkv_proj) => vec![qkv_proj],
        };
        linears.push(&self.o_proj);
        match &self.gate_up {
            GateUp::Separate { gate_proj, up_proj } => linears.extend([gate_proj, up_proj]),
            GateUp::Fused(gate_up_proj) => linears.push(gate_up_proj),
        }
        linears.push(&self.down_proj);
        linears
    }

    /// The same, to attach adapters to.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut linears = match &mut self.qkv {
            Qkv::Separate { q_proj, k_proj, v_proj } => vec![q_proj, k_proj, v_proj],
            Qkv::Fused(qkv_proj) => vec![qkv_proj],
        };
        linears.push(&mut self.o_proj);
        match &mut self.gate_up {
            GateUp::Separate { gate_proj, up_proj } => linears.extend([gate_proj, up_proj]),
            GateUp::Fused(gate_up_proj) => linears.push(gate_up_proj),
        }
        linears.push(&mut self.down_proj);
        linears
    }

    /// The norms, to put others in their weights' place.
    pub fn norms_mut(&mut self) -> impl Iterator<Item = &mut RmsNorm> {
        let of_heads =
            self.head_norms.iter_mut().flat_map(|norms| [&mut norms.q_norm, &mut norms.k_norm]);
        let added = self.post_attention_norm.iter_mut().chain(&mut self.post_mlp_norm);
        [&mut self.input_norm, &mut self.mlp_norm].into_iter().chain(of_heads).chain(added)
    }

    /// The norms.
    pub fn norms(&self) -> impl Iterator<Item = &RmsNorm> {
        let of_heads = self.head_norms.iter().flat_map(|norms| [&norms.q_norm, &norms.k_norm]);
        let added = self.post_attention_norm.iter().chain(&self.post_mlp_norm);
        [&self.input_norm, &self.mlp_norm].into_iter().chain(of_heads).chain(added)
    }
}

/// `x`, normed where there is a norm.
fn normed(
    tape: &Tape,
    norm: &Option<RmsNorm>,
    x: Tensor,
    adapter: AdapterChoice,
) -> Result<Tensor> {
    match norm {
        Some(norm) => norm.forward(tape, &x, adapter),
        None => Ok(x),
    }
}
