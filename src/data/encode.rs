//! From a sample to token ids and labels: which tokens carry loss, and why.

use serde_json::Value;

use super::format::{Chat, Sample, texts};
use super::group::Sequence;
use crate::tokenizer::{ChatTemplate, EndOfTurn, RenderInput, TextProcessor, Tokenizer};
use crate::{Error, Result};

/// Turns samples into labelled tokens, under one tokenizer and one chat template.
pub struct Encoder<'a> {
    tokenizer: &'a dyn Tokenizer,
    template: Option<&'a ChatTemplate>,
    /// What to say when a conversation comes and there is no template that fits.
    choices: String,
    end_of_turn: EndOfTurn,
    completion_only_loss: bool,
}

impl<'a> Encoder<'a> {
    /// An encoder. `completion_only_loss` leaves prompts and the turns of others without loss.
    pub fn new(text: &'a TextProcessor, completion_only_loss: bool) -> Self {
        Self {
            tokenizer: text.tokenizer.as_ref(),
            template: text.template.as_ref(),
            choices: text.choices(),
            end_of_turn: text.end_of_turn(),
            completion_only_loss,
        }
    }

    /// The tokens of which at least one must be learned, or the model never stops: the end of
    /// turns for conversations, the end of the sequence for texts.
    pub fn stop_ids(&self, sample: &Sample) -> &[u32] {
        match sample {
            Sample::Chat(_) => &self.end_of_turn.ids,
            Sample::Text(_) | Sample::PromptCompletion { .. } => {
                let eos = self.tokenizer.eos_token_ids();
                &eos[..eos.len().min(1)]
            }
        }
    }

    /// Token ids and labels of a sample.
    ///
    /// # Errors
    /// No template or no end-of-sequence token where one is needed; a template that refuses the
    /// conversation, does not end a turn, or writes a turn differently once it is answered.
    pub fn encode(&self, sample: &Sample) -> Result<Sequence> {
        match sample {
            Sample::Text(text) => {
                let ids = self.with_eos(self.tokenizer.encode(text, true)?)?;
                Ok(Sequence::new(ids, std::iter::repeat(true)))
            }
            Sample::PromptCompletion { prompt, completion } => {
                self.prompt_completion(prompt, completion)
            }
            Sample::Chat(chat) => self.chat(chat),
        }
    }

    /// Appends the end-of-sequence id unless it is already last.
    fn with_eos(&self, mut ids: Vec<u32>) -> Result<Vec<u32>> {
        let eos = self.tokenizer.eos_token_id().ok_or_else(|| {
            Error::input(
                "the model names no end-of-sequence token, and without one it would never learn to \
                 stop: set `eos_token` in tokenizer_config.json or `eos_token_id` in \
                 generation_config.json",
            )
        })?;
        if ids.last() != Some(&eos) {
            ids.push(eos);
        }
        Ok(ids)
    }

    /// The longest common prefix of the prompt's tokens and the whole's carries no loss. (The
    /// prompt's last token may merge with the completion's first, so lengths alone would lie.)
    fn prompt_completion(&self, prompt: &str, completion: &str) -> Result<Sequence> {
        let ids = self.tokenizer.encode(&format!("{prompt}{completion}"), true)?;
        let ids = self.with_eos(ids)?;
        let given = if self.completion_only_loss {
            let prompt = self.tokenizer.encode(prompt, true)?;
            prompt.iter().zip(&ids).take_while(|(a, b)| a == b).count()
        } else {
            0
        };
        Ok(Sequence::new(ids, (0..).map(|t: usize| t >= given)))
    }

    /// A conversation: the template's text tokenized once; tokens that lie, even partly, in an
    /// assistant's stretch of the text carry loss.
    fn chat(&self, chat: &Chat) -> Result<Sequence> {
        let template = self.template.ok_or_else(|| {
            Error::input(format!(
                "the row is a conversation and the model has no chat template; {}",
                self.choices
            ))
        })?;
        let text = render(template, chat, chat.messages.len(), false)?;
        let encoding = self.tokenizer.encode_with_spans(&text)?;
        if !self.completion_only_loss {
            return Ok(Sequence::new(encoding.ids, std::iter::repeat(true)));
        }
        let ends: Vec<(usize, usize)> = encoding
            .ids
            .iter()
            .zip(&encoding.spans)
            .filter(|(id, _)| self.end_of_turn.ids.contains(id))
            .map(|(_, &span)| span)
            .collect();
        let tail = tail(template, chat, &text);
        let mut stretches = Vec::new();
        for (turn, message) in chat.messages.iter().enumerate().skip(chat.trained_from) {
            if message["role"] == "assistant" {
                let start = self.answer_start(template, chat, turn, &text)?;
                let end = self.answer_end(template, chat, turn, &text[start..], start, &ends)?;
                stretches.push((start, end + common_prefix(&text[end..], &tail)));
            }
        }
        let trained = encoding.spans.iter().map(|&(start, end)| {
            // A token without extent of its own (a mark the tokenizer adds) lies at its start.
            let end = end.max(start + 1);
            stretches.iter().any(|&(from, to)| start < to && end > from)
        });
        let trained: Vec<bool> = trained.collect();
        Ok(Sequence::new(encoding.ids, trained.into_iter()))
    }

    /// Where the answer of message `turn` begins: at the end of the prompt it answers.
    fn answer_start(
        &self,
        template: &ChatTemplate,
        chat: &Chat,
        turn: usize,
        text: &str,
    ) -> Result<usize> {
        let prompt = render(template, chat, turn, true)
            .map_err(|error| Error::input(format!("the prompt of message {turn}: {error}")))?;
        if text.starts_with(&prompt) {
            return Ok(prompt.len());
        }
        let common = common_prefix(text, &prompt);
        let shown = |text: &str| text[common..].chars().take(40).collect::<String>();
        Err(Error::input(format!(
            "chat template {}: assistant turn {turn}: the prompt it answers is not how the whole \
             conversation begins, so what to learn cannot be told apart: after {common} bytes the \
             prompt goes on with {:?}, the conversation with {:?}; end the conversation after this \
             turn, use completion_only_loss = false, or another chat_template",
            template.name(),
            shown(&prompt),
            shown(text),
        )))
    }

    /// The end of the first end-of-turn token after the content of message `turn`. `answer` is the
    /// text from `start`, `ends` where all end-of-turn tokens are.
    fn answer_end(
        &self,
        template: &ChatTemplate,
        chat: &Chat,
        turn: usize,
        answer: &str,
        start: usize,
        ends: &[(usize, usize)],
    ) -> Result<usize> {
        let unfinished = || {
            Error::input(format!(
                "chat template {}: no end-of-turn token follows assistant turn {turn}, so the \
                 model would never learn to stop; use a template that ends every assistant turn \
                 with a special token ({})",
                template.name(),
                self.choices
            ))
        };
        if turn + 1 < chat.messages.len() && self.end_of_turn.within == Some(false) {
            return Err(unfinished());
        }
        // Templates trim and move text around; a piece that cannot be found is passed over.
        let mut content_end = 0;
        for piece in texts(&chat.messages[turn]) {
            let piece = piece.trim();
            if let Some(at) = answer[content_end..].find(piece) {
                content_end += at + piece.len();
            }
        }
        let after = start + content_end;
        let end = ends.iter().find(|span| span.0 >= after).ok_or_else(unfinished)?;
        Ok(end.1)
    }
}

/// The first `count` messages of a conversation as text.
fn render(template: &ChatTemplate, chat: &Chat, count: usize, generation: bool) -> Result<String> {
    template.render(&RenderInput {
        messages: &chat.messages[..count],
        add_generation_prompt: generation,
        tools: chat.tools.as_ref(),
        variables: chat.variables.as_ref(),
    })
}

/// The white space that the template writes after an assistant's turn of its own accord: what is
/// there when nothing follows. (White space that a following message begins with is that
/// message's.) `text` is the whole conversation.
fn tail(template: &ChatTemplate, chat: &Chat, text: &str) -> String {
    let assistant = |message: &Value| message["role"] == "assistant";
    let last = chat.messages.iter().rposition(assistant).unwrap_or(0);
    let ended = if last + 1 == chat.messages.len() {
        Some(text.to_string())
    } else {
        // A template may refuse this shorter conversation; then only the token itself is learned.
        render(template, chat, last + 1, false).ok()
    };
    ended.map(|ended| ended[ended.trim_end().len()..].to_string()).unwrap_or_default()
}

/// The length in bytes of the longest common prefix, at a character's boundary.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

#[cfg(all(test, feature = "tokenizers"))]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::data::NO_LOSS;
    use crate::tokenizer::builtin;
    use crate::tokenizer::testing::processor;

    fn chat(turns: &[(&str, &str)]) -> Sample {
        let messages =
            turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
        Sample::Chat(Chat { messages, ..Chat::default() })
    }

    /// The text with the trained stretches in square brackets.
    fn marked(tokenizer: &dyn Tokenizer, sequence: &Sequence) -> String {
        let mut out = String::new();
        let mut inside = false;
        for (&id, &label) in sequence.input_ids.iter().zip(&sequence.labels) {
            assert!(label == NO_LOSS || label == id as i32);
            if inside != (label != NO_LOSS) {
                inside = !inside;
                out.push(if inside { '[' } else { ']' });
            }
            out += &tokenizer.decode(&[id], false).unwrap();
        }
        if inside { out + "]" } else { out }
    }

    fn encode(source: &str, sample: &Sample, completion_only: bool) -> Result<String> {
        let text = processor(Some(source));
        let sequence = Encoder::new(&text, completion_only).encode(sample)?;
        Ok(marked(text.tokenizer.as_ref(), &sequence))
    }

    fn chatml() -> &'static str {
        builtin::find("chatml").unwrap().source
    }

    #[test]
    fn text_is_trained_from_its_second_token_through_the_end_of_sequence() {
        let text = |text: &str| encode("", &Sample::Text(text.into()), true).unwrap();
        assert_eq!(text("ab"), "<s>[ab</s>]");
        assert_eq!(text("ab</s>"), "<s>[ab</s>]");
    }

    #[test]
    fn the_common_prefix_of_a_prompt_is_not_trained() {
        let pair = |prompt: &str, completion: &str, only| {
            let sample =
                Sample::PromptCompletion { prompt: prompt.into(), completion: completion.into() };
            encode("", &sample, only).unwrap()
        };
        assert_eq!(pair("q ", "a", true), "<s>q [a</s>]");
        // `t` and `h` merge across the border: the merged token is new, so it is learned.
        assert_eq!(pair("qt", "ha", true), "<s>q[tha</s>]");
        assert_eq!(pair("q ", "a", false), "<s>[q a</s>]");
    }

    #[test]
    fn assistant_turns_are_trained_through_the_end_of_turn_and_its_white_space() {
        let sample = chat(&[
            ("system", "s"),
            ("user", "u"),
            ("assistant", "a"),
            ("user", "v"),
            ("assistant", "b"),
        ]);
        assert_eq!(
            encode(chatml(), &sample, true).unwrap(),
            "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n\
             <|im_start|>assistant\n[a<|im_end|>\n]<|im_start|>user\nv<|im_end|>\n\
             <|im_start|>assistant\n[b<|im_end|>\n]"
        );
        let all = encode(chatml(), &sample, false).unwrap();
        assert!(all.starts_with("<|im_start|>[system\ns") && all.ends_with("\n]"), "{all}");
        assert_eq!(all.matches('[').count(), 1);
    }

    #[test]
    fn a_conversation_may_go_on_after_the_last_answer() {
        let sample = chat(&[("user", "u"), ("assistant", "a"), ("user", "v")]);
        assert_eq!(
            encode(chatml(), &sample, true).unwrap(),
            "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n[a<|im_end|>\n]\
             <|im_start|>user\nv<|im_end|>\n"
        );
    }

    #[test]
    fn white_space_of_the_next_message_is_not_the_answers() {
        let source = "{% for m in messages %}{{ '\\n' if not loop.first }}{{ m.role }}:{{ m.content }}\
                      {{ eos_token if m.role == 'assistant' }}{% endfor %}\
                      {{ '\\nassistant:' if add_generation_prompt }}";
        let sample = chat(&[("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")]);
        assert_eq!(
            encode(source, &sample, true).unwrap(),
            "user:u\nassistant:[a</s>]\nuser:v\nassistant:[b</s>]"
        );
    }

    #[test]
    fn an_end_of_turn_token_inside_the_content_does_not_end_the_turn() {
        let sample = chat(&[("user", "u"), ("assistant", "a<|im_end|>b")]);
        let text = encode(chatml(), &sample, true).unwrap();
        assert!(text.ends_with("[a<|im_end|>b<|im_end|>\n]"), "{text}");
    }

    #[test]
    fn content_that_the_template_trims_is_found() {
        let source = chatml().replace("message['content']", "message['content'] | trim");
        let text = processor(Some(&source));
        let sample = chat(&[("user", "u"), ("assistant", "  é \n")]);
        let sequence = Encoder::new(&text, true).encode(&sample).unwrap();
        // é is two tokens, so what is trained is decoded as one.
        let trained: Vec<u32> = sequence
            .labels
            .iter()
            .filter(|&&label| label != NO_LOSS)
            .map(|&id| id as u32)
            .collect();
        assert_eq!(text.tokenizer.decode(&trained, false).unwrap(), "é<|im_end|>\n");
    }

    #[test]
    fn context_turns_carry_no_loss() {
        let Sample::Chat(mut context) =
            chat(&[("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")])
        else {
            unreachable!()
        };
        context.trained_from = 3;
        let text = encode(chatml(), &Sample::Chat(context), true).unwrap();
        assert!(
            text.contains("assistant\na<|im_end|>") && text.ends_with("[b<|im_end|>\n]"),
            "{text}"
        );
    }

    #[test]
    fn a_prompt_that_is_not_a_prefix_names_template_and_turn() {
        // Like templates that drop an earlier turn's reasoning.
        let source = "{% for m in messages %}{{ m.content if loop.last or m.role == 'user' else 'gone' }}\
                      {{ eos_token }}{% endfor %}";
        let sample =
            chat(&[("user", "u"), ("assistant", "a"), ("assistant", "b"), ("assistant", "c")]);
        let message = encode(source, &sample, true).unwrap_err().to_string();
        assert!(
            message.starts_with("chat template test: assistant turn 2: the prompt"),
            "{message}"
        );
        assert!(message.contains("\"a</s>\"") && message.contains("\"gone</s>"), "{message}");
    }

    #[test]
    fn a_template_that_does_not_end_turns_is_an_error() {
        let source = "{% for m in messages %}{{ m.content }};{% endfor %}";
        let message =
            encode(source, &chat(&[("user", "u"), ("assistant", "a")]), true).unwrap_err();
        assert!(message.to_string().contains("no end-of-turn token follows assistant turn 1"));
        // The next turn's token must not stand in for the missing one.
        let source = "{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}";
        let sample = chat(&[("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")]);
        assert!(encode(source, &sample, true).unwrap_err().to_string().contains("turn 1"));
    }

    #[test]
    fn without_a_template_the_choices_are_listed() {
        let text = processor(None);
        let encoder = Encoder::new(&text, true);
        let message = encoder.encode(&chat(&[("assistant", "a")])).unwrap_err().to_string();
        assert!(message.contains("one of alpaca, chatml, mistral, vicuna, zephyr"), "{message}");
        assert!(
            message.contains("(not llama3: this tokenizer lacks the end-of-turn token)"),
            "{message}"
        );
    }
}
