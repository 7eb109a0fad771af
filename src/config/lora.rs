//! The settings of LoRA.

use crate::adapter::{ModuleNames, PeftConfig, TargetModules};
use crate::model::Spec;
use std::path::PathBuf;

/// LoRA, by PEFT's names.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// The rank of the update.
    pub r: usize,
    /// The update is scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Dropout before `lora_A`.
    pub lora_dropout: f64,
    /// The modules that get an update.
    pub target_modules: TargetModules,
    /// Those of them that get none after all.
    pub exclude_modules: Option<ModuleNames>,
    /// The layers that updates are in, by number; all where it is `None`.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Other ranks, by patterns of modules.
    pub rank_pattern: Vec<(String, usize)>,
    /// The same for `lora_alpha`.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Scale by `lora_alpha / sqrt(r)` instead (arXiv:2312.03732).
    pub use_rslora: bool,
    /// A PEFT adapter to start from (absolute): all of the above but dropout comes from it.
    pub adapter: Option<PathBuf>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            r: 16,
            lora_alpha: 32.0,
            lora_dropout: 0.0,
            target_modules: TargetModules::AllLinear,
            exclude_modules: None,
            layers_to_transform: None,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            use_rslora: false,
            adapter: None,
        }
    }
}

impl LoraConfig {
    /// The new adapter that is asked for, for a model of this form.
    pub fn peft(&self, spec: &Spec) -> PeftConfig {
        PeftConfig {
            r: self.r,
            lora_alpha: self.lora_alpha,
            lora_dropout: self.lora_dropout,
            use_rslora: self.use_rslora,
            target_modules: self.target_modules.clone().named(spec),
            exclude_modules: self.exclude_modules.clone(),
            layers_to_transform: self.layers_to_transform.clone(),
            rank_pattern: self.rank_pattern.clone(),
            alpha_pattern: self.alpha_pattern.clone(),
            ..PeftConfig::default()
        }
    }
}
