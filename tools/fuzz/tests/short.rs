//! Ten thousand inputs of every target: no panic, no hang, no memory beyond measure. And bombs made on
//! purpose, which chance does not find.

use fuzz::allocator::most_during;
use fuzz::run::run;
use fuzz::seeds::file;
use fuzz::targets::all;
use jiff::civil::date;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tunesmith::tokenizer::{ChatTemplate, HfTokenizer, RenderInput, Tokenizer};

/// The tests come one after the other, as the memory of all threads is counted.
static ALONE: Mutex<()> = Mutex::new(());

/// The most memory that a bomb may take.
const MEMORY: usize = 256 << 20;

#[test]
fn readers_take_what_comes_from_anywhere() {
    let _alone = ALONE.lock();
    // As much as a program's main thread has.
    let thread = std::thread::Builder::new().stack_size(8 << 20).spawn(ten_thousand_of_each);
    thread.unwrap().join().unwrap();
}

fn ten_thousand_of_each() {
    let dir = tempfile::tempdir().unwrap();
    let mut problems = Vec::new();
    let targets = all(dir.path());
    // Findings say it.
    std::panic::set_hook(Box::new(|_| {}));
    for mut target in targets {
        let started = Instant::now();
        let report = run(&mut *target, 1, 0, 10_000);
        println!("{}: {:?}, {report:?}", target.name(), started.elapsed());
        let seeds = target.seeds().len() as u64;
        // Changed files that are still read show that the reader was reached.
        if report.accepted <= seeds {
            problems.push(format!("{}: {} inputs were read", target.name(), report.accepted));
        }
        let of_target = report.findings.iter().take(5);
        problems
            .extend(of_target.map(|(number, what)| format!("{} {number}: {what}", target.name())));
    }
    let _ = std::panic::take_hook();
    assert!(problems.is_empty(), "seed 1:\n{}", problems.join("\n"));
}

/// What a bomb ends in, within memory and time. `patience` is generous: tests share their processors.
fn defused(what: &str, patience: Duration, read: impl FnOnce() -> tunesmith::Result<()>) {
    let started = Instant::now();
    let (result, most) = most_during(read);
    let message = result.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(!message.is_empty() && !message.contains("interpreter failed"), "{what}: {message}");
    assert!(most <= MEMORY, "{what}: {} MiB", most >> 20);
    assert!(started.elapsed() < patience, "{what}: {:?}", started.elapsed());
}

#[test]
fn templates_end_within_memory() {
    let _alone = ALONE.lock();
    let grow = |start: &str, step: &str, end: &str| {
        format!(
            "{{% set ns = namespace(x={start}) %}}{{% for i in range(60) %}}{{% set ns.x = {step} %}}\
             {{% endfor %}}{{{{ {end} }}}}"
        )
    };
    let sources = [
        grow("'ab'", "ns.x ~ ns.x", "ns.x | length"),
        grow("'ab'", "ns.x + ns.x", "ns.x | upper"),
        grow("'ab'", "[ns.x, ns.x] | join", "ns.x"),
        grow("'ab'", "'%s%s' % (ns.x, ns.x)", "ns.x"),
        grow("'ab'", "ns.x | replace('b', 'bb' * 99)", "ns.x"),
        grow("[1]", "ns.x + ns.x", "ns.x | length"),
        grow("[1]", "[ns.x, ns.x]", "ns.x | tojson"),
        grow("{'a': 1}", "{'a': ns.x, 'b': ns.x}", "ns.x | string"),
        "{{ '%999999999d' % 1 }}".into(),
        "{{ ('a\n' * 100000) | indent(100000) }}".into(),
        "{{ range(99999) | join('x' * 100000) }}".into(),
        "{{ ('a ' * 9000000).split() | length }}".into(),
        "{{ ('a' * 9000000) | list | length }}".into(),
        "{{ 'abc' | batch(10000000000, 'x') | list }}".into(),
        "{{ strftime_now('%A' * 10000000) }}".into(),
        "{{ (['a' * 1000000] * 1000) | sort | length }}".into(),
        "{{ (range(99999) | list) * 500 == (range(99999) | list) * 500 }}{% for i in range(9999) %}{{ i }}{% set x = range(99999) | sort %}{% endfor %}".into(),
        format!("{{{{ {} x }}}}", "not ".repeat(100_000)),
        format!("{{{{ 1{} }}}}", " | abs".repeat(100_000)),
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x }}".into(),
        "{% for x in [1] %}{{ loop.cycle() }}{% endfor %}".into(),
    ];
    for source in sources {
        defused(&format!("{source:.200}"), Duration::from_secs(60), || {
            let now = date(2026, 1, 1).at(0, 0, 0, 0);
            let template = ChatTemplate::new("bomb", &source, &BTreeMap::new(), now)?;
            template.render(&RenderInput::default()).map(drop)
        });
    }
}

#[test]
fn tokenizers_end_within_memory() {
    let _alone = ALONE.lock();
    let plain: Value =
        serde_json::from_slice(&file("tests/fixtures/tokenizers/chatml/tokenizer.json")).unwrap();
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let doubling = vec![replace(json!({"String": "a"}), "aa"); 40];
    let long = "x".repeat(1 << 20);
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let words = "a".repeat(20) + "b";
    let bombs = [
        ("normalizer", json!({"type": "Sequence", "normalizers": doubling}), "banana".to_owned()),
        ("normalizer", json!({"type": "Prepend", "prepend": long}), "a".into()),
        ("normalizer", replace(json!({"String": "a"}), &long), "a".repeat(10_000)),
        ("normalizer", replace(json!({"Regex": ""}), &long), "b".repeat(10_000)),
        ("decoder", replace(json!({"String": "a"}), &long), "a".into()),
        // Each word takes a million steps of backtracking, and no one of them too many.
        ("pre_tokenizer", split("(a+)+[^ab]"), words.repeat(20_000)),
    ];
    for (part, bomb, text) in bombs {
        let dir = tempfile::tempdir().unwrap();
        let mut tokenizer = plain.clone();
        tokenizer[part] = bomb;
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let what = format!("{part}: {:.200}", tokenizer[part]);
        defused(&what, Duration::from_secs(60), || {
            HfTokenizer::load(dir.path())?.encode(&text, false).map(drop)
        });
    }
}
