//! Chat templates, JSON Lines, and configs in TOML and YAML.

use super::{Reader, Target};
use crate::seeds::{file, repository, strings};
use jiff::civil::date;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tunesmith::config::{Syntax, TrainConfig};
use tunesmith::data::{DataFile, Dataset, ExcessLength, LoadOptions};
use tunesmith::objective::sft::Sft;
use tunesmith::tokenizer::{ChatTemplate, RenderInput, TextProcessor};

const TEMPLATE: &[&str] = &[
    "{% for m in messages %}",
    "{% endfor %}",
    "{{ m.content }}",
    "{% if x is defined %}",
    "{% endif %}",
    "{% set x = x ~ x %}",
    "{% set ns = namespace(x=[]) %}",
    "{% macro f(a, b=1) %}{{ f(a) }}{% endmacro %}",
    " | tojson",
    " | join(',')",
    " | length",
    "range(99999)",
    "'a' * 99999999",
    "loop.cycle()",
    "loop.index0",
    "messages[::-1]",
    "{% generation %}",
    "{% endgeneration %}",
    "| selectattr('role')",
    "| groupby('role')",
    ".split('')",
    ".format(1)",
    "| format(2)",
    "| indent(99999)",
    "| replace('', 'aa')",
    "not ",
    "x[",
    "recursive",
    "{%- raw %}",
    "| map('upper') | list",
    "raise_exception('x')",
    "strftime_now('%d')",
    "{# ",
    "**",
    "is iterable",
];
const ROWS: &[&str] = &[
    "{\"text\": \"a\"}\n",
    "\"messages\": []",
    "\"role\": \"tool\"",
    "\"content\": null",
    "\"tool_calls\": [{}]",
    "\"content\": [{\"type\": \"text\", \"text\": \"a\"}]",
    "\"prompt\": \"a\"",
    "\"completion\": \"\"",
    "\"conversations\": [{\"from\": \"gpt\", \"value\": \"a\"}]",
    "\"tools\": \"[]\"",
    "\"weight\": 0",
    "\n",
    "[\n",
    "\"instruction\": \"a\"",
    "\"output\": 1",
    "\"role\": \"assistant\"",
    "\"chosen\": \"a\"",
];
const SETTINGS: &[&str] = &[
    "[lora]\n",
    "[data]\n",
    "[train]\n",
    "[[data.train]]\n",
    "lora: {}\n",
    "  r: 8\n",
    "r = 8\n",
    "max_steps = ",
    "learning_rate = nan\n",
    "seed: !!int 1\n",
    "&a [*a, *a]",
    "<<: *a\n",
    "- ",
    "? ",
    "| \n",
    "\"\"\"",
    "'''",
    "1979-05-27T07:32:00Z",
    "0x7fffffffffffffff",
    "inf",
    "objective = \"",
    "datasets:\n  - path: a\n",
    "a.b.c = 1\n",
    "max_memory = \"1e30GiB\"\n",
    "eval_split = 1.5\n",
    "!!binary x",
    "train = { path = \"a\", weight = -1 }\n",
];

pub fn targets(dir: &Path) -> Vec<Box<dyn Target>> {
    vec![template(), rows(dir), config("toml", Syntax::Toml), config("yaml", Syntax::Yaml)]
}

fn template() -> Box<dyn Target> {
    let messages = [
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": "What is 2 < 3?"}),
        json!({"role": "assistant", "content": "True.", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1.5}}}]}),
    ];
    let tools =
        json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let now = date(2026, 1, 1).at(0, 0, 0, 0);
    let tokens = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
    Box::new(Reader {
        name: "template",
        seeds: strings("tests/fixtures/text/templates.json", "source"),
        words: TEMPLATE,
        read: move |input: &[u8]| {
            let source = String::from_utf8_lossy(input);
            let template = ChatTemplate::new("input", &source, &tokens, now)?;
            for (messages, tools) in [(&messages[..2], None), (&messages[..], Some(&tools))] {
                template.render_marked(&RenderInput {
                    messages,
                    add_generation_prompt: tools.is_none(),
                    tools,
                    variables: None,
                })?;
            }
            Ok(())
        },
    })
}

fn rows(dir: &Path) -> Box<dyn Target> {
    let path = dir.join("rows.jsonl");
    let tokenizer = repository("tests/fixtures/tokenizers/chatml");
    let now = date(2026, 1, 1).at(0, 0, 0, 0);
    let text = TextProcessor::load(&tokenizer, None, Path::new(""), now).expect("a tokenizer");
    let quickstart = file("examples/quickstart/eval.jsonl");
    let seeds = vec![
        quickstart[..quickstart.len().min(1500)].to_vec(),
        b"{\"text\": \"one\"}\n\n{\"text\": \"two\", \"id\": 7}\n".to_vec(),
        b"[{\"prompt\": \"a\", \"completion\": \"b\"}, {\"prompt\": \"c\", \"completion\": \"d\"}]".to_vec(),
        br#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": null}"#.to_vec(),
        br#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#.to_vec(),
        br#"{"instruction": "a", "input": "b", "output": "c"}"#.to_vec(),
    ];
    Box::new(Reader {
        name: "json-lines",
        seeds,
        words: ROWS,
        read: move |input: &[u8]| {
            fs::write(&path, input).expect("a file");
            let options = LoadOptions {
                format: None,
                max_length: 64,
                excess_length: ExcessLength::Truncate,
                completion_only_loss: true,
                require_stop_token: true,
            };
            Dataset::load(&[DataFile::new(&path)], &text, &Sft, &options).map(drop)
        },
    })
}

fn config(name: &'static str, syntax: Syntax) -> Box<dyn Target> {
    let toml = b"model = \"Org/Name\"\noutput_dir = \"out\"\ndtype = \"bfloat16\"\n[data]\ntrain = [{ path = \"a.jsonl\", weight = 0.5 }]\n\
        max_length = 512\npacking = true\n[train]\nlearning_rate = 2e-4\nmax_steps = 10\neval_steps = 0.1\n[lora]\nr = 8\n\
        target_modules = [\"q_proj\"]\n";
    let yaml = b"base_model: Org/Name\noutput_dir: out\nadapter: qlora\nload_in_4bit: true\ndatasets:\n  - path: a.jsonl\n    type: alpaca\n\
        sequence_len: 512\nlora_r: 8\nlora_target_modules: [q_proj, v_proj]\nnum_epochs: 3\nlearning_rate: 0.0002\nbf16: true\n";
    let mut seeds = vec![if syntax == Syntax::Toml { toml.to_vec() } else { yaml.to_vec() }];
    if syntax == Syntax::Toml {
        seeds.push(file("examples/quickstart/quickstart.toml"));
    }
    Box::new(Reader {
        name,
        seeds,
        words: SETTINGS,
        read: move |input: &[u8]| {
            let text = String::from_utf8_lossy(input);
            let config = TrainConfig::parse(&text, syntax, name, Path::new("/base"), &[])?;
            TrainConfig::parse(&config.to_toml(), Syntax::Toml, "written", Path::new("/base"), &[])
                .map(drop)
        },
    })
}
