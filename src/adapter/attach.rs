//! Adapters on a loaded model: attached, detached and exchanged without touching its weights.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use super::config::PeftConfig;
use super::peft;
use super::targets::{LoraModule, ModuleKind};
use super::weights::{AdapterWeights, LoraWeights, MAGNITUDE, ROWS, SavedWeights};
use crate::backend::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::model::spec::{EMBEDDING_MODULE, HEAD_MODULE};
use crate::model::transformer::Model;
use crate::model::{ModelConfig, Weights};
use crate::nn::{
    DEFAULT_ADAPTER, EmbeddingLora, EmbeddingUpdate, HeadUpdate, LinearUpdate, Lora, Magnitude,
    Saved, TrainedRows, Weight,
};
use crate::ops;
use crate::tape::Tape;
use crate::tensor::Tensor;

/// An adapter on a device, ready to be attached.
pub struct PeftAdapter {
    /// What adapter_config.json says.
    pub config: PeftConfig,
    /// The updates of the blocks' linear layers, by the layers' paths.
    pub layers: BTreeMap<String, Lora>,
    /// f32 [1, C]: a classifier's head.
    pub score: Option<Tensor>,
    /// That of the embedding.
    pub embedding: Option<EmbeddingLora>,
    /// That of the head.
    pub head: Option<Lora>,
    /// Tensors in the place of the model's own, by their names.
    pub saved: BTreeMap<String, Tensor>,
    /// Rows in the place of a table's own, f32 [n, C], with their tokens, by the table's path.
    pub rows: BTreeMap<String, (Vec<u32>, Tensor)>,
}

/// Takes a tensor of an adapter (its name, f32 values, and the dtype that a forward pass reads) and gives
/// what the forward pass reads.
pub(super) type Place<'a> = dyn FnMut(&str, Tensor, DType) -> Result<Tensor> + 'a;

impl PeftAdapter {
    /// Loads the adapter in `dir` for a model in float32, or one without saved modules.
    ///
    /// # Errors
    /// As [`PeftAdapter::load_for`].
    pub fn load(dir: &Path, model: &ModelConfig, device: &Device) -> Result<Self> {
        Self::load_for(dir, model, None, device, DType::F32)
    }

    /// Loads the adapter in `dir` for a model with the weights `base`, computed in `dtype`.
    ///
    /// # Errors
    /// `Error::Input` for an adapter that cannot be read or is not for this model;
    /// `Error::OutOfMemory`.
    pub fn load_for(
        dir: &Path,
        model: &ModelConfig,
        base: Option<&Weights>,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let (config, weights) = peft::load(dir, model, base)?;
        Self::of(config, &weights, device, dtype)
    }

    /// Puts an adapter on a device, to be used as it is.
    ///
    /// # Errors
    /// `Error::OutOfMemory`.
    pub fn of(
        config: PeftConfig,
        weights: &AdapterWeights,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let tape = Tape::inference();
        Self::place(config, weights, device, dtype, &mut |_, values, dtype| {
            ops::cast(&tape, &values, dtype)
        })
    }

    /// Puts an adapter on a device, each tensor through `place`, in the order of the modules.
    pub(super) fn place(
        config: PeftConfig,
        weights: &AdapterWeights,
        device: &Device,
        dtype: DType,
        place: &mut Place,
    ) -> Result<Self> {
        let mut adapter = Self {
            config,
            layers: BTreeMap::new(),
            embedding: None,
            head: None,
            saved: BTreeMap::new(),
            rows: BTreeMap::new(),
            score: None,
        };
        if let Some(score) = &weights.score {
            let shape = [1, score.len()];
            adapter.score = Some(Tensor::from_f32(device, &shape, DType::F32, score)?);
        }
        let mut put = |name: &str, shape: &[usize], values: &[f32], dtype: DType| {
            place(name, Tensor::from_f32(device, shape, DType::F32, values)?, dtype)
        };
        let dropout = adapter.config.lora_dropout as f32;
        for weights in &weights.loras {
            let module = &weights.module;
            let lora = lora(weights, device, dropout, &mut put)?;
            match module.kind {
                ModuleKind::Linear => drop(adapter.layers.insert(module.path.clone(), lora)),
                ModuleKind::Head => adapter.head = Some(lora),
                ModuleKind::Embedding => {
                    let Lora { lora_a, lora_b, magnitude, scale, .. } = lora;
                    adapter.embedding = Some(EmbeddingLora { lora_a, lora_b, magnitude, scale });
                }
            }
        }
        for saved in &weights.saved {
            let name = saved.tensor.name.clone();
            let tensor = put(&name, &saved.tensor.shape, &saved.values, dtype)?;
            adapter.saved.insert(name, tensor);
        }
        for replaced in &weights.replaced {
            let SavedWeights { tensor, values } = replaced;
            let table = Tensor::from_f32(device, &tensor.shape, dtype, values)?;
            adapter.saved.entry(tensor.name.clone()).or_insert(table);
        }
        for rows in &weights.rows {
            let shape = [rows.ids.len(), rows.values.len() / rows.ids.len().max(1)];
            let name = format!("{}.{ROWS}", rows.module);
            let values = put(&name, &shape, &rows.values, DType::F32)?;
            adapter.rows.insert(rows.module.clone(), (rows.ids.clone(), values));
        }
        Ok(adapter)
    }
}

/// Takes a name, a shape, values and a dtype, and gives the tensor of them.
type Put<'a> = dyn FnMut(&str, &[usize], &[f32], DType) -> Result<Tensor> + 'a;

/// The update of one module, each trained tensor through `put`.
fn lora(weights: &LoraWeights, device: &Device, dropout: f32, put: &mut Put) -> Result<Lora> {
    let LoraModule { ref path, kind, inputs, outputs, r, scale } = weights.module;
    let mut parts = Vec::new();
    for (part, shape, values) in weights.tensors() {
        let name = parameter_name(path, part);
        // A token's column of A is looked up: on the device it is a row.
        let is_columns = kind == ModuleKind::Embedding && parts.is_empty();
        parts.push(match is_columns {
            false => put(&name, &shape, values, DType::F32)?,
            true => {
                let rows = transposed(values, shape[1]);
                put(&name, &[shape[1], shape[0]], &rows, DType::F32)?
            }
        });
    }
    let mut parts = parts.into_iter();
    let (Some(lora_a), Some(lora_b)) = (parts.next(), parts.next()) else {
        return Err(Error::internal("attach", format!("{path} has no factors")));
    };
    let bias = weights.bias.as_ref().and_then(|_| parts.next());
    let magnitude = weights.magnitude.as_ref().and_then(|_| parts.next());
    let magnitude = magnitude.map(|values| Magnitude { values, squares: None });
    let start = weights.start.as_ref().map(|[a, b]| {
        let fixed = |shape, values| Tensor::from_f32(device, shape, DType::F32, values);
        Ok([fixed(&[r, inputs], a)?, fixed(&[outputs, r], b)?])
    });
    let start = start.transpose()?;
    Ok(Lora { lora_a, lora_b, bias, magnitude, start, scale: scale as f32, dropout })
}

/// The name of a parameter that files know as `part` of the module at `path`.
pub(super) fn parameter_name(path: &str, part: &str) -> String {
    match part {
        MAGNITUDE => format!("{path}.{part}.weight"),
        _ => format!("{path}.{part}"),
    }
}

/// `values` [n, columns], transposed.
pub(super) fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| values[c..].iter().step_by(columns.max(1)).copied()).collect()
}

/// Puts an adapter on the model, in place of the one it has. A KV cache filled before is not valid
/// any more.
///
/// # Errors
/// `Error::Internal` when the adapter is for another model, or a layer is shared.
pub fn attach(model: &mut Model, adapter: &PeftAdapter) -> Result<()> {
    if let Some(score) = &adapter.score {
        model.lm_head = score.clone();
    }
    attach_as(model, DEFAULT_ADAPTER, adapter)
}

/// [`attach`] under a name, beside the adapters of other names: a pass asks for it by that name.
///
/// # Errors
/// As [`attach`].
pub fn attach_as(model: &mut Model, name: &'static str, adapter: &PeftAdapter) -> Result<()> {
    detach_as(model, name)?;
    let mut found = 0;
    let mut saved = |path: &str, part: &str| {
        let tensor = adapter.saved.get(&format!("{path}.{part}")).cloned();
        found += usize::from(tensor.is_some());
        tensor
    };
    for layer in layers_mut(model)? {
        for linear in layer.linears_mut() {
            let update = match adapter.layers.get(&linear.path) {
                Some(lora) => {
                    if lora.start.is_some() && matches!(linear.weight, Weight::Nf4(_)) {
                        return Err(Error::input(
                            "init_lora_weights: \"pissa\" and \"olora\" take from weights in floats, \
                             not in 4 bits: leave out load_in_4bit, or take another start",
                        ));
                    }
                    let mut lora = lora.clone();
                    if let Some(magnitude) = &mut lora.magnitude {
                        magnitude.squares = Some(linear.row_squares()?);
                    }
                    Some(LinearUpdate::Lora(Box::new(lora)))
                }
                None => saved(&linear.path, "weight").map(|weight| {
                    let bias = saved(&linear.path, "bias");
                    LinearUpdate::Saved(Saved { weight, bias })
                }),
            };
            linear.updates.extend(update.map(|update| (name, update)));
        }
        for norm in layer.norms_mut() {
            norm.saved.extend(saved(&norm.path, "weight").map(|weight| (name, weight)));
        }
    }
    let norm = &mut model.norm;
    norm.saved.extend(saved(&norm.path, "weight").map(|weight| (name, weight)));
    let tables = [saved(EMBEDDING_MODULE, "weight"), saved(HEAD_MODULE, "weight")];
    let loras = model.linears().filter(|linear| adapter.layers.contains_key(&linear.path)).count();
    if [loras, found] != [adapter.layers.len(), adapter.saved.len()] {
        let what = format!(
            "{loras} of {} layers and {found} of {} tensors are in the model",
            adapter.layers.len(),
            adapter.saved.len()
        );
        return Err(Error::internal("attach", what));
    }
    attach_tables(model, name, adapter, tables)
}

/// What the adapter makes of the embedding and the head; `saved` are the tensors in their place.
fn attach_tables(
    model: &mut Model,
    name: &'static str,
    adapter: &PeftAdapter,
    [table, weight]: [Option<Tensor>; 2],
) -> Result<()> {
    let rows = |path: &str, base: &Tensor| {
        let own = adapter.rows.get(path).cloned();
        own.map(|(ids, values)| TrainedRows::new(base, ids, values)).transpose()
    };
    let base = table.as_ref().unwrap_or(&model.embed_tokens);
    let embedding_rows = rows(EMBEDDING_MODULE, base)?;
    let base = weight.as_ref().unwrap_or(&model.lm_head);
    let head_rows = match rows(HEAD_MODULE, base)? {
        // Where the two are tied, so are the rows.
        None if model.config.spec.tie_word_embeddings => rows(EMBEDDING_MODULE, base)?,
        own => own,
    };
    let (mut embedding, head) = (adapter.embedding.clone(), adapter.head.clone());
    if let Some(magnitude) = embedding.as_mut().and_then(|lora| lora.magnitude.as_mut()) {
        magnitude.squares = Some(column_squares(table.as_ref().unwrap_or(&model.embed_tokens))?);
    }
    if table.is_some() || embedding_rows.is_some() || embedding.is_some() {
        let update = EmbeddingUpdate { table, rows: embedding_rows, lora: embedding };
        model.embedding_updates.insert(name, update);
    }
    if weight.is_some() || head_rows.is_some() || head.is_some() {
        let rows = head_rows.map(TrainedRows::of_head).transpose()?;
        model.head_updates.insert(name, HeadUpdate { weight, rows, lora: head });
    }
    Ok(())
}

/// f32 `[C]`: the sums of the squares of the columns of a table [V, C].
///
/// # Errors
/// What the device reports.
pub(super) fn column_squares(table: &Tensor) -> Result<Tensor> {
    let mut sums = vec![0.0; table.columns()];
    for row in table.read_f32()?.chunks_exact(table.columns()) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x).powi(2));
    }
    let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
    Tensor::from_f32(table.device(), &[sums.len()], DType::F32, &sums)
}

/// Takes all adapters off the model.
///
/// # Errors
/// `Error::Internal` when a layer is shared.
pub fn detach(model: &mut Model) -> Result<()> {
    for layer in layers_mut(model)? {
        layer.linears_mut().into_iter().for_each(|linear| linear.updates.clear());
        layer.norms_mut().for_each(|norm| norm.saved.clear());
    }
    model.norm.saved.clear();
    model.embedding_updates.clear();
    model.head_updates.clear();
    Ok(())
}

fn detach_as(model: &mut Model, name: &'static str) -> Result<()> {
    for layer in layers_mut(model)? {
        layer.linears_mut().into_iter().for_each(|linear| drop(linear.updates.remove(name)));
        layer.norms_mut().for_each(|norm| drop(norm.saved.remove(name)));
    }
    model.norm.saved.remove(name);
    model.embedding_updates.remove(name);
    model.head_updates.remove(name);
    Ok(())
}

fn layers_mut(model: &mut Model) -> Result<Vec<&mut crate::model::transformer::Layer>> {
    let layers = model.layers.iter_mut().map(Rc::get_mut);
    layers
        .collect::<Option<_>>()
        .ok_or_else(|| Error::internal("attach", "a layer is in use elsewhere"))
}
