//! Chat templates: Jinja programs that write a conversation as one text, as Transformers'
//! `apply_chat_template` does (`tokenization_utils_base.py`, `utils/chat_template_utils.py`).

use std::collections::BTreeMap;
use std::path::Path;

use jiff::civil::DateTime;
use serde_json::{Map, Value};

use super::jinja::{self, Rendered, Template};
use super::{Tokenizer, TokenizerFiles, builtin};
use crate::{Error, Result};

/// A chat template with the special tokens and the date it may print.
pub struct ChatTemplate {
    template: Template,
    /// The model's template for conversations with tools, if it has one of its own.
    with_tools: Option<Template>,
    name: String,
    source: String,
    special_tokens: Vec<(String, Value)>,
    date: DateTime,
}

/// What one rendering shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct RenderInput<'a> {
    /// Messages in order: objects with `role` and `content`, further keys as the template likes.
    pub messages: &'a [Value],
    /// Whether to end with the opening of an assistant's turn.
    pub add_generation_prompt: bool,
    /// The tools the conversation may call, as JSON schemas.
    pub tools: Option<&'a Value>,
    /// Further variables for the template (Transformers' `chat_template_kwargs`).
    pub variables: Option<&'a Map<String, Value>>,
}

impl ChatTemplate {
    /// Reads `source`. `name` is what errors call it, `special_tokens` what it can write by name
    /// (`bos_token` ...), `date` what `strftime_now` tells: a run saves it, so that resuming
    /// renders the same text.
    pub fn new(
        name: &str,
        source: &str,
        special_tokens: &BTreeMap<String, String>,
        date: DateTime,
    ) -> Result<Self> {
        let template = parse(name, source)?;
        let tokens = special_tokens.iter();
        Ok(Self {
            template,
            with_tools: None,
            name: name.to_string(),
            source: source.to_string(),
            special_tokens: tokens
                .map(|(name, token)| (name.clone(), Value::from(token.as_str())))
                .collect(),
            date,
        })
    }

    /// The template a run uses: `choice` names a built-in one, one of the model's, or a Jinja file
    /// (relative to `base`); without a choice it is the model's own. `None` if there is neither.
    pub fn resolve(
        choice: Option<&str>,
        base: &Path,
        files: &TokenizerFiles,
        tokenizer: &dyn Tokenizer,
        date: DateTime,
    ) -> Result<Option<Self>> {
        let Some(choice) = choice else {
            let Some(source) = files.chat_templates.get("default") else { return Ok(None) };
            let name = format!("of {}", files.dir.display());
            let mut template = Self::new(&name, source, &files.special_tokens, date)?;
            if let Some(source) = files.chat_templates.get("tool_use") {
                template.with_tools = Some(parse(&template.name, source)?);
            }
            return Ok(Some(template));
        };
        if let Some(template) = builtin::find(choice) {
            template.check(files, tokenizer)?;
            return Self::new(choice, template.source, &files.special_tokens, date).map(Some);
        }
        if let Some(source) = files.chat_templates.get(choice) {
            return Self::new(choice, source, &files.special_tokens, date).map(Some);
        }
        let path = base.join(choice);
        if path.is_file() {
            let source = std::fs::read_to_string(&path).map_err(|error| {
                Error::input(format!("cannot read {}: {error}", path.display()))
            })?;
            return Self::new(choice, &source, &files.special_tokens, date).map(Some);
        }
        Err(Error::input(format!(
            "chat_template = {choice:?} is neither a known template nor a file ({} does not \
             exist); {}",
            path.display(),
            choices(files, tokenizer)
        )))
    }

    /// The name errors use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Jinja source, to save with a result.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The date that `strftime_now` tells, if the template asks for it.
    pub fn date(&self) -> Option<DateTime> {
        self.source.contains("strftime_now").then_some(self.date)
    }

    /// Whether the template says which of its text an assistant says (`{% generation %}`), and
    /// [`render_marked`](Self::render_marked) can give those stretches.
    pub fn marks_generation(&self) -> bool {
        self.template.marks_generation()
    }

    /// The text of a conversation. An error names the template and says what it objected to.
    pub fn render(&self, input: &RenderInput) -> Result<String> {
        Ok(self.render_marked(input)?.text)
    }

    /// The text of a conversation with the stretches of it that the template marks as an
    /// assistant's.
    pub fn render_marked(&self, input: &RenderInput) -> Result<Rendered> {
        let messages = Value::Array(input.messages.iter().map(prepared).collect());
        let prompt = Value::Bool(input.add_generation_prompt);
        let mut variables: Vec<(&str, &Value)> = Vec::new();
        variables.extend(self.special_tokens.iter().map(|(name, token)| (name.as_str(), token)));
        variables.extend([
            ("messages", &messages),
            ("add_generation_prompt", &prompt),
            ("tools", input.tools.unwrap_or(&Value::Null)),
            ("documents", &Value::Null),
        ]);
        let further = input.variables.into_iter().flatten();
        variables.extend(further.map(|(name, value)| (name.as_str(), value)));
        let template = match (&self.with_tools, input.tools) {
            (Some(template), Some(tools)) if !tools.is_null() => template,
            _ => &self.template,
        };
        template.render(&variables, self.date).map_err(|error| explain(&self.name, &error))
    }
}

/// A message as `apply_chat_template` hands it to a template: without the keys whose value is null,
/// and with its reasoning under each of the names that templates read.
fn prepared(message: &Value) -> Value {
    let Value::Object(message) = message else { return message.clone() };
    let mut kept: Map<String, Value> = message
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let names = ["reasoning_content", "thinking", "reasoning"];
    let Some(reasoning) = names.iter().find_map(|name| kept.get(*name)).cloned() else {
        return Value::Object(kept);
    };
    // `thinking` always comes first; templates that print a message show its keys in this order.
    let thinking = kept.shift_remove("thinking").unwrap_or_else(|| reasoning.clone());
    let mut message = Map::new();
    message.insert("thinking".into(), thinking);
    message.extend(kept);
    message.insert("reasoning_content".into(), reasoning);
    Value::Object(message)
}

/// The templates a user can choose from, in words, those that fit this tokenizer first.
pub(crate) fn choices(files: &TokenizerFiles, tokenizer: &dyn Tokenizer) -> String {
    let (fitting, other): (Vec<_>, Vec<_>) =
        builtin::ALL.iter().partition(|template| template.check(files, tokenizer).is_ok());
    let names = |list: &[&builtin::Builtin]| {
        list.iter().map(|template| template.name).collect::<Vec<_>>().join(", ")
    };
    let mut text = format!("set data.chat_template to one of {}", names(&fitting));
    let own: Vec<&str> = files.chat_templates.keys().map(String::as_str).collect();
    if !own.is_empty() {
        text += &format!(", to one of the model's ({})", own.join(", "));
    }
    text += " or to a Jinja file";
    if !other.is_empty() {
        text += &format!(" (not {}: this tokenizer lacks the end-of-turn token)", names(&other));
    }
    text
}

/// A JSON value as Python's `json.dumps(value, ensure_ascii=False)` writes it.
pub(crate) fn json_text(value: &Value) -> Result<String> {
    jinja::json_text(value).map_err(|error| Error::input(error.message))
}

fn parse(name: &str, source: &str) -> Result<Template> {
    Template::parse(source).map_err(|mut error| {
        error.message.insert_str(0, "syntax error: ");
        explain(name, &error)
    })
}

/// A template's error as one sentence: what the template raised, or what went wrong where.
fn explain(name: &str, error: &jinja::Error) -> Error {
    if error.raised {
        return Error::input(format!(
            "chat template {name}: it refuses the conversation: {}",
            error.message
        ));
    }
    let line = error.line.map(|line| format!(" (line {line})")).unwrap_or_default();
    Error::input(format!("chat template {name}: {}{line}", error.message))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(source: &str, messages: serde_json::Value, generation: bool) -> Result<String> {
        let tokens = BTreeMap::from([("bos_token".to_string(), "<s>".to_string())]);
        let date = jiff::civil::date(2024, 7, 5).at(12, 0, 0, 0);
        let template = ChatTemplate::new("test", source, &tokens, date)?;
        template.render(&RenderInput {
            messages: messages.as_array().unwrap(),
            add_generation_prompt: generation,
            ..RenderInput::default()
        })
    }

    #[test]
    fn blocks_are_trimmed_as_transformers_trims_them() {
        let source = "{{ bos_token }}\n  {% for m in messages %}\n{{ m.role }}:{{ m['content'] }}\n  \
                      {%- if not loop.last %}\n,{% endif %}\n{% endfor %}\nend\n";
        let messages = json!([{"role": "a", "content": "x"}, {"role": "b", "content": "y"}]);
        assert_eq!(render(source, messages, false).unwrap(), "<s>\na:x,b:yend");
    }

    #[test]
    fn generation_tags_change_nothing() {
        let plain = "A {% if true %}\n x {%- if true -%} y {% endif %}\n{%- endif %} B";
        let tagged = "A {% generation %}\n x {%- generation -%} y {% endgeneration %}\n{%- endgeneration %} B";
        let none = json!([]);
        assert_eq!(
            render(tagged, none.clone(), false).unwrap(),
            render(plain, none, false).unwrap()
        );
    }

    #[test]
    fn python_idioms_render() {
        for (source, expected) in [
            ("{{ messages[0].content.split('</t>')[-1].lstrip('\\n') }}", "b"),
            ("{{ messages[0]['content'].removeprefix('<t>') }}", "a</t>\nb"),
            (
                "{%- set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "1",
            ),
            (
                "{{ messages[0].missing is defined }} {{ none }} {{ messages[::-1][0].role }}",
                "False None user",
            ),
            (
                "{% for m in messages %}{% continue %}x{% endfor %}[{{ messages[0].get('k', 'd') }}]",
                "[d]",
            ),
            ("{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%-d/%m') }}", "05 Jul 2024|5/07"),
            ("{{ messages[0].k }}|{{ tools is none }}", "|True"),
            ("{{ messages[0] | tojson }}", r#"{"role": "user", "content": "<t>a</t>\nb"}"#),
        ] {
            let messages = json!([{"role": "user", "content": "<t>a</t>\nb"}]);
            assert_eq!(render(source, messages, false).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn an_exception_of_the_template_is_the_message() {
        let error = render("{{ raise_exception('Roles must alternate') }}", json!([]), false);
        let message = error.unwrap_err().to_string();
        assert_eq!(
            message,
            "chat template test: it refuses the conversation: Roles must alternate"
        );
    }

    #[test]
    fn a_broken_or_endless_template_is_an_error() {
        let message = render("\n{% for %}", json!([]), false).unwrap_err().to_string();
        assert!(message.contains("test") && message.contains("(line 2)"), "{message}");
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% set x = a + b %}\
                       {% endfor %}{% endfor %}";
        let message = render(endless, json!([]), false).unwrap_err().to_string();
        assert!(message.contains("did not finish"), "{message}");
        let message = render("{{ messages[0].a.b }}", json!([{}]), false).unwrap_err().to_string();
        assert!(message.contains("no attribute \"a\""), "{message}");
    }
}
