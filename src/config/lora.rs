//! The settings of LoRA.

use crate::adapter::{InitLoraWeights, ModuleNames, PeftConfig, TargetModules};
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
    /// Modules that are trained whole.
    pub modules_to_save: Vec<String>,
    /// Tokens whose rows are trained, by the table's name.
    pub trainable_token_indices: Vec<(String, Vec<u32>)>,
    /// A bias of `lora_B`.
    pub lora_bias: bool,
    /// Magnitudes of weights' rows (DoRA, arXiv:2402.09353).
    pub use_dora: bool,
    /// Scale by `lora_alpha / sqrt(r)` instead (arXiv:2312.03732).
    pub use_rslora: bool,
    /// What the factors begin with.
    pub init_lora_weights: InitLoraWeights,
    /// LoRA+: `lora_B` learns at so many times the learning rate.
    pub loraplus_lr_ratio: Option<f64>,
    /// A PEFT adapter to start from (absolute): all but dropout and LoRA+ comes from it.
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
            modules_to_save: Vec::new(),
            trainable_token_indices: Vec::new(),
            lora_bias: false,
            use_dora: false,
            use_rslora: false,
            init_lora_weights: InitLoraWeights::Kaiming,
            loraplus_lr_ratio: None,
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
            modules_to_save: self.modules_to_save.clone(),
            trainable_token_indices: self.trainable_token_indices.clone(),
            lora_bias: self.lora_bias,
            use_dora: self.use_dora,
            init_lora_weights: self.init_lora_weights,
            ..PeftConfig::default()
        }
    }
}
