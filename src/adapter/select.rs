//! Which modules an adapter's settings choose, as PEFT chooses them.

use super::config::PeftConfig;
use super::patterns::{Layers, Matcher, ModuleNames, Overrides, ends_with};
use super::targets::{LoraModule, ModuleKind, TargetModules, adaptable, others, unknown};
use crate::model::spec::{EMBEDDING_MODULE, HEAD_MODULE, TensorSpec};
use crate::model::{ModelConfig, Spec};
use crate::{Error, Result};
use std::collections::BTreeSet;

impl PeftConfig {
    /// The modules of `model` that have an update, in the order of [`Spec::tensors`]. What is excluded or
    /// saved whole has none.
    ///
    /// # Errors
    /// `Error::Input` where there is none, for a pattern that is not understood, or one that matches
    /// something else than a linear layer or an embedding.
    pub fn modules(&self, model: &ModelConfig) -> Result<Vec<LoraModule>> {
        let spec = &model.spec;
        let (ranks, alphas) = (
            Overrides::new("rank_pattern", &self.rank_pattern)?,
            Overrides::new("alpha_pattern", &self.alpha_pattern)?,
        );
        let targets = Targets::new(self, spec)?;
        if let Some(other) = others(spec).iter().find(|path| targets.has(path)) {
            let what = format!("{}, which matches {other},", self.shown_targets());
            return Err(unknown(&what, spec));
        }
        let chosen = adaptable(spec).into_iter().filter(|(path, ..)| targets.has(path));
        let modules: Vec<LoraModule> = chosen
            .map(|(path, kind, inputs, outputs)| {
                let r = ranks.of(&path).unwrap_or(self.r);
                let alpha = alphas.of(&path).unwrap_or(self.lora_alpha);
                let scale = alpha / if self.use_rslora { (r as f64).sqrt() } else { r as f64 };
                LoraModule { path, kind, inputs, outputs, r, scale }
            })
            .collect();
        self.check_forms(&modules)?;
        match modules.is_empty() {
            false => Ok(modules),
            true => Err(unknown(&self.shown_targets(), spec)),
        }
    }

    /// Refuses settings that do not go together, as PEFT does, and DoRA of the head.
    fn check_forms(&self, modules: &[LoraModule]) -> Result<()> {
        let has = |kind| modules.iter().any(|module| module.kind == kind);
        if self.lora_bias && self.use_dora {
            return Err(Error::input("lora_bias does not go with use_dora: leave one of them out"));
        }
        if self.lora_bias && has(ModuleKind::Embedding) {
            return Err(Error::input(
                "lora_bias does not go with an update of embed_tokens: leave one of them out",
            ));
        }
        let takes = self.init_lora_weights.takes_from_base();
        if takes && (self.use_dora || self.lora_bias) {
            return Err(Error::input(format!(
                "init_lora_weights = {} does not go with use_dora or lora_bias: leave one of them out",
                self.init_lora_weights.text()
            )));
        }
        if self.use_dora && has(ModuleKind::Head) {
            return Err(Error::input(
                "use_dora is not supported for lm_head: leave it out of target_modules, or name it \
                 in modules_to_save, which trains it whole",
            ));
        }
        Ok(())
    }

    /// The tensors of `modules_to_save`: those in modules whose path ends with one of these names.
    ///
    /// # Errors
    /// `Error::Input` for a name that no module has.
    pub fn saved_tensors(&self, spec: &Spec) -> Result<Vec<TensorSpec>> {
        let mut tensors = spec.tensors();
        if spec.tie_word_embeddings {
            tensors.push(spec.own_head());
        }
        let mut used = BTreeSet::new();
        tensors.retain(|tensor| {
            // The module that it is of, and those that this one is in.
            let ends = tensor.name.char_indices().filter(|&(_, c)| c == '.').map(|(end, _)| end);
            let modules: Vec<&str> = ends.map(|end| &tensor.name[..end]).collect();
            let names = self.names_to_save();
            let names =
                names.filter(|name| modules.iter().any(|path| path.ends_with(name.as_str())));
            names.fold(false, |_, name| {
                used.insert(name);
                true
            })
        });
        match self.names_to_save().find(|name| !used.contains(name)) {
            None => Ok(tensors),
            Some(name) => Err(Error::input(format!(
                "modules_to_save: {name:?} is no module of the model; expected names such as \
                 lm_head, embed_tokens, norm"
            ))),
        }
    }

    /// `modules_to_save` but for a classifier's head, which goes its own way.
    fn names_to_save(&self) -> impl Iterator<Item = &String> {
        self.modules_to_save.iter().filter(|name| !self.is_classifier || *name != "score")
    }

    /// The tables of `trainable_token_indices`, by their paths, each with the tokens whose rows are
    /// trained.
    ///
    /// # Errors
    /// `Error::Input` for another table, a token that the model does not have or that is there twice.
    pub fn token_rows(&self, spec: &Spec) -> Result<Vec<(String, Vec<u32>)>> {
        const KEY: &str = "trainable_token_indices";
        let rows = self.trainable_token_indices.iter().map(|(table, ids)| {
            let tables = [EMBEDDING_MODULE, HEAD_MODULE];
            let Some(path) = tables.into_iter().find(|path| ends_with(path, table)) else {
                return Err(Error::input(format!(
                    "{KEY}: {table:?} is no table of tokens; expected embed_tokens or lm_head"
                )));
            };
            let mut seen = BTreeSet::new();
            let wrong = |id: &&u32| **id as usize >= spec.vocab_size || !seen.insert(**id);
            match ids.iter().find(wrong) {
                None => Ok((path.to_owned(), ids.clone())),
                Some(id) => Err(Error::input(format!(
                    "{KEY}: token {id} is there twice or not one of the model's {} tokens",
                    spec.vocab_size
                ))),
            }
        });
        let mut rows = rows.collect::<Result<Vec<_>>>()?;
        rows.retain(|(_, ids)| !ids.is_empty());
        Ok(rows)
    }

    fn shown_targets(&self) -> String {
        match &self.target_modules {
            TargetModules::AllLinear => "\"all-linear\"".into(),
            TargetModules::Names(names) => format!("{names:?}"),
            TargetModules::Pattern(pattern) => format!("{pattern:?}"),
        }
    }
}

/// What decides whether a module has an update.
struct Targets<'a> {
    config: &'a PeftConfig,
    targets: Matcher,
    excluded: Option<Matcher>,
    layers: Layers,
}

impl<'a> Targets<'a> {
    fn new(config: &'a PeftConfig, spec: &Spec) -> Result<Self> {
        let excluded = config.exclude_modules.as_ref();
        let targets = match config.target_modules.clone().named(spec) {
            TargetModules::Pattern(pattern) => {
                if config.layers_to_transform.is_some() {
                    return Err(Error::input(
                        "layers_to_transform goes with a list of target_modules: a pattern says \
                         itself which layers it matches",
                    ));
                }
                ModuleNames::Pattern(pattern)
            }
            TargetModules::Names(names) => ModuleNames::Names(names),
            TargetModules::AllLinear => ModuleNames::Names(Vec::new()),
        };
        Ok(Self {
            config,
            targets: targets.matcher("target_modules")?,
            excluded: excluded.map(|names| names.matcher("exclude_modules")).transpose()?,
            layers: Layers::new(&config.layers_pattern)?,
        })
    }

    /// Whether the module of this path is to have an update.
    fn has(&self, path: &str) -> bool {
        let is_excluded = self.excluded.as_ref().is_some_and(|excluded| excluded.is(path));
        let is_of_layer = || match &self.config.layers_to_transform {
            None => true,
            Some(layers) => self.layers.of(path).is_some_and(|layer| layers.contains(&layer)),
        };
        self.targets.is(path) && !is_excluded && is_of_layer() && !self.is_saved(path)
    }

    /// Whether a module is one of `modules_to_save`, or in one.
    fn is_saved(&self, path: &str) -> bool {
        let padded = format!(".{path}.");
        self.config.modules_to_save.iter().any(|name| padded.contains(&format!(".{name}.")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ModelConfig {
        let text = r#"{"model_type": "llama", "vocab_size": 10, "hidden_size": 4,
            "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1}"#;
        ModelConfig::from_json(text, "config.json").unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    fn paths(config: &PeftConfig) -> Vec<String> {
        config.modules(&model()).unwrap().into_iter().map(|module| module.path).collect()
    }

    #[test]
    fn targets_match_by_the_end_of_a_path() {
        let targets = TargetModules::Names(names(&["layers.1.self_attn.v_proj", "mlp.up_proj"]));
        let config = PeftConfig { target_modules: targets, ..PeftConfig::default() };
        let expected = [
            "model.layers.0.mlp.up_proj",
            "model.layers.1.self_attn.v_proj",
            "model.layers.1.mlp.up_proj",
        ];
        assert_eq!(paths(&config), expected);
        let spec = model().spec;
        for name in ["proj", "c_attn"] {
            let targets = TargetModules::Names(names(&["q_proj", name]));
            assert!(targets.refuse_unknown(&spec).unwrap_err().to_string().contains(name));
            // PEFT does not mind, if anything else is found.
            let config = PeftConfig { target_modules: targets, ..PeftConfig::default() };
            assert_eq!(paths(&config).len(), 2);
        }
        assert_eq!(paths(&PeftConfig::default()).len(), 14);
    }

    #[test]
    fn a_pattern_that_matches_what_cannot_have_an_update_is_refused() {
        let of = |pattern: &str| PeftConfig {
            target_modules: TargetModules::Pattern(pattern.into()),
            ..PeftConfig::default()
        };
        assert_eq!(paths(&of(r".*\.(q|k)_proj")).len(), 4);
        let message = |pattern: &str| of(pattern).modules(&model()).unwrap_err().to_string();
        assert!(message(".*self_attn.*").contains("matches model.layers.0.self_attn,"));
        assert!(message(".*norm").contains("norm"));
        assert!(message("q_proj").contains("is no linear layer"));
        let layers = PeftConfig { layers_to_transform: Some(vec![0]), ..of(".*q_proj") };
        assert!(layers.modules(&model()).unwrap_err().to_string().contains("layers_to_transform"));
    }

    #[test]
    fn layers_exclusions_ranks_and_scales() {
        let config = PeftConfig {
            r: 2,
            lora_alpha: 4.0,
            layers_to_transform: Some(vec![1]),
            exclude_modules: Some(ModuleNames::Names(names(&["o_proj", "mlp.up_proj"]))),
            rank_pattern: vec![("layers.*.k_proj".into(), 8)],
            alpha_pattern: vec![("self_attn.[qk]_proj".into(), 32.0)],
            ..PeftConfig::default()
        };
        let found = config.modules(&model()).unwrap();
        let found: Vec<_> = found.iter().map(|m| (&m.path[15..], m.r, m.scale)).collect();
        let expected = [
            ("self_attn.q_proj", 2, 16.0),
            ("self_attn.k_proj", 8, 4.0),
            ("self_attn.v_proj", 2, 2.0),
            ("mlp.gate_proj", 2, 2.0),
            ("mlp.down_proj", 2, 2.0),
        ];
        assert_eq!(found, expected);
        let rslora = PeftConfig { use_rslora: true, ..config };
        assert_eq!(rslora.modules(&model()).unwrap()[2].scale, 4.0 / 2f64.sqrt());
    }
}
