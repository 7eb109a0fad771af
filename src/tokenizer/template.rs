//! Chat templates: Jinja programs that write a conversation as one text, in the form and with the
//! functions that Transformers gives them (`utils/chat_template_utils.py`).

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::Path;

use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, State, Value};
use serde_json::Map;

use super::{Tokenizer, TokenizerFiles, builtin, files, python_json};
use crate::{Error, Result};

/// Instructions one rendering may use; a conversation of a thousand turns needs some 100,000.
const FUEL: u64 = 20_000_000;

/// A compiled chat template with the special tokens and the date it may print.
pub struct ChatTemplate {
    env: Environment<'static>,
    name: String,
    source: String,
    special_tokens: Vec<(String, Value)>,
    date: DateTime,
}

/// What one rendering shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct RenderInput<'a> {
    /// Messages in order: objects with `role` and `content`, further keys as the template likes.
    pub messages: &'a [serde_json::Value],
    /// Whether to end with the opening of an assistant's turn.
    pub add_generation_prompt: bool,
    /// The tools the conversation may call, as JSON schemas.
    pub tools: Option<&'a serde_json::Value>,
    /// Further variables for the template (Transformers' `chat_template_kwargs`).
    pub variables: Option<&'a Map<String, serde_json::Value>>,
}

/// The message of a template's own `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// Compiles `source`. `name` is what errors call it, `special_tokens` what it can write by name
    /// (`bos_token` ...), `date` what `strftime_now` tells: a run saves it, so that resuming
    /// renders the same text.
    pub fn new(
        name: &str,
        source: &str,
        special_tokens: &BTreeMap<String, String>,
        date: DateTime,
    ) -> Result<Self> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(
            syntax.map_err(|error| Error::internal("chat template", error.to_string()))?,
        );
        env.set_fuel(Some(FUEL));
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_unknown_method_callback(python_methods);
        env.add_filter("tojson", python_json::tojson);
        env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception")
                .with_source(Raised(message)))
        });
        env.add_function("strftime_now", move |format: String| {
            jiff::fmt::strtime::format(&format, date).map_err(|error| {
                minijinja::Error::new(
                    ErrorKind::InvalidOperation,
                    format!("strftime_now({format:?}): {error}"),
                )
            })
        });
        env.add_template_owned("chat", without_generation_tags(source))
            .map_err(|error| Error::input(format!("chat template {name}: {}", explain(&error))))?;
        Ok(Self {
            env,
            name: name.to_string(),
            source: source.to_string(),
            special_tokens: special_tokens
                .iter()
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
            let source = files.chat_templates.get("default");
            let name = format!("of {}", files.dir.display());
            return source
                .map(|source| Self::new(&name, source, &files.special_tokens, date))
                .transpose();
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
            let source = files::read_text(&path)?;
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

    /// The text of a conversation. An error names the template and says what it objected to.
    pub fn render(&self, input: &RenderInput) -> Result<String> {
        let mut context: Vec<(String, Value)> = self.special_tokens.clone();
        let optional = |value: Option<&serde_json::Value>| {
            value.map_or_else(|| Value::from(()), python_json::to_template)
        };
        context.push((
            "messages".into(),
            input.messages.iter().map(python_json::to_template).collect(),
        ));
        context.push(("add_generation_prompt".into(), Value::from(input.add_generation_prompt)));
        context.push(("tools".into(), optional(input.tools)));
        context.push(("documents".into(), Value::from(())));
        for (name, value) in input.variables.into_iter().flatten() {
            context.push((name.clone(), python_json::to_template(value)));
        }
        self.env
            .get_template("chat")
            .and_then(|template| template.render(Value::from_pairs(context)))
            .map_err(|error| {
                Error::input(format!("chat template {}: {}", self.name, explain(&error)))
            })
    }
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

/// A template engine's error as one sentence: what the template raised, or what went wrong where.
fn explain(error: &minijinja::Error) -> String {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(raised) = cause.downcast_ref::<Raised>() {
            return format!("it refuses the conversation: {raised}");
        }
        source = cause.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("it did not finish within {FUEL} instructions");
    }
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    match error.detail() {
        Some(detail) => format!("{}: {detail}{line}", error.kind()),
        None => format!("{}{line}", error.kind()),
    }
}

/// Python's string methods that templates use; most come from `minijinja-contrib`.
fn python_methods(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, minijinja::Error> {
    if let (Some(text), Some(affix)) = (value.as_str(), args.first().and_then(Value::as_str)) {
        match method {
            "removeprefix" => return Ok(Value::from(text.strip_prefix(affix).unwrap_or(text))),
            "removesuffix" => return Ok(Value::from(text.strip_suffix(affix).unwrap_or(text))),
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// Replaces `{% generation %}` and `{% endgeneration %}`, Transformers' marks of what an assistant
/// says, by a condition that always holds. Masks here come from rendering prefixes, which works
/// for every template; the replacement keeps white space as the marks would have.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(close) = rest[open..].find("%}").map(|at| open + at) else { break };
        let tag = &rest[open + 2..close];
        let body = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let replacement = match body {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => body,
        };
        out.push_str(&rest[..open + 2]);
        if replacement == body {
            out.push_str(tag);
        } else {
            out.push_str(&tag.replace(body, &format!(" {replacement} ")));
        }
        out.push_str("%}");
        rest = &rest[close + 2..];
    }
    out + rest
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
        assert!(message.contains("undefined"), "{message}");
    }
}
