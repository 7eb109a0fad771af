//! What a conversation has and its text does not show: the template leaves it out, so nothing is learned
//! of it. Templates do so on purpose (thoughts of earlier turns) and by age (a key that they do not know);
//! either way the user should hear of it, once.

use std::collections::BTreeSet;

use serde_json::Value;

use super::message;
use super::script::{Script, THOUGHTS, content_of, thoughts};

/// Whether it is worth looking: a conversation of plain questions and answers shows all it has.
pub(super) fn may_have_some(messages: &[Value], tools: Option<&Value>) -> bool {
    let plain = |message: &Value| {
        let keys = message.as_object().into_iter().flat_map(|message| message.keys());
        let known = |key: &String| key == "role" || key == "content" || message::is_about_loss(key);
        (message["role"] == "user" || message["role"] == "assistant")
            && keys.into_iter().all(known)
            && !content_of(message).contains("</think>")
    };
    tools.is_some() || !messages.iter().all(plain) || messages.iter().any(message::asks_for_loss)
}

/// What the text of a conversation does not show, and what else is not heeded, in words.
pub(super) fn of(script: &Script) -> Vec<String> {
    let mut unseen = left_out(script);
    for what in &mut unseen {
        what.push_str(": the chat template does not show it, so nothing is learned of it");
    }
    let of_others = |message: &&Value| message["role"] != "assistant";
    if script.chat.messages.iter().filter(of_others).any(message::asks_for_loss) {
        unseen.push(
            "\"train\": true of a message that is not the assistant's is not heeded".to_owned(),
        );
    }
    unseen
}

/// What the text does not show, in words.
fn left_out(script: &Script) -> Vec<String> {
    let mut unseen = Vec::new();
    let thoughts_unseen = keys(script, &mut unseen);
    roles(script, &mut unseen);
    if !thoughts_unseen && script.chat.answers().any(|turn| leaves_thought_out(script, turn)) {
        unseen.push("the thought of some learned answers".to_owned());
    }
    if script.chat.tools.as_ref().is_some_and(says_something)
        && script.without_tools().as_ref() == Some(&script.text)
    {
        unseen.push("`tools`".to_owned());
    }
    unseen
}

/// Notes the keys of messages that change nothing; returns whether thoughts are among them.
fn keys(script: &Script, unseen: &mut Vec<String>) -> bool {
    let mut names = BTreeSet::new();
    for message in &script.chat.messages {
        for (key, value) in message.as_object().into_iter().flatten() {
            if key != "role"
                && key != "content"
                && !message::is_about_loss(key)
                && says_something(value)
            {
                names.insert(if THOUGHTS.contains(&key.as_str()) { THOUGHTS[0] } else { key });
            }
        }
    }
    let mut thoughts_unseen = false;
    for name in names {
        let removed: &[&str] = if name == THOUGHTS[0] { &THOUGHTS } else { &[name] };
        let mut messages = script.chat.messages.clone();
        for message in messages.iter_mut().filter_map(Value::as_object_mut) {
            message.retain(|key, _| !removed.contains(&key.as_str()));
        }
        if script.with_messages(&messages).as_ref() == Some(&script.text) {
            thoughts_unseen |= name == THOUGHTS[0];
            unseen.push(format!("the message key `{name}`"));
        }
    }
    thoughts_unseen
}

/// Notes the roles of which no message is shown.
fn roles(script: &Script, unseen: &mut Vec<String>) {
    let mut looked_at = BTreeSet::new();
    for (turn, message) in script.chat.messages.iter().enumerate() {
        let (role, words) =
            (message["role"].as_str().unwrap_or_default(), content_of(message).trim());
        if role == "assistant" || words.is_empty() || script.text.contains(words) {
            continue;
        }
        if looked_at.insert(role) && script.says_nothing(turn) {
            unseen.push(format!("the messages of the role {role:?}"));
        }
    }
}

/// Whether the thought of a learned answer is not in the text.
fn leaves_thought_out(script: &Script, turn: usize) -> bool {
    let mut thoughts = thoughts(&script.chat.messages[turn]);
    script.chat.is_trained(turn) && thoughts.any(|thought| !script.text.contains(thought))
}

/// Whether a value is more than nothing.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(object) => !object.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}
