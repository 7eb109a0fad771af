//! LoRA adapters in PEFT's form: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Hu et al., 2021, <https://arxiv.org/abs/2106.09685>. A linear layer with weight W gets
//! `W x + scale * B (A x)`, with A [r, in] and B [out, r].

use std::collections::BTreeSet;
use std::path::Path;

use safetensors::Dtype;

use super::card::Card;
use super::config::CONFIG;
pub use super::config::PeftConfig;
use super::targets::LoraModule;
use crate::model::save::{TensorPlan, save_tensors};
use crate::model::{ModelConfig, Weights};
use crate::{Error, Result, files};

const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
/// A classifier's head in the file.
const SCORE: &str = "base_model.model.score.weight";

/// The two factors of one linear layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraWeights {
    /// The layer.
    pub module: LoraModule,
    /// A, [r, in].
    pub lora_a: Vec<f32>,
    /// B, [out, r].
    pub lora_b: Vec<f32>,
}

/// Reads an adapter's config and weights, checked against the model it is to be used with.
///
/// Errors: those of [`PeftConfig::open`]; a tensor that is missing, has another shape than the
/// model's layer or the rank asks for, is not finite, or that this crate has no place for.
pub fn load(dir: &Path, model: &ModelConfig) -> Result<(PeftConfig, Vec<LoraWeights>)> {
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
    let mut unused: BTreeSet<&str> = weights.names().collect();
    let mut factor = |name: String, shape: [usize; 2]| -> Result<Vec<f32>> {
        let place = || format!("{}: tensor {name}", path.display());
        let Some(tensor) = weights.get(&name) else {
            return Err(Error::input(format!("{} is missing (expected shape {shape:?})", place())));
        };
        unused.remove(name.as_str());
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
    };
    let mut adapter = Vec::new();
    let modules = config.modules(model).map_err(|error| match error {
        Error::Input(why) => Error::input(format!("{}: {why}", dir.join(CONFIG).display())),
        other => other,
    })?;
    for module in modules {
        let [a, b] = names(&module);
        let lora_a = factor(a, [module.r, module.inputs])?;
        let lora_b = factor(b, [module.outputs, module.r])?;
        adapter.push(LoraWeights { module, lora_a, lora_b });
    }
    if config.is_classifier {
        unused.remove(SCORE);
    }
    if let Some(name) = unused.first() {
        return Err(Error::input(format!(
            "{}: tensor {name} is not a LoRA factor of a layer in target_modules; DoRA, embedding \
             and bias adapters, and saved modules, are not supported",
            path.display()
        )));
    }
    Ok((config, adapter))
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
/// Errors: a file that cannot be written, factors that do not fit the rank.
pub fn save(dir: &Path, config: &PeftConfig, adapter: &[LoraWeights], details: &str) -> Result<()> {
    save_with_score(dir, config, adapter, None, details)
}

/// [`save`] with a classifier's head, [1, C].
///
/// Errors: as [`save`].
pub fn save_with_score(
    dir: &Path,
    config: &PeftConfig,
    adapter: &[LoraWeights],
    score: Option<&Vec<f32>>,
    details: &str,
) -> Result<()> {
    let mut plans = Vec::with_capacity(2 * adapter.len());
    let mut values = std::collections::HashMap::new();
    for weights in adapter {
        let module = &weights.module;
        let [a, b] = names(module);
        for (name, shape, factor) in [
            (a, [module.r, module.inputs], &weights.lora_a),
            (b, [module.outputs, module.r], &weights.lora_b),
        ] {
            plans.push(TensorPlan { name: name.clone(), dtype: Dtype::F32, shape: shape.to_vec() });
            values.insert(name, factor);
        }
    }
    if let Some(score) = score {
        let shape = vec![1, score.len()];
        plans.push(TensorPlan { name: SCORE.to_owned(), dtype: Dtype::F32, shape });
        values.insert(SCORE.to_owned(), score);
    }
    save_tensors(&dir.join(WEIGHTS), &plans, |plan| {
        let factor = values.get(&plan.name).copied();
        Ok(factor.into_iter().flatten().flat_map(|x| x.to_le_bytes()).collect())
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

/// The names of A and B in the file.
fn names(module: &LoraModule) -> [String; 2] {
    ["lora_A", "lora_B"].map(|factor| format!("{PREFIX}{}.{factor}.weight", module.path))
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

    fn example(targets: TargetModules) -> (PeftConfig, Vec<LoraWeights>) {
        let config = PeftConfig {
            r: 2,
            lora_alpha: 4.0,
            lora_dropout: 0.05,
            target_modules: targets,
            base_model_name_or_path: Some("Org/Name".into()),
            revision: Some("abc".into()),
            ..PeftConfig::default()
        };
        let weights = |module: LoraModule| LoraWeights {
            lora_a: (0..2 * module.inputs).map(|i| i as f32).collect(),
            lora_b: (0..2 * module.outputs).map(|i| -(i as f32)).collect(),
            module,
        };
        let adapter = config.modules(&model()).unwrap().into_iter().map(weights).collect();
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
        assert_eq!(load(dir.path(), &model()).unwrap(), (config, adapter));
        let weights = Weights::open_file(&dir.path().join(WEIGHTS)).unwrap();
        let name = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight";
        assert_eq!(weights.get(name).unwrap().shape, [2, 6]);
        assert!(fs::read_to_string(dir.path().join("README.md")).unwrap().contains("peft"));
    }

    #[test]
    fn weights_must_fit_the_model_and_the_config() {
        let dir = tempfile::tempdir().unwrap();
        let message = || load(dir.path(), &model()).unwrap_err().to_string();
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
            message().contains("down_proj.lora_A.weight is not a LoRA factor"),
            "{}",
            message()
        );
        adapter[0].lora_b[1] = f32::INFINITY;
        let refused = save(dir.path(), &config, &adapter, "").unwrap_err().to_string();
        assert!(refused.contains("k_proj.lora_B.weight would hold inf as float32"), "{refused}");
        adapter[0].lora_b[1] = 12_345.0;
        save(dir.path(), &config, &adapter, "").unwrap();
        let mut bytes = fs::read(dir.path().join(WEIGHTS)).unwrap();
        let at = bytes.windows(4).position(|bytes| bytes == 12_345f32.to_le_bytes()).unwrap();
        bytes[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        fs::write(dir.path().join(WEIGHTS), bytes).unwrap();
        assert!(message().contains("k_proj.lora_B.weight holds inf"), "{}", message());
        adapter.remove(0);
        save(dir.path(), &config, &adapter, "").unwrap();
        assert!(message().contains("k_proj.lora_A.weight is missing"), "{}", message());
    }
}
