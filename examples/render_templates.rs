//! Renders chat templates: a JSON object a line in, one a line out. `tools/check_templates.py`, which
//! compares with Jinja2, runs it.
//!
//!     cargo run --release --example render_templates < cases.jsonl
//!
//! In: `template`, and optionally `context` (variables by name), `messages`, `tools` and
//! `add_generation_prompt`. Out: `text`, or `error`. It is always 5 July 2024, 13:04:09.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use serde_json::{Value, json};
use tunesmith::Result;
use tunesmith::tokenizer::{ChatTemplate, RenderInput};

fn main() -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let case: Value = serde_json::from_str(&line?)?;
        let shown = match render(&case) {
            Ok(text) => json!({ "text": text }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        writeln!(out, "{shown}")?;
    }
    out.flush()
}

fn render(case: &Value) -> Result<String> {
    let source = case["template"].as_str().unwrap_or_default();
    let now = jiff::civil::date(2024, 7, 5).at(13, 4, 9, 0);
    ChatTemplate::new("here", source, &BTreeMap::new(), now)?.render(&RenderInput {
        messages: case["messages"].as_array().map_or(&[], Vec::as_slice),
        add_generation_prompt: case["add_generation_prompt"] == true,
        tools: case.get("tools"),
        variables: case["context"].as_object(),
    })
}
