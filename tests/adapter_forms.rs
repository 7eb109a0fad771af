//! Adapters in every form that PEFT's LoRA has, as tests/fixtures/adapters holds them: logits, ten steps
//! of training, what is written, what is merged.

mod common;

use common::{Row, Tensors, batch, compare, cpu, families, fixture, json, open, options};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use tunesmith::adapter::{
    AdapterWeights, LoraWeights, PeftAdapter, PeftConfig, attach, load_mixed, peft, trainable,
};
use tunesmith::config::LrSchedulerType;
use tunesmith::data::Batch;
use tunesmith::evaluate::evaluate;
use tunesmith::export::directory::write_merged;
use tunesmith::export::merge::{Base, Merge};
use tunesmith::model::save::Companions;
use tunesmith::model::transformer::Model;
use tunesmith::model::{ModelConfig, Weights};
use tunesmith::nn::{AdapterChoice, Context, Parameter};
use tunesmith::objective::sft::Sft;
use tunesmith::ops::Implementation;
use tunesmith::optim::Settings;
use tunesmith::train::schedule::Schedule;
use tunesmith::train::trainer::Trainer;
use tunesmith::{DType, Device, Result, Tape};

/// As tests/trajectories.rs has them.
const LOSS: f64 = 1e-5;
const GRAD_NORM: f64 = 1e-4;
const CHANGE: f64 = 1e-3;

const MAX_POSITIONS: usize = 64;

#[derive(Deserialize)]
struct Log {
    model: String,
    learning_rate: f64,
    max_steps: u64,
    warmup_steps: f64,
    weight_decay: f64,
    adam_beta1: f64,
    adam_beta2: f64,
    adam_epsilon: f64,
    max_grad_norm: f64,
    per_device_train_batch_size: usize,
    loraplus_lr_ratio: Option<f64>,
    load_in_4bit: bool,
    steps: Vec<Step>,
    final_loss: f64,
    change_norm: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Step {
    loss: f64,
    grad_norm: f64,
}

/// A form with the model that it is of.
struct Form {
    dir: std::path::PathBuf,
    log: Log,
    config: ModelConfig,
    weights: Weights,
    steps: Vec<Vec<Row>>,
}

impl Form {
    fn open(name: &str) -> Result<Self> {
        println!("{name}");
        let dir = fixture("adapters").join(name);
        let log: Log = json(&dir.join("log.json"));
        let model = fixture("models").join(&log.model);
        let steps = json(&fixture("trajectories").join(&log.model).join("batches.json"));
        let (config, weights) = (ModelConfig::open(&model)?, Weights::open(&model)?);
        Ok(Self { dir, log, config, weights, steps })
    }

    fn base(&self, device: &Device) -> Result<Model> {
        let nf4 = self.log.load_in_4bit.then_some(true);
        let dir = fixture("models").join(&self.log.model);
        Ok(open(device, &dir, options(nf4, false, MAX_POSITIONS))?.0)
    }

    fn with_adapter(&self, device: &Device, dir: &Path) -> Result<Model> {
        let mut model = self.base(device)?;
        let base = Some(&self.weights);
        attach(&mut model, &PeftAdapter::load_for(dir, &self.config, base, device, DType::F32)?)?;
        Ok(model)
    }

    /// The logits of the first two rows.
    fn logits(&self, model: &Model) -> Result<[Vec<f32>; 2]> {
        let of = |row: usize| logits(model, &batch(&self.steps[0][row..][..1], 0));
        Ok([of(0)?, of(1)?])
    }

    fn check_logits(&self, device: &Device) -> Result<()> {
        let model = self.with_adapter(device, &self.dir.join("adapter"))?;
        let base = logits_under(&model, &batch(&self.steps[0][..1], 0), AdapterChoice::Off)?;
        let expected = Tensors::open(&self.dir.join("logits.safetensors"));
        let found = self.logits(&model)?;
        for (i, found) in found.iter().enumerate() {
            let name = format!("logits.{i}");
            compare(&name, found, &expected.get(&name));
        }
        assert_eq!(base, logits(&self.base(device)?, &batch(&self.steps[0][..1], 0))?);
        assert_ne!(base, found[0]);
        Ok(())
    }

    fn trainer(&self, device: &Device) -> Result<(Trainer, PeftConfig)> {
        let Log { adam_beta1: beta1, adam_beta2: beta2, adam_epsilon: eps, .. } = self.log;
        let Log { weight_decay, max_grad_norm, learning_rate, .. } = self.log;
        let mut model = self.base(device)?;
        let base = Some(&self.weights);
        let adapter = self.dir.join("adapter");
        let (config, mut parameters) = trainable::attach_saved(&mut model, &adapter, 0.0, base)?;
        if let Some(ratio) = self.log.loraplus_lr_ratio {
            trainable::set_loraplus(&mut parameters, ratio, learning_rate);
        }
        let optim = Settings::default().optim;
        let settings = Settings { optim, beta1, beta2, eps, weight_decay, max_grad_norm };
        let trainer = Trainer::new(model, parameters, Sft, settings, Implementation::Flash, 1)?;
        Ok((trainer, config))
    }

    fn batches(&self, rows: &[Row]) -> Vec<Batch> {
        let size = self.log.per_device_train_batch_size;
        rows.chunks(size).zip((0..).step_by(size)).map(|(rows, first)| batch(rows, first)).collect()
    }

    /// Ten steps; the trainer after them.
    fn check_steps(&self, device: &Device) -> Result<(Trainer, PeftConfig)> {
        let log = &self.log;
        let (mut trainer, config) = self.trainer(device)?;
        let start = values(&trainer.parameters)?;
        let cosine = LrSchedulerType::Cosine;
        let schedule = Schedule::new(cosine, log.learning_rate, log.warmup_steps, log.max_steps);
        for ((number, rows), expected) in (1..).zip(&self.steps).zip(&log.steps) {
            let rate = schedule.learning_rate(number);
            let found = trainer.step(number, rate, &self.batches(rows))?;
            let what = format!("step {number}: {found:?}, expected {}", expected.loss);
            assert!((found.loss - expected.loss).abs() <= LOSS, "{what}");
            let off = (found.grad_norm - expected.grad_norm).abs() / expected.grad_norm;
            assert!(off <= GRAD_NORM, "{what}, gradient norm {}", expected.grad_norm);
        }
        let rows = self.batches(&self.steps[0]).into_iter();
        let found = evaluate(&Sft, &trainer.model, trainer.attention(), rows)?.loss();
        assert!((found - log.final_loss).abs() <= LOSS, "{found}, expected {}", log.final_loss);
        self.check_changes(&start, &values(&trainer.parameters)?);
        Ok((trainer, config))
    }

    /// How far each tensor has come, and where to.
    fn check_changes(&self, start: &Values, end: &Values) {
        let final_adapter = Tensors::open(&self.dir.join("final.safetensors"));
        assert_eq!(self.log.change_norm.len(), end.len(), "{:?}", end.keys());
        for (key, &expected) in &self.log.change_norm {
            // PEFT's modules have a prefix and an adapter's name, its files only the prefix.
            let name = key.replace("base_model.model.", "").replace("modules_to_save.default.", "");
            let name = name.replace(".default", "");
            let (from, to) = (&start[&name], &end[&name]);
            let change = norm(from, to);
            let what = format!("{name}: changed by {change}, expected {expected}");
            assert!((change - expected).abs() <= CHANGE * expected, "{what}");
            let stored = name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector");
            let mut stored = final_adapter.get(&format!("base_model.model.{stored}"));
            if name.ends_with("lora_embedding_A") {
                let tokens = self.config.spec.vocab_size;
                let rows = stored.len() / tokens;
                stored = (0..stored.len()).map(|i| stored[i % rows * tokens + i / rows]).collect();
            }
            let off = norm(to, &stored);
            assert!(off <= CHANGE * expected, "{what}; off by {off}");
        }
    }

    /// What is written is read again with the same logits.
    fn check_written(&self, device: &Device, trainer: &Trainer, config: &PeftConfig) -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let weights = trainable::weights(config, &trainer.model, &trainer.parameters)?;
        peft::save(dir.path(), config, &weights, "")?;
        let again = self.with_adapter(device, dir.path())?;
        let (found, expected) = (self.logits(&again)?, self.logits(&trainer.model)?);
        if !config.init_lora_weights.takes_from_base() {
            assert_eq!(found, expected);
        }
        // What takes from its base is a plain adapter now, with other sums.
        assert_eq!(found.len(), expected.len());
        found.iter().zip(&expected).for_each(|(found, expected)| compare("again", found, expected));
        Ok(())
    }

    /// A merged model has the logits of the adapter on its base.
    fn check_merged(&self, device: &Device) -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let adapter = self.dir.join("adapter");
        let (_, weights) = peft::load(&adapter, &self.config, Some(&self.weights))?;
        let mut config = self.config.clone();
        let merge = Merge::new(&self.weights, Base::Original, DType::F32);
        let merge = match merge.with_adapter(&mut config, weights) {
            Ok(merge) => merge,
            // Nothing else cannot be merged.
            Err(error) if error.to_string().contains("lora_bias") => return Ok(()),
            Err(error) => return Err(error),
        };
        let model = fixture("models").join(&self.log.model);
        let companions = Companions::read(&model)?;
        write_merged(dir.path(), &config, &companions, &merge)?;
        let (merged, _) = open(device, dir.path(), options(None, false, MAX_POSITIONS))?;
        let expected = self.logits(&self.with_adapter(device, &adapter)?)?;
        for (found, expected) in self.logits(&merged)?.iter().zip(&expected) {
            compare("merged", found, expected);
        }
        Ok(())
    }
}

type Values = BTreeMap<String, Vec<f32>>;

fn values(parameters: &[Parameter]) -> Result<Values> {
    parameters.iter().map(|p| Ok((p.name.clone(), p.master.read_f32()?))).collect()
}

fn norm(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    squares.sum::<f64>().sqrt()
}

fn logits(model: &Model, batch: &Batch) -> Result<Vec<f32>> {
    logits_under(model, batch, AdapterChoice::default())
}

fn logits_under(model: &Model, batch: &Batch, adapter: AdapterChoice) -> Result<Vec<f32>> {
    let device = model.embed_tokens.device();
    let attention = Implementation::Flash;
    let context = Context::of_sequences(device, &batch.positions, &batch.bounds, attention, None)?;
    let context = Rc::new(Context { adapter, ..context });
    let tape = Tape::inference();
    let hidden = model.hidden(&tape, &batch.input_ids, &context)?;
    model.logits(&tape, &hidden, &context)?.read_f32()
}

fn check(device: &Device, name: &str) -> Result<()> {
    let form = Form::open(name)?;
    form.check_logits(device)?;
    let (trainer, config) = form.check_steps(device)?;
    form.check_written(device, &trainer, &config)?;
    match form.log.load_in_4bit {
        true => Ok(()),
        false => form.check_merged(device),
    }
}

#[test]
fn every_form_is_read_trained_written_and_merged() -> Result<()> {
    let forms = families("adapters");
    assert!(forms.len() >= 18, "{forms:?}");
    let mut failed = Vec::new();
    for form in &forms {
        let outcome = std::panic::catch_unwind(|| check(&cpu(), form));
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed.push(format!("{form}: {error}")),
            Err(_) => failed.push(format!("{form}: panicked")),
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    Ok(())
}

/// Weights that add up to one give the adapter, those that add up to none the base.
#[test]
fn adapters_are_added_up_by_their_weights() -> Result<()> {
    let device = cpu();
    for name in ["patterns", "tables", "bias", "olora"] {
        let form = Form::open(name)?;
        let dir = form.dir.join("adapter");
        let mixed = |weights: [f64; 2]| -> Result<[Vec<f32>; 2]> {
            let parts = weights.map(|weight| (dir.as_path(), weight));
            let (peft, adapter) = load_mixed(&parts, &form.config, Some(&form.weights))?;
            let mut model = form.base(&device)?;
            attach(&mut model, &PeftAdapter::of(peft, &adapter, &device, DType::F32)?)?;
            form.logits(&model)
        };
        let alone = form.logits(&form.with_adapter(&device, &dir)?)?;
        let base = form.logits(&form.base(&device)?)?;
        for (found, expected) in mixed([0.3, 0.7])?.iter().zip(&alone) {
            compare("the sum", found, expected);
        }
        for (found, expected) in mixed([0.5, -0.5])?.iter().zip(&base) {
            compare("nothing", found, expected);
        }
    }
    let form = Form::open("dora")?;
    let dir = form.dir.join("adapter");
    let parts = [(dir.as_path(), 0.5)];
    let refused = load_mixed(&parts, &form.config, Some(&form.weights)).unwrap_err().to_string();
    assert!(refused.contains("use_dora"), "{refused}");
    Ok(())
}

/// B A, scaled, [out, in].
fn products(adapter: &AdapterWeights) -> BTreeMap<String, Vec<f32>> {
    let product = |lora: &LoraWeights| {
        let (r, inputs) = (lora.module.r, lora.module.inputs);
        let entry = |n: usize, k: usize| -> f32 {
            let terms = (0..r).map(|j| lora.lora_b[n * r + j] * lora.lora_a[j * inputs + k]);
            lora.module.scale as f32 * terms.sum::<f32>()
        };
        let rows = 0..lora.module.outputs;
        let row = |n: usize| (0..inputs).map(|k| entry(n, k)).collect::<Vec<f32>>();
        rows.flat_map(row).collect()
    };
    adapter.loras.iter().map(|lora| (lora.module.path.clone(), product(lora))).collect()
}

/// PiSSA and OLoRA begin with the part of the weights that PEFT takes, and the model as it was.
#[test]
fn what_is_taken_from_the_base_is_what_peft_takes() -> Result<()> {
    for name in ["pissa", "olora"] {
        let form = Form::open(name)?;
        let dir = form.dir.join("adapter");
        let (config, of_peft) = peft::load(&dir, &form.config, Some(&form.weights))?;
        let mut model = form.base(&cpu())?;
        let before = form.logits(&model)?;
        let parameters = trainable::attach_fresh(&mut model, &config, 1)?;
        for (found, expected) in form.logits(&model)?.iter().zip(&before) {
            compare("the start", found, expected);
        }
        let fresh = trainable::weights(&config, &model, &parameters)?;
        let expected = products(&of_peft);
        for (path, product) in products(&fresh) {
            compare(&path, &product, &expected[&path]);
        }
    }
    Ok(())
}
