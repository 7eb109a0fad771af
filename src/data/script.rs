//! A conversation under a chat template: the text it becomes, and the texts that it would become if it
//! were cut short or said something else. Comparing them tells which of the text is whose.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::format::Chat;
use super::message;
use crate::tokenizer::{ChatTemplate, RenderInput, Rendered, json_text, read_json};
use crate::{Error, Result};

/// What ends the thought of an answer that is written with it, in the templates that take it apart.
const THOUGHT_ENDS: &str = "</think>";

/// The names of a thought; `apply_chat_template` hands on one under the others too.
pub const THOUGHTS: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

/// A conversation with its text.
pub struct Script<'a> {
    /// The template.
    pub template: &'a ChatTemplate,
    /// The conversation, as it suits the template.
    pub chat: Cow<'a, Chat>,
    /// The whole text.
    pub text: String,
    /// The bytes of the text that the template marks as an assistant's; `None` if it marks none.
    pub marks: Option<Vec<(usize, usize)>>,
    /// A word that the text does not have.
    marker: String,
}

impl<'a> Script<'a> {
    /// Renders `chat`. What a template is known to take in one form only is given in that form: contents
    /// as lists of parts (`wants_parts`), arguments of tool calls as objects or as JSON texts.
    ///
    /// # Errors
    /// What the template raises; arguments that are no JSON where the template needs objects.
    pub fn new(template: &'a ChatTemplate, chat: &'a Chat, wants_parts: bool) -> Result<Self> {
        let mut chat = Cow::Borrowed(chat);
        if wants_parts {
            chat.to_mut().messages.iter_mut().for_each(into_parts);
        }
        if !chat.calls_as_text.is_empty() && !shows_calls(template, &chat) {
            let chat = chat.to_mut();
            for (turn, text) in std::mem::take(&mut chat.calls_as_text) {
                let Some(message) = chat.messages[turn].as_object_mut() else { continue };
                message.shift_remove("tool_calls");
                message.insert("content".into(), text.into());
            }
        }
        if arguments(&chat).any(Value::is_string) && !shows_arguments(template, &chat) {
            let objects = with_arguments(&chat, |text| match text {
                Value::String(text) if text.trim().is_empty() => Ok(json!({})),
                Value::String(text) => read_json(text).map_err(|fault| {
                    Error::input(format!(
                        "the `arguments` of a tool call are not JSON: {}: {:.80}",
                        fault.reason, text
                    ))
                }),
                other => Ok(other.clone()),
            })?;
            *chat.to_mut() = objects;
        }
        let rendered = match render(template, &chat, &chat.messages, false) {
            Err(error) if arguments(&chat).any(Value::is_object) => {
                let texts = with_arguments(&chat, |value| match value {
                    Value::Object(_) => json_text(value).map(Value::from),
                    other => Ok(other.clone()),
                })?;
                let rendered = render(template, &texts, &texts.messages, false);
                let rendered = rendered.map_err(|_| error)?;
                *chat.to_mut() = texts;
                rendered
            }
            other => other?,
        };
        let marks = rendered.generation.filter(|_| template.marks_generation());
        let marker = word_not_in(&rendered.text);
        Ok(Self { template, chat, text: rendered.text, marks, marker })
    }

    /// The text of the messages before `turn`, with the opening of an answer.
    pub fn prompt(&self, turn: usize) -> Result<String> {
        Ok(self.render(&self.chat.messages[..turn], true)?.text)
    }

    /// The text of the first `count` messages.
    pub fn cut(&self, count: usize) -> Result<Rendered> {
        self.render(&self.chat.messages[..count], false)
    }

    /// The text of other messages in the place of these; `None` if the template refuses them.
    pub fn with_messages(&self, messages: &[Value]) -> Option<String> {
        Some(self.render(messages, false).ok()?.text)
    }

    /// Whether the text stays the same whatever message `turn` says.
    pub fn says_nothing(&self, turn: usize) -> bool {
        let mut messages = self.chat.messages.clone();
        messages[turn] = self.variants(turn).swap_remove(0);
        self.with_messages(&messages).as_ref() == Some(&self.text)
    }

    /// The text without tools.
    pub fn without_tools(&self) -> Option<String> {
        let chat = Chat { tools: None, ..self.chat.as_ref().clone() };
        Some(render(self.template, &chat, &chat.messages, false).ok()?.text)
    }

    /// Where message `turn` stands in the text: the bytes that change when it says something else.
    pub fn place(&self, turn: usize) -> Option<(usize, usize)> {
        let found = |said: &Value| {
            let (before, after) = self.around(turn, said, self.chat.messages.len(), false)?;
            let rest = self.text.strip_prefix(&before)?;
            Some((before.len(), self.text.len() - common_suffix(rest, &after)))
        };
        let variants = self.variants(turn);
        let (start, end) = variants.iter().find_map(found)?;
        // A thought that is written with the words belongs to them, if the template leaves it there.
        let content = content_of(&self.chat.messages[turn]).trim();
        if content.is_empty() || spoken(content) == content {
            return Some((start, end));
        }
        if self.text[..end].ends_with(content) {
            return Some((end - content.len(), end));
        }
        let whole = variants.get(1).and_then(found);
        Some((whole.map_or(start, |whole| whole.0.min(start)), end))
    }

    /// Where the messages before `turn` end in the text, and how the text with the opening of an answer
    /// goes on from there: after the last of them that both texts show.
    pub fn joint(&self, turn: usize) -> Option<(usize, String)> {
        let prompt = self.prompt(turn).ok()?;
        let of = |before: usize| {
            self.variants(before).iter().find_map(|said| {
                let (_, rest) = self.around(before, said, self.chat.messages.len(), false)?;
                let (_, opening) = self.around(before, said, turn, true)?;
                let fits = self.text.ends_with(&rest) && prompt.ends_with(&opening);
                fits.then(|| (self.text.len() - rest.len(), opening))
            })
        };
        (0..turn).rev().find_map(of).or(Some((0, prompt.clone())).filter(|_| turn == 0))
    }

    /// What stands before and after the marker when message `turn` is `said`, in the text of the first
    /// `count` messages.
    fn around(
        &self,
        turn: usize,
        said: &Value,
        count: usize,
        generation: bool,
    ) -> Option<(String, String)> {
        let mut messages = self.chat.messages[..count].to_vec();
        messages[turn] = said.clone();
        let text = self.render(&messages, generation).ok()?.text;
        let (before, after) = text.split_once(&self.marker)?;
        Some((before.to_owned(), after.to_owned()))
    }

    /// Message `turn` with the marker in the place of what it says: of its text after a thought, of all
    /// its text, of its first call's name, of its thought, or as a text that it does not have.
    fn variants(&self, turn: usize) -> Vec<Value> {
        let message = &self.chat.messages[turn];
        let with = |key: &str, value: Value| {
            let mut changed = message.clone();
            changed[key] = value;
            changed
        };
        let mut variants = Vec::new();
        let content = content_of(message);
        let say = |text: String| match &message["content"] {
            Value::Array(_) => with("content", json!([{"type": "text", "text": text}])),
            _ => with("content", text.into()),
        };
        if !content.trim().is_empty() {
            let spoken = spoken(content);
            if spoken.len() < content.trim().len() && !spoken.is_empty() {
                let thought = &content[..content.rfind(spoken).unwrap_or(0)];
                variants.push(say(format!("{thought}{}", self.marker)));
            }
            variants.push(say(self.marker.clone()));
        }
        if !message::calls(message).is_empty() {
            variants.push(with_name(message, &self.marker));
        }
        for key in THOUGHTS {
            if message[key].is_string() {
                variants.push(with(key, self.marker.clone().into()));
            }
        }
        if content.trim().is_empty() {
            variants.push(say(self.marker.clone()));
        }
        variants
    }

    fn render(&self, messages: &[Value], generation: bool) -> Result<Rendered> {
        render(self.template, &self.chat, messages, generation)
    }
}

/// Whether a template writes contents only if they are lists of parts, as those of models that see do.
pub fn wants_parts(template: &ChatTemplate) -> bool {
    const ANSWER: &str = "Seven.";
    let messages = [
        json!({"role": "user", "content": "Three plus four?"}),
        json!({"role": "assistant", "content": ANSWER}),
    ];
    let shows = |messages: &[Value]| {
        let text = template.render(&RenderInput { messages, ..RenderInput::default() });
        text.is_ok_and(|text| text.contains(ANSWER))
    };
    let mut parts = messages.clone();
    parts.iter_mut().for_each(into_parts);
    !shows(&messages) && shows(&parts)
}

/// The text of a message, in either form.
pub fn content_of(message: &Value) -> &str {
    match &message["content"] {
        Value::Array(parts) => parts.first().and_then(|part| part["text"].as_str()),
        content => content.as_str(),
    }
    .unwrap_or_default()
}

/// The thoughts of an answer: those of their own keys, and the one that its text begins with.
pub fn thoughts(message: &Value) -> impl Iterator<Item = &str> {
    let content = content_of(message);
    let within =
        &content[..content.len() - content.rsplit(THOUGHT_ENDS).next().map_or(0, str::len)];
    let within = within.strip_suffix(THOUGHT_ENDS).unwrap_or_default().trim();
    let within = within.strip_prefix("<think>").unwrap_or(within);
    let given = THOUGHTS.iter().filter_map(|key| message[*key].as_str());
    given.chain([within]).map(str::trim).filter(|thought| !thought.is_empty())
}

/// What an answer says after the thought that it begins with, trimmed.
pub fn spoken(content: &str) -> &str {
    content.rsplit(THOUGHT_ENDS).next().unwrap_or_default().trim()
}

/// The length in bytes of the longest common prefix, at a character's boundary.
pub fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

/// The length in bytes of the longest common suffix, at a character's boundary.
fn common_suffix(a: &str, b: &str) -> usize {
    let pairs = a.chars().rev().zip(b.chars().rev());
    pairs.take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

fn render(
    template: &ChatTemplate,
    chat: &Chat,
    messages: &[Value],
    add_generation_prompt: bool,
) -> Result<Rendered> {
    let (tools, variables) = (chat.tools.as_ref(), chat.variables.as_ref());
    template.render_marked(&RenderInput { messages, add_generation_prompt, tools, variables })
}

fn into_parts(message: &mut Value) {
    if let Some(Value::String(text)) = message.get("content") {
        message["content"] = json!([{"type": "text", "text": text}]);
    }
}

/// A word that a text does not have, and that no template takes apart.
fn word_not_in(text: &str) -> String {
    let words = (0..).map(|number| format!("Tz{number}Qk"));
    words.into_iter().find(|word| !text.contains(word)).unwrap_or_default()
}

/// Whether the template writes the calls of this conversation.
fn shows_calls(template: &ChatTemplate, chat: &Chat) -> bool {
    let word = word_not_in(&json!(chat.messages).to_string());
    let named = |message: &Value| match message::calls(message).is_empty() {
        true => message.clone(),
        false => with_name(message, &word),
    };
    let messages: Vec<Value> = chat.messages.iter().map(named).collect();
    render(template, chat, &messages, false).is_ok_and(|rendered| rendered.text.contains(&word))
}

/// Whether the template writes arguments that are a text as that text.
fn shows_arguments(template: &ChatTemplate, chat: &Chat) -> bool {
    let word = word_not_in(&json!(chat.messages).to_string());
    let text = format!("{{\"{word}\": \"\\\"\"}}");
    let marked = with_arguments(chat, |value| match value {
        Value::String(_) => Ok(Value::from(text.as_str())),
        other => Ok(other.clone()),
    });
    let rendered = marked.and_then(|chat| render(template, &chat, &chat.messages, false));
    rendered.is_ok_and(|rendered| rendered.text.contains(&text))
}

/// A message whose first call has another name.
fn with_name(message: &Value, name: &str) -> Value {
    let mut changed = message.clone();
    let call = &mut changed["tool_calls"][0];
    match call.get("function") {
        Some(_) => call["function"]["name"] = name.into(),
        None => call["name"] = name.into(),
    }
    changed
}

/// The arguments of all calls.
fn arguments(chat: &Chat) -> impl Iterator<Item = &Value> {
    let calls = chat.messages.iter().flat_map(message::calls);
    calls.filter_map(|call| call.get("function").unwrap_or(call).get("arguments"))
}

/// The conversation with other arguments in its calls.
fn with_arguments(chat: &Chat, change: impl Fn(&Value) -> Result<Value>) -> Result<Chat> {
    let mut changed = chat.clone();
    for message in &mut changed.messages {
        let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
        for call in calls.into_iter().flatten() {
            let function =
                if call.get("function").is_some() { &mut call["function"] } else { call };
            if let Some(arguments) = function.get_mut("arguments") {
                *arguments = change(arguments)?;
            }
        }
    }
    Ok(changed)
}
