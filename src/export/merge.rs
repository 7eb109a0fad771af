//! The weights of a model with its adapter merged in: W + scale * B A, one tensor at a time.

use std::cell::Cell;
use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::adapter::{LoraModule, LoraWeights};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::model::spec::{Role, TensorSpec};
use crate::model::{Weights, bnb};
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
    layers: BTreeMap<String, LoraWeights>,
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
        let (layers, counts) = (BTreeMap::new(), Cell::default());
        Self { weights, base, base_dtype: dtype, dtype, layers, score: None, counts }
    }

    /// With values rounded to another dtype than the base is computed in: to f32 where the result is
    /// quantized.
    pub fn rounded_to(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// With an adapter.
    pub fn with_adapter(mut self, adapter: Vec<LoraWeights>) -> Self {
        let named = |weights: LoraWeights| (format!("{}.weight", weights.module.path), weights);
        self.layers = adapter.into_iter().map(named).collect();
        self
    }

    /// With the head that an adapter brings.
    pub fn with_score(self, score: Option<Vec<f32>>) -> Self {
        Self { score, ..self }
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
        let mut values = self.base_values(tensor)?;
        match self.layers.get(name) {
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
        let stored = self.weights.expect(name)?;
        let unreadable = || Error::input(format!("tensor {name} is not stored as finite floats"));
        let values = stored.to_f32().ok_or_else(unreadable)?;
        values.iter().all(|x| x.is_finite()).then_some(values).ok_or_else(unreadable)
    }

    /// The stored 4-bit weight, where the adapter leaves it as it is.
    pub fn untouched_nf4(&self, tensor: &TensorSpec) -> Result<Option<Nf4Weight>> {
        match self.layers.contains_key(&tensor.name) {
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
        let stored = self.weights.expect(name)?;
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

    /// `values` [N, K] += scale * lora_b [N, rank] lora_a [rank, K], rounded.
    fn add(&self, lora: &LoraWeights, values: &mut [f32]) {
        let columns = lora.module.inputs;
        let LoraModule { r, scale, .. } = lora.module;
        let (dtype, scale) = (self.dtype, scale as f32);
        let add_row = |(row, b): (&mut [f32], &[f32])| {
            let mut update = vec![0f32; columns]; // [K]
            for (b, a) in b.iter().zip(lora.lora_a.chunks_exact(columns)) {
                update.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
            }
            let mut counts = Counts::default();
            for (x, update) in row.iter_mut().zip(update) {
                let merged = dtype.round(*x + scale * update);
                counts.updated += u64::from(update != 0.0);
                counts.changed += u64::from(merged != dtype.round(*x));
                *x = merged;
            }
            counts
        };
        let sum = |a: Counts, b: Counts| Counts {
            updated: a.updated + b.updated,
            changed: a.changed + b.changed,
        };
        let rows = values.par_chunks_exact_mut(columns).zip(lora.lora_b.par_chunks_exact(r));
        let counts = rows.map(add_row).reduce(Counts::default, sum);
        self.counts.set(sum(self.counts.get(), counts));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleKind;
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
        vec![LoraWeights { module, lora_a: vec![1.0, 2.0, 0.0], lora_b: vec![1.0, -1.0] }]
    }

    #[test]
    fn the_update_is_scaled_added_and_rounded_once() {
        let base = weights("q_proj.weight", [2, 3], &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        let lora = adapter(0.25);
        let merge = Merge::new(&base, Base::Original, DType::F32).with_adapter(lora);
        assert_eq!(merge.values(&q_proj()).unwrap(), [1.25, 1.5, 1.0, 0.75, 0.5, 1.0]);
        assert_eq!(merge.counts(), Counts { updated: 4, changed: 4 });
    }

    #[test]
    fn an_update_below_the_resolution_of_the_dtype_is_counted_as_lost() {
        let base = weights("q_proj.weight", [2, 3], &[1.0; 6]);
        let lora = adapter(1e-4);
        let merge = Merge::new(&base, Base::Original, DType::BF16).with_adapter(lora);
        assert_eq!(merge.values(&q_proj()).unwrap(), [1.0; 6]);
        assert_eq!(merge.counts(), Counts { updated: 4, changed: 0 });
    }

    #[test]
    fn dequantized_adds_to_what_nf4_decodes_to() {
        let values = [1.0, 0.4, -0.3, 0.2, -1.0, 0.05];
        let base = weights("q_proj.weight", [2, 3], &values);
        let lora = adapter(0.5);
        let into = Base::Dequantized { double: false };
        let merge = Merge::new(&base, into, DType::F32).with_adapter(lora);
        let decoded = Nf4Weight::quantize(&values, [2, 3]).unwrap().dequantize(DType::F32);
        let update = [0.5, 1.0, 0.0, -0.5, -1.0, 0.0];
        let expected: Vec<f32> = decoded.iter().zip(update).map(|(x, u)| x + u).collect();
        assert_eq!(merge.values(&q_proj()).unwrap(), expected);
    }
}
