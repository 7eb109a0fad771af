//! Which tokens end an assistant's turn under a chat template.
//!
//! No file says it: templates write the token, and `eos_token` is often another one (Llama 3 base
//! against instruct). So a small conversation is rendered and the first special token after the
//! answer is the template's own (a known one, if there are several); the model's end-of-sequence ids and the tokens that are known to
//! end turns (a tool call may end differently from an answer) join it.

use serde_json::{Value, json};

use super::{ChatTemplate, RenderInput, Tokenizer};

/// Tokens that end a turn in published templates.
const KNOWN: [&str; 10] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|end_of_turn|>",
    "<|eot|>",
    "<|END_OF_TURN_TOKEN|>",
];

/// The tokens that end an assistant's turn: what generation stops at and what training must teach.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndOfTurn {
    /// All of them. The template's own comes first where it could be found.
    pub ids: Vec<u32>,
    /// Whether the template writes one after a turn that another message follows; `None` if the
    /// template refused the conversation this was tried on.
    pub within: Option<bool>,
}

impl EndOfTurn {
    /// Finds the tokens that end turns under `template`.
    pub fn of(template: &ChatTemplate, tokenizer: &dyn Tokenizer) -> Self {
        let last = first_special(template, tokenizer, 2);
        let within = first_special(template, tokenizer, 3);
        let known = KNOWN.iter().filter_map(|token| tokenizer.token_to_id(token));
        let mut ids = Vec::new();
        for id in last.flatten().into_iter().chain(tokenizer.eos_token_ids().to_vec()).chain(known)
        {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        // A special token that opens the next message is not among `ids`.
        let within = within.map(|first| first.is_some_and(|id| ids.contains(&id)));
        Self { ids, within }
    }
}

/// The first special token after the answer of a conversation of `turns` messages (2: the answer
/// is the last, 3: a question follows). The outer `None`: it cannot be rendered or tokenized.
fn first_special(
    template: &ChatTemplate,
    tokenizer: &dyn Tokenizer,
    turns: usize,
) -> Option<Option<u32>> {
    const ANSWER: &str = "Seven.";
    let messages = [
        json!({"role": "user", "content": "Three plus four?"}),
        json!({"role": "assistant", "content": ANSWER}),
        json!({"role": "user", "content": "Sure?"}),
    ];
    // Templates of models that see write contents only if they are lists of parts.
    let parts = messages.clone().map(|mut message| {
        message["content"] = json!([{"type": "text", "text": message["content"].take()}]);
        message
    });
    let found = |messages: &[Value]| {
        let messages = &messages[..turns];
        let text = template.render(&RenderInput { messages, ..Default::default() }).ok()?;
        let end = text.find(ANSWER)? + ANSWER.len();
        Some((text, end))
    };
    let (text, end) = found(&messages).or_else(|| found(&parts))?;
    let next = text[end..].find("Sure?").map_or(text.len(), |at| end + at);
    let encoding = tokenizer.encode_with_spans(&text).ok()?;
    let tokens = encoding.ids.iter().zip(&encoding.spans);
    let after: Vec<u32> = tokens
        .filter(|(id, span)| span.0 >= end && span.1 <= next && tokenizer.is_special(**id))
        .map(|(&id, _)| id)
        .collect();
    // Some templates close the answer with a mark before they end the turn.
    let ends = |id: &&u32| {
        tokenizer.eos_token_ids().contains(id)
            || tokenizer.id_to_token(**id).is_some_and(|token| KNOWN.contains(&token.as_str()))
    };
    Some(after.iter().find(ends).or(after.first()).copied())
}

#[cfg(all(test, feature = "tokenizers"))]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{builtin, testing};
    use super::*;

    fn of(source: &str) -> (EndOfTurn, Vec<String>) {
        let date = jiff::civil::date(2024, 1, 1).at(0, 0, 0, 0);
        let tokens: BTreeMap<_, _> = testing::files().special_tokens;
        let template = ChatTemplate::new("test", source, &tokens, date).unwrap();
        let tokenizer = testing::tokenizer();
        let found = EndOfTurn::of(&template, &tokenizer);
        let names = found.ids.iter().map(|&id| tokenizer.id_to_token(id).unwrap()).collect();
        (found, names)
    }

    #[test]
    fn the_templates_own_token_comes_first() {
        let (found, names) = of(builtin::find("chatml").unwrap().source);
        assert_eq!(names[0], "<|im_end|>");
        assert_eq!(found.within, Some(true));
        let (found, names) = of(builtin::find("zephyr").unwrap().source);
        assert_eq!(names[0], "</s>");
        assert_eq!(found.within, Some(true));
    }

    #[test]
    fn a_template_that_ends_only_the_last_turn_is_seen() {
        let source = "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}</s>";
        assert_eq!(of(source).0.within, Some(false));
        let refusing = "{{ raise_exception('no') }}";
        assert_eq!(of(refusing).0.within, None);
    }
}
