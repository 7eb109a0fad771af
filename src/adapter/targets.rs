//! Which modules of a network have an adapter.

use super::patterns::ends_with;
use crate::model::Spec;
use crate::model::spec::{EMBEDDING_MODULE, HEAD_MODULE};
use crate::{Error, Result};
use std::collections::BTreeSet;

/// Which modules have an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetModules {
    /// `all-linear`: the linear layers of the blocks.
    AllLinear,
    /// Those whose path is one of these names, or ends with `.` and one of them.
    Names(Vec<String>),
    /// Those whose whole path this regular expression matches.
    Pattern(String),
}

/// What a module with an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleKind {
    /// A linear layer of a block.
    Linear,
    /// `embed_tokens`.
    Embedding,
    /// `lm_head`.
    Head,
}

/// A module that has an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraModule {
    /// `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// What it is.
    pub kind: ModuleKind,
    /// Columns of the update: those of a weight; of an embedding, which PEFT takes for the transpose of
    /// one, its tokens.
    pub inputs: usize,
    /// Rows of the update: those of a weight; the width of an embedding.
    pub outputs: usize,
    /// Rank of the update.
    pub r: usize,
    /// What `B (A x)` is multiplied by.
    pub scale: f64,
}

impl TargetModules {
    /// The same by name, as PEFT saves it.
    pub fn named(self, spec: &Spec) -> Self {
        match self {
            Self::AllLinear => {
                Self::Names(spec.module_names().into_iter().map(String::from).collect())
            }
            other => other,
        }
    }

    /// In words, for a model card.
    pub fn describe(&self) -> String {
        match self {
            Self::AllLinear => "all linear layers".into(),
            Self::Names(names) => names.join(", "),
            Self::Pattern(pattern) => format!("the modules that `{pattern}` matches"),
        }
    }

    /// Refuses names that no module of the network has.
    ///
    /// # Errors
    /// `Error::Input` with the names there are.
    pub fn refuse_unknown(&self, spec: &Spec) -> Result<()> {
        let Self::Names(names) = self else { return Ok(()) };
        let known: Vec<_> = adaptable(spec).into_iter().map(|(path, ..)| path).collect();
        match names.iter().find(|name| !known.iter().any(|path| ends_with(path, name))) {
            None => Ok(()),
            Some(name) => Err(unknown(&format!("{name:?}"), spec)),
        }
    }
}

/// What is said of targets that are no modules that can have an adapter.
pub(super) fn unknown(what: &str, spec: &Spec) -> Error {
    Error::input(format!(
        "target_modules: {what} is no linear layer that can have an adapter; expected names of {}, \
         lm_head, embed_tokens",
        spec.module_names().join(", ")
    ))
}

/// The modules of a network that can have an adapter: path, kind, inputs, outputs.
pub(super) fn adaptable(spec: &Spec) -> Vec<(String, ModuleKind, usize, usize)> {
    let (vocabulary, width) = (spec.vocab_size, spec.hidden_size);
    let mut found = vec![(EMBEDDING_MODULE.into(), ModuleKind::Embedding, vocabulary, width)];
    for tensor in spec.tensors() {
        if let Some((path, [outputs, inputs])) = tensor.linear() {
            found.push((path.into(), ModuleKind::Linear, inputs, outputs));
        }
    }
    // There is a head even where its weight is the embedding's.
    found.push((HEAD_MODULE.into(), ModuleKind::Head, width, vocabulary));
    found
}

/// Every module of a network that is not [`adaptable`]: norms, and what others are in.
pub(super) fn others(spec: &Spec) -> BTreeSet<String> {
    let tensors = spec.tensors();
    let mut found = BTreeSet::new();
    for tensor in &tensors {
        let Some((mut path, _)) = tensor.name.rsplit_once('.') else { continue };
        loop {
            found.insert(path.to_owned());
            match path.rsplit_once('.') {
                Some((parent, _)) => path = parent,
                None => break,
            }
        }
    }
    adaptable(spec).iter().for_each(|(path, ..)| _ = found.remove(path));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;

    #[test]
    fn a_model_with_fused_layers_names_them() {
        let text = r#"{"model_type": "phi3", "vocab_size": 10, "hidden_size": 4,
            "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2}"#;
        let phi3 = ModelConfig::from_json(text, "config.json").unwrap().spec;
        let names = |names: &[&str]| {
            TargetModules::Names(names.iter().map(|name| name.to_string()).collect())
        };
        let message = names(&["q_proj"]).refuse_unknown(&phi3).unwrap_err().to_string();
        assert!(message.contains("qkv_proj, o_proj, gate_up_proj, down_proj"), "{message}");
        assert!(names(&["qkv_proj"]).refuse_unknown(&phi3).is_ok());
        let all = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"];
        assert_eq!(TargetModules::AllLinear.named(&phi3), names(&all));
    }
}
