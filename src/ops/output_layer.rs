//! The output layer in pieces, for ops that want of its logits [T, V] only what a softmax says of each
//! token: cross-entropy and log-probabilities. The logits never exist at once.
//!
//! Rows go through in chunks. Where a binding cannot hold the whole weight, the vocabulary goes through in
//! slices as well, with an online softmax over them.

pub use super::softmax::IGNORE;

use super::gather_rows::{RowSelection, gather_rows};
use super::matmul::{Layout, matmul, matmul_into};
use super::softmax::{self, Scales};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tape::Tape;
use crate::tensor::Tensor;

/// Labels as these ops take them: -100, which PyTorch ignores, becomes [`IGNORE`].
pub fn target_ids(labels: &[i32]) -> Vec<u32> {
    labels.iter().map(|&label| u32::try_from(label).unwrap_or(IGNORE)).collect()
}

/// The weight of an output layer, and what adapters add to its product.
#[derive(Clone)]
pub struct Head {
    /// [V, C].
    pub weight: Tensor,
    /// Each adds to the logits.
    pub low_rank: Vec<LowRank>,
}

/// logits += scale · xa bᵀ. What `xa` is made of is the caller's: x Aᵀ, for LoRA.
#[derive(Clone)]
pub struct LowRank {
    /// f32 [T, r].
    pub xa: Tensor,
    /// f32 [V, r].
    pub b: Tensor,
    /// Factor.
    pub scale: f32,
}

impl From<&Tensor> for Head {
    fn from(weight: &Tensor) -> Self {
        Self { weight: weight.clone(), low_rank: Vec::new() }
    }
}

impl From<&Head> for Head {
    fn from(head: &Head) -> Self {
        head.clone()
    }
}

impl Head {
    /// The logits x weightᵀ [T, V], whole; no gradient goes through what is added.
    ///
    /// # Errors
    /// As [`super::matmul`].
    pub fn logits(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        let logits = matmul(tape, x, &self.weight)?;
        for LowRank { xa, b, scale } in &self.low_rank {
            matmul_into(Layout::NT, xa, b, *scale, true, &logits)?;
        }
        Ok(logits)
    }

    /// The head for some rows of the hidden states that this one is for.
    ///
    /// # Errors
    /// What the ops report.
    pub fn of_rows(self, tape: &Tape, rows: &RowSelection) -> Result<Self> {
        let Self { weight, low_rank } = self;
        let low_rank = low_rank.into_iter().map(|LowRank { xa, b, scale }| {
            Ok(LowRank { xa: gather_rows(tape, &xa, rows)?, b, scale })
        });
        Ok(Self { weight, low_rank: low_rank.collect::<Result<_>>()? })
    }

    /// The tensors whose gradients may be wanted: the weight, then two of each addition.
    pub(super) fn inputs(&self) -> impl Iterator<Item = &Tensor> {
        let added = self.low_rank.iter().flat_map(|low_rank| [&low_rank.xa, &low_rank.b]);
        std::iter::once(&self.weight).chain(added)
    }
}

/// How much goes through at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    /// Rows of a chunk, a multiple of 64.
    pub rows: usize,
    /// Vocabulary entries of a slice, a multiple of 128.
    pub vocabulary: usize,
}

/// Logits held at a time: large enough for an efficient product, small beside a model.
const CHUNK_BYTES: usize = 64 << 20;
/// Chunks are multiples of so many rows: views of 4-byte elements then begin at multiples of 256 bytes.
const ROWS: usize = 64;

impl Pieces {
    /// What suits `x` [T, C], `weight` [V, C] and their device.
    pub fn of(x: &Tensor, weight: &Tensor) -> Self {
        let limit = x.device().capabilities().max_binding_bytes;
        // A slice is bound as weight and, in f32, as its gradient. Multiples of 128 keep offsets aligned.
        let slice = limit / (4 * x.columns().max(1)) / 128 * 128;
        let chunk = CHUNK_BYTES / (weight.rows().max(1) * x.dtype().size()) / ROWS * ROWS;
        Self { rows: chunk.max(ROWS), vocabulary: slice.max(128) }
    }
}

/// logits = (x weightᵀ + what is added to it) / temperature, of which the targets pick one a row: all of it but x [T, C].
pub(super) struct OutputLayer {
    /// Detached.
    head: Head,
    /// u32 [T].
    pub targets: Tensor,
    /// f32 [T, 3], or [T, 7] with details: what [`softmax`] finds in each row.
    pub stats: Tensor,
    inverse_temperature: f32,
    pieces: Pieces,
}

/// Some entries of the vocabulary.
#[derive(Clone, Copy)]
pub(super) struct Slice {
    first: usize,
    width: usize,
}

/// Where gradients go, where they are wanted: each with whether it is added to what is there.
#[derive(Clone, Copy)]
pub(super) struct Gradients<'a> {
    /// [T, C].
    pub dx: Option<(bool, &'a Tensor)>,
    /// f32 [V, C].
    pub dw: Option<(bool, &'a Tensor)>,
    /// f32 [T, r] and [V, r], of each addition; nothing is there yet.
    pub low_rank: &'a [[Option<Tensor>; 2]],
}

impl OutputLayer {
    /// The layer for `x` [T, C], `head` [V, C] and u32 `targets` [T]; `op` is for messages.
    pub fn new(
        op: &'static str,
        pieces: Pieces,
        [x, targets]: [&Tensor; 2],
        head: &Head,
        temperature: f32,
        details: bool,
    ) -> Result<Self> {
        let weight = &head.weight;
        let fits = match (x.shape(), weight.shape()) {
            (&[tokens, columns], &[vocabulary, weight_columns]) => {
                let low_rank = |LowRank { xa, b, .. }: &LowRank| {
                    xa.shape() == [tokens, b.columns()] && b.shape() == [vocabulary, xa.columns()]
                };
                columns == weight_columns
                    && targets.len() == tokens
                    && tokens * vocabulary > 0
                    && head.low_rank.iter().all(low_rank)
            }
            _ => false,
        };
        if !fits {
            return Err(Error::internal(op, format!("{x:?}, {weight:?} and {targets:?}")));
        }
        let tokens = x.dim(0);
        Ok(Self {
            head: Head {
                weight: weight.detach(),
                low_rank: head
                    .low_rank
                    .iter()
                    .map(|LowRank { xa, b, scale }| LowRank {
                        xa: xa.detach(),
                        b: b.detach(),
                        scale: *scale,
                    })
                    .collect(),
            },
            targets: targets.reshape(&[tokens])?,
            stats: Tensor::empty(x.device(), &[tokens, softmax::width(details)], DType::F32)?,
            inverse_temperature: 1.0 / temperature,
            pieces: Pieces { rows: pieces.rows.min(tokens), ..pieces },
        })
    }

    /// The chunks of the rows of `x`, in order.
    pub fn chunks(&self, x: &Tensor) -> Result<Vec<Chunk<'_>>> {
        let tokens = self.targets.len();
        let starts = (0..tokens).step_by(self.pieces.rows);
        starts
            .map(|first| {
                let rows = self.pieces.rows.min(tokens - first);
                Ok(Chunk {
                    layer: self,
                    first,
                    rows,
                    x: x.narrow(first, rows)?,
                    targets: self.targets.narrow(first, rows)?,
                    stats: self.stats.narrow(first, rows)?,
                })
            })
            .collect()
    }

    /// The slices of the vocabulary, in order.
    pub fn slices(&self) -> Vec<Slice> {
        let vocabulary = self.head.weight.dim(0);
        let starts = (0..vocabulary).step_by(self.pieces.vocabulary);
        starts
            .map(|first| Slice { first, width: self.pieces.vocabulary.min(vocabulary - first) })
            .collect()
    }

    /// Memory for the logits of a chunk and of this slice, or of a narrower one.
    pub fn memory(&self, slice: Slice, dtype: DType) -> Result<Tensor> {
        Tensor::empty(self.head.weight.device(), &[self.pieces.rows * slice.width], dtype)
    }
}

/// Rows at work.
pub(super) struct Chunk<'a> {
    layer: &'a OutputLayer,
    /// The first of them.
    first: usize,
    rows: usize,
    /// Their part of the layer's tensors.
    x: Tensor,
    targets: Tensor,
    stats: Tensor,
}

impl Chunk<'_> {
    /// The logits of a slice [rows, width], in `memory`; the statistics take them in. Slices come in order.
    pub fn forward(&self, slice: Slice, memory: &Tensor) -> Result<Tensor> {
        let logits = self.logits(slice, memory)?;
        softmax::stats(&logits, &self.targets, &self.stats, slice.first)?;
        Ok(logits)
    }

    /// The logits of a slice [rows, width], in `memory`.
    pub fn logits(&self, slice: Slice, memory: &Tensor) -> Result<Tensor> {
        let logits = memory.narrow(0, self.rows * slice.width)?;
        let logits = logits.reshape(&[self.rows, slice.width])?;
        let OutputLayer { head, inverse_temperature: alpha, .. } = self.layer;
        let weight = head.weight.narrow(slice.first, slice.width)?;
        matmul_into(Layout::NT, &self.x, &weight, *alpha, false, &logits)?;
        for LowRank { xa, b, scale } in &head.low_rank {
            let (xa, b) = (xa.narrow(self.first, self.rows)?, b.narrow(slice.first, slice.width)?);
            matmul_into(Layout::NT, &xa, &b, alpha * scale, true, &logits)?;
        }
        Ok(logits)
    }

    /// Turns the logits of a slice into their gradient, from the statistics of whole rows, and hands that
    /// on to `x` and `weight`.
    pub fn backward(
        &self,
        slice: Slice,
        logits: &Tensor,
        scales: &Scales,
        Gradients { dx, dw, low_rank }: Gradients,
    ) -> Result<()> {
        let alpha = self.layer.inverse_temperature;
        if dx.is_some() || dw.is_some() || low_rank.iter().flatten().any(Option::is_some) {
            let scales = scales.narrow(self.first, self.rows)?;
            softmax::bwd(&self.stats, &self.targets, &scales, logits, slice.first)?;
        }
        if let Some((adds, dx)) = dx {
            let dx = dx.narrow(self.first, self.rows)?;
            let weight = self.layer.head.weight.narrow(slice.first, slice.width)?;
            matmul_into(Layout::NN, logits, &weight, alpha, adds || slice.first > 0, &dx)?;
        }
        if let Some((adds, dw)) = dw {
            let dw = dw.narrow(slice.first, slice.width)?;
            matmul_into(Layout::TN, logits, &self.x, alpha, adds || self.first > 0, &dw)?;
        }
        for (LowRank { xa, b, scale }, [dxa, db]) in self.layer.head.low_rank.iter().zip(low_rank) {
            let alpha = alpha * scale;
            if let Some(dxa) = dxa {
                let dxa = dxa.narrow(self.first, self.rows)?;
                let b = b.narrow(slice.first, slice.width)?;
                matmul_into(Layout::NN, logits, &b, alpha, slice.first > 0, &dxa)?;
            }
            if let Some(db) = db {
                let db = db.narrow(slice.first, slice.width)?;
                let xa = xa.narrow(self.first, self.rows)?;
                matmul_into(Layout::TN, logits, &xa, alpha, self.first > 0, &db)?;
            }
        }
        Ok(())
    }
}
