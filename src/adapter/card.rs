//! The model card (`README.md`) of an adapter, with the front matter that the Hugging Face hub reads.

use std::fmt::Write;

use super::peft::{PeftConfig, TargetModules};

/// The card of an adapter. `details` is Markdown about its training, put at the end.
pub fn model_card(config: &PeftConfig, details: &str) -> String {
    // A path on this machine means nothing elsewhere.
    let base = config.base_model_name_or_path.as_deref();
    let hub_id = base.filter(|base| crate::model::resolve::is_model_id(base));
    let mut card = String::from("---\n");
    if let Some(id) = hub_id {
        let _ = writeln!(card, "base_model: {id}");
    }
    card += "library_name: peft\npipeline_tag: text-generation\ntags:\n";
    if let Some(id) = hub_id {
        let _ = writeln!(card, "- base_model:adapter:{id}");
    }
    card += "- lora\n- tunesmith\n---\n\n";
    let shown = hub_id.unwrap_or("a local model");
    let _ = write!(
        card,
        "# LoRA adapter for {shown}\n\n\
         Rank {}, alpha {}, on {}. Trained with Tunesmith; loads with PEFT:\n\n\
         ```python\n\
         from peft import AutoPeftModelForCausalLM\n\n\
         model = AutoPeftModelForCausalLM.from_pretrained(\"path/to/this/directory\")\n\
         ```\n",
        config.r,
        config.lora_alpha,
        targets(&config.target_modules),
    );
    if !details.is_empty() {
        let _ = write!(card, "\n{}\n", details.trim_end());
    }
    card
}

fn targets(targets: &TargetModules) -> String {
    match targets {
        TargetModules::AllLinear => "all linear layers".into(),
        TargetModules::Names(names) => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_matter_names_a_base_on_the_hub_only() {
        let mut config = PeftConfig {
            r: 8,
            lora_alpha: 16.0,
            lora_dropout: 0.0,
            use_rslora: false,
            target_modules: TargetModules::Names(vec!["q_proj".into()]),
            base_model_name_or_path: Some("Org/Name-1.0".into()),
            revision: None,
        };
        let card = model_card(&config, "## Training\n");
        assert!(card.starts_with(
            "---\nbase_model: Org/Name-1.0\nlibrary_name: peft\npipeline_tag: text-generation\n\
             tags:\n- base_model:adapter:Org/Name-1.0\n- lora\n"
        ));
        assert!(card.contains("Rank 8, alpha 16, on q_proj") && card.ends_with("## Training\n"));
        config.base_model_name_or_path = Some("/home/me/model: x".into());
        assert!(!model_card(&config, "").contains("/home"));
    }
}
