//! Tokenizer directories of every lawful form, and chat templates of every family, against what
//! Transformers makes of the same files (`tests/fixtures/text`).

#![cfg(feature = "tokenizers")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;
use tunesmith::Result;
use tunesmith::tokenizer::{
    ChatTemplate, HfTokenizer, RenderInput, Rendered, Tokenizer, TokenizerFiles,
};

fn read(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The directory of a case: its base with some keys replaced, and the further files.
fn lay_out(bases: &Value, case: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    if let Some(base) = case["base"].as_str() {
        let mut tokenizer = bases[base].clone();
        for (key, value) in case["replace"].as_object().unwrap() {
            tokenizer[key] = value.clone();
        }
        write("tokenizer.json", &tokenizer.to_string());
    }
    for (name, content) in case["files"].as_object().unwrap() {
        match content {
            Value::String(text) => write(name, text),
            other => write(name, &other.to_string()),
        }
    }
    dir
}

fn check(case: &Value, texts: &[Value], tokenizer: &HfTokenizer, where_from: &str) {
    let name = &case["name"];
    let expected = &case["expected"];
    let id = |key: &str| expected[key].as_u64().map(|id| id as u32);
    assert_eq!(tokenizer.bos_token_id(), id("bos"), "{name}{where_from}");
    assert_eq!(tokenizer.eos_token_id(), id("eos"), "{name}{where_from}");
    assert_eq!(tokenizer.pad_token_id(), id("pad"), "{name}{where_from}");
    for (i, text) in texts.iter().enumerate() {
        let (what, text) = (format!("{name}{where_from}: {text}"), text.as_str().unwrap());
        let special = ids(&expected["special"][i]);
        assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&expected["ids"][i]), "{what}");
        assert_eq!(tokenizer.encode(text, true).unwrap(), special, "{what}");
        assert_eq!(tokenizer.decode(&special, false).unwrap(), expected["decoded"][i], "{what}");
        assert_eq!(tokenizer.decode(&special, true).unwrap(), expected["skipped"][i], "{what}");
    }
}

/// Tokens in every file that may hold some, their flags, the classes that are made anew.
#[test]
fn directories_read_as_from_pretrained_reads_them() {
    let (bases, cases, texts) = (read("bases.json"), read("tokenizers.json"), read("texts.json"));
    let (cases, texts) = (cases.as_array().unwrap(), texts.as_array().unwrap());
    assert!(cases.len() >= 60 && texts.len() >= 40);
    for case in cases {
        let dir = lay_out(&bases, case);
        let tokenizer = HfTokenizer::load(dir.path());
        let tokenizer = tokenizer.unwrap_or_else(|error| panic!("{}: {error}", case["name"]));
        check(case, texts, &tokenizer, "");
        // What a result carries reads back as the same tokenizer. Transformers reads it likewise:
        // these are the very files.
        let saved = tempfile::tempdir().unwrap();
        for (name, bytes) in TokenizerFiles::load(dir.path()).unwrap().to_save(None).unwrap() {
            fs::write(saved.path().join(name), bytes).unwrap();
        }
        if let Some(config) = case["files"].get("config.json") {
            fs::write(saved.path().join("config.json"), config.to_string()).unwrap();
        }
        check(case, texts, &HfTokenizer::load(saved.path()).unwrap(), ", saved");
    }
}

#[test]
fn a_directory_without_tokenizer_json_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |dir: &PathBuf| HfTokenizer::load(dir).err().unwrap().to_string();
    let path = dir.path().to_path_buf();
    let message = refused(&path);
    assert!(message.contains("a model directory needs a tokenizer.json"), "{message}");
    fs::write(path.join("tekken.json"), "{}").unwrap();
    let message = refused(&path);
    assert!(message.contains("only tekken.json, which is not read here"), "{message}");
    assert!(message.contains("save_pretrained("), "{message}");
    fs::write(path.join("tokenizer.model"), "pieces").unwrap();
    let message = refused(&path);
    assert!(message.contains("tokenizer.model is truncated"), "{message}");
}

fn template(source: &str) -> Result<ChatTemplate> {
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let tokens: BTreeMap<String, String> =
        tokens.iter().map(|(name, token)| (name.to_string(), token.to_string())).collect();
    ChatTemplate::new("test", source, &tokens, jiff::civil::date(2024, 7, 5).at(13, 4, 9, 0))
}

fn render(source: &str, conversation: &Value, prompt: bool) -> Result<Rendered> {
    template(source)?.render_marked(&RenderInput {
        messages: conversation["messages"].as_array().unwrap(),
        add_generation_prompt: prompt,
        tools: conversation.get("tools"),
        variables: conversation.get("variables").and_then(Value::as_object),
    })
}

/// Templates in the shapes of all families, each with eight conversations, with and without the
/// opening of an answer.
#[test]
fn templates_render_as_apply_chat_template_does() {
    let (templates, conversations) = (read("templates.json"), read("conversations.json"));
    let conversations = conversations.as_array().unwrap();
    assert!(templates.as_array().unwrap().len() >= 60 && conversations.len() == 8);
    let (mut rendered, mut refused, mut marked) = (0, 0, 0);
    for case in templates.as_array().unwrap() {
        let source = case["source"].as_str().unwrap();
        for (i, conversation) in conversations.iter().enumerate() {
            let what = format!("{}, {}", case["name"], conversation["name"]);
            for (prompt, expected) in [(false, &case["texts"][i][0]), (true, &case["texts"][i][1])]
            {
                let found = render(source, conversation, prompt);
                if let Some(expected) = expected.as_str() {
                    assert_eq!(
                        found.unwrap_or_else(|e| panic!("{what}: {e}")).text,
                        expected,
                        "{what}"
                    );
                    rendered += 1;
                    continue;
                }
                let message = found.err().unwrap_or_else(|| panic!("{what} renders")).to_string();
                let raised = expected["raised"].as_str().unwrap_or_default();
                assert!(message.ends_with(raised), "{what}: {message}");
                refused += 1;
            }
            if let Some(marks) = case["marks"][i].as_array() {
                let found = render(source, conversation, false).unwrap();
                let chars = |byte: usize| found.text[..byte].chars().count();
                let found: Vec<Value> = found
                    .generation
                    .as_ref()
                    .unwrap()
                    .iter()
                    .map(|&(start, end)| json!([chars(start), chars(end)]))
                    .collect();
                assert_eq!(&found, marks, "{what}");
                marked += marks.len();
            }
        }
    }
    assert!(rendered > 900 && refused > 50 && marked > 5, "{rendered} {refused} {marked}");
}

/// Where engines that are only like Jinja2 print something else. Expected: Jinja2 3.1.6 on CPython
/// 3.11 in Transformers' setting.
#[test]
fn python_prints_and_computes() {
    let none = json!({"messages": []});
    for (source, expected) in [
        (
            "{{ none is iterable }} {{ [] is iterable }} {{ nothing is sequence }}",
            "False True True",
        ),
        (
            "{{ [1.0, 1e16, 1e-5, true, none, 'it\\'s', \"a\"] }}",
            "[1.0, 1e+16, 1e-05, True, None, \"it's\", 'a']",
        ),
        (
            "{{ 2 ** 100 }} {{ 7 // -2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 6 / 2 }}",
            "1267650600228229401496703205376 -4 2 3.5 3.0",
        ),
        ("{{ '%s-%05.1f|%-4d|%x' % ('a', 2.25, 7, 255) }}", "a-002.2|7   |ff"),
        (
            "{{ '{:>6}|{:.3f}|{0}'.format(1, 2) if false else '{:>6}|{:.3f}'.format('a', 2) }}",
            "     a|2.000",
        ),
        (
            "{{ 'word' | int }} {{ '3.9' | int }} {{ 'x' | int(7) }} {{ '0x1f' | int(0, 16) }}",
            "0 3 7 31",
        ),
        ("{{ ' a b  c '.split() }} {{ 'a-b-c'.rsplit('-', 1) }}", "['a', 'b', 'c'] ['a-b', 'c']"),
        (
            "{{ 'xxabxx'.strip('x') }} {{ 'abc'.index('c') }} {{ '7'.zfill(3) }} {{ 'a'.ljust(3, '.') }}",
            "ab 2 007 a..",
        ),
        (
            "{{ 'a b/é' | urlencode }} {{ 'one two' | wordcount }} {{ {'a b': 1} | urlencode }}",
            "a%20b/%C3%A9 2 a+b=1",
        ),
        (
            "{% macro f(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, k=3) }}",
            "1(2,){'k': 3}",
        ),
        ("{{ {'items': 1}.items is callable }} {{ {'items': 1}['items'] }}", "True 1"),
        (
            "{{ 1 == true }} {{ 1 < 2 < 3 }} {{ 'a' in 'cat' }} {{ [1] + [2] }} {{ 'ab' * 2 }}",
            "True True True [1, 2] abab",
        ),
        (
            "{{ [3, 1, 2][::-1] }} {{ 'héllo'[-3:] }} {{ (1,) }} {{ 'abc'[9] }}|{{ range(3) }}",
            "[2, 1, 3] llo (1,) |range(0, 3)",
        ),
        ("{% for x in [1, 2] %}{% set y = x %}{% endfor %}{{ y }}|{{ loop }}", "|"),
        ("{% generation %}{% set y = 1 %}a{% endgeneration %}{{ y }}", "a"),
        (
            "{{ ['b', 'A'] | sort }} {{ 'ab cd' | title }} {{ 2.5 | round }} {{ 'x' ~ none ~ 1.0 }}",
            "['A', 'b'] Ab Cd 2.0 xNone1.0",
        ),
    ] {
        assert_eq!(render(source, &none, false).unwrap().text, expected, "{source}");
    }
}

/// A message's null keys are dropped, and its reasoning is there under every name.
#[test]
fn messages_reach_a_template_as_in_transformers() {
    let source = "{% for m in messages %}{{ m }}{% endfor %}";
    let said =
        json!({"messages": [{"role": "a", "content": null, "reasoning": "r", "x": {"y": null}}]});
    assert_eq!(
        render(source, &said, false).unwrap().text,
        "{'thinking': 'r', 'role': 'a', 'reasoning': 'r', 'x': {'y': None}, 'reasoning_content': 'r'}"
    );
    // A template written for macros cannot say where its text ends up.
    let captured = "{% set x %}{% generation %}a{% endgeneration %}{% endset %}{{ x }}";
    assert_eq!(render(captured, &said, false).unwrap().generation, None);
    assert!(template(captured).unwrap().marks_generation());
    assert!(!template(source).unwrap().marks_generation());
}

/// Bombs of every kind end in an error, long before time or memory runs out.
#[test]
fn hostile_templates_are_refused() {
    let deep = |open: &str, middle: &str, close: &str| {
        format!("{}{middle}{}", open.repeat(5000), close.repeat(5000))
    };
    let grow = |start: &str, step: &str, end: &str| {
        format!(
            "{{% set ns = namespace(x={start}) %}}{{% for i in range(60) %}}\
                 {{% set ns.x = {step} %}}{{% endfor %}}{{{{ {end} }}}}"
        )
    };
    let sources = [
        grow("'ab'", "ns.x ~ ns.x", "ns.x | length"),
        grow("[1]", "ns.x + ns.x", "ns.x | length"),
        grow("[1]", "[ns.x, ns.x]", "ns.x"),
        grow("[1]", "[ns.x, ns.x]", "ns.x | tojson"),
        grow("[1]", "[ns.x, ns.x]", "[ns.x, ns.x] | max | length"),
        grow("(1,)", "(ns.x, ns.x)", "{ns.x: 1}"),
        "{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}".into(),
        "{{ 'x' * 10000000000 }}".into(),
        "{{ [1] * 10000000000 }}".into(),
        "{{ '%999999999d' % 1 }}".into(),
        "{{ '%.999999999f' % 1.5 }}".into(),
        "{{ '{:>9999999999}'.format(1) }}".into(),
        "{{ 'x'.ljust(10000000000) }}{{ 'x' | center(10000000000) }}".into(),
        "{{ ('a\n' * 100000) | indent(100000) }}".into(),
        "{{ range(99999) | join('x' * 100000) }}".into(),
        "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}".into(),
        "{{ 'abc' | slice(10000000000) | list }}".into(),
        "{{ 'abc' | batch(10000000000, 'x') | list }}".into(),
        "{{ [[[1]]] | tojson(indent=1000000000) }}".into(),
        "{{ strftime_now('%A' * 10000000) }}".into(),
        "{{ ('a\n' * 20000000).splitlines() | length }}".into(),
        "{{ ('a ' * 9000000).split() | length }}".into(),
        "{{ (['a' * 1000000] * 1000) | sort | length }}".into(),
        "{% for i in range(99999) %}{% set x = range(99999) | sort %}{% endfor %}".into(),
        "{% set a = 'a' * 9000000 %}{% for i in range(9999) %}{{ a.count('aa') }}{% endfor %}".into(),
        "{% for a in range(9999) %}{% for b in range(9999) %}{% set x = a + b %}{% endfor %}{% endfor %}".into(),
        "{% set x = 'x' * 1000000 %}{% for a in range(9999) %}{{ x }}{% endfor %}".into(),
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}".into(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(),
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x }}".into(),
        "{% for x in [1] %}{{ loop.cycle() }}{% endfor %}".into(),
        format!("{{{{ {} }}}}", deep("not ", "x", "")),
        format!("{{{{ {} }}}}", deep("(", "1", ")")),
        format!("{{{{ {} }}}}", deep("[", "", "]")),
        format!("{{{{ {} }}}}", deep("", "1", " | abs")),
        format!("{{{{ {} }}}}", deep("", "1", " + 1")),
        format!("{{{{ {} }}}}", deep("", "a", ".b")),
        deep("{% if 1 %}", "", "{% endif %}"),
    ];
    for source in sources {
        let start = Instant::now();
        let conversation = json!({"messages": []});
        let message = render(&source, &conversation, false).err();
        let message = message.unwrap_or_else(|| panic!("renders: {source:.200}")).to_string();
        assert!(!message.contains("interpreter failed"), "{source:.200}: {message}");
        // Some two seconds when optimized and alone; this only tells a hang.
        assert!(start.elapsed().as_secs() < 60, "{source:.200}: {:?}", start.elapsed());
    }
}
