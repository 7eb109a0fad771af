//! Checkpoints: a short run is made, and its trainer reads them with one file changed.

use super::{Reader, Target};
use crate::seeds::{repository, safetensors};
use jiff::civil::date;
use std::fs;
use std::path::Path;
use tunesmith::config::{Syntax, TrainConfig};
use tunesmith::files::manifest;
use tunesmith::train::build::build;
use tunesmith::train::checkpoint;
use tunesmith::train::memory::choose;
use tunesmith::train::observer::Observer;
use tunesmith::train::prepare::Prepared;
use tunesmith::train::run::run;
use tunesmith::train::run_state::RunState;
use tunesmith::{Device, Result};

struct Silent;

impl Observer for Silent {}

pub fn targets(dir: &Path) -> Vec<Box<dyn Target>> {
    let dir = dir.join("checkpoint");
    let run = |name, file, words| target(&dir, name, file, words).expect("a run");
    vec![
        run(
            "checkpoint-run-state",
            "run_state.json",
            &["\"step\": 18446744073709551615", "\"loss_scale\": 1e39", "\"date\": \"x\""],
        ),
        run(
            "checkpoint-trainer-state",
            "trainer_state.json",
            &[
                "\"log_history\": [{}]",
                "\"global_step\": -1",
                "\"best_metric\": \"x\"",
                "\"epoch\": null",
            ],
        ),
        run(
            "checkpoint-optimizer",
            "optimizer.safetensors",
            &["\"F32\"", "\"BF16\"", "\"shape\": [0]", "master.", "exp_avg_sq."],
        ),
        run(
            "checkpoint-manifest",
            "manifest.json",
            &["\"bytes\": -1", "\"../run_state.json\"", "\"/dev/zero\"", "\"xxh64\": \"0\""],
        ),
    ]
}

/// The config of a small model, a tokenizer, and rows.
fn inputs(dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir.join("model"))?;
    let config = fs::read_to_string(repository("tests/fixtures/models/llama/config.json"))?;
    let config = config.replace("\"vocab_size\": 131", "\"vocab_size\": 403");
    fs::write(dir.join("model/config.json"), config)?;
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let from = repository("tests/fixtures/tokenizers/chatml").join(name);
        fs::copy(from, dir.join("model").join(name))?;
    }
    fs::write(dir.join("rows.jsonl"), "{\"text\": \"ab\"}\n{\"text\": \"ba\"}\n")
}

fn target(
    dir: &Path,
    name: &'static str,
    file: &'static str,
    words: &'static [&'static str],
) -> Result<Box<dyn Target>> {
    let dir = dir.join(name);
    inputs(&dir).map_err(|error| tunesmith::Error::io("inputs", error))?;
    let text = "model = \"./model\"\noutput_dir = \"out\"\ndevice = \"cpu\"\ndtype = \"float32\"\ninit = \"random\"\n\
        [data]\ntrain = \"rows.jsonl\"\nmax_length = 16\n[train]\nmax_steps = 2\nsave_steps = 2\n";
    let config = TrainConfig::parse(text, Syntax::Toml, "config.toml", &dir, &[])?;
    let now = date(2026, 1, 1).at(0, 0, 0, 0);
    let prepared = Prepared::new(config, now)?;
    let device = Device::open("cpu")?;
    let plan = choose(&prepared, &device)?;
    run(&prepared, &device, &plan, &now.to_string(), &mut Silent)?;
    let (mut trainer, _) = build(&prepared, &device, plan.recompute, false)?;
    let place = dir.join("out/checkpoint-2");
    let mut seeds = vec![fs::read(place.join(file)).expect("a file of the checkpoint")];
    if file.ends_with("safetensors") {
        seeds.push(safetensors(&[("master.a", "F32", 4, &[2])]));
    }
    Ok(Box::new(Reader {
        name,
        seeds,
        words,
        read: move |input: &[u8]| {
            fs::write(place.join(file), input).expect("a file");
            if file == manifest::NAME {
                return manifest::verify(&place).map_err(tunesmith::Error::input);
            }
            let state = RunState::read(&place)?;
            checkpoint::load(&place, &state, &mut trainer).map(drop)
        },
    }))
}
