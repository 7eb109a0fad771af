//! LoRA adapters in PEFT's form: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Hu et al., 2021, <https://arxiv.org/abs/2106.09685>. A linear layer with weight W gets
//! `W x + scale * B (A x)`, with A [r, in] and B [out, r].

use std::collections::BTreeSet;
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};

use super::card::Card;
use super::targets::{LoraModule, TargetModules};
use crate::model::resolve::is_hub_id;
use crate::model::save::{TensorPlan, save_tensors};
use crate::model::{ModelConfig, Object, Weights, parse_object, shorten};
use crate::{Error, Result, files};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// What adapter_config.json says.
#[derive(Clone, Debug, PartialEq)]
pub struct PeftConfig {
    /// Rank.
    pub r: usize,
    /// What the update is multiplied by, before the division by the rank.
    pub lora_alpha: f64,
    /// Dropout on the input of A, while training.
    pub lora_dropout: f64,
    /// Whether the division is by the root of the rank (Kalajdzievski, 2023).
    pub use_rslora: bool,
    /// Which linear layers have an adapter.
    pub target_modules: TargetModules,
    /// The model that the adapter is for: `Org/Name` or a directory.
    pub base_model_name_or_path: Option<String>,
    /// The revision of that model.
    pub revision: Option<String>,
}

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

impl PeftConfig {
    /// Reads adapter_config.json of an adapter's directory.
    ///
    /// Errors: no such file, not JSON, or anything [`PeftConfig::from_json`] refuses.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Error::input(format!(
                "{}: {error}; an adapter is a directory in PEFT's form, with {CONFIG} and {WEIGHTS}",
                path.display()
            ))
        })?;
        Self::from_json(&text, &path.display().to_string())
    }

    /// The model that the adapter in `dir` is for, as [`crate::model::resolve()`] takes it: its revision
    /// is included.
    ///
    /// Errors: those of [`PeftConfig::open`]; an adapter that names no model.
    pub fn base_of(dir: &Path) -> Result<String> {
        let config = Self::open(dir)?;
        let Some(base) = config.base_model_name_or_path else {
            return Err(Error::input(format!(
                "{}: the adapter does not say which model it is for; give --model",
                dir.display()
            )));
        };
        let is_of_hub = is_hub_id(&base) && !base.contains('@') && !Path::new(&base).is_dir();
        Ok(match config.revision.filter(|_| is_of_hub) {
            Some(revision) => format!("{base}@{revision}"),
            None => base,
        })
    }

    /// Reads the text of an adapter_config.json; `place` is what messages call it.
    ///
    /// Errors: another kind of adapter, or a setting that is not supported, by name.
    pub fn from_json(text: &str, place: &str) -> Result<Self> {
        let map = parse_object(text, place)?;
        let object = Object::new(&map, place);
        refuse_unsupported(&object)?;
        let r = match object.count("r")? {
            Some(r) if r > 0 => r,
            _ => return Err(object.error("r", "(the rank) must be there and above 0")),
        };
        let lora_alpha = object.number("lora_alpha")?.unwrap_or(8.0);
        let lora_dropout = object.number("lora_dropout")?.unwrap_or(0.0);
        if !(0.0..1.0).contains(&lora_dropout) {
            return Err(object.error("lora_dropout", "must be from 0 to below 1"));
        }
        let target_modules = match object.get("target_modules") {
            Some(Value::String(name)) if name.eq_ignore_ascii_case("all-linear") => {
                TargetModules::AllLinear
            }
            Some(Value::String(pattern)) => {
                return Err(object.error(
                    "target_modules",
                    format_args!(
                        "{pattern:?} is a pattern, which is not supported; expected a list of \
                         names, or \"all-linear\""
                    ),
                ));
            }
            _ => match object.texts("target_modules")? {
                Some(names) if !names.is_empty() => {
                    TargetModules::Names(names.into_iter().map(String::from).collect())
                }
                _ => return Err(object.error("target_modules", "must name at least one module")),
            },
        };
        Ok(Self {
            r,
            lora_alpha,
            lora_dropout,
            use_rslora: object.flag("use_rslora")?.unwrap_or(false),
            target_modules,
            base_model_name_or_path: object.text("base_model_name_or_path")?.map(String::from),
            revision: object.text("revision")?.map(String::from),
        })
    }

    /// The text of adapter_config.json: keys sorted and indented as PEFT writes them, without keys
    /// that only new versions of PEFT know.
    pub fn to_json(&self) -> String {
        let targets = match &self.target_modules {
            TargetModules::AllLinear => json!("all-linear"),
            TargetModules::Names(names) => {
                let mut names = names.clone();
                names.sort_unstable();
                json!(names)
            }
        };
        // PEFT's alpha is a whole number wherever it is one.
        let alpha = match self.lora_alpha.fract() == 0.0 && self.lora_alpha.abs() < 1e9 {
            true => json!(self.lora_alpha as i64),
            false => json!(self.lora_alpha),
        };
        let config = json!({
            "alpha_pattern": {},
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model_name_or_path,
            "bias": "none",
            "exclude_modules": null,
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": null,
            "lora_alpha": alpha,
            "lora_bias": false,
            "lora_dropout": self.lora_dropout,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": self.r,
            "rank_pattern": {},
            "revision": self.revision,
            "target_modules": targets,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": self.use_rslora,
        });
        format!("{config:#}")
    }

    /// What `B (A x)` is multiplied by: alpha / r, or alpha / sqrt(r) for rsLoRA.
    pub fn scale(&self) -> f64 {
        let r = self.r as f64;
        self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }
    }

    /// The linear layers of `model` that have an adapter, in the order of
    /// [`Spec::tensors`](crate::model::Spec::tensors).
    ///
    /// Errors: a name that is no linear layer of the model.
    pub fn modules(&self, model: &ModelConfig) -> Result<Vec<LoraModule>> {
        self.target_modules.modules(&model.spec)
    }
}

/// Reads an adapter's config and weights, checked against the model it is to be used with.
///
/// Errors: those of [`PeftConfig::open`]; a tensor that is missing, has another shape than the
/// model's layer or the rank asks for, is not finite, or that this crate has no place for.
pub fn load(dir: &Path, model: &ModelConfig) -> Result<(PeftConfig, Vec<LoraWeights>)> {
    let config = PeftConfig::open(dir)?;
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
        let lora_a = factor(a, [config.r, module.inputs])?;
        let lora_b = factor(b, [module.outputs, config.r])?;
        adapter.push(LoraWeights { module, lora_a, lora_b });
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

/// Writes an adapter to `dir` (which must exist), loadable by PEFT as it is: adapter_config.json,
/// adapter_model.safetensors in f32, and a model card that ends with `details`, in Markdown.
///
/// Errors: a file that cannot be written, factors that do not fit the rank.
pub fn save(dir: &Path, config: &PeftConfig, adapter: &[LoraWeights], details: &str) -> Result<()> {
    let mut plans = Vec::with_capacity(2 * adapter.len());
    let mut values = std::collections::HashMap::new();
    for weights in adapter {
        let module = &weights.module;
        let [a, b] = names(module);
        for (name, shape, factor) in [
            (a, [config.r, module.inputs], &weights.lora_a),
            (b, [module.outputs, config.r], &weights.lora_b),
        ] {
            plans.push(TensorPlan { name: name.clone(), dtype: Dtype::F32, shape: shape.to_vec() });
            values.insert(name, factor);
        }
    }
    save_tensors(&dir.join(WEIGHTS), &plans, |plan| {
        let factor = values.get(&plan.name).copied();
        Ok(factor.into_iter().flatten().flat_map(|x| x.to_le_bytes()).collect())
    })?;
    let card = Card {
        base: config.base_model_name_or_path.as_deref(),
        r: config.r,
        lora_alpha: config.lora_alpha,
        targets: match &config.target_modules {
            TargetModules::AllLinear => "all linear layers".into(),
            TargetModules::Names(names) => names.join(", "),
        },
        details,
    };
    files::write(&dir.join("README.md"), card.text())?;
    files::write(&dir.join(CONFIG), config.to_json())
}

/// The names of A and B in the file.
fn names(module: &LoraModule) -> [String; 2] {
    ["lora_A", "lora_B"].map(|factor| format!("{PREFIX}{}.{factor}.weight", module.path))
}

/// Refuses what would change results and is not implemented.
#[expect(clippy::too_many_lines, reason = "a check for each key of the format")]
fn refuse_unsupported(object: &Object) -> Result<()> {
    match object.text("peft_type")? {
        Some("LORA") => {}
        Some(other) => {
            return Err(object.error(
                "peft_type",
                format_args!("{other:?} is not supported; supported is LORA"),
            ));
        }
        None => return Err(object.error("peft_type", "is missing; expected \"LORA\"")),
    }
    if let Some(task) = object.text("task_type")?
        && task != "CAUSAL_LM"
    {
        return Err(object.error(
            "task_type",
            format_args!("{task:?} is not supported; supported is CAUSAL_LM"),
        ));
    }
    if let Some(bias) = object.text("bias")?
        && bias != "none"
    {
        return Err(
            object.error("bias", format_args!("{bias:?} is not supported; supported is \"none\""))
        );
    }
    // The other ways to begin change the base model's weights as well.
    if let Some(Value::String(init)) = object.get("init_lora_weights")
        && !["gaussian", "eva", "orthogonal"].contains(&init.as_str())
    {
        return Err(object.error(
            "init_lora_weights",
            format_args!(
                "{init:?} is not supported: it changes the base model; convert the adapter to a \
                 plain one with PEFT (path_initial_model_for_weight_conversion)"
            ),
        ));
    }
    let read = [
        "peft_type",
        "task_type",
        "bias",
        "init_lora_weights",
        "r",
        "lora_alpha",
        "lora_dropout",
        "use_rslora",
        "target_modules",
        "base_model_name_or_path",
        "revision",
    ];
    // What does not matter once an adapter is trained.
    let harmless = [
        "auto_mapping",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "inference_mode",
        "layers_pattern",
        "loftq_config",
        "lora_ga_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "runtime_config",
    ];
    for key in object.keys() {
        let value = object.get(key).unwrap_or(&Value::Null);
        let off = match value {
            Value::Bool(flag) => !flag,
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if !off && !read.contains(&key) && !harmless.contains(&key) {
            return Err(object.error(
                key,
                format_args!("= {} is not supported by this trainer", shorten(value)),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

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
            use_rslora: false,
            target_modules: targets,
            base_model_name_or_path: Some("Org/Name".into()),
            revision: Some("abc".into()),
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
    fn the_config_is_sorted_and_indented_as_peft_does() {
        let text = example(two()).0.to_json();
        let expected = "{\n  \"alpha_pattern\": {},\n  \"auto_mapping\": null,\n  \
                        \"base_model_name_or_path\": \"Org/Name\",\n  \"bias\": \"none\",\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("\"lora_alpha\": 4,\n") && text.contains("\"lora_dropout\": 0.05,"));
        assert!(text.contains("\"target_modules\": [\n    \"down_proj\",\n    \"k_proj\"\n  ],"));
    }

    #[test]
    fn targets_match_by_the_end_of_a_path() {
        let modules = |targets: &[&str]| {
            let names = targets.iter().map(|name| name.to_string()).collect();
            let config =
                PeftConfig { target_modules: TargetModules::Names(names), ..example(two()).0 };
            config.modules(&model()).map(|modules| modules.into_iter().map(|m| m.path).collect())
        };
        let found: Vec<String> = modules(&["layers.1.self_attn.v_proj", "mlp.up_proj"]).unwrap();
        let expected = [
            "model.layers.0.mlp.up_proj",
            "model.layers.1.self_attn.v_proj",
            "model.layers.1.mlp.up_proj",
        ];
        assert_eq!(found, expected);
        for name in ["proj", "lm_head", "embed_tokens", "c_attn"] {
            assert!(modules(&["q_proj", name]).unwrap_err().to_string().contains(name));
        }
        assert_eq!(example(TargetModules::AllLinear).1.len(), 14);
    }

    #[test]
    fn the_scale_is_alpha_over_rank_or_its_root() {
        let (mut config, _) = example(two());
        assert_eq!(config.scale(), 2.0);
        config.use_rslora = true;
        assert_eq!(config.scale(), 4.0 / 2f64.sqrt());
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let text = example(two()).0.to_json();
        for (from, to, expected) in [
            ("\"LORA\"", "\"LOHA\"", "`peft_type` \"LOHA\""),
            ("\"use_dora\": false", "\"use_dora\": true", "`use_dora` = true"),
            ("\"bias\": \"none\"", "\"bias\": \"all\"", "`bias` \"all\""),
            ("\"rank_pattern\": {}", "\"rank_pattern\": {\"q\": 2}", "`rank_pattern`"),
            ("\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]", "[\"lm_head\"]"),
            (
                "\"layers_to_transform\": null",
                "\"layers_to_transform\": 0",
                "`layers_to_transform`",
            ),
            ("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\"", "\"pissa\""),
            ("CAUSAL_LM", "SEQ_CLS", "`task_type` \"SEQ_CLS\""),
            ("\"r\": 2", "\"r\": 0", "`r`"),
            ("\"r\": 2", "\"r\": 2, \"new_key\": 1", "`new_key` = 1"),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text, "{from}");
            let message = PeftConfig::from_json(&changed, "a.json").unwrap_err().to_string();
            assert!(message.starts_with("a.json: ") && message.contains(expected), "{message}");
        }
        let map: Value = serde_json::from_str(&text).unwrap();
        for (value, ok) in [("all-linear", true), (".*q_proj", false)] {
            let mut map = map.clone();
            map["target_modules"] = value.into();
            assert_eq!(PeftConfig::from_json(&map.to_string(), "a").is_ok(), ok, "{value}");
        }
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
        save(dir.path(), &config, &adapter, "").unwrap();
        assert!(message().contains("k_proj.lora_B.weight holds inf"), "{}", message());
        adapter.remove(0);
        save(dir.path(), &config, &adapter, "").unwrap();
        assert!(message().contains("k_proj.lora_A.weight is missing"), "{}", message());
    }
}
