//! Which linear layers of a network have an adapter.

use crate::model::Spec;
use crate::{Error, Result};

/// Which linear layers have an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetModules {
    /// `all-linear`: all but `lm_head`.
    AllLinear,
    /// Those whose path is one of these names, or ends with `.` and one of them.
    Names(Vec<String>),
}

impl TargetModules {
    /// The same by name, as PEFT saves it.
    pub fn named(self, spec: &Spec) -> Self {
        match self {
            Self::AllLinear => {
                Self::Names(spec.module_names().into_iter().map(String::from).collect())
            }
            names => names,
        }
    }

    /// The linear layers of a network that these are, in the order of [`Spec::tensors`].
    ///
    /// Errors: a name that is no linear layer of it.
    pub fn modules(&self, spec: &Spec) -> Result<Vec<LoraModule>> {
        let tensors = spec.tensors();
        let linear = tensors.iter().filter_map(|tensor| tensor.linear());
        let linear: Vec<LoraModule> = linear
            .map(|(path, [outputs, inputs])| LoraModule { path: path.into(), inputs, outputs })
            .collect();
        let Self::Names(names) = self else { return Ok(linear) };
        let matches = |path: &str, name: &str| {
            path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        if let Some(name) = names.iter().find(|name| !linear.iter().any(|m| matches(&m.path, name)))
        {
            return Err(Error::input(format!(
                "target_modules: {name:?} is no linear layer that can have an adapter; expected \
                 names of {}",
                spec.module_names().join(", ")
            )));
        }
        let wanted = |module: &LoraModule| names.iter().any(|name| matches(&module.path, name));
        Ok(linear.into_iter().filter(wanted).collect())
    }
}

/// A linear layer that has an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoraModule {
    /// `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Columns of its weight.
    pub inputs: usize,
    /// Rows of its weight.
    pub outputs: usize,
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
        let message = names(&["q_proj"]).modules(&phi3).unwrap_err().to_string();
        assert!(message.contains("qkv_proj, o_proj, gate_up_proj, down_proj"), "{message}");
        let found = names(&["qkv_proj"]).modules(&phi3).unwrap();
        assert_eq!((found.len(), found[1].outputs), (2, 12));
        let all = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"];
        assert_eq!(TargetModules::AllLinear.named(&phi3), names(&all));
    }
}
