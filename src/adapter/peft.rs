//! LoRA adapters in PEFT's form: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Hu et al., 2021, <https://arxiv.org/abs/2106.09685>. A linear layer with weight W gets
//! `W x + scale * B (A x)`, with A [r, in] and B [out, r].

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use safetensors::Dtype;

use super::card::Card;
use super::config::CONFIG;
pub use super::config::PeftConfig;
use super::init::InitLoraWeights;
use super::start::{plain, start_of};
use super::targets::{LoraModule, ModuleKind};
pub use super::weights::{AdapterWeights, LoraWeights};
use super::weights::{Beside, ROWS, RowWeights, SavedWeights, parts};
use crate::model::float::from_safetensors;
use crate::model::save::{TensorPlan, save_tensors};
use crate::model::spec::{EMBEDDING, HEAD_MODULE};
use crate::model::{ModelConfig, Weights};
use crate::{Error, Result, files};

const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
/// A classifier's head in the file.
const SCORE: &str = "base_model.model.score.weight";

/// Reads an adapter's config and weights, checked against the model it is to be used with. `base` are
/// the model's weights: PEFT writes a copy of tables that have an update, which counts where it is
/// another one.
///
/// Errors: those of [`PeftConfig::open`]; a tensor that is missing, has another shape than the
/// model's layer or the rank asks for, is not finite, or that this crate has no place for.
pub fn load(
    dir: &Path,
    model: &ModelConfig,
    base: Option<&Weights>,
) -> Result<(PeftConfig, AdapterWeights)> {
    let config = PeftConfig::open(dir)?;
    refuse_scores(dir, &config, model)?;
    let path = dir.join(WEIGHTS);
    if !path.exists() && dir.join("adapter_model.bin").exists() {
        return Err(Error::input(format!(
            "{}: the adapter is in adapter_model.bin, a Python pickle, which can run any code and \
             is not read; load it with PEFT and save it again",
            dir.display()
        )));
    }
    let weights = Weights::open_file(&path)?;
    let of_config = |error| match error {
        Error::Input(why) => Error::input(format!("{}: {why}", dir.join(CONFIG).display())),
        other => other,
    };
    let mut reader = Reader { path: &path, unused: weights.names().collect(), weights: &weights };
    let mut found = AdapterWeights::default();
    for module in config.modules(model).map_err(of_config)? {
        found.replaced.extend(reader.table(&module.path, "base_layer", model, base)?);
        let mut lora = reader.lora(&config, module)?;
        let module = &lora.module;
        if config.init_lora_weights.takes_from_base() && module.kind != ModuleKind::Embedding {
            lora.start = Some(start(dir, config.init_lora_weights, module, base)?);
        }
        found.loras.push(lora);
    }
    for tensor in config.saved_tensors(&model.spec).map_err(of_config)? {
        let values = reader.take(&tensor.name, &tensor.shape)?;
        found.saved.push(SavedWeights { tensor, values });
    }
    for (module, ids) in config.token_rows(&model.spec).map_err(of_config)? {
        found.replaced.extend(reader.table(&module, "token_adapter.base_layer", model, base)?);
        let shape = [ids.len(), model.spec.hidden_size];
        let values = reader.take(&format!("{module}.{ROWS}"), &shape)?;
        found.rows.push(RowWeights { module, ids, values });
    }
    found.score = score(dir, &config, model.spec.hidden_size)?;
    if found.score.is_some() {
        reader.unused.remove(SCORE);
    }
    if let Some(name) = reader.unused.first() {
        return Err(Error::input(format!(
            "{}: tensor {name} is none that the settings in {CONFIG} ask for",
            path.display()
        )));
    }
    // PEFT copies a table of its own into the one that both share.
    if let [one] = &found.replaced[..]
        && model.spec.tie_word_embeddings
    {
        let embedding = model.spec.embedding();
        let other = if one.tensor == embedding { model.spec.own_head() } else { embedding };
        found.replaced.push(SavedWeights { tensor: other, values: one.values.clone() });
    }
    Ok((config, found))
}

/// What PEFT takes off the weight of a module when it loads an adapter that was saved as PiSSA or OLoRA had
/// it: the same as when it began.
fn start(
    dir: &Path,
    init: InitLoraWeights,
    module: &LoraModule,
    base: Option<&Weights>,
) -> Result<[Vec<f32>; 2]> {
    if let InitLoraWeights::PissaNiter(_) = init {
        return Err(Error::input(format!(
            "{}: init_lora_weights {}: what the base goes without was drawn at random, so the \
             adapter alone does not say it; convert the adapter with PEFT \
             (path_initial_model_for_weight_conversion)",
            dir.join(CONFIG).display(),
            init.text()
        )));
    }
    let weight = |base: &Weights| {
        let own = base.get(&format!("{}.weight", module.path));
        own.or_else(|| base.get(EMBEDDING).filter(|_| module.kind == ModuleKind::Head))?.to_f32()
    };
    let Some(weight) = base.and_then(weight) else {
        return Err(Error::input(format!(
            "{}: init_lora_weights {} takes from the weights of the base model, and {} is not there \
             in floats",
            dir.join(CONFIG).display(),
            init.text(),
            module.path
        )));
    };
    start_of(init, module, &weight, 0)
}

/// Takes tensors of an adapter's file.
struct Reader<'a> {
    path: &'a Path,
    weights: &'a Weights,
    unused: BTreeSet<&'a str>,
}

impl Reader<'_> {
    /// The tensor `name` of the model or beside it.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let name = format!("{PREFIX}{name}");
        let place = || format!("{}: tensor {name}", self.path.display());
        let Some(tensor) = self.weights.get(&name) else {
            return Err(Error::input(format!("{} is missing (expected shape {shape:?})", place())));
        };
        self.unused.remove(name.as_str());
        if tensor.shape != shape {
            return Err(Error::input(format!(
                "{} has shape {:?}, expected {shape:?}; is the adapter for another model?",
                place(),
                tensor.shape
            )));
        }
        let Some(values) = tensor.to_f32() else {
            return Err(Error::input(format!(
                "{} is stored as {}; expected F32, BF16 or F16",
                place(),
                tensor.dtype
            )));
        };
        match values.iter().find(|x| !x.is_finite()) {
            Some(bad) => Err(Error::input(format!("{} holds {bad}", place()))),
            None => Ok(values),
        }
    }

    /// The update of a module.
    fn lora(&mut self, config: &PeftConfig, module: LoraModule) -> Result<LoraWeights> {
        let has = Beside { bias: config.lora_bias, magnitude: config.use_dora };
        let mut values = Vec::new();
        for (part, shape) in parts(&module, has) {
            values.push(self.take(&format!("{}.{part}", module.path), &shape)?);
        }
        let mut values = values.into_iter();
        let (Some(lora_a), Some(lora_b)) = (values.next(), values.next()) else {
            return Err(Error::internal("adapter", format!("{} has no factors", module.path)));
        };
        let bias = if has.bias { values.next() } else { None };
        let magnitude = if has.magnitude { values.next() } else { None };
        Ok(LoraWeights { bias, magnitude, ..LoraWeights::new(module, lora_a, lora_b) })
    }

    /// The table that PEFT has written beside an update of the module at `path`, where there is one and
    /// it is another than the base's.
    fn table(
        &mut self,
        path: &str,
        part: &str,
        model: &ModelConfig,
        base: Option<&Weights>,
    ) -> Result<Option<SavedWeights>> {
        let name = format!("{path}.{part}.weight");
        let Some(stored) = self.weights.get(&format!("{PREFIX}{name}")) else { return Ok(None) };
        let tensor = match path {
            HEAD_MODULE => model.spec.own_head(),
            _ => model.spec.embedding(),
        };
        let dtype = from_safetensors(stored.dtype);
        let values = self.take(&name, &tensor.shape)?;
        let own = base.and_then(|base| {
            base.get(&tensor.name)
                .or_else(|| base.get(EMBEDDING))
                .filter(|own| own.shape == tensor.shape)
        });
        let own = own.and_then(|own| own.to_f32());
        let is_same = own.is_some_and(|own| {
            let round = |x: f32| dtype.map_or(x, |dtype| dtype.round(x));
            own.iter().zip(&values).all(|(&own, &value)| own == value || round(own) == value)
        });
        Ok((!is_same).then_some(SavedWeights { tensor, values }))
    }
}

/// Refuses the adapter of a reward model on a model of text.
fn refuse_scores(dir: &Path, config: &PeftConfig, model: &ModelConfig) -> Result<()> {
    match config.is_classifier && !model.spec.is_classifier {
        false => Ok(()),
        true => Err(Error::input(format!(
            "{}: the adapter is a reward model's (task_type SEQ_CLS), which gives scores and no text",
            dir.display()
        ))),
    }
}

/// The head of a classifier in the adapter of one, f32 [1, `width`]; `None` in another adapter.
///
/// Errors: a file that cannot be read, a head that is missing, of another width or not finite.
pub fn score(dir: &Path, config: &PeftConfig, width: usize) -> Result<Option<Vec<f32>>> {
    if !config.is_classifier {
        return Ok(None);
    }
    let path = dir.join(WEIGHTS);
    let weights = Weights::open_file(&path)?;
    let wrong = |what: String| Error::input(format!("{}: tensor {SCORE} {what}", path.display()));
    let tensor = weights.get(SCORE).ok_or_else(|| wrong("is missing".into()))?;
    if tensor.shape != [1, width] {
        return Err(wrong(format!("has shape {:?}, expected [1, {width}]", tensor.shape)));
    }
    let values = tensor.to_f32().ok_or_else(|| wrong("is not stored as floats".into()))?;
    let finite = values.iter().all(|value| value.is_finite());
    finite.then_some(Some(values)).ok_or_else(|| wrong("is not finite".into()))
}

/// Writes an adapter to `dir` (which must exist), loadable by PEFT as it is: adapter_config.json,
/// adapter_model.safetensors in f32, and a model card that ends with `details`, in Markdown.
///
/// Errors: a file that cannot be written, tensors that do not fit the config.
pub fn save(
    dir: &Path,
    config: &PeftConfig,
    adapter: &AdapterWeights,
    details: &str,
) -> Result<()> {
    // What takes from its base is saved as a plain adapter on all of it.
    let takes = config.init_lora_weights.takes_from_base();
    let of_whole_base = takes.then(|| plain(config, &adapter.loras));
    let (config, loras) = match &of_whole_base {
        Some((config, loras)) => (config, loras),
        None => (config, &adapter.loras),
    };
    let mut plans = Vec::new();
    let mut values: HashMap<String, &[f32]> = HashMap::new();
    let mut add = |name: String, shape: Vec<usize>, elements| {
        let name = format!("{PREFIX}{name}");
        plans.push(TensorPlan { name: name.clone(), dtype: Dtype::F32, shape });
        values.insert(name, elements);
    };
    for weights in loras {
        for (part, shape, elements) in weights.tensors() {
            add(format!("{}.{part}", weights.module.path), shape, elements);
        }
    }
    for SavedWeights { tensor, values } in &adapter.saved {
        add(tensor.name.clone(), tensor.shape.clone(), values);
    }
    for RowWeights { module, ids, values } in &adapter.rows {
        let shape = vec![ids.len(), values.len() / ids.len().max(1)];
        add(format!("{module}.{ROWS}"), shape, values);
    }
    if let Some(score) = &adapter.score {
        add("score.weight".to_owned(), vec![1, score.len()], score);
    }
    save_tensors(&dir.join(WEIGHTS), &plans, |plan| {
        let elements = values.get(&plan.name).copied();
        Ok(elements.into_iter().flatten().flat_map(|x| x.to_le_bytes()).collect())
    })?;
    let card = Card {
        base: config.base_model_name_or_path.as_deref(),
        r: config.r,
        lora_alpha: config.lora_alpha,
        targets: config.target_modules.describe(),
        details,
        is_classifier: config.is_classifier,
    };
    files::write(&dir.join("README.md"), card.text())?;
    files::write(&dir.join(CONFIG), config.to_json())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::adapter::TargetModules;

    fn model() -> ModelConfig {
        let text = r#"{"model_type": "llama", "vocab_size": 10, "hidden_size": 4,
            "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1}"#;
        ModelConfig::from_json(text, "config.json").unwrap()
    }

    fn example(targets: TargetModules) -> (PeftConfig, AdapterWeights) {
        let config = PeftConfig {
            r: 2,
            lora_alpha: 4.0,
            lora_dropout: 0.05,
            target_modules: targets,
            base_model_name_or_path: Some("Org/Name".into()),
            revision: Some("abc".into()),
            ..PeftConfig::default()
        };
        let weights = |module: LoraModule| {
            let lora_a = (0..2 * module.inputs).map(|i| i as f32).collect();
            let lora_b = (0..2 * module.outputs).map(|i| -(i as f32)).collect();
            LoraWeights::new(module, lora_a, lora_b)
        };
        let loras = config.modules(&model()).unwrap().into_iter().map(weights).collect();
        let adapter = AdapterWeights { loras, ..AdapterWeights::default() };
        (config, adapter)
    }

    fn two() -> TargetModules {
        TargetModules::Names(vec!["down_proj".into(), "k_proj".into()])
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let (config, adapter) = example(two());
        save(dir.path(), &config, &adapter, "").unwrap();
        assert_eq!(load(dir.path(), &model(), None).unwrap(), (config, adapter));
        let weights = Weights::open_file(&dir.path().join(WEIGHTS)).unwrap();
        let name = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight";
        assert_eq!(weights.get(name).unwrap().shape, [2, 6]);
        assert!(fs::read_to_string(dir.path().join("README.md")).unwrap().contains("peft"));
    }

    #[test]
    fn weights_must_fit_the_model_and_the_config() {
        let dir = tempfile::tempdir().unwrap();
        let message = || load(dir.path(), &model(), None).unwrap_err().to_string();
        assert!(message().contains("adapter_config.json"));
        let (config, mut adapter) = example(two());
        save(dir.path(), &PeftConfig { r: 2, ..config.clone() }, &adapter, "").unwrap();
        fs::write(dir.path().join(CONFIG), PeftConfig { r: 4, ..config.clone() }.to_json())
            .unwrap();
        assert!(message().contains("has shape [2, 4], expected [4, 4]"), "{}", message());
        let one = TargetModules::Names(vec!["k_proj".into()]);
        let narrower = PeftConfig { target_modules: one, ..config.clone() };
        fs::write(dir.path().join(CONFIG), narrower.to_json()).unwrap();
        assert!(
            message().contains("down_proj.lora_A.weight is none that the settings"),
            "{}",
            message()
        );
        adapter.loras[0].lora_b[1] = f32::INFINITY;
        let refused = save(dir.path(), &config, &adapter, "").unwrap_err().to_string();
        assert!(refused.contains("k_proj.lora_B.weight would hold inf as float32"), "{refused}");
        adapter.loras[0].lora_b[1] = 12_345.0;
        save(dir.path(), &config, &adapter, "").unwrap();
        let mut bytes = fs::read(dir.path().join(WEIGHTS)).unwrap();
        let at = bytes.windows(4).position(|bytes| bytes == 12_345f32.to_le_bytes()).unwrap();
        bytes[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        fs::write(dir.path().join(WEIGHTS), bytes).unwrap();
        assert!(message().contains("k_proj.lora_B.weight holds inf"), "{}", message());
        adapter.loras.remove(0);
        save(dir.path(), &config, &adapter, "").unwrap();
        assert!(message().contains("k_proj.lora_A.weight is missing"), "{}", message());
    }
}
