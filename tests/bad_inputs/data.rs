//! Data and chat templates.

use super::{TRAIN, case, check, config, data, remove, replace, template};
use std::fs;

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn data_that_cannot_be_trained_on() {
    check(&[
        case(
            "no file",
            |d| remove(d, "data.jsonl"),
            TRAIN,
            &["cannot read the data file", "data.jsonl"],
        ),
        case("an empty file", |d| data(d, ""), TRAIN, &["data.jsonl: no rows", "JSON Lines"]),
        case(
            "a bad line",
            |d| data(d, "{\"text\": \"a\"}\n{\"text\": \"b}\n"),
            TRAIN,
            &["data.jsonl:2: not valid JSON"],
        ),
        case(
            "a bad element",
            |d| data(d, "[{\"text\": \"a\"},\n{\"text\": 3}]"),
            TRAIN,
            &["data.jsonl:2: `text` is a number"],
        ),
        case(
            "no object",
            |d| data(d, "{\"text\": \"a\"}\n\"b\"\n"),
            TRAIN,
            &["data.jsonl:2: expected one JSON object per line"],
        ),
        case(
            "another key",
            |d| data(d, "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n"),
            TRAIN,
            &["data.jsonl:2: the key `text`", "keys found: `txt`"],
        ),
        case(
            "no format",
            |d| data(d, "{\"question\": \"a\"}\n"),
            TRAIN,
            &["data.jsonl:1: the keys `question` fit no format", "prompt + completion"],
        ),
        case(
            "pairs",
            |d| data(d, "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n"),
            TRAIN,
            &["data.jsonl:1", "preference pairs"],
        ),
        case(
            "not UTF-8",
            |d| fs::write(d.join("data.jsonl"), b"{\"text\": \"\xff\"}").unwrap(),
            TRAIN,
            &["data.jsonl:1: not UTF-8"],
        ),
        case(
            "no answer",
            |d| data(d, "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}"),
            TRAIN,
            &["data.jsonl:1: there is no assistant turn"],
        ),
        case(
            "no token with loss",
            |d| {
                data(d, "{\"prompt\": \"1 2 3 4 5 6 7 8\", \"completion\": \" 9\"}");
                config(d, "[train]", "max_length = 3\n[train]");
            },
            TRAIN,
            &["no row is left to train on", "data.jsonl:1", "raise max_length"],
        ),
        case(
            "a broken template",
            |d| template(d, "{% for m in messages %}{{ m.content }"),
            TRAIN,
            &["/model: syntax error", "line 1"],
        ),
        case(
            "a template that refuses",
            |d| template(d, "{{ raise_exception('No.') }}"),
            TRAIN,
            &["data.jsonl:1: chat template", "it refuses the conversation: No."],
        ),
        case(
            "no template",
            |d| {
                template(d, "");
                remove(d, "model/chat_template.jinja");
                replace(d.join("model/tokenizer_config.json"), "chat_template", "no_template");
            },
            TRAIN,
            &["data.jsonl:1", "no chat template", "chatml"],
        ),
        case(
            "an unknown template",
            |d| config(d, "[train]", "chat_template = \"vicuna9\"\n[train]"),
            TRAIN,
            &["\"vicuna9\" is neither a known template nor a file"],
        ),
    ]);
}
