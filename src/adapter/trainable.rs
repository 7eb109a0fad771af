//! Adapters that training changes: fresh ones, and saved ones to go on with.

use super::attach::{self, PeftAdapter, column_squares, parameter_name, transposed};
use super::config::PeftConfig;
use super::peft;
use super::start::fresh;
use super::targets::{LoraModule, ModuleKind};
use super::weights::{AdapterWeights, Beside, LoraWeights, ROWS, RowWeights, SavedWeights, parts};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::model::Weights;
use crate::model::spec::{EMBEDDING_MODULE, HEAD_MODULE, SCORE};
use crate::model::transformer::Model;
use crate::nn::{DEFAULT_ADAPTER, LinearUpdate, Parameter};
use crate::ops;
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::path::Path;

/// Elements of the largest factor, which kernels count in 32 bits.
const MOST_ELEMENTS: usize = i32::MAX as usize;

/// Attaches a new adapter, with the factors that its `init_lora_weights` says: by default `lora_A` uniform
/// within ±1/sqrt(in) (Kaiming, a = sqrt 5) and `lora_B` zero, so that the model starts unchanged; of an
/// embedding `lora_A` zero and `lora_B` normal. What is saved whole starts as the model has it.
///
/// # Errors
/// `Error::Input` for an adapter that the model cannot have.
pub fn attach_fresh(model: &mut Model, config: &PeftConfig, seed: u64) -> Result<Vec<Parameter>> {
    let modules = config.modules(&model.config)?;
    let fresh = modules.into_iter().map(|module| {
        let elements = module.r.saturating_mul(module.inputs.max(module.outputs));
        if elements > MOST_ELEMENTS {
            return Err(Error::input(format!(
                "the rank {} makes a factor of {} elements beside {}, and {MOST_ELEMENTS} is the most: \
                 lower lora.r",
                module.r, elements, module.path
            )));
        }
        let bias = config.lora_bias.then(|| vec![0.0; module.outputs]);
        let magnitude = config.use_dora.then(|| lengths(model, &module)).transpose()?;
        // Factors that nobody reads may be larger than the host's memory.
        if !model.embed_tokens.device().computes() {
            let taken = config.init_lora_weights.takes_from_base();
            let start = (taken && module.kind != ModuleKind::Embedding).then(Default::default);
            let factors = LoraWeights::new(module, Vec::new(), Vec::new());
            return Ok(LoraWeights { bias, magnitude, start, ..factors });
        }
        let name = format!("{}.weight", module.path);
        let weight = || own_tensor(model, "init_lora_weights", &name)?.read_f32();
        Ok(LoraWeights { bias, magnitude, ..fresh(config, module, seed, weight)? })
    });
    let loras = fresh.collect::<Result<_>>()?;
    let saved = config.saved_tensors(&model.config.spec)?.into_iter();
    let saved = saved.map(|tensor| {
        let values = own_tensor(model, "modules_to_save", &tensor.name)?.read_f32()?;
        Ok(SavedWeights { tensor, values })
    });
    let saved = saved.collect::<Result<_>>()?;
    let rows = config.token_rows(&model.config.spec)?.into_iter().map(|(module, ids)| {
        let table = own_tensor(model, "trainable_token_indices", &format!("{module}.weight"))?;
        let values = ops::embedding(&Tape::inference(), &table.detach(), &ids)?.read_f32()?;
        Ok(RowWeights { module, ids, values })
    });
    let rows = rows.collect::<Result<_>>()?;
    attach(model, config, &AdapterWeights { loras, saved, rows, ..AdapterWeights::default() })
}

/// The lengths of the rows of a module's weight, which DoRA's magnitudes begin with.
fn lengths(model: &Model, module: &LoraModule) -> Result<Vec<f32>> {
    let linear = model.linears().find(|linear| linear.path == module.path);
    let squares = match (module.kind, linear) {
        (ModuleKind::Embedding, _) => column_squares(&model.embed_tokens)?,
        (_, Some(linear)) => linear.row_squares()?,
        _ => return Err(Error::internal("adapter", format!("{} has no weight", module.path))),
    };
    Ok(squares.read_f32()?.into_iter().map(f32::sqrt).collect())
}

/// The float tensor of a name that the base model has on its device.
fn own_tensor<'a>(model: &'a Model, key: &str, name: &str) -> Result<&'a Tensor> {
    let found = model.floats().into_iter().find(|(own, _)| own == name);
    found.map(|(_, tensor)| tensor).ok_or_else(|| {
        Error::input(format!(
            "{key}: {name} is in 4 bits, and must be in floats: leave out load_in_4bit, or this setting \
             for this module"
        ))
    })
}

/// Attaches the saved adapter in `dir` for further training, with a dropout of its own; returns its
/// config too. `base` are the model's weights, where they are at hand.
///
/// # Errors
/// `Error::Input` for an adapter that is not one of this model.
pub fn attach_saved(
    model: &mut Model,
    dir: &Path,
    dropout: f64,
    base: Option<&Weights>,
) -> Result<(PeftConfig, Vec<Parameter>)> {
    let (mut config, weights) = peft::load(dir, &model.config, base)?;
    if let Some(replaced) = weights.replaced.first() {
        return Err(Error::input(format!(
            "{}: the adapter brings a {} of its own, which is not the base model's, and which would \
             not be saved with the result; give the model that it was trained on",
            dir.display(),
            replaced.tensor.name
        )));
    }
    config.lora_dropout = dropout;
    let parameters = attach(model, &config, &weights)?;
    Ok((config, parameters))
}

/// Puts the tensors on the model's device, as parameters under PEFT's names.
fn attach(
    model: &mut Model,
    config: &PeftConfig,
    weights: &AdapterWeights,
) -> Result<Vec<Parameter>> {
    let device = model.embed_tokens.device().clone();
    let dtype = model.embed_tokens.dtype();
    let mut parameters = Vec::new();
    let mut place = |name: &str, master, dtype| {
        let parameter = Parameter::new(name, master, dtype)?;
        let value = parameter.value.clone();
        parameters.push(parameter);
        Ok(value)
    };
    let adapter = PeftAdapter::place(config.clone(), weights, &device, dtype, &mut place)?;
    attach::attach(model, &adapter)?;
    Ok(parameters)
}

/// Trains the head of a classifier beside the adapter: the saved one of the adapter in `dir`, else the
/// model's.
///
/// # Errors
/// `Error::Input` for an adapter that has none.
pub fn train_score(
    model: &mut Model,
    config: &PeftConfig,
    dir: Option<&Path>,
) -> Result<Parameter> {
    let width = model.config.spec.hidden_size;
    let saved = dir.map(|dir| peft::score(dir, config, width)).transpose()?.flatten();
    let master = match saved {
        Some(values) => {
            let device = model.embed_tokens.device();
            Tensor::from_f32(device, &[1, width], DType::F32, &values)?
        }
        None => model.lm_head.clone(),
    };
    let score = Parameter::new(SCORE, master, DType::F32)?;
    model.lm_head = score.value.clone();
    Ok(score)
}

/// What PEFT's LoRA+ multiplies nothing with: the learning rate of embeddings' updates.
const LORAPLUS_LR_EMBEDDING: f64 = 1e-6;

/// Gives parameters the learning rates of LoRA+ (Hayou et al., 2024, arXiv:2402.12354), as PEFT's
/// `create_loraplus_optimizer` groups them: `lora_B` and vectors `ratio` times the run's, updates of
/// embeddings one of their own, everything else the run's.
pub fn set_loraplus(parameters: &mut [Parameter], ratio: f64, learning_rate: f64) {
    for parameter in parameters {
        let is_vector = parameter.master.shape().len() == 1;
        parameter.lr_ratio = match &parameter.name {
            name if name.starts_with(EMBEDDING_MODULE) && name.contains(".lora_") => {
                (LORAPLUS_LR_EMBEDDING / learning_rate) as f32
            }
            name if name.contains("lora_B") || is_vector => ratio as f32,
            _ => 1.0,
        };
    }
}

/// The adapter as it is now, for saving.
///
/// # Errors
/// `Error::Internal` for parameters of another adapter.
pub fn weights(
    config: &PeftConfig,
    model: &Model,
    parameters: &[Parameter],
) -> Result<AdapterWeights> {
    let spec = &model.config.spec;
    let read = |name: &str| match parameters.iter().find(|parameter| parameter.name == name) {
        Some(parameter) => parameter.master.read_f32(),
        None => Err(Error::internal("adapter", format!("{name} is not trained"))),
    };
    let has = Beside { bias: config.lora_bias, magnitude: config.use_dora };
    let mut found = AdapterWeights::default();
    for module in config.modules(&model.config)? {
        let parts = parts(&module, has);
        let named = parts.iter().map(|(part, _)| read(&parameter_name(&module.path, part)));
        let mut values = named.collect::<Result<Vec<_>>>()?.into_iter();
        let (Some(mut lora_a), Some(lora_b)) = (values.next(), values.next()) else { continue };
        if module.kind == ModuleKind::Embedding {
            lora_a = transposed(&lora_a, module.r);
        }
        let bias = if has.bias { values.next() } else { None };
        let magnitude = if has.magnitude { values.next() } else { None };
        let plain = LoraWeights::new(module, lora_a, lora_b);
        let start = start(model, &plain.module.path)?;
        found.loras.push(LoraWeights { bias, magnitude, start, ..plain });
    }
    for tensor in config.saved_tensors(spec)? {
        let values = read(&tensor.name)?;
        found.saved.push(SavedWeights { tensor, values });
    }
    for (module, ids) in config.token_rows(spec)? {
        let values = read(&format!("{module}.{ROWS}"))?;
        found.rows.push(RowWeights { module, ids, values });
    }
    Ok(found)
}

/// The fixed factors of the module at `path`, where it has any.
fn start(model: &Model, path: &str) -> Result<Option<[Vec<f32>; 2]>> {
    let of_head = model.head_updates.get(DEFAULT_ADAPTER).filter(|_| path == HEAD_MODULE);
    let mut linears = model.linears().filter(|linear| linear.path == path);
    let lora = match (of_head, linears.next().and_then(|l| l.updates.get(DEFAULT_ADAPTER))) {
        (Some(head), _) => head.lora.as_ref(),
        (None, Some(LinearUpdate::Lora(lora))) => Some(lora.as_ref()),
        _ => None,
    };
    let Some([a, b]) = lora.and_then(|lora| lora.start.as_ref()) else { return Ok(None) };
    Ok(Some([a.read_f32()?, b.read_f32()?]))
}
