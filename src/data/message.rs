//! What a row says as a conversation: checked, and in the one form that the rest works with.
//!
//! As Transformers' `apply_chat_template`: keys whose value is null are not there. Beyond it: the text
//! parts of a content are joined, and `tools`, `tool_calls` and `chat_template_kwargs` may be JSON texts,
//! as columnar files hold them. Roles are the template's business.

use serde_json::{Map, Value, json};

use super::read::excerpt;
use crate::tokenizer::{json_kind as kind, read_json};
use crate::{Error, Result};

/// The keys under which a message says whether it is learned, and what says no: OpenAI's and
/// mistral-finetune's `weight`, axolotl's `train` and `training`, and `masked`.
const LOSS_KEYS: [(&str, bool); 4] =
    [("weight", false), ("train", false), ("training", false), ("masked", true)];

/// Keys that may stand in a message without content: what it says instead, and what is said about it.
const BESIDE_CONTENT: [&str; 10] = [
    "role",
    "tool_calls",
    "reasoning_content",
    "reasoning",
    "thinking",
    "name",
    "tool_call_id",
    "id",
    "refusal",
    "function_call",
];

/// Whether a key of a message is about its loss.
pub(super) fn is_about_loss(key: &str) -> bool {
    LOSS_KEYS.iter().any(|(known, _)| *known == key)
}

/// Whether a message says that it carries no loss.
pub(super) fn is_masked(message: &Value) -> bool {
    LOSS_KEYS.iter().any(|(key, no)| match message.get(key) {
        Some(Value::Bool(value)) => value == no,
        Some(Value::Number(number)) => number.as_f64() == Some(0.0),
        _ => false,
    })
}

/// Whether a message says of itself, in words, that it is learned.
pub(super) fn asks_for_loss(message: &Value) -> bool {
    message["train"] == true || message["training"] == true
}

/// The calls of a message; none where it has none.
pub(super) fn calls(message: &Value) -> &[Value] {
    message["tool_calls"].as_array().map_or(&[], Vec::as_slice)
}

/// Whether a message says nothing at all.
pub(super) fn is_empty(message: &Value) -> bool {
    let says = |key: &str| message[key].as_str().is_some_and(|text| !text.trim().is_empty());
    !["content", "reasoning_content", "reasoning", "thinking"].iter().any(|key| says(key))
        && calls(message).is_empty()
}

/// The messages at `key`, checked one by one.
pub(super) fn messages(value: &Value, key: &str) -> Result<Vec<Value>> {
    let of = |(index, value): (usize, &Value)| {
        message(value).map_err(|error| Error::input(format!("{key}[{index}]: {error}")))
    };
    list(value, key)?.iter().enumerate().map(of).collect()
}

/// A message in the one form.
fn message(value: &Value) -> Result<Value> {
    let Some(object) = value.as_object() else {
        return Err(Error::input(format!(
            "is {}, expected an object with `role` and `content`: {}",
            kind(value),
            shown(value)
        )));
    };
    let said = object.iter().filter(|(_, value)| !value.is_null());
    let mut message: Map<String, Value> =
        said.map(|(key, value)| (key.clone(), value.clone())).collect();
    match message.get("role") {
        Some(Value::String(_)) => {}
        Some(other) => {
            return Err(Error::input(format!("`role` is {}, expected a string", kind(other))));
        }
        None => {
            let hint = match object.contains_key("from") {
                true => "; a list of `from` and `value` belongs under the key `conversations`",
                false => "",
            };
            return Err(Error::input(format!(
                "the key `role` is missing (keys found: {}){hint}",
                keys_of(object)
            )));
        }
    }
    check_loss(&message)?;
    if let Some(calls) = message.get_mut("tool_calls") {
        *calls = tool_calls(calls)?;
    }
    let Some(content) = message.get_mut("content") else {
        let known = |key: &str| is_about_loss(key) || BESIDE_CONTENT.contains(&key);
        if message.keys().all(|key| known(key)) {
            return Ok(Value::Object(message));
        }
        return Err(Error::input(format!(
            "`content` is missing or null (keys found: {})",
            keys_of(&message)
        )));
    };
    *content = match content {
        Value::String(_) => return Ok(Value::Object(message)),
        Value::Array(parts) => Value::from(joined(parts)?),
        other => {
            return Err(Error::input(format!(
                "`content` is {}, expected a string or a list of text parts: {}",
                kind(other),
                shown(other)
            )));
        }
    };
    Ok(Value::Object(message))
}

/// The texts of a content's parts, one after another.
fn joined(parts: &[Value]) -> Result<String> {
    let text = |part: &Value| {
        let is_text = matches!(part.get("type"), None | Some(Value::Null))
            || part.get("type").and_then(Value::as_str) == Some("text");
        let text = part.get("text").and_then(Value::as_str).filter(|_| is_text);
        text.map(str::to_owned).ok_or_else(|| {
            let what = match part.get("type").and_then(Value::as_str) {
                Some(name) if name != "text" => format!("is of type {name:?}"),
                _ => "is not {\"type\": \"text\", \"text\": ...}".to_owned(),
            };
            Error::input(format!(
                "a part of `content` {what}, and only text can be trained: {}",
                shown(part)
            ))
        })
    };
    parts.iter().map(text).collect()
}

/// Refuses what is no yes or no about the loss of a message.
fn check_loss(message: &Map<String, Value>) -> Result<()> {
    if let Some(key) =
        ["train_detail", "training_detail"].iter().find(|key| message.contains_key(**key))
    {
        return Err(Error::input(format!(
            "`{key}` says which characters of the message are learned, and a message is learned whole \
             or not at all here: split it, or say \"train\": false"
        )));
    }
    for (key, _) in LOSS_KEYS {
        let (fits, expected) = match (message.get(key), key) {
            (None, _) => continue,
            (Some(value), "weight") => {
                let number = value.as_f64();
                (number == Some(0.0) || number == Some(1.0), "0 (no loss) or 1")
            }
            (Some(value), _) => (value.is_boolean(), "true or false"),
        };
        if !fits {
            return Err(Error::input(format!(
                "`{key}` is {}, expected {expected}: it says whether the message is learned",
                shown(&message[key])
            )));
        }
    }
    Ok(())
}

/// Tool calls as a list of objects.
fn tool_calls(value: &Value) -> Result<Value> {
    let calls = parsed(value, "tool_calls")?;
    let Value::Array(items) = &calls else {
        return Err(Error::input(format!(
            "`tool_calls` is {}, expected a list: {}",
            kind(&calls),
            shown(&calls)
        )));
    };
    for (index, call) in items.iter().enumerate() {
        let function = call.get("function").unwrap_or(call);
        if !function.get("name").is_some_and(Value::is_string) {
            return Err(Error::input(format!(
                "tool_calls[{index}] has no string `name`, expected {{\"type\": \"function\", \
                 \"function\": {{\"name\": ..., \"arguments\": ...}}}}: {}",
                shown(call)
            )));
        }
    }
    Ok(calls)
}

/// The `tools` of a row: objects, or JSON texts of them.
pub(super) fn tools(row: &Map<String, Value>) -> Result<Option<Value>> {
    let Some(tools) = given(row, "tools")? else { return Ok(None) };
    let Value::Array(items) = &tools else {
        return Err(Error::input(format!(
            "`tools` is {}, expected a list of JSON schemas: {}",
            kind(&tools),
            shown(&tools)
        )));
    };
    let tool = |(index, tool): (usize, &Value)| {
        let place = format!("tools[{index}]");
        let tool = parsed(tool, &place)?;
        match tool.is_object() {
            true => Ok(tool),
            false => Err(Error::input(format!(
                "{place} is {}, expected an object, {{\"type\": \"function\", \"function\": ...}}: {}",
                kind(&tool),
                shown(&tool)
            ))),
        }
    };
    Ok(Some(Value::Array(items.iter().enumerate().map(tool).collect::<Result<_>>()?)))
}

/// The `chat_template_kwargs` of a row.
pub(super) fn variables(row: &Map<String, Value>) -> Result<Option<Map<String, Value>>> {
    match given(row, "chat_template_kwargs")? {
        None => Ok(None),
        Some(Value::Object(variables)) => Ok(Some(variables)),
        Some(other) => Err(Error::input(format!(
            "`chat_template_kwargs` is {}, expected an object: {}",
            kind(&other),
            shown(&other)
        ))),
    }
}

/// What a row has at `key`, read if it is a JSON text; an empty text is nothing.
fn given(row: &Map<String, Value>, key: &str) -> Result<Option<Value>> {
    match row.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(value) => Ok(Some(parsed(value, key)?).filter(|value| !value.is_null())),
    }
}

/// A value, read if it is a JSON text.
fn parsed(value: &Value, place: &str) -> Result<Value> {
    let Value::String(text) = value else { return Ok(value.clone()) };
    read_json(text).map_err(|fault| {
        Error::input(format!(
            "`{place}` is a text that is not JSON: {}, line {} column {}: {}",
            fault.reason,
            fault.line,
            fault.column,
            excerpt(text)
        ))
    })
}

/// Which turns are calls: the index, and the call as the row writes it.
pub(super) type Calls = Vec<(usize, String)>;

/// The turns of sharegpt's `conversations` as messages, and which of them are calls.
pub(super) fn sharegpt(turns: &Value) -> Result<(Vec<Value>, Calls)> {
    let (mut messages, mut calls) = (Vec::new(), Vec::new());
    for (index, value) in list(turns, "conversations")?.iter().enumerate() {
        let (message, call) = turn(value, &format!("conversations[{index}]"))?;
        messages.push(message);
        calls.extend(call.map(|call| (index, call)));
    }
    Ok((messages, calls))
}

/// The message of a turn of `from` and `value`, and, if it is a call, the call as the row writes it.
/// `place` is what errors call the turn.
pub(super) fn turn(turn: &Value, place: &str) -> Result<(Value, Option<String>)> {
    let at = |error| Error::input(format!("{place}: {error}"));
    let (Some(from), Some(value)) = (turn.get("from").and_then(Value::as_str), turn.get("value"))
    else {
        let hint = match turn.get("role") {
            Some(_) => "; a list of `role` and `content` belongs under the key `messages`",
            None => "",
        };
        return Err(Error::input(format!(
            "{place} has no string `from` and `value`, expected {{\"from\": ..., \"value\": ...}}: \
             {}{hint}",
            shown(turn)
        )));
    };
    let mut said = Map::new();
    said.insert("role".into(), role_of(from).into());
    said.insert("content".into(), value.clone());
    let mut call = None;
    if from == "function_call" {
        let text = value
            .as_str()
            .ok_or_else(|| at(Error::input("the `value` of a function_call is not a JSON text")))?;
        said.insert("content".into(), "".into());
        said.insert("tool_calls".into(), called(text).map_err(at)?);
        call = Some(text.to_owned());
    }
    let known = ["from", "value", "role", "content"];
    let further = turn.as_object().into_iter().flatten();
    let further = further.filter(|(key, _)| !known.contains(&key.as_str()));
    said.extend(further.map(|(key, value)| (key.clone(), value.clone())));
    Ok((message(&Value::Object(said)).map_err(at)?, call))
}

/// The role that a `from` means; one that is not known is left to the template.
fn role_of(from: &str) -> &str {
    match from {
        "human" | "user" => "user",
        "gpt" | "assistant" | "model" | "chatgpt" | "function_call" => "assistant",
        "observation" | "tool" | "tool_response" => "tool",
        other => other,
    }
}

/// The tool calls that a function_call's text says: one object, or a list of them.
fn called(text: &str) -> Result<Value> {
    let functions = match parsed(&Value::from(text), "value")? {
        Value::Array(functions) => functions,
        one => vec![one],
    };
    let call = |function| json!({"type": "function", "function": function});
    Ok(functions.into_iter().map(call).collect())
}

pub(super) fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    match value {
        Value::Array(items) if !items.is_empty() => Ok(items),
        Value::Array(_) => Err(Error::input(format!("`{key}` is an empty list"))),
        other => Err(Error::input(format!(
            "`{key}` is {}, expected a list: {}",
            kind(other),
            shown(other)
        ))),
    }
}

/// The keys of an object, in words.
pub(super) fn keys_of(object: &Map<String, Value>) -> String {
    let keys: Vec<String> = object.keys().map(|key| format!("`{key}`")).collect();
    if keys.is_empty() { "(none)".into() } else { keys.join(", ") }
}

/// A value, for a message.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) if kind(value) == "a number" => "`a number beyond 64 bits`".into(),
        _ => excerpt(&value.to_string()),
    }
}
