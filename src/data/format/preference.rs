//! Preference rows: an answer and a worse one to the same prompt, in the forms that data sets have.
//!
//! ```text
//! prompt, chosen, rejected              strings, or lists of messages
//! chosen, rejected                      the prompt is how both begin
//! question (+ system), chosen, rejected         a user turn and two answers; also instruction (+ input)
//! instruction (+ input), output: [good, bad]    the same
//! conversations, chosen, rejected               turns of from and value; the answers are turns too
//! ```

use serde_json::{Map, Value, json};

use super::{Chat, Sample, answer, chat, optional_string, present, string, system, turns};
use crate::data::message::{keys_of, list, messages};
use crate::tokenizer::json_kind as kind;
use crate::{Error, Result};

/// An answer and a worse one, each with the prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The better one.
    pub chosen: Sample,
    /// The worse one.
    pub rejected: Sample,
}

/// Whether the keys of a row are those of a pair.
pub(super) fn is_pair(object: &Map<String, Value>) -> bool {
    (present(object, "chosen") && present(object, "rejected")) || has_list_of_outputs(object)
}

fn has_list_of_outputs(object: &Map<String, Value>) -> bool {
    present(object, "instruction") && object.get("output").is_some_and(Value::is_array)
}

/// What a row says that [`is_pair`].
///
/// # Errors
/// What is wrong with it, answers that are empty or equal among it.
pub(super) fn pair(object: &Map<String, Value>) -> Result<Sample> {
    let [chosen, rejected] = answers(object)?;
    if chosen == rejected {
        return Err(Error::input(
            "the chosen and the rejected answer are equal: there is nothing to prefer; remove the row",
        ));
    }
    Ok(Sample::Preference(Box::new(Pair { chosen, rejected })))
}

fn answers(object: &Map<String, Value>) -> Result<[Sample; 2]> {
    if has_list_of_outputs(object) {
        return of_outputs(object);
    }
    if present(object, "conversations") {
        let asked = list(&object["conversations"], "conversations")?;
        return both(|key| {
            let all = [asked.as_slice(), &[object[key].clone()]].concat();
            turns(object, &Value::Array(all), asked.len()).map(Sample::Chat).map_err(|e| at(key, e))
        });
    }
    match ["question", "instruction"].into_iter().find(|key| present(object, key)) {
        Some(key) if !present(object, "prompt") => {
            let turns = user_turn(object, key)?;
            both(|key| conversation(object, turns.clone(), vec![assistant(object, key)?], key))
        }
        _ => of_prompt(object),
    }
}

/// The chosen and the rejected answer, by their keys.
fn both(read: impl Fn(&'static str) -> Result<Sample>) -> Result<[Sample; 2]> {
    Ok([read("chosen")?, read("rejected")?])
}

/// `output` as a list of a good and a bad answer.
fn of_outputs(object: &Map<String, Value>) -> Result<[Sample; 2]> {
    let texts: Option<Vec<&str>> =
        object["output"].as_array().map(|list| list.iter().filter_map(Value::as_str).collect());
    let Some([good, bad]) = texts.as_deref().filter(|_| object["output"][2].is_null()) else {
        return Err(Error::input(
            "`output` is a list, but not of two strings: expected a good answer and a bad one",
        ));
    };
    let turns = user_turn(object, "instruction")?;
    let read = |text: &str, key: &str| {
        answer(text, key)?;
        let turn = json!({"role": "assistant", "content": text});
        conversation(object, turns.clone(), vec![turn], key)
    };
    Ok([read(good, "`output[0]`")?, read(bad, "`output[1]`")?])
}

/// The system message, if there is one, and what the user asks at `key`.
fn user_turn(object: &Map<String, Value>, key: &str) -> Result<Vec<Value>> {
    let mut turns = system(object)?;
    let asked = string(object, key)?;
    let text = match optional_string(object, "input")? {
        "" => asked.to_owned(),
        input => format!("{asked}\n{input}"),
    };
    turns.push(json!({"role": "user", "content": text}));
    Ok(turns)
}

fn assistant(object: &Map<String, Value>, key: &str) -> Result<Value> {
    let text = string(object, key)?;
    answer(text, &format!("`{key}`"))?;
    Ok(json!({"role": "assistant", "content": text}))
}

/// An answer in a conversation, whose prompt carries no loss.
fn conversation(
    object: &Map<String, Value>,
    mut turns: Vec<Value>,
    of_answer: Vec<Value>,
    key: &str,
) -> Result<Sample> {
    let trained_from = turns.len();
    turns.extend(of_answer);
    let chat: Result<Chat> = chat(object, turns, trained_from);
    chat.map(Sample::Chat).map_err(|error| at(key, error))
}

fn at(key: &str, error: Error) -> Error {
    Error::input(format!("{key}: {error}"))
}

/// `prompt`, if it is there, with `chosen` and `rejected`.
fn of_prompt(object: &Map<String, Value>) -> Result<[Sample; 2]> {
    if let Some(missing) = ["chosen", "rejected"].into_iter().find(|key| !present(object, key)) {
        return Err(Error::input(format!(
            "the key `{missing}` of format preference is missing or null (keys found: {})",
            keys_of(object)
        )));
    }
    let prompt = object.get("prompt").filter(|prompt| !prompt.is_null());
    match (prompt, &object["chosen"], &object["rejected"]) {
        (Some(Value::Array(_)), Value::Array(_), Value::Array(_)) => {
            let turns = messages(&object["prompt"], "prompt")?;
            both(|key| conversation(object, turns.clone(), messages(&object[key], key)?, key))
        }
        // Some sets give the first user turn as `prompt` besides.
        (None | Some(Value::String(_)), Value::Array(_), Value::Array(_)) => {
            let [chosen, rejected] = ["chosen", "rejected"].map(|key| messages(&object[key], key));
            let (chosen, rejected) = (chosen?, rejected?);
            let given = common(&chosen, &rejected);
            let (turns, chosen) = chosen.split_at(given);
            let says = |turn: &Value| prompt.is_none_or(|text| turn["content"] == *text);
            if given == 0 || !turns.iter().any(says) {
                return Err(Error::input(
                    "`chosen` and `rejected` are conversations that do not begin with the prompt: give \
                     `prompt` as a list of messages",
                ));
            }
            let answer = |of_answer: &[Value], key| {
                conversation(object, turns.to_vec(), of_answer.to_vec(), key)
            };
            Ok([answer(chosen, "chosen")?, answer(&rejected[given..], "rejected")?])
        }
        (prompt, Value::String(chosen), Value::String(rejected))
            if prompt.is_none_or(Value::is_string) =>
        {
            let (prompt, chosen, rejected) = match prompt {
                Some(_) => (string(object, "prompt")?, chosen.as_str(), rejected.as_str()),
                None => split(chosen, rejected),
            };
            let read = |completion: &str, key: &str| {
                answer(completion, key)?;
                let (prompt, completion) = (prompt.to_owned(), completion.to_owned());
                Ok(Sample::PromptCompletion { prompt, completion })
            };
            Ok([read(chosen, "`chosen`")?, read(rejected, "`rejected`")?])
        }
        (prompt, chosen, rejected) => Err(Error::input(format!(
            "`prompt`, `chosen` and `rejected` must be all strings or all message lists; they are {}, \
             {} and {}",
            prompt.map_or("not there", kind),
            kind(chosen),
            kind(rejected)
        ))),
    }
}

/// How many elements two lists begin with in common. Where one is the whole beginning of the other, its
/// last element is no prompt: it would leave an empty answer.
fn common<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let shorter = a.len().min(b.len());
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    if same == shorter { shorter.saturating_sub(1) } else { same }
}

/// The prompt that two texts begin with, character by character, less a space at its end, and what
/// follows it in each.
fn split<'a>(chosen: &'a str, rejected: &'a str) -> (&'a str, &'a str, &'a str) {
    let letters = |text: &str| text.chars().collect::<Vec<char>>();
    let (a, b) = (letters(chosen), letters(rejected));
    let mut given = common(&a, &b);
    if given > 0 && a[given] != b[given] && a[given - 1] == ' ' {
        given -= 1;
    }
    let bytes: usize = a[..given].iter().map(|letter| letter.len_utf8()).sum();
    (&chosen[..bytes], &chosen[bytes..], &rejected[bytes..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Format;

    fn read(row: Value) -> Result<Pair> {
        let object = row.as_object().unwrap();
        let format = Format::detect(object)?;
        assert_eq!(format, Format::Preference);
        match format.sample(object)? {
            Sample::Preference(pair) => Ok(*pair),
            other => panic!("{other:?}"),
        }
    }

    fn text(prompt: &str, completion: &str) -> Sample {
        Sample::PromptCompletion { prompt: prompt.into(), completion: completion.into() }
    }

    fn turns(sample: &Sample) -> (Vec<(String, String)>, usize) {
        let Sample::Chat(chat) = sample else { panic!("{sample:?}") };
        let text = |message: &Value, key: &str| message[key].as_str().unwrap().to_owned();
        let turns = chat.messages.iter().map(|m| (text(m, "role"), text(m, "content"))).collect();
        (turns, chat.trained_from)
    }

    fn expected(turns: &[(&str, &str)]) -> Vec<(String, String)> {
        turns.iter().map(|(role, text)| (role.to_string(), text.to_string())).collect()
    }

    #[test]
    fn strings_have_a_prompt_or_begin_alike() {
        let pair = read(json!({"prompt": "2+2=", "chosen": " 4", "rejected": " 5"})).unwrap();
        assert_eq!((pair.chosen, pair.rejected), (text("2+2=", " 4"), text("2+2=", " 5")));
        // The space goes to the answers.
        let pair = read(json!({"chosen": "Q: é? A: yes", "rejected": "Q: é? A: no"})).unwrap();
        assert_eq!(pair.chosen, text("Q: é? A:", " yes"));
        assert_eq!(pair.rejected, text("Q: é? A:", " no"));
        // One that the other goes on with keeps its last character as an answer.
        let pair = read(json!({"chosen": "a b", "rejected": "a bc"})).unwrap();
        assert_eq!((pair.chosen, pair.rejected), (text("a ", "b"), text("a ", "bc")));
    }

    #[test]
    fn message_lists_have_a_prompt_or_begin_alike() {
        let message = |role: &str, text: &str| json!({"role": role, "content": text});
        let (user, good) = (message("user", "u"), message("assistant", "a"));
        let bad = message("assistant", "b");
        let asked = expected(&[("user", "u"), ("assistant", "a")]);
        for row in [
            json!({"prompt": [user], "chosen": [good], "rejected": [bad]}),
            json!({"chosen": [user, good], "rejected": [user, bad]}),
            json!({"prompt": "u", "chosen": [user, good], "rejected": [user, bad]}),
        ] {
            let pair = read(row).unwrap();
            assert_eq!(turns(&pair.chosen), (asked.clone(), 1));
            assert_eq!(turns(&pair.rejected).0[1].1, "b");
        }
        let other = json!({"prompt": "v", "chosen": [user, good], "rejected": [user, bad]});
        assert!(read(other).unwrap_err().to_string().contains("do not begin with the prompt"));
    }

    #[test]
    fn the_forms_of_other_tools_are_conversations() {
        let asked = expected(&[("system", "s"), ("user", "q\ni"), ("assistant", "good")]);
        for row in [
            json!({"system": "s", "instruction": "q", "input": "i", "output": ["good", "bad"]}),
            json!({"system": "s", "question": "q\ni", "chosen": "good", "rejected": "bad"}),
            json!({"system": "s", "instruction": "q", "input": "i", "chosen": "good", "rejected": "bad"}),
            json!({
                "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q\ni"}],
                "chosen": {"from": "gpt", "value": "good"},
                "rejected": {"from": "gpt", "value": "bad"},
            }),
        ] {
            let pair = read(row).unwrap();
            assert_eq!(turns(&pair.chosen), (asked.clone(), 2));
            assert_eq!(turns(&pair.rejected).0[2].1, "bad");
        }
    }

    #[test]
    fn what_is_no_preference_is_refused() {
        let message = |row: Value| read(row).unwrap_err().to_string();
        let equal = message(json!({"prompt": "p", "chosen": "a", "rejected": "a"}));
        assert!(equal.contains("are equal"), "{equal}");
        let equal = message(json!({"chosen": "same", "rejected": "same"}));
        assert!(equal.contains("are equal"), "{equal}");
        let empty = message(json!({"prompt": "p", "chosen": "a", "rejected": " "}));
        assert!(empty.contains("`rejected` is empty"), "{empty}");
        let mixed = message(json!({"prompt": "p", "chosen": "a", "rejected": []}));
        assert!(mixed.contains("all strings or all message lists"), "{mixed}");
        let three = message(json!({"instruction": "q", "output": ["a", "b", "c"]}));
        assert!(three.contains("not of two strings"), "{three}");
    }
}
