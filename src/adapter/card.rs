//! The model card (`README.md`) of an adapter, with the front matter that the Hugging Face hub reads.

use std::fmt::Write;

/// What a card says.
pub struct Card<'a> {
    /// The model that the adapter is for: `Org/Name` or a directory.
    pub base: Option<&'a str>,
    /// Rank.
    pub r: usize,
    /// What the update is multiplied by, before the division by the rank.
    pub lora_alpha: f64,
    /// Which linear layers have an adapter.
    pub targets: String,
    /// Whether it is a reward model.
    pub is_classifier: bool,
    /// Markdown about its training, put at the end.
    pub details: &'a str,
}

impl Card<'_> {
    /// The text of the file.
    pub fn text(&self) -> String {
        // A path on this machine means nothing elsewhere.
        let hub_id = self.base.filter(|base| crate::model::resolve::is_model_id(base));
        let mut card = String::from("---\n");
        if let Some(id) = hub_id {
            let _ = writeln!(card, "base_model: {id}");
        }
        let task = if self.is_classifier { "text-classification" } else { "text-generation" };
        let _ = write!(card, "library_name: peft\npipeline_tag: {task}\ntags:\n");
        if let Some(id) = hub_id {
            let _ = writeln!(card, "- base_model:adapter:{id}");
        }
        card += "- lora\n- tunesmith\n---\n\n";
        let shown = hub_id.unwrap_or("a local model");
        let (class, labels) = match self.is_classifier {
            true => ("AutoPeftModelForSequenceClassification", ", num_labels=1"),
            false => ("AutoPeftModelForCausalLM", ""),
        };
        let _ = write!(
            card,
            "# LoRA adapter for {shown}\n\n\
             Rank {}, alpha {}, on {}. Trained with Tunesmith; loads with PEFT:\n\n\
             ```python\n\
             from peft import {class}\n\n\
             model = {class}.from_pretrained(\"path/to/this/directory\"{labels})\n\
             ```\n",
            self.r, self.lora_alpha, self.targets,
        );
        if !self.details.is_empty() {
            let _ = write!(card, "\n{}\n", self.details.trim_end());
        }
        card
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_matter_names_a_base_on_the_hub_only() {
        let mut card = Card {
            base: Some("Org/Name-1.0"),
            r: 8,
            lora_alpha: 16.0,
            targets: "q_proj".into(),
            is_classifier: false,
            details: "## Training\n",
        };
        let text = card.text();
        assert!(text.starts_with(
            "---\nbase_model: Org/Name-1.0\nlibrary_name: peft\npipeline_tag: text-generation\n\
             tags:\n- base_model:adapter:Org/Name-1.0\n- lora\n"
        ));
        assert!(text.contains("Rank 8, alpha 16, on q_proj") && text.ends_with("## Training\n"));
        card.base = Some("/home/me/model: x");
        assert!(!card.text().contains("/home"));
    }
}
