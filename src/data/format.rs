//! The forms a row can have, told apart by their keys, and what each says.

mod preference;

pub use preference::Pair;

use serde_json::{Map, Value, json};

use super::message::{self, keys_of, shown};
use crate::tokenizer::json_kind as kind;
use crate::{Error, Result};

/// A form of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `text`: plain text, all of it trained.
    Text,
    /// `messages`: a conversation of `role` and `content`.
    Messages,
    /// `prompt` and `completion`: strings or message lists.
    PromptCompletion,
    /// `chosen` and `rejected`, mostly with a `prompt`: for preference objectives.
    Preference,
    /// `instruction`, perhaps `input`, and `output`.
    Alpaca,
    /// `conversations` of `from` and `value`.
    Sharegpt,
}

/// Every format with its name in the config and the keys that a row must have.
const FORMATS: [(Format, &str, &[&str]); 6] = [
    (Format::Text, "text", &["text"]),
    (Format::Messages, "messages", &["messages"]),
    (Format::PromptCompletion, "prompt-completion", &["prompt", "completion"]),
    (Format::Preference, "preference", &["chosen", "rejected"]),
    (Format::Alpaca, "alpaca", &["instruction", "output"]),
    (Format::Sharegpt, "sharegpt", &["conversations"]),
];

/// What a row says, whatever its form was.
#[derive(Debug, Clone, PartialEq)]
pub enum Sample {
    /// Text that is trained from its second token on.
    Text(String),
    /// A text and its continuation.
    PromptCompletion {
        /// What is given.
        prompt: String,
        /// What is trained.
        completion: String,
    },
    /// A conversation.
    Chat(Chat),
    /// An answer and a worse one.
    Preference(Box<Pair>),
}

/// A conversation for a chat template.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chat {
    /// Objects with `role` and `content`, a text, as the template takes them; no value is null.
    pub messages: Vec<Value>,
    /// Assistant turns before this message are context and carry no loss.
    pub trained_from: usize,
    /// Messages with tool calls that the row writes as a text, and that text: what they say under a
    /// template that knows no calls.
    pub calls_as_text: Vec<(usize, String)>,
    /// The row's `tools`.
    pub tools: Option<Value>,
    /// The row's `chat_template_kwargs`.
    pub variables: Option<Map<String, Value>>,
}

impl Chat {
    /// The assistant's turns.
    pub fn answers(&self) -> impl DoubleEndedIterator<Item = usize> {
        (0..self.messages.len()).filter(|&turn| self.messages[turn]["role"] == "assistant")
    }

    /// Whether an assistant's turn is to be learned.
    pub fn is_trained(&self, turn: usize) -> bool {
        turn >= self.trained_from && !self.is_masked(turn)
    }

    /// Whether a message says that it is not to be learned.
    pub fn is_masked(&self, turn: usize) -> bool {
        message::is_masked(&self.messages[turn])
    }
}

impl Format {
    /// The name the config uses.
    pub const fn name(self) -> &'static str {
        self.entry().1
    }

    /// What its rows are, in words.
    pub(super) fn describe(self) -> String {
        let keys = match self.keys() {
            [key] => (*key).to_owned(),
            [keys @ .., last] => format!("{} and {last}", keys.join(", ")),
            [] => String::new(),
        };
        let what = match self {
            Self::Preference => "preference pairs".to_owned(),
            _ => format!("of the format {}", self.name()),
        };
        format!("rows of {keys} are {what}")
    }

    fn keys(self) -> &'static [&'static str] {
        self.entry().2
    }

    const fn entry(self) -> &'static (Self, &'static str, &'static [&'static str]) {
        // Every variant is in the table, in the order of the enum.
        &FORMATS[self as usize]
    }

    /// The format that a row's keys tell. A key whose value is null counts as absent.
    pub fn detect(object: &Map<String, Value>) -> Result<Self> {
        if preference::is_pair(object) && !present(object, "completion") {
            return Ok(Self::Preference);
        }
        let fits: Vec<Format> = FORMATS
            .iter()
            .filter(|(_, _, keys)| keys.iter().all(|key| present(object, key)))
            .map(|(format, ..)| *format)
            .collect();
        match fits.as_slice() {
            [format] => Ok(*format),
            [] => {
                let known: Vec<String> = FORMATS
                    .iter()
                    .map(|(_, name, keys)| format!("{} ({name})", keys.join(" + ")))
                    .collect();
                Err(Error::input(format!(
                    "the keys {} fit no format; expected {}",
                    keys_of(object),
                    known.join(", ")
                )))
            }
            several => {
                let names: Vec<&str> = several.iter().map(|format| format.name()).collect();
                Err(Error::input(format!(
                    "the keys {} fit more than one format: set data.format to {}",
                    keys_of(object),
                    names.join(" or ")
                )))
            }
        }
    }

    /// What `object` says, read as this format.
    ///
    /// # Errors
    /// A missing key, a value of the wrong type, an unknown role, or a row without an answer to
    /// learn. The message does not say where: the caller knows file and line.
    pub fn sample(self, object: &Map<String, Value>) -> Result<Sample> {
        let is_pair = self == Self::Preference && preference::is_pair(object);
        let mut keys = self.keys().iter();
        if let Some(missing) = keys.find(|key| !is_pair && !present(object, key)) {
            let hint = match Self::detect(object) {
                Ok(other) if other != self => {
                    format!(
                        "; this row looks like {}: all rows of a run have one format",
                        other.name()
                    )
                }
                _ => String::new(),
            };
            return Err(Error::input(format!(
                "the key `{missing}` of format {} is missing or null (keys found: {}){hint}",
                self.name(),
                keys_of(object)
            )));
        }
        match self {
            Self::Text => {
                let text = string(object, "text")?;
                answer(text, "`text`")?;
                Ok(Sample::Text(text.to_string()))
            }
            Self::PromptCompletion => prompt_completion(object),
            Self::Messages => {
                let messages = message::messages(&object["messages"], "messages")?;
                chat(object, messages, 0).map(Sample::Chat)
            }
            Self::Alpaca => alpaca(object).map(Sample::Chat),
            Self::Sharegpt => sharegpt(object).map(Sample::Chat),
            Self::Preference => preference::pair(object),
        }
    }
}

fn present(object: &Map<String, Value>, key: &str) -> bool {
    object.get(key).is_some_and(|value| !value.is_null())
}

/// A string at `key`, which is there.
fn string<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a str> {
    let value = &object[key];
    value.as_str().ok_or_else(|| {
        Error::input(format!("`{key}` is {}, expected a string: {}", kind(value), shown(value)))
    })
}

fn optional_string<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a str> {
    if present(object, key) { string(object, key) } else { Ok("") }
}

fn answer(text: &str, what: &str) -> Result<()> {
    if text.trim().is_empty() {
        return Err(Error::input(format!(
            "{what} is empty: there is nothing to learn from this row"
        )));
    }
    Ok(())
}

fn prompt_completion(object: &Map<String, Value>) -> Result<Sample> {
    match (&object["prompt"], &object["completion"]) {
        (Value::Array(_), Value::Array(_)) => {
            let mut turns = message::messages(&object["prompt"], "prompt")?;
            let trained_from = turns.len();
            turns.extend(message::messages(&object["completion"], "completion")?);
            chat(object, turns, trained_from).map(Sample::Chat)
        }
        (Value::Array(_), other) | (other, Value::Array(_)) => Err(Error::input(format!(
            "`prompt` and `completion` must be both strings or both message lists; one is a list \
             and the other {}",
            kind(other)
        ))),
        _ => {
            let (prompt, completion) = (string(object, "prompt")?, string(object, "completion")?);
            answer(completion, "`completion`")?;
            Ok(Sample::PromptCompletion { prompt: prompt.into(), completion: completion.into() })
        }
    }
}

fn alpaca(object: &Map<String, Value>) -> Result<Chat> {
    let (instruction, output) = (string(object, "instruction")?, string(object, "output")?);
    answer(output, "`output`")?;
    if object.get("history").and_then(Value::as_array).is_some_and(|turns| !turns.is_empty()) {
        return Err(Error::input(
            "`history` is not part of the alpaca format here; write the conversation as `messages`",
        ));
    }
    let user = match optional_string(object, "input")? {
        "" => instruction.to_string(),
        input => format!("{instruction}\n{input}"),
    };
    let mut messages = system(object)?;
    messages.push(json!({"role": "user", "content": user}));
    messages.push(json!({"role": "assistant", "content": output}));
    chat(object, messages, 0)
}

/// The system message of a row that has a `system` key.
fn system(object: &Map<String, Value>) -> Result<Vec<Value>> {
    Ok(match optional_string(object, "system")? {
        "" => Vec::new(),
        text => vec![json!({"role": "system", "content": text})],
    })
}

fn sharegpt(object: &Map<String, Value>) -> Result<Chat> {
    turns(object, &object["conversations"], 0)
}

/// A conversation of `turns` after the message of a `system` key, of which the first `given` carry no
/// loss.
fn turns(object: &Map<String, Value>, turns: &Value, given: usize) -> Result<Chat> {
    let mut messages = system(object)?;
    let before = messages.len();
    let (turns, calls) = message::sharegpt(turns)?;
    messages.extend(turns);
    let calls_as_text = calls.into_iter().map(|(turn, text)| (before + turn, text)).collect();
    let trained_from = if given > 0 { before + given } else { 0 };
    Ok(Chat { calls_as_text, ..chat(object, messages, trained_from)? })
}

/// A conversation with what the row says besides, if it has an answer.
fn chat(object: &Map<String, Value>, messages: Vec<Value>, trained_from: usize) -> Result<Chat> {
    let (tools, variables) = (message::tools(object)?, message::variables(object)?);
    let chat = Chat { messages, trained_from, tools, variables, ..Chat::default() };
    let answers = || chat.answers().filter(|&turn| turn >= trained_from);
    if answers().next().is_none() {
        let roles: Vec<&str> =
            chat.messages.iter().filter_map(|message| message["role"].as_str()).collect();
        return Err(Error::input(format!(
            "there is no assistant turn to learn from (roles: {})",
            roles.join(", ")
        )));
    }
    if answers().all(|turn| message::is_empty(&chat.messages[turn])) {
        return Err(Error::input(
            "every assistant turn is empty: there is nothing to learn from this row",
        ));
    }
    Ok(chat)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(json: &str) -> Map<String, Value> {
        serde_json::from_str(json).unwrap()
    }

    fn auto(json: &str) -> Result<Sample> {
        let row = object(json);
        Format::detect(&row)?.sample(&row)
    }

    fn error(json: &str) -> String {
        auto(json).unwrap_err().to_string()
    }

    #[test]
    fn formats_are_told_apart_by_keys() {
        for (json, expected) in [
            (r#"{"text": "a", "messages": null}"#, Format::Text),
            (r#"{"messages": []}"#, Format::Messages),
            (r#"{"prompt": "a", "completion": "b", "id": 1}"#, Format::PromptCompletion),
            (r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#, Format::Preference),
            (r#"{"instruction": "a", "input": "", "output": "c"}"#, Format::Alpaca),
            (r#"{"conversations": []}"#, Format::Sharegpt),
        ] {
            assert_eq!(Format::detect(&object(json)).unwrap(), expected);
        }
        assert!(error(r#"{"txt": "a"}"#).contains("`txt` fit no format; expected text (text)"));
        let both = error(r#"{"instruction": "a", "output": "b", "text": "c"}"#);
        assert!(both.contains("set data.format to text or alpaca"), "{both}");
    }

    #[test]
    fn alpaca_and_sharegpt_become_messages() {
        let Sample::Chat(chat) =
            auto(r#"{"instruction": "Add", "input": "1 2", "output": "3"}"#).unwrap()
        else {
            panic!("not a chat")
        };
        assert_eq!(
            Value::from(chat.messages),
            json!([{"role": "user", "content": "Add\n1 2"}, {"role": "assistant", "content": "3"}])
        );
        let row = r#"{"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "u"},
                     {"from": "gpt", "value": "a"}], "tools": [{"name": "t"}]}"#;
        let Sample::Chat(chat) = auto(row).unwrap() else { panic!("not a chat") };
        let roles: Vec<_> = chat.messages.iter().map(|m| m["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["system", "user", "assistant"]);
        assert_eq!(chat.tools, Some(json!([{"name": "t"}])));
    }

    #[test]
    fn message_lists_as_prompt_are_context() {
        let row = r#"{"prompt": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"},
                      {"role": "user", "content": "v"}],
                      "completion": [{"role": "assistant", "content": "b"}]}"#;
        let Sample::Chat(chat) = auto(row).unwrap() else { panic!("not a chat") };
        assert_eq!((chat.messages.len(), chat.trained_from), (4, 3));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (json, expected) in [
            (r#"{"text": 3}"#, "`text` is a number, expected a string: `3`"),
            (r#"{"text": " "}"#, "`text` is empty"),
            (r#"{"prompt": "p", "completion": ""}"#, "`completion` is empty"),
            (r#"{"prompt": "p", "completion": []}"#, "both strings or both message lists"),
            (r#"{"messages": "hi"}"#, "`messages` is a string, expected a list"),
            (r#"{"messages": []}"#, "`messages` is an empty list"),
            (r#"{"messages": ["hi"]}"#, "messages[0]: is a string, expected an object"),
            (r#"{"messages": [{"from": "human", "value": "x"}]}"#, "under the key `conversations`"),
            (r#"{"messages": [{"role": "bot", "content": "x"}]}"#, "no assistant turn"),
            (r#"{"messages": [{"role": 7, "content": "x"}]}"#, "`role` is a number"),
            (r#"{"messages": [{"role": "user", "text": "x"}]}"#, "`content` is missing or null"),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "image"}]}]}"#,
                "is of type \"image\", and only text",
            ),
            (r#"{"messages": [{"role": "user", "content": 3}]}"#, "`content` is a number"),
            (r#"{"messages": [{"role": "user", "content": "x"}]}"#, "no assistant turn"),
            (
                r#"{"messages": [{"role": "assistant", "content": " "}]}"#,
                "every assistant turn is empty",
            ),
            (r#"{"conversations": [{"from": "x", "value": "y"}]}"#, "assistant turn to learn from"),
            (
                r#"{"conversations": [{"role": "user", "content": "y"}]}"#,
                "under the key `messages`",
            ),
            (r#"{"instruction": "i", "output": "o", "history": [["a", "b"]]}"#, "`history`"),
        ] {
            let message = error(json);
            assert!(message.contains(expected), "{json}: {message}");
        }
        let message = Format::Text.sample(&object(r#"{"prompt": "a", "completion": "b"}"#));
        let message = message.unwrap_err().to_string();
        assert!(
            message.contains("`text` of format text is missing")
                && message.contains("looks like prompt-completion"),
            "{message}"
        );
    }
}
