//! From a sample to token ids and labels: which tokens carry loss, and why.

use std::sync::Mutex;

use super::format::{Chat, Sample};
use super::group::Sequence;
use super::mask::{Finder, Mask};
use super::script::{Script, wants_parts};
use super::unseen;
use crate::tokenizer::{ChatTemplate, Encoding, EndOfTurn, TextProcessor, Tokenizer};
use crate::{Error, Result};

/// The longest text that is tokenized, in bytes.
const LONGEST_TEXT: usize = 4 << 20;

/// From this many bytes on, texts are tokenized one after another.
const LONG_TEXT: usize = 256 << 10;

/// Turns samples into labelled tokens, under one tokenizer and one chat template.
#[derive(Clone)]
pub struct Encoder<'a> {
    tokenizer: &'a dyn Tokenizer,
    template: Option<&'a ChatTemplate>,
    /// What to say when a conversation comes and there is no template that fits.
    choices: String,
    end_of_turn: EndOfTurn,
    /// Whether the template writes contents only if they are lists of parts.
    wants_parts: bool,
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
            wants_parts: text.template.as_ref().is_some_and(wants_parts),
            completion_only_loss,
        }
    }

    /// The tokens of which at least one must be learned, or the model never stops: the end of
    /// turns for conversations, the end of the sequence for texts.
    pub fn stop_ids(&self, sample: &Sample) -> &[u32] {
        match sample {
            Sample::Preference(pair) => self.stop_ids(&pair.chosen),
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
                let ids = self.with_eos(self.encode_whole(text)?)?;
                Ok(Sequence::new(ids, std::iter::repeat(true)))
            }
            Sample::PromptCompletion { prompt, completion } => {
                self.prompt_completion(prompt, completion)
            }
            Sample::Chat(chat) => self.chat(chat),
            Sample::Preference(_) => Err(Error::internal("encode", "a pair is two sequences")),
        }
    }

    /// [`Encoder::encode`] of an answer to a prompt: the prompt and the turns of others never carry loss.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn answer(&self, sample: &Sample) -> Result<Sequence> {
        Self { completion_only_loss: true, ..self.clone() }.encode(sample)
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
        let ids = self.with_eos(self.encode_whole(&format!("{prompt}{completion}"))?)?;
        if !self.completion_only_loss {
            return Ok(Sequence::new(ids, std::iter::repeat(true)));
        }
        let prompt = self.encode_whole(prompt)?;
        let given = prompt.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        let mask = Mask::Completion;
        Ok(Sequence { mask, ..Sequence::new(ids, (0..).map(|t: usize| t >= given)) })
    }

    /// A conversation under the template.
    ///
    /// # Errors
    /// No template, or one that refuses the conversation.
    pub fn script<'s>(&'s self, chat: &'s Chat) -> Result<Script<'s>> {
        let template = self.template.ok_or_else(|| {
            Error::input(format!(
                "the row is a conversation and the model has no chat template; {}",
                self.choices
            ))
        })?;
        Script::new(template, chat, self.wants_parts)
    }

    /// What a sample has that its text does not show, in words.
    pub(super) fn unseen(&self, sample: &Sample) -> Vec<String> {
        let Sample::Chat(chat) = sample else { return Vec::new() };
        if !unseen::may_have_some(&chat.messages, chat.tools.as_ref()) {
            return Vec::new();
        }
        self.script(chat).map(|script| unseen::of(&script)).unwrap_or_default()
    }

    /// A conversation: the template's text tokenized once; tokens that lie, even partly, in an
    /// assistant's stretch of the text carry loss.
    fn chat(&self, chat: &Chat) -> Result<Sequence> {
        let script = self.script(chat)?;
        let encoding = self.encode_with_spans(&script.text)?;
        // The turns to learn; or, if all is learned, those that say they are not.
        let counts = |turn: &usize| match self.completion_only_loss {
            true => chat.is_trained(*turn),
            false => chat.is_masked(*turn),
        };
        let turns: Vec<usize> = chat.answers().filter(counts).collect();
        if turns.is_empty() {
            let carries = !self.completion_only_loss;
            return Ok(Sequence::new(encoding.ids, std::iter::repeat(carries)));
        }
        let (stretches, mask) = self.finder(&script, &self.ends(&encoding)).stretches(&turns)?;
        let learned = encoding.spans.iter().map(|&(start, end)| {
            // A token without extent of its own (a mark the tokenizer adds) lies at its start.
            let end = end.max(start + 1);
            let is_within = stretches.iter().any(|&(from, to)| start < to && end > from);
            is_within == self.completion_only_loss
        });
        let learned: Vec<bool> = learned.collect();
        let mask = if self.completion_only_loss { mask } else { Mask::Everything };
        Ok(Sequence { mask, ..Sequence::new(encoding.ids, learned.into_iter()) })
    }

    /// Where the end-of-turn tokens are.
    fn ends(&self, encoding: &Encoding) -> Vec<(usize, usize)> {
        let tokens = encoding.ids.iter().zip(&encoding.spans);
        let ends = tokens.filter(|(id, _)| self.end_of_turn.ids.contains(id));
        ends.map(|(_, &span)| span).collect()
    }

    fn finder<'s>(&'s self, script: &'s Script<'s>, ends: &'s [(usize, usize)]) -> Finder<'s> {
        let (end_of_turn, choices) = (&self.end_of_turn, self.choices.as_str());
        Finder { script, ends, end_of_turn, choices }
    }

    /// Tokenizes a text that is not too long to be held.
    fn encode_with_spans(&self, text: &str) -> Result<Encoding> {
        within_bounds(text.len(), || self.tokenizer.encode_with_spans(text))
    }

    fn encode_whole(&self, text: &str) -> Result<Vec<u32>> {
        within_bounds(text.len(), || self.tokenizer.encode(text, true))
    }
}

/// Tokenizes a text of `bytes`, one at a time if it is long: a tokenizer holds some hundred times the text.
fn within_bounds<T>(bytes: usize, tokenize: impl FnOnce() -> Result<T>) -> Result<T> {
    static LONG: Mutex<()> = Mutex::new(());
    if bytes > LONGEST_TEXT {
        return Err(Error::input(format!(
            "the text has {bytes} bytes; at most {LONGEST_TEXT} are taken at once, some million tokens: \
             split the row"
        )));
    }
    let _alone = (bytes > LONG_TEXT).then(|| LONG.lock());
    tokenize()
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
    fn an_answer_that_the_template_does_not_write_is_an_error_that_names_the_turn() {
        let source = "{% for m in messages %}{{ m.content if loop.last or m.role == 'user' else 'gone' }}\
                      {{ eos_token }}{% endfor %}";
        let sample =
            chat(&[("user", "u"), ("assistant", "a"), ("assistant", "b"), ("assistant", "c")]);
        let message = encode(source, &sample, true).unwrap_err().to_string();
        assert!(message.contains("test: the text of assistant turn 2 is not in"), "{message}");
        assert!(message.contains("`\"b\"`") && !message.contains("completion_only"), "{message}");
    }

    #[test]
    fn answers_are_found_where_the_prompt_is_not_how_the_conversation_begins() {
        // Tools at the last question, an opened thought, an empty thought in the last answer alone.
        let tools = "{% for m in messages %}{% if m.role == 'user' %}{% if loop.last or loop.nextitem is defined \
                     and loop.index0 + 2 == messages | length %}[T]{% endif %}[I]{{ m.content }}[/I]{% else %}\
                     {{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}";
        let opened = "{% for m in messages %}{{ '<U>' if m.role == 'user' else '<A>' }}\
                      {{ m.content.split('</think>')[-1] }}{{ eos_token if m.role == 'assistant' }}{% endfor %}\
                      {{ '<A><think>\n' if add_generation_prompt }}";
        let empty = "{% for m in messages %}<{{ m.role[0] }}>{{ '<think></think>' if loop.last and m.role == 'assistant' }}\
                     {{ m.content + eos_token }}{% endfor %}{{ '<a><think></think>' if add_generation_prompt }}";
        let four = [("user", "u"), ("assistant", "a"), ("user", "a"), ("assistant", "b")];
        let two = [("user", "u"), ("assistant", "<think>t</think>a")];
        for (source, turns, expected) in [
            (tools, &four[..], "[I]u[/I][ a</s>][T][I]a[/I][ b</s>]"),
            (opened, &four, "<U>u<A>[a</s>]<U>a<A>[b</s>]"),
            (opened, &two, "<U>u<A>[a</s>]"),
            (empty, &four, "<u>u</s><a>[a</s>]<u>a</s><a><think></think>[b</s>]"),
        ] {
            assert_eq!(encode(source, &chat(turns), true).unwrap(), expected);
        }
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
