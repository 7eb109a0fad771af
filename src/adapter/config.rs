//! What `adapter_config.json` says, in PEFT's words.

use std::path::Path;

use serde_json::{Value, json};

use super::init::InitLoraWeights;
use super::patterns::ModuleNames;
use super::targets::TargetModules;
use crate::files::enclosed;
use crate::model::resolve::is_hub_id;
use crate::model::{Object, parse_object, shorten};
use crate::{Error, Result};

pub(super) const CONFIG: &str = "adapter_config.json";
/// The table that PEFT takes tokens to be rows of where none is named.
pub(super) const EMBED_TOKENS: &str = "embed_tokens";

/// PEFT's task type of sequence classifiers, reward models among them.
const CLASSIFIER: &str = "SEQ_CLS";

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
    /// Which modules have an update.
    pub target_modules: TargetModules,
    /// Which of them have none after all.
    pub exclude_modules: Option<ModuleNames>,
    /// The layers that updates are in, by number; all where it is `None`.
    pub layers_to_transform: Option<Vec<usize>>,
    /// What the list of layers is called; any name where there are none.
    pub layers_pattern: Vec<String>,
    /// Other ranks, by patterns of modules; the first that matches counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// The same for `lora_alpha`.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Modules that are trained whole and saved as they are.
    pub modules_to_save: Vec<String>,
    /// Whether it is for a sequence classifier, whose head (`score`) is saved with it.
    pub is_classifier: bool,
    /// Tokens whose rows are trained, by the table's name; `embed_tokens` where only tokens are given.
    pub trainable_token_indices: Vec<(String, Vec<u32>)>,
    /// Whether B has a bias.
    pub lora_bias: bool,
    /// DoRA: whether the rows of weights have magnitudes.
    pub use_dora: bool,
    /// What the factors begin with.
    pub init_lora_weights: InitLoraWeights,
    /// The model that the adapter is for: `Org/Name` or a directory.
    pub base_model_name_or_path: Option<String>,
    /// The revision of that model.
    pub revision: Option<String>,
}

impl Default for PeftConfig {
    /// Rank 8 and alpha 8 on all linear layers: PEFT's defaults.
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            use_rslora: false,
            target_modules: TargetModules::AllLinear,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            modules_to_save: Vec::new(),
            is_classifier: false,
            trainable_token_indices: Vec::new(),
            lora_bias: false,
            use_dora: false,
            init_lora_weights: InitLoraWeights::Kaiming,
            base_model_name_or_path: None,
            revision: None,
        }
    }
}

impl PeftConfig {
    /// Reads adapter_config.json of an adapter's directory.
    ///
    /// Errors: no such file, not JSON, or anything [`PeftConfig::from_json`] refuses.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let text = enclosed::expected_text(dir, CONFIG, enclosed::SETTINGS);
        let text = text.map_err(|error| {
            Error::input(format!(
                "{}: {error}; an adapter is a directory in PEFT's form, with {CONFIG} and \
                 adapter_model.safetensors",
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
        let mut map = parse_object(text, place)?;
        // A single one stands for a list of it.
        for key in ["layers_to_transform", "layers_pattern"] {
            if let Some(one @ (Value::Number(_) | Value::String(_))) = map.get_mut(key) {
                *one = Value::Array(vec![one.take()]);
            }
        }
        let object = Object::new(&map, place);
        refuse_unsupported(&object)?;
        let r = match object.count("r")? {
            Some(r) if r > 0 => r,
            _ => return Err(object.error("r", "(the rank) must be there and above 0")),
        };
        let rank = |value: &Value| {
            value.as_u64().filter(|r| (1..=i32::MAX as u64).contains(r)).map(|r| r as usize)
        };
        let texts = |key| -> Result<Vec<String>> {
            Ok(object.texts(key)?.unwrap_or_default().into_iter().map(String::from).collect())
        };
        let lora_alpha = object.number("lora_alpha")?.unwrap_or(8.0);
        let lora_dropout = object.number("lora_dropout")?.unwrap_or(0.0);
        if !(0.0..1.0).contains(&lora_dropout) {
            return Err(object.error("lora_dropout", "must be from 0 to below 1"));
        }
        Ok(Self {
            r,
            lora_alpha,
            lora_dropout,
            use_rslora: object.flag("use_rslora")?.unwrap_or(false),
            target_modules: read_targets(&object)?,
            exclude_modules: read_names(&object, "exclude_modules")?,
            layers_to_transform: object
                .counts("layers_to_transform")?
                .filter(|layers| !layers.is_empty()),
            layers_pattern: texts("layers_pattern")?,
            rank_pattern: read_pattern(&object, "rank_pattern", "a rank above 0", rank)?,
            alpha_pattern: read_pattern(&object, "alpha_pattern", "a number", Value::as_f64)?,
            modules_to_save: match object.text("task_type")? {
                // PEFT adds what heads of classifiers are called, score among it.
                Some(CLASSIFIER) => vec!["score".to_owned()],
                _ => texts("modules_to_save")?,
            },
            is_classifier: object.text("task_type")? == Some(CLASSIFIER),
            trainable_token_indices: read_tokens(&object)?,
            lora_bias: object.flag("lora_bias")?.unwrap_or(false),
            use_dora: object.flag("use_dora")?.unwrap_or(false),
            init_lora_weights: read_init(&object)?,
            base_model_name_or_path: object.text("base_model_name_or_path")?.map(String::from),
            revision: object.text("revision")?.map(String::from),
        })
    }

    /// The text of adapter_config.json: keys sorted and indented as PEFT writes them, without keys
    /// that only new versions of PEFT know.
    pub fn to_json(&self) -> String {
        let targets = match &self.target_modules {
            TargetModules::AllLinear => json!("all-linear"),
            TargetModules::Names(names) => sorted(names),
            TargetModules::Pattern(pattern) => json!(pattern),
        };
        let excluded = self.exclude_modules.as_ref().map(|excluded| match excluded {
            ModuleNames::Names(names) => sorted(names),
            ModuleNames::Pattern(pattern) => json!(pattern),
        });
        let ranks = self.rank_pattern.iter().map(|(pattern, r)| (pattern.clone(), json!(r)));
        let alphas = self.alpha_pattern.iter();
        let alphas = alphas.map(|(pattern, alpha)| (pattern.clone(), whole_or_not(*alpha)));
        let init: Value =
            serde_json::from_str(&self.init_lora_weights.text()).unwrap_or(true.into());
        let tokens = match &self.trainable_token_indices[..] {
            [] => Value::Null,
            [(table, ids)] if table == EMBED_TOKENS => json!(ids),
            tables => {
                let tables = tables.iter().map(|(table, ids)| (table.clone(), json!(ids)));
                Value::Object(tables.collect())
            }
        };
        let or_null = |names: &[String]| match names.is_empty() {
            true => Value::Null,
            false => json!(names),
        };
        let mut config = json!({
            "alpha_pattern": Value::Object(alphas.collect()),
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model_name_or_path,
            "bias": "none",
            "exclude_modules": excluded,
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": init,
            "layers_pattern": or_null(&self.layers_pattern),
            "layers_to_transform": self.layers_to_transform,
            "lora_alpha": whole_or_not(self.lora_alpha),
            "lora_bias": self.lora_bias,
            "lora_dropout": self.lora_dropout,
            "modules_to_save": or_null(&self.modules_to_save),
            "peft_type": "LORA",
            "r": self.r,
            "rank_pattern": Value::Object(ranks.collect()),
            "revision": self.revision,
            "target_modules": targets,
            "task_type": if self.is_classifier { CLASSIFIER } else { "CAUSAL_LM" },
            "use_dora": self.use_dora,
            "use_rslora": self.use_rslora,
        });
        // Versions of PEFT that do not know this key need not see it where it says nothing.
        if !tokens.is_null() {
            config["trainable_token_indices"] = tokens;
        }
        format!("{config:#}")
    }
}

fn sorted(names: &[String]) -> Value {
    let mut names = names.to_vec();
    names.sort_unstable();
    json!(names)
}

/// PEFT's alpha is a whole number wherever it is one.
fn whole_or_not(alpha: f64) -> Value {
    match alpha.fract() == 0.0 && alpha.abs() < 1e9 {
        true => json!(alpha as i64),
        false => json!(alpha),
    }
}

fn read_targets(object: &Object) -> Result<TargetModules> {
    Ok(match read_names(object, "target_modules")? {
        Some(ModuleNames::Pattern(name)) if name.eq_ignore_ascii_case("all-linear") => {
            TargetModules::AllLinear
        }
        Some(ModuleNames::Pattern(pattern)) => TargetModules::Pattern(pattern),
        Some(ModuleNames::Names(names)) => TargetModules::Names(names),
        None => return Err(object.error("target_modules", "must name at least one module")),
    })
}

/// A list of names, or a pattern; `None` where it is empty.
fn read_names(object: &Object, key: &str) -> Result<Option<ModuleNames>> {
    if let Some(Value::String(pattern)) = object.get(key) {
        return Ok((!pattern.is_empty()).then(|| ModuleNames::Pattern(pattern.clone())));
    }
    let names = object.texts(key)?.filter(|names| !names.is_empty());
    Ok(names.map(|names| ModuleNames::Names(names.into_iter().map(String::from).collect())))
}

/// How the factors began. What matters of it once an adapter is trained is whether the base goes without
/// something.
fn read_init(object: &Object) -> Result<InitLoraWeights> {
    const KEY: &str = "init_lora_weights";
    match object.get(KEY) {
        None | Some(Value::Bool(true)) => Ok(InitLoraWeights::Kaiming),
        Some(Value::Bool(false)) => Ok(InitLoraWeights::Uniform),
        // These leave the base as it is.
        Some(Value::String(name)) if ["eva", "orthogonal", "mica"].contains(&name.as_str()) => {
            Ok(InitLoraWeights::Kaiming)
        }
        Some(Value::String(name)) => InitLoraWeights::parse(name).map_err(|expected| {
            object.error(
                KEY,
                format_args!(
                    "{name:?} is not supported (expected {expected}): it changes the base model; \
                     convert the adapter to a plain one with PEFT \
                     (path_initial_model_for_weight_conversion)"
                ),
            )
        }),
        Some(other) => {
            let found = shorten(other);
            Err(object.error(KEY, format_args!("must be true, false or a name, found {found}")))
        }
    }
}

/// A list of tokens, which stands for rows of the embedding, or lists by tables.
fn read_tokens(object: &Object) -> Result<Vec<(String, Vec<u32>)>> {
    const KEY: &str = "trainable_token_indices";
    let ids = |object: &Object, key: &str| -> Result<Vec<u32>> {
        Ok(object.counts(key)?.unwrap_or_default().into_iter().map(|id| id as u32).collect())
    };
    let tables = match object.get(KEY) {
        Some(Value::Object(_)) => object.object(KEY)?,
        _ => {
            let ids = ids(object, KEY)?;
            return Ok(if ids.is_empty() { Vec::new() } else { vec![(EMBED_TOKENS.into(), ids)] });
        }
    };
    let Some(tables) = tables else { return Ok(Vec::new()) };
    tables.keys().map(|table| Ok((table.to_owned(), ids(&tables, table)?))).collect()
}

/// Values by patterns.
fn read_pattern<T>(
    object: &Object,
    key: &str,
    what: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(String, T)>> {
    let entries = match object.get(key) {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(other) => {
            let found = shorten(other);
            return Err(object.error(key, format_args!("must be an object, found {found}")));
        }
    };
    let entry = |(pattern, value): (&String, &Value)| match read(value) {
        Some(value) => Ok((pattern.clone(), value)),
        None => {
            let found = shorten(value);
            Err(object.error(key, format_args!("must give {pattern:?} {what}, found {found}")))
        }
    };
    entries.iter().map(entry).collect()
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
        && !["CAUSAL_LM", CLASSIFIER].contains(&task)
    {
        return Err(object.error(
            "task_type",
            format_args!("{task:?} is not supported; supported are CAUSAL_LM and SEQ_CLS"),
        ));
    }
    if let Some(bias) = object.text("bias")?
        && bias != "none"
    {
        return Err(
            object.error("bias", format_args!("{bias:?} is not supported; supported is \"none\""))
        );
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
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "trainable_token_indices",
        "lora_bias",
        "use_dora",
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
        // The heads of classifiers, of which score is read.
        let is_head = key == "modules_to_save"
            && object.text("task_type")? == Some(CLASSIFIER)
            && object.texts(key)?.is_some_and(|names| {
                names.iter().all(|name| ["score", "classifier"].contains(name))
            });
        if !off && !is_head && !read.contains(&key) && !harmless.contains(&key) {
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
    use super::*;

    fn example() -> PeftConfig {
        PeftConfig {
            r: 2,
            lora_alpha: 4.0,
            lora_dropout: 0.05,
            target_modules: TargetModules::Names(vec!["k_proj".into(), "down_proj".into()]),
            base_model_name_or_path: Some("Org/Name".into()),
            revision: Some("abc".into()),
            ..PeftConfig::default()
        }
    }

    #[test]
    fn the_config_is_sorted_and_indented_as_peft_does() {
        let text = example().to_json();
        let expected = "{\n  \"alpha_pattern\": {},\n  \"auto_mapping\": null,\n  \
                        \"base_model_name_or_path\": \"Org/Name\",\n  \"bias\": \"none\",\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("\"lora_alpha\": 4,\n") && text.contains("\"lora_dropout\": 0.05,"));
        assert!(text.contains("\"target_modules\": [\n    \"down_proj\",\n    \"k_proj\"\n  ],"));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let text = example().to_json();
        for (from, to, expected) in [
            ("\"LORA\"", "\"LOHA\"", "`peft_type` \"LOHA\""),
            ("\"bias\": \"none\"", "\"bias\": \"all\"", "`bias` \"all\""),
            (
                "\"rank_pattern\": {}",
                "\"rank_pattern\": {\"q\": 0}",
                "`rank_pattern` must give \"q\"",
            ),
            ("\"modules_to_save\": null", "\"modules_to_save\": 1", "`modules_to_save`"),
            ("\"init_lora_weights\": true", "\"init_lora_weights\": \"corda\"", "\"corda\""),
            ("CAUSAL_LM", "TOKEN_CLS", "`task_type` \"TOKEN_CLS\""),
            ("\"r\": 2", "\"r\": 0", "`r`"),
            ("\"r\": 2", "\"r\": 2, \"new_key\": 1", "`new_key` = 1"),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text, "{from}");
            let message = PeftConfig::from_json(&changed, "a.json").unwrap_err().to_string();
            assert!(message.starts_with("a.json: ") && message.contains(expected), "{message}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let whole = PeftConfig {
            target_modules: TargetModules::Pattern(r".*\.q_proj".into()),
            exclude_modules: Some(ModuleNames::Names(vec!["layers.0.self_attn.q_proj".into()])),
            rank_pattern: vec![("a.*".into(), 3), ("b".into(), 4)],
            alpha_pattern: vec![("b".into(), 0.5)],
            use_dora: true,
            init_lora_weights: InitLoraWeights::PissaNiter(4),
            trainable_token_indices: vec![
                ("embed_tokens".into(), vec![1]),
                ("lm_head".into(), vec![2]),
            ],
            ..example()
        };
        let layers = PeftConfig {
            layers_to_transform: Some(vec![1, 3]),
            layers_pattern: vec!["layers".into()],
            exclude_modules: Some(ModuleNames::Pattern(".*k.*".into())),
            modules_to_save: vec!["lm_head".into()],
            trainable_token_indices: vec![("embed_tokens".into(), vec![7, 3])],
            lora_bias: true,
            target_modules: TargetModules::AllLinear,
            ..example()
        };
        let classifier = PeftConfig {
            is_classifier: true,
            modules_to_save: vec!["score".into()],
            target_modules: TargetModules::Names(vec!["down_proj".into(), "k_proj".into()]),
            ..example()
        };
        for config in [whole, layers, classifier] {
            assert_eq!(PeftConfig::from_json(&config.to_json(), "a").unwrap(), config);
        }
        let one = example()
            .to_json()
            .replace("\"layers_to_transform\": null", "\"layers_to_transform\": 1");
        let one = PeftConfig::from_json(&one, "a").unwrap();
        assert_eq!(one.layers_to_transform, Some(vec![1]));
    }
}
