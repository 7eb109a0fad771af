//! The output layer in pieces, for ops that want of its logits [T, V] only what a softmax says of each
//! token: cross-entropy and log-probabilities. The logits never exist at once.
//!
//! Rows go through in chunks. Where a binding cannot hold the whole weight, the vocabulary goes through in
//! slices as well, with an online softmax over them.

pub use super::softmax::IGNORE;

use super::matmul::{Layout, matmul_into};
use super::softmax::{self, Scales};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Labels as these ops take them: -100, which PyTorch ignores, becomes [`IGNORE`].
pub fn target_ids(labels: &[i32]) -> Vec<u32> {
    labels.iter().map(|&label| u32::try_from(label).unwrap_or(IGNORE)).collect()
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

/// logits = x weightᵀ / temperature, of which the targets pick one a row: all of it but x [T, C].
pub(super) struct OutputLayer {
    /// [V, C].
    weight: Tensor,
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
}

impl OutputLayer {
    /// The layer for `x` [T, C], `weight` [V, C] and u32 `targets` [T]; `op` is for messages.
    pub fn new(
        op: &'static str,
        pieces: Pieces,
        [x, weight, targets]: [&Tensor; 3],
        temperature: f32,
        details: bool,
    ) -> Result<Self> {
        let fits = match (x.shape(), weight.shape()) {
            (&[tokens, columns], &[vocabulary, weight_columns]) => {
                columns == weight_columns && targets.len() == tokens && tokens * vocabulary > 0
            }
            _ => false,
        };
        if !fits {
            return Err(Error::internal(op, format!("{x:?}, {weight:?} and {targets:?}")));
        }
        let tokens = x.dim(0);
        Ok(Self {
            weight: weight.detach(),
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
        let vocabulary = self.weight.dim(0);
        let starts = (0..vocabulary).step_by(self.pieces.vocabulary);
        starts
            .map(|first| Slice { first, width: self.pieces.vocabulary.min(vocabulary - first) })
            .collect()
    }

    /// Memory for the logits of a chunk and of this slice, or of a narrower one.
    pub fn memory(&self, slice: Slice, dtype: DType) -> Result<Tensor> {
        Tensor::empty(self.weight.device(), &[self.pieces.rows * slice.width], dtype)
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
        let weight = self.layer.weight.narrow(slice.first, slice.width)?;
        matmul_into(Layout::NT, &self.x, &weight, self.layer.inverse_temperature, false, &logits)?;
        Ok(logits)
    }

    /// Turns the logits of a slice into their gradient, from the statistics of whole rows, and hands that
    /// on to `x` and `weight`.
    pub fn backward(
        &self,
        slice: Slice,
        logits: &Tensor,
        scales: &Scales,
        Gradients { dx, dw }: Gradients,
    ) -> Result<()> {
        let alpha = self.layer.inverse_temperature;
        if dx.is_some() || dw.is_some() {
            let scales = scales.narrow(self.first, self.rows)?;
            softmax::bwd(&self.stats, &self.targets, &scales, logits, slice.first)?;
        }
        if let Some((adds, dx)) = dx {
            let dx = dx.narrow(self.first, self.rows)?;
            let weight = self.layer.weight.narrow(slice.first, slice.width)?;
            matmul_into(Layout::NN, logits, &weight, alpha, adds || slice.first > 0, &dx)?;
        }
        if let Some((adds, dw)) = dw {
            let dw = dw.narrow(slice.first, slice.width)?;
            matmul_into(Layout::TN, logits, &self.x, alpha, adds || self.first > 0, &dw)?;
        }
        Ok(())
    }
}
