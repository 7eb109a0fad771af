//! The policy that a run compares with: what it is, and its log-probabilities where they are computed
//! once.

use super::prepare::Prepared;
use super::trainer::Trainer;
use crate::adapter::{PeftAdapter, attach_as};
use crate::data::Plan;
use crate::error::{Error, Result};
use crate::model::load::{LoadOptions, Source, load};
use crate::model::resolve::resolve;
use crate::model::save::{TensorPlan, save_tensors};
use crate::model::transformer::Model;
use crate::model::{ModelConfig, Weights, check};
use crate::nn::{AdapterChoice, Context};
use crate::objective::{Pass, Policy, REFERENCE_ADAPTER, Reference, ReferenceOptions};
use crate::ops::StepState;
use crate::tape::Tape;
use safetensors::Dtype;
use std::path::Path;
use std::rc::Rc;

/// The file of a checkpoint that holds log-probabilities computed once.
const KNOWN: &str = "reference_logps.safetensors";

/// The model that is trained, as its reference must know it.
pub struct Trained<'a> {
    /// Where its weights come from; not needed where an adapter is trained.
    pub source: Option<&'a Source<'a>>,
    /// What they became.
    pub options: LoadOptions,
    /// Whether an adapter is trained, and not the weights.
    pub lora: bool,
    /// The adapter that training starts from.
    pub adapter: Option<&'a Path>,
}

/// The reference that `options` asks for. An adapter stands beside the trained one, on the same
/// weights; where the weights are trained, it needs a copy of its own.
///
/// # Errors
/// `Error::Input` for a directory that is no model or adapter of these tokens; `Error::OutOfMemory`.
pub fn make(options: &ReferenceOptions, model: &mut Model, trained: &Trained) -> Result<Reference> {
    let device = model.embed_tokens.device().clone();
    let before = device.memory().in_use;
    let policy = match (&options.directory, trained.adapter) {
        (Some(dir), _) if !dir.join("adapter_config.json").is_file() => {
            another(dir, model, trained)?
        }
        (Some(dir), _) => beside(dir, model, trained)?,
        (None, Some(dir)) if trained.lora => beside(dir, model, trained)?,
        // Before the first step the model is its own reference.
        (None, _) if trained.lora || options.precompute => Policy::Adapter(AdapterChoice::Off),
        (None, _) => Policy::Model(Box::new(copy(model, trained)?)),
    };
    let bytes = device.memory().in_use.saturating_sub(before);
    Ok(Reference { policy, bytes, ..Reference::default() })
}

/// The weights as training finds them, frozen.
fn copy(model: &Model, trained: &Trained) -> Result<Model> {
    let options = LoadOptions { train_all: false, ..trained.options };
    let device = model.embed_tokens.device();
    let source = trained.source.ok_or_else(|| Error::internal("reference", "no weights"))?;
    load(device, &model.config, source, options).map(|(model, _)| model)
}

/// The adapter in `dir`.
fn beside(dir: &Path, model: &mut Model, trained: &Trained) -> Result<Policy> {
    let device = model.embed_tokens.device().clone();
    let adapter = PeftAdapter::load(dir, &model.config, &device)?;
    if trained.lora {
        attach_as(model, REFERENCE_ADAPTER, &adapter)?;
        return Ok(Policy::Adapter(AdapterChoice::Named(REFERENCE_ADAPTER)));
    }
    let mut frozen = copy(model, trained)?;
    attach_as(&mut frozen, REFERENCE_ADAPTER, &adapter)?;
    Ok(Policy::Model(Box::new(frozen)))
}

/// The model in `dir`.
fn another(dir: &Path, model: &Model, trained: &Trained) -> Result<Policy> {
    let source = resolve(&dir.to_string_lossy())?;
    let mut config = ModelConfig::open(&source.path)?;
    let (expected, found) = (model.config.spec.vocab_size, config.spec.vocab_size);
    if found != expected {
        return Err(Error::input(format!(
            "reference: {} has {found} tokens and the trained model {expected}: it must have the same \
             vocabulary",
            dir.display()
        )));
    }
    let options = LoadOptions { train_all: false, ..trained.options };
    let device = model.embed_tokens.device();
    if matches!(trained.source, Some(Source::Shapes)) {
        return Ok(Policy::Model(Box::new(load(device, &config, &Source::Shapes, options)?.0)));
    }
    let mut weights = Weights::open(&source.path)?;
    check(&mut weights, &mut config)?;
    Ok(Policy::Model(Box::new(load(device, &config, &Source::Weights(&weights), options)?.0)))
}

/// Where the run computes the reference's log-probabilities once: computes them, or takes them from the
/// checkpoint that it goes on from.
///
/// # Errors
/// `Error::Input` for a checkpoint without them; what the ops report.
pub fn precompute(
    prepared: &Prepared,
    trainer: &mut Trainer,
    checkpoint: Option<&Path>,
) -> Result<()> {
    if !trainer.objective.reference().is_some_and(|options| options.precompute) {
        return Ok(());
    }
    if let Some(dir) = checkpoint {
        return read(dir, &mut trainer.reference);
    }
    let step_state = StepState::new(trainer.device())?;
    let mut known = Vec::new();
    for data in std::iter::once(&prepared.train).chain(&prepared.eval) {
        let plan = Plan::eval(data, prepared.config.train.per_device_eval_batch_size);
        for index in 0..plan.num_batches() {
            let batch = plan.batch(data, index);
            let context = Context::of_batch(trainer.device(), &batch, trainer.attention(), None)?;
            known.extend(trainer.objective.precompute(&Pass {
                model: &trainer.model,
                batch: &batch,
                step: std::slice::from_ref(&batch),
                step_state: &step_state,
                context: Rc::new(context),
                frozen: &trainer.reference,
                tape: Tape::inference(),
                gradient: None,
            })?);
        }
    }
    trainer.reference.known.extend(known);
    Ok(())
}

/// Writes what was computed once into a checkpoint.
///
/// # Errors
/// [`Error::Run`] where the file cannot be written.
pub fn save(dir: &Path, reference: &Reference) -> Result<()> {
    if reference.known.is_empty() {
        return Ok(());
    }
    let mut known: Vec<(&u64, &Vec<f64>)> = reference.known.iter().collect();
    known.sort_unstable_by_key(|(key, _)| **key);
    let columns = known[0].1.len();
    let plan = |name: &str, dtype, shape: &[usize]| TensorPlan {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
    };
    let rows = known.len();
    let plans = [plan("groups", Dtype::U64, &[rows]), plan("logps", Dtype::F64, &[rows, columns])];
    save_tensors(&dir.join(KNOWN), &plans, |plan| {
        Ok(match plan.name.as_str() {
            "groups" => known.iter().flat_map(|(key, _)| key.to_le_bytes()).collect(),
            _ => known.iter().flat_map(|(_, sums)| *sums).flat_map(|x| x.to_le_bytes()).collect(),
        })
    })
}

fn read(dir: &Path, reference: &mut Reference) -> Result<()> {
    let saved = Weights::open_file(&dir.join(KNOWN))?;
    let words = |bytes: &[u8]| -> Vec<[u8; 8]> { bytes.as_chunks::<8>().0.to_vec() };
    let (groups, logps) =
        (words(saved.expect("groups")?.bytes), words(saved.expect("logps")?.bytes));
    let columns = logps.len() / groups.len().max(1);
    let sums = logps.chunks(columns.max(1));
    let sums = sums.map(|row| row.iter().map(|word| f64::from_le_bytes(*word)).collect());
    reference.known = groups.iter().map(|word| u64::from_le_bytes(*word)).zip(sums).collect();
    Ok(())
}
