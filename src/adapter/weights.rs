//! The tensors of an adapter, on the host.

use super::targets::{LoraModule, ModuleKind};
use crate::model::spec::TensorSpec;

/// Everything that an adapter file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdapterWeights {
    /// Low-rank updates, in the order of the modules.
    pub loras: Vec<LoraWeights>,
    /// Tensors in the place of the model's own.
    pub saved: Vec<SavedWeights>,
    /// Rows in the place of a table's own.
    pub rows: Vec<RowWeights>,
    /// Tables in the place of the model's own that are not trained: those of another base.
    pub replaced: Vec<SavedWeights>,
    /// A classifier's head, [1, C].
    pub score: Option<Vec<f32>>,
}

/// The low-rank update of one module.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraWeights {
    /// The module.
    pub module: LoraModule,
    /// A, [r, in].
    pub lora_a: Vec<f32>,
    /// B, [out, r].
    pub lora_b: Vec<f32>,
    /// `[out]` (`lora_bias`).
    pub bias: Option<Vec<f32>>,
    /// `[out]` (`use_dora`).
    pub magnitude: Option<Vec<f32>>,
    /// A0 [r, in] and B0 [out, r], which the base goes without (PiSSA, OLoRA): their product, scaled, is
    /// taken off.
    pub start: Option<[Vec<f32>; 2]>,
}

/// A tensor in the place of the model's own (`modules_to_save`).
#[derive(Clone, Debug, PartialEq)]
pub struct SavedWeights {
    /// The model's.
    pub tensor: TensorSpec,
    /// Its elements.
    pub values: Vec<f32>,
}

/// Rows in the place of those of the embedding or of the head (`trainable_token_indices`).
#[derive(Clone, Debug, PartialEq)]
pub struct RowWeights {
    /// `model.embed_tokens` or `lm_head`.
    pub module: String,
    /// The tokens whose rows they are.
    pub ids: Vec<u32>,
    /// [n, C].
    pub values: Vec<f32>,
}

impl LoraWeights {
    /// The two factors, and nothing beside them.
    pub fn new(module: LoraModule, lora_a: Vec<f32>, lora_b: Vec<f32>) -> Self {
        Self { module, lora_a, lora_b, bias: None, magnitude: None, start: None }
    }

    /// The same update of twice the rank, the start in it. Without a start, zeros stand there; unless
    /// nothing asks for it: see [`LoraWeights::flat`].
    pub(super) fn doubled(&self) -> Self {
        let LoraModule { r, inputs, outputs, .. } = self.module;
        let zeros = || [vec![0.0; r * inputs], vec![0.0; outputs * r]];
        let [a, b] = self.start.clone().unwrap_or_else(zeros);
        let lora_a = [&self.lora_a[..], &a].concat();
        let rows = self.lora_b.chunks_exact(r).zip(b.chunks_exact(r));
        let row = |(own, start): (&[f32], &[f32])| -> Vec<f32> {
            own.iter().copied().chain(start.iter().map(|x| -x)).collect()
        };
        let lora_b = rows.flat_map(row).collect();
        let module = LoraModule { r: 2 * r, ..self.module.clone() };
        Self { module, lora_a, lora_b, start: None, ..self.clone() }
    }

    /// The update without a start of its own.
    pub fn flat(&self) -> Self {
        match self.start {
            Some(_) => self.doubled(),
            None => self.clone(),
        }
    }

    /// Each tensor with its name behind the module's path, in a file of PEFT, and its shape.
    pub(super) fn tensors(&self) -> Vec<(&'static str, Vec<usize>, &[f32])> {
        let mut all = vec![&self.lora_a[..], &self.lora_b];
        all.extend(self.bias.as_deref());
        all.extend(self.magnitude.as_deref());
        let has = Beside { bias: self.bias.is_some(), magnitude: self.magnitude.is_some() };
        let named = parts(&self.module, has);
        named.into_iter().zip(all).map(|((name, shape), values)| (name, shape, values)).collect()
    }
}

/// What an update has beside its factors.
#[derive(Clone, Copy)]
pub(super) struct Beside {
    pub bias: bool,
    pub magnitude: bool,
}

/// The name of magnitudes behind their module's path in files; as a parameter it ends with `.weight`.
pub(super) const MAGNITUDE: &str = "lora_magnitude_vector";

/// The tensors of an update, as [`LoraWeights::tensors`] has them.
pub(super) fn parts(module: &LoraModule, has: Beside) -> Vec<(&'static str, Vec<usize>)> {
    let LoraModule { inputs, outputs, r, .. } = *module;
    let [a, b] = match module.kind {
        ModuleKind::Embedding => ["lora_embedding_A", "lora_embedding_B"],
        ModuleKind::Linear | ModuleKind::Head => ["lora_A.weight", "lora_B.weight"],
    };
    let mut parts = vec![(a, vec![r, inputs]), (b, vec![outputs, r])];
    if has.bias {
        parts.push(("lora_B.bias", vec![outputs]));
    }
    if has.magnitude {
        parts.push((MAGNITUDE, vec![outputs]));
    }
    parts
}

/// The name of trained rows behind their module's path.
pub(super) const ROWS: &str = "token_adapter.trainable_tokens_delta";
