//! Chat templates by name, for models that bring none (base models).

use super::{Tokenizer, TokenizerFiles};
use crate::{Error, Result};

/// A built-in chat template.
#[derive(Debug, Clone, Copy)]
pub struct Builtin {
    /// What `data.chat_template` calls it.
    pub name: &'static str,
    /// Its Jinja source.
    pub source: &'static str,
    /// The tokens it writes besides the model's own beginning- and end-of-sequence tokens.
    pub tokens: &'static [&'static str],
    /// The token that ends a turn; `None` is the model's end-of-sequence token.
    pub end_of_turn: Option<&'static str>,
}

/// All of them, by name.
pub const ALL: [Builtin; 6] = [
    Builtin {
        name: "alpaca",
        source: include_str!("templates/alpaca.jinja"),
        tokens: &[],
        end_of_turn: None,
    },
    Builtin {
        name: "chatml",
        source: include_str!("templates/chatml.jinja"),
        tokens: &["<|im_start|>", "<|im_end|>"],
        end_of_turn: Some("<|im_end|>"),
    },
    Builtin {
        name: "llama3",
        source: include_str!("templates/llama3.jinja"),
        tokens: &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        end_of_turn: Some("<|eot_id|>"),
    },
    Builtin {
        name: "mistral",
        source: include_str!("templates/mistral.jinja"),
        tokens: &[],
        end_of_turn: None,
    },
    Builtin {
        name: "vicuna",
        source: include_str!("templates/vicuna.jinja"),
        tokens: &[],
        end_of_turn: None,
    },
    Builtin {
        name: "zephyr",
        source: include_str!("templates/zephyr.jinja"),
        tokens: &[],
        end_of_turn: None,
    },
];

/// The built-in template called `name`.
pub fn find(name: &str) -> Option<&'static Builtin> {
    ALL.iter().find(|template| template.name == name)
}

impl Builtin {
    /// Refuses a tokenizer that would split the tokens this template writes: the model could not
    /// learn to end a turn with one token.
    pub fn check(&self, files: &TokenizerFiles, tokenizer: &dyn Tokenizer) -> Result<()> {
        let lacking: Vec<&str> = self
            .tokens
            .iter()
            .copied()
            .filter(|token| tokenizer.token_to_id(token).is_none())
            .collect();
        if !lacking.is_empty() {
            return Err(Error::input(format!(
                "chat_template = {:?} writes {}, which this model's tokenizer does not have; {}",
                self.name,
                lacking.join(" and "),
                "choose alpaca, mistral, vicuna or zephyr, which need only the end-of-sequence \
                 token, or a model with these tokens"
            )));
        }
        if self.end_of_turn.is_none() && !files.special_tokens.contains_key("eos_token") {
            return Err(Error::input(format!(
                "chat_template = {:?} ends turns with the end-of-sequence token, and \
                 {} names no `eos_token`",
                self.name,
                files.dir.join("tokenizer_config.json").display()
            )));
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "tokenizers"))]
mod tests {
    use serde_json::json;

    use super::super::{ChatTemplate, RenderInput, testing};
    use super::*;

    fn render(name: &str, generation: bool) -> String {
        let date = jiff::civil::date(2024, 1, 1).at(0, 0, 0, 0);
        let tokens = &testing::files().special_tokens;
        let template = ChatTemplate::new(name, find(name).unwrap().source, tokens, date).unwrap();
        let messages = [
            json!({"role": "system", "content": "S"}),
            json!({"role": "user", "content": "U"}),
            json!({"role": "assistant", "content": "A"}),
            json!({"role": "user", "content": "V"}),
            json!({"role": "assistant", "content": "B"}),
        ];
        let messages = if generation { &messages[..4] } else { &messages[..] };
        template
            .render(&RenderInput {
                messages,
                add_generation_prompt: generation,
                ..Default::default()
            })
            .unwrap()
    }

    #[test]
    fn templates_write_their_published_form() {
        for (name, expected) in [
            (
                "alpaca",
                "<s>S\n\n### Instruction:\nU\n\n### Response:\nA</s>\n\n### Instruction:\nV\n\n\
                 ### Response:\nB</s>\n\n",
            ),
            (
                "chatml",
                "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n\
                 <|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n\
                 <|im_start|>assistant\nB<|im_end|>\n",
            ),
            (
                "llama3",
                "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>\
                 <|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>\
                 <|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>\
                 <|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|>\
                 <|start_header_id|>assistant<|end_header_id|>\n\nB<|eot_id|>",
            ),
            ("mistral", "<s>[INST] S\n\nU [/INST] A</s>[INST] V [/INST] B</s>"),
            ("vicuna", "<s>S USER: U ASSISTANT: A</s>USER: V ASSISTANT: B</s>"),
            (
                "zephyr",
                "<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n<|user|>\nV</s>\n\
                 <|assistant|>\nB</s>\n",
            ),
        ] {
            assert_eq!(render(name, false), expected, "{name}");
            assert!(expected.starts_with(&render(name, true)), "{name}: {}", render(name, true));
        }
    }

    #[test]
    fn a_tokenizer_without_the_turn_tokens_is_refused() {
        let tokenizer = testing::tokenizer();
        let files = testing::files();
        assert!(find("chatml").unwrap().check(&files, &tokenizer).is_ok());
        let message = find("llama3").unwrap().check(&files, &tokenizer).unwrap_err().to_string();
        assert!(message.contains("<|start_header_id|> and <|end_header_id|>"), "{message}");
        assert!(!message.contains("<|eot_id|>"), "{message}");
    }
}
