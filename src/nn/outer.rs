//! What adapters make of the embedding and of the output head.

use super::{Context, Lora, Magnitude};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::{self, Head, LowRank, RowSelection};
use crate::tape::Tape;
use crate::tensor::Tensor;

/// What an adapter makes of the embedding.
#[derive(Clone, Default)]
pub struct EmbeddingUpdate {
    /// [V, C], in the place of the base's (`modules_to_save`).
    pub table: Option<Tensor>,
    /// Rows that have values of their own (`trainable_token_indices`).
    pub rows: Option<TrainedRows>,
    /// A low-rank update.
    pub lora: Option<EmbeddingLora>,
}

/// A low-rank update of an embedding: row i gets scale · A[:, i] Bᵀ more.
#[derive(Clone)]
pub struct EmbeddingLora {
    /// f32 [V, rank]: PEFT's `lora_embedding_A`, transposed, so that a token's column is a row.
    pub lora_a: Tensor,
    /// f32 [C, rank].
    pub lora_b: Tensor,
    /// DoRA's magnitudes, `[C]`: of the rows of the table's transpose.
    pub magnitude: Option<Magnitude>,
    /// alpha / rank, or alpha / sqrt(rank).
    pub scale: f32,
}

/// What an adapter makes of the output head.
#[derive(Clone, Default)]
pub struct HeadUpdate {
    /// [V, C], in the place of the base's (`modules_to_save`).
    pub weight: Option<Tensor>,
    /// Rows that have values of their own (`trainable_token_indices`).
    pub rows: Option<TrainedRows>,
    /// A low-rank update.
    pub lora: Option<Lora>,
}

/// Rows of a table [V, C] that have values of their own.
#[derive(Clone)]
pub struct TrainedRows {
    /// Their token ids, none twice.
    pub ids: Vec<u32>,
    /// f32 [n, C]: their values.
    pub values: Tensor,
    /// f32 [n, C]: minus what the table has there.
    minus_table: Tensor,
    /// f32 [V, n]: a one where a row of the table is one of these; of the head's alone.
    one_hot: Option<Tensor>,
    vocabulary: usize,
}

impl TrainedRows {
    /// The rows `ids` of `table` [V, C] with `values` f32 [n, C].
    ///
    /// # Errors
    /// `Error::Input` for an id that the table does not have.
    pub fn new(table: &Tensor, ids: Vec<u32>, values: Tensor) -> Result<Self> {
        let tape = Tape::inference();
        let own = ops::embedding(&tape, &table.detach(), &ids)?;
        let minus_table = ops::scale(&tape, &ops::cast(&tape, &own, DType::F32)?, -1.0)?;
        Ok(Self { ids, values, minus_table, one_hot: None, vocabulary: table.dim(0) })
    }

    /// How far the rows are from the table's, f32 [n, C].
    pub fn difference(&self, tape: &Tape) -> Result<Tensor> {
        ops::add(tape, &self.values, &self.minus_table)
    }

    /// What the embeddings of `ids` get more, f32 [T, C]: zero but for those of these rows.
    fn added(&self, tape: &Tape, ids: &[u32]) -> Result<Tensor> {
        let row_of = |id: &u32| self.ids.iter().position(|own| own == id);
        let found = ids.iter().zip(0u32..).filter_map(|(id, t)| Some((t, row_of(id)? as u32)));
        let (mut places, mut rows): (Vec<u32>, Vec<u32>) = found.unzip();
        // A pass without any of these tokens brings a gradient of zero, not none.
        let is_absent = places.is_empty();
        if is_absent {
            (places, rows) = (vec![0], vec![0]);
        }
        let mut added = ops::embedding(tape, &self.difference(tape)?, &rows)?;
        if is_absent {
            added = ops::scale(tape, &added, 0.0)?;
        }
        let device = self.values.device();
        let back = RowSelection::new(device, ids.len(), &places)?.reversed()?;
        ops::gather_rows(tape, &added, &back)
    }

    /// The same, ready for the output head.
    pub fn of_head(self) -> Result<Self> {
        let (vocabulary, n) = (self.vocabulary, self.ids.len());
        let mut ones = vec![0.0; vocabulary * n];
        self.ids.iter().enumerate().for_each(|(i, &id)| ones[id as usize * n + i] = 1.0);
        let ones = Tensor::from_f32(self.values.device(), &[vocabulary, n], DType::F32, &ones)?;
        Ok(Self { one_hot: Some(ones), ..self })
    }
}

impl EmbeddingUpdate {
    /// The embeddings of `ids`, [T, C] in the dtype of `table`, which is the base's.
    ///
    /// # Errors
    /// As [`ops::embedding`].
    pub fn forward(&self, tape: &Tape, table: &Tensor, ids: &[u32]) -> Result<Tensor> {
        let table = self.table.as_ref().unwrap_or(table);
        let mut x = ops::embedding(tape, table, ids)?;
        if let Some(rows) = &self.rows {
            let added = ops::cast(tape, &rows.added(tape, ids)?, x.dtype())?;
            x = ops::add(tape, &x, &added)?;
        }
        if let Some(EmbeddingLora { lora_a, lora_b, magnitude, scale }) = &self.lora {
            let h = ops::embedding(tape, lora_a, ids)?; // [T, rank]
            let added = ops::scale(tape, &ops::matmul(tape, &h, lora_b)?, *scale)?;
            x = ops::add(tape, &x, &ops::cast(tape, &added, x.dtype())?)?;
            if let Some(Magnitude { values, squares: Some(squares) }) = magnitude {
                let [a, b, table] = [lora_a, lora_b, table].map(Tensor::detach);
                let inverse = ops::dora_norm_of_embedding(squares, &a, &b, &table, *scale)?;
                x = ops::scale_columns(tape, &x, values, &inverse)?;
            }
        }
        Ok(x)
    }
}

impl HeadUpdate {
    /// The head for `hidden` [T, C], all of a pass's tokens. `weight` is the base's; `adapter` and `path` are
    /// names, of which dropout depends.
    ///
    /// # Errors
    /// What the ops report.
    pub fn head(
        &self,
        tape: &Tape,
        weight: &Tensor,
        hidden: &Tensor,
        [path, adapter]: [&str; 2],
        context: &Context,
    ) -> Result<Head> {
        let weight = self.weight.as_ref().unwrap_or(weight);
        let mut head = Head::from(weight);
        if let Some(rows) = &self.rows
            && let Some(one_hot) = rows.one_hot.clone()
        {
            let xa = product(tape, hidden, &rows.difference(tape)?)?;
            head.low_rank.push(LowRank { xa, b: one_hot, scale: 1.0 });
        }
        if let Some(lora) = &self.lora {
            let (b, scale) = (lora.lora_b.clone(), lora.scale);
            let x = match lora.dropout(path, adapter, context) {
                Some(dropout) => ops::dropout(tape, hidden, &dropout)?,
                None => hidden.clone(),
            };
            let xa = product(tape, &x, &lora.lora_a)?;
            head.low_rank.push(LowRank { xa, b, scale });
            if let Some([a, b]) = &lora.start {
                let xa = product(tape, hidden, a)?;
                head.low_rank.push(LowRank { xa, b: b.clone(), scale: -scale });
            }
            if let Some(bias) = &lora.bias {
                // A product of ones with the bias.
                let ones = Tensor::empty(hidden.device(), &[hidden.dim(0), 1], DType::F32)?;
                ops::fill(&ones, 1.0)?;
                let b = bias.reshape(&[bias.len(), 1])?;
                head.low_rank.push(LowRank { xa: ones, b, scale });
            }
        }
        Ok(head)
    }
}

/// x aᵀ in f32, [T, rank].
fn product(tape: &Tape, x: &Tensor, a: &Tensor) -> Result<Tensor> {
    ops::matmul(tape, &ops::cast(tape, x, DType::F32)?, a)
}
