//! The weights of a model with its adapter merged in: W + scale * B A, one tensor at a time.

use std::cell::Cell;
use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::adapter::{AdapterWeights, LoraModule, LoraWeights, ModuleKind, RowWeights};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::model::spec::{EMBEDDING, HEAD, Role, TensorSpec};
use crate::model::{ModelConfig, Weights, bnb};
use crate::quant::Nf4Weight;

/// Which base weights the adapter is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The weights as they are stored in floats.
    Original,
    /// What they decode to after quantization to NF4; the scales too are quantized where `double`.
    Dequantized {
        /// Double quantization.
        double: bool,
    },
}

/// A base, and the adapter that is merged into it.
pub struct Merge<'a> {
    weights: &'a Weights,
    base: Base,
    /// What the base is computed in.
    base_dtype: DType,
    /// What values are rounded to.
    dtype: DType,
    /// Low-rank updates, by the names of the tensors that they are added to.
    loras: BTreeMap<String, LoraWeights>,
    /// Biases of updates, by the names of the biases.
    biases: BTreeMap<String, Vec<f32>>,
    /// Tensors in the place of the base's.
    saved: BTreeMap<String, Vec<f32>>,
    /// Rows in the place of the base's.
    rows: BTreeMap<String, RowWeights>,
    /// A classifier's head, where the adapter brings it.
    score: Option<Vec<f32>>,
    counts: Cell<Counts>,
}

/// What the adapter did to the elements of the merged tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Elements whose update is not zero.
    pub updated: u64,
    /// Those of them that are another number of the model's dtype than before.
    pub changed: u64,
}

impl<'a> Merge<'a> {
    /// The base alone, in `dtype`.
    pub fn new(weights: &'a Weights, base: Base, dtype: DType) -> Self {
        Self {
            weights,
            base,
            base_dtype: dtype,
            dtype,
            loras: BTreeMap::new(),
            biases: BTreeMap::new(),
            saved: BTreeMap::new(),
            rows: BTreeMap::new(),
            score: None,
            counts: Cell::default(),
        }
    }

    /// With values rounded to another dtype than the base is computed in: to f32 where the result is
    /// quantized.
    pub fn rounded_to(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// With an adapter of the model that `config` describes, which is changed where the result has
    /// another form: a head that differs from the embedding is no longer tied to it.
    ///
    /// # Errors
    /// `Error::Input` for a bias that the model has no place for.
    pub fn with_adapter(
        mut self,
        config: &mut ModelConfig,
        adapter: AdapterWeights,
    ) -> Result<Self> {
        let AdapterWeights { loras, saved, rows, replaced, score } = adapter;
        self.score = score;
        let tensors = config.spec.tensors();
        for weights in loras.iter().map(LoraWeights::flat) {
            let path = &weights.module.path;
            if let Some(bias) = &weights.bias {
                let name = format!("{path}.bias");
                if !tensors.iter().any(|tensor| tensor.name == name) {
                    return Err(Error::input(format!(
                        "{path} has no bias that the adapter's (lora_bias) could be added to, so it \
                         cannot be merged; use the adapter as it is"
                    )));
                }
                let scale = weights.module.scale as f32;
                self.biases.insert(name, bias.iter().map(|x| scale * x).collect());
            }
            self.loras.insert(format!("{path}.weight"), weights);
        }
        let whole = replaced.into_iter().chain(saved);
        self.saved = whole.map(|saved| (saved.tensor.name, saved.values)).collect();
        self.rows =
            rows.into_iter().map(|rows| (format!("{}.weight", rows.module), rows)).collect();
        if config.spec.tie_word_embeddings {
            // Rows are tied like the tables, unless the head has its own.
            let of_embedding = self.rows.get(EMBEDDING).cloned();
            let is_alone = self.rows.len() == usize::from(of_embedding.is_some());
            let has = |name| self.loras.contains_key(name) || self.saved.contains_key(name);
            if has(EMBEDDING) || has(HEAD) || !is_alone {
                config.untie();
                if let Some(rows) = of_embedding {
                    self.rows.entry(HEAD.into()).or_insert(rows);
                }
            }
        }
        Ok(self)
    }

    /// The dtype that all values are rounded to.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// What happened to the tensors that [`Merge::values`] gave.
    pub fn counts(&self) -> Counts {
        self.counts.get()
    }

    /// The tensor as the result has it: values of `dtype`, as f32. The update is computed
    /// and added in f32, and the sum is rounded once.
    ///
    /// # Errors
    /// `Error::Input` for a tensor that is missing, not floats, or beyond the range of `dtype`.
    pub fn values(&self, tensor: &TensorSpec) -> Result<Vec<f32>> {
        let name = tensor.name.as_str();
        let mut values = match self.saved.get(name) {
            Some(saved) => saved.clone(),
            None => self.base_values(tensor)?,
        };
        if let Some(RowWeights { ids, values: rows, .. }) = self.rows.get(name) {
            let width = rows.len() / ids.len();
            for (&id, row) in ids.iter().zip(rows.chunks_exact(width)) {
                values[id as usize * width..][..width].copy_from_slice(row);
            }
        }
        if let Some(bias) = self.biases.get(name) {
            values.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
        }
        match self.loras.get(name) {
            Some(lora) => self.add(lora, &mut values),
            None => values.iter_mut().for_each(|x| *x = self.dtype.round(*x)),
        }
        match values.iter().find(|x| !x.is_finite()) {
            None => Ok(values),
            Some(bad) => Err(Error::input(format!(
                "tensor {name} holds {bad} as {}: the weights are broken, or beyond the range of \
                 that type; try --dtype float32",
                self.dtype.name()
            ))),
        }
    }

    /// A tensor that no adapter changes, a norm or a bias: as it is stored.
    ///
    /// # Errors
    /// `Error::Input` for a tensor that is missing, or not finite floats.
    pub fn exact(&self, tensor: &TensorSpec) -> Result<Vec<f32>> {
        let name = tensor.name.as_str();
        if self.saved.contains_key(name) || self.biases.contains_key(name) {
            return self.values(tensor);
        }
        let stored = self.weights.expect(name)?;
        let unreadable = || Error::input(format!("tensor {name} is not stored as finite floats"));
        let values = stored.to_f32().ok_or_else(unreadable)?;
        values.iter().all(|x| x.is_finite()).then_some(values).ok_or_else(unreadable)
    }

    /// The stored 4-bit weight, where the adapter leaves it as it is.
    pub fn untouched_nf4(&self, tensor: &TensorSpec) -> Result<Option<Nf4Weight>> {
        let name = &tensor.name;
        match self.loras.contains_key(name) || self.saved.contains_key(name) {
            true => Ok(None),
            false => Ok(bnb::read(self.weights, &tensor.name)?.map(|(weight, _)| weight)),
        }
    }

    fn base_values(&self, tensor: &TensorSpec) -> Result<Vec<f32>> {
        let name = tensor.name.as_str();
        if let (Role::Score, Some(score)) = (tensor.role, &self.score) {
            return Ok(score.clone());
        }
        if let Some((weight, _)) = bnb::read(self.weights, name)? {
            return Ok(weight.dequantize(self.base_dtype));
        }
        let stored = match self.weights.get(name) {
            // The result's head is its own; the base's is the embedding.
            None if name == HEAD => self.weights.expect(EMBEDDING)?,
            _ => self.weights.expect(name)?,
        };
        let unreadable = || Error::input(format!("tensor {name} is not stored as floats"));
        let mut values = stored.to_f32().ok_or_else(unreadable)?;
        match (self.base, tensor.linear()) {
            (Base::Dequantized { double }, Some((_, shape))) => {
                // As the model was loaded for training: cast, then quantized.
                values.iter_mut().for_each(|x| *x = self.base_dtype.round(*x));
                let weight = Nf4Weight::quantize(&values, shape)
                    .map_err(|error| Error::input(format!("tensor {name}: {error}")))?;
                let weight = if double { weight.double_quantize() } else { weight };
                Ok(weight.dequantize(self.base_dtype))
            }
            _ => Ok(values),
        }
    }

    /// `values` [N, K] += scale * lora_b [N, rank] lora_a [rank, K], rounded. Of an embedding [V, C] the
    /// same with the factors' parts exchanged: its update is the transpose of that. With magnitudes each
    /// row of the weight (each column of an embedding) then gets its length.
    fn add(&self, lora: &LoraWeights, values: &mut [f32]) {
        let LoraModule { kind, inputs, outputs, r, scale, .. } = lora.module;
        let (dtype, scale) = (self.dtype, scale as f32);
        let is_table = kind == ModuleKind::Embedding;
        let (of_rows, of_columns, columns) = match is_table {
            false => (lora.lora_b.clone(), lora.lora_a.clone(), inputs),
            true => (transposed(&lora.lora_a, inputs), transposed(&lora.lora_b, r), outputs),
        }; // [N, rank], [rank, K]
        let before = values.to_vec();
        let rows = values.par_chunks_exact_mut(columns).zip(of_rows.par_chunks_exact(r));
        rows.for_each(|(row, b)| {
            let mut update = vec![0f32; columns]; // [K]
            for (b, a) in b.iter().zip(of_columns.chunks_exact(columns)) {
                update.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
            }
            row.iter_mut().zip(update).for_each(|(x, update)| *x += scale * update);
        });
        if let Some(magnitude) = &lora.magnitude {
            set_lengths(values, columns, is_table, magnitude);
        }
        let pairs = values.par_iter_mut().zip(before.par_iter());
        let counts = pairs.map(|(x, &before)| {
            let updated = u64::from(*x != before);
            *x = dtype.round(*x);
            Counts { updated, changed: u64::from(updated == 1 && *x != dtype.round(before)) }
        });
        let sum = |a: Counts, b: Counts| Counts {
            updated: a.updated + b.updated,
            changed: a.changed + b.changed,
        };
        let counts = counts.reduce(Counts::default, sum);
        self.counts.set(sum(self.counts.get(), counts));
    }
}

/// Gives each row of `values` [N, K] its length in `magnitude` `[N]`; each column where `by_column`.
fn set_lengths(values: &mut [f32], columns: usize, by_column: bool, magnitude: &[f32]) {
    let mut squares = vec![0f64; magnitude.len()];
    let of = |i: usize| if by_column { i % columns } else { i / columns };
    values.iter().enumerate().for_each(|(i, x)| squares[of(i)] += f64::from(*x).powi(2));
    let lengths = magnitude.iter().zip(squares);
    let factors: Vec<f32> =
        lengths.map(|(length, square)| (f64::from(*length) / square.sqrt()) as f32).collect();
    values.iter_mut().enumerate().for_each(|(i, x)| *x *= factors[of(i)]);
}

/// `values` [n, columns], transposed.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| values[c..].iter().step_by(columns.max(1)).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::save::{TensorPlan, save_tensors};
    use crate::model::spec::Projection;

    fn q_proj() -> TensorSpec {
        TensorSpec {
            name: "q_proj.weight".into(),
            shape: vec![2, 3],
            role: Role::Linear(Projection::Q),
            block: Some(0),
            gguf: String::new(),
        }
    }

    fn weights(name: &str, shape: [usize; 2], values: &[f32]) -> Weights {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let dtype = safetensors::Dtype::F32;
        let plan = TensorPlan { name: name.into(), dtype, shape: shape.to_vec() };
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        save_tensors(&path, &[plan], |_| Ok(bytes.clone())).unwrap();
        Weights::from_bytes(vec![("w".into(), std::fs::read(path).unwrap())]).unwrap()
    }

    fn adapter(scale: f64) -> Vec<LoraWeights> {
        let (path, kind) = ("q_proj".into(), ModuleKind::Linear);
        let module = LoraModule { path, kind, inputs: 3, outputs: 2, r: 1, scale };
        vec![LoraWeights::new(module, vec![1.0, 2.0, 0.0], vec![1.0, -1.0])]
    }

    fn merged(weights: &Weights, base: Base, dtype: DType, loras: Vec<LoraWeights>) -> Merge<'_> {
        let text = r#"{"model_type": "llama", "vocab_size": 10, "hidden_size": 4,
            "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2}"#;
        let mut config = ModelConfig::from_json(text, "config.json").unwrap();
        let adapter = AdapterWeights { loras, ..AdapterWeights::default() };
        Merge::new(weights, base, dtype).with_adapter(&mut config, adapter).unwrap()
    }

    #[test]
    fn the_update_is_scaled_added_and_rounded_once() {
        let base = weights("q_proj.weight", [2, 3], &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        let lora = adapter(0.25);
        let merge = merged(&base, Base::Original, DType::F32, lora);
        assert_eq!(merge.values(&q_proj()).unwrap(), [1.25, 1.5, 1.0, 0.75, 0.5, 1.0]);
        assert_eq!(merge.counts(), Counts { updated: 4, changed: 4 });
    }

    #[test]
    fn an_update_below_the_resolution_of_the_dtype_is_counted_as_lost() {
        let base = weights("q_proj.weight", [2, 3], &[1.0; 6]);
        let lora = adapter(1e-4);
        let merge = merged(&base, Base::Original, DType::BF16, lora);
        assert_eq!(merge.values(&q_proj()).unwrap(), [1.0; 6]);
        assert_eq!(merge.counts(), Counts { updated: 4, changed: 0 });
    }

    #[test]
    fn dequantized_adds_to_what_nf4_decodes_to() {
        let values = [1.0, 0.4, -0.3, 0.2, -1.0, 0.05];
        let base = weights("q_proj.weight", [2, 3], &values);
        let lora = adapter(0.5);
        let into = Base::Dequantized { double: false };
        let merge = merged(&base, into, DType::F32, lora);
        let decoded = Nf4Weight::quantize(&values, [2, 3]).unwrap().dequantize(DType::F32);
        let update = [0.5, 1.0, 0.0, -0.5, -1.0, 0.0];
        let expected: Vec<f32> = decoded.iter().zip(update).map(|(x, u)| x + u).collect();
        assert_eq!(merge.values(&q_proj()).unwrap(), expected);
    }
}
