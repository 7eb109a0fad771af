//! What a newcomer types and reads: the short command lines, what a run says at its end, and what stays
//! out of the way of a run that is there already.

#![cfg(feature = "cli")]

mod common;

use common::write_model;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A model with a chat template, and a file of texts.
fn inputs() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_model(&dir.path().join("model"));
    let row = |i: u32| format!("{{\"text\": \"{i} and {i} make {}.\"}}\n", 2 * i);
    fs::write(dir.path().join("data.jsonl"), (0..8).map(row).collect::<String>()).unwrap();
    dir
}

fn command(dir: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunesmith"));
    command.args(arguments.split_whitespace()).current_dir(dir).stdin(Stdio::null());
    command.env("HF_HOME", dir.join("no-cache")).env_remove("HF_HUB_CACHE");
    command
}

/// The output of a run that must succeed, and what it says.
fn run(dir: &Path, arguments: &str) -> (Output, String) {
    let output = command(dir, arguments).output().unwrap();
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(output.status.success(), "{arguments}: {said}");
    (output, said)
}

fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

const RUN: &str = "train --model model --data data.jsonl --device cpu --set max_steps=2";

#[test]
fn a_model_and_data_are_lora_in_the_next_free_directory() {
    let inputs = inputs();
    let dir = inputs.path();
    let (_, said) = run(dir, &format!("{RUN} --eval data.jsonl"));
    assert_says(&said, &["LoRA, rank 16", "result: runs/model\n"]);
    assert!(dir.join("runs/model/adapter_model.safetensors").is_file());
    assert_says(
        &said,
        &[
            "tunesmith generate --adapter runs/model --chat\n",
            "tunesmith evaluate --adapter runs/model --data data.jsonl\n",
            "tunesmith export --adapter runs/model --to gguf --output model.gguf\n",
        ],
    );
    let (_, said) = run(dir, &format!("{RUN} --qlora"));
    assert_says(&said, &["QLoRA (NF4), rank 16", "result: runs/model-2\n", "--data FILE.jsonl"]);
    let (_, said) = run(dir, &format!("{RUN} --load-in-4bit --output mine"));
    assert_says(&said, &["QLoRA (NF4)", "result: mine\n", "--adapter mine --chat"]);
    let (_, said) = run(dir, &format!("{RUN} --full"));
    assert_says(&said, &["full fine-tuning", "generate --model runs/model-3 --chat"]);
    assert!(dir.join("runs/model-3/model.safetensors").is_file());
    // What the last lines name can be done.
    let (output, _) = run(dir, "evaluate --adapter runs/model --data data.jsonl --device cpu");
    assert!(String::from_utf8(output.stdout).unwrap().contains("tuned"));
    run(dir, "export --adapter runs/model --to gguf --output model.gguf");
    // The newest run is gone on with.
    let (_, said) = run(dir, &format!("{RUN} --full --resume"));
    assert_says(&said, &["result: runs/model-3\n"]);
}

#[test]
fn an_export_answers_as_the_chat_did_and_says_what_rounding_loses() {
    let inputs = inputs();
    let dir = inputs.path();
    let run_qlora = format!("{RUN} --qlora --set learning_rate=0.01 --set warmup_steps=0");
    run(dir, &format!("{run_qlora} --output q"));
    let export = "export --adapter q --to merged --device cpu --dtype";
    let (_, said) = run(dir, &format!("{export} float32 --output merged"));
    assert_says(&said, &["merged into what these decode to", "--merge-into original"]);
    assert!(!said.contains("--dtype float32"), "{said}");
    // The same greedy answer, from the merged weights as they are.
    let answer = |model: &str| {
        let ask = "--chat --prompt Hello --max-new-tokens 8 --device cpu --json";
        run(dir, &format!("generate {model} {ask}")).0.stdout
    };
    assert_eq!(answer("--model merged"), answer("--adapter q"));
    let (_, said) = run(dir, &format!("{export} float32 --output original --merge-into original"));
    assert!(!said.contains("decode to"), "{said}");
    // 16 bits need an even vocabulary.
    let starter = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/starter");
    run(
        dir,
        &format!("{RUN} --output small").replace("--model model", &format!("--model {starter}")),
    );
    let small = "export --adapter small --to merged --device cpu --dtype bfloat16 --output half";
    let (_, said) = run(dir, small);
    assert_says(
        &said,
        &["change the weight after rounding to bfloat16; --dtype float32 keeps the others too"],
    );
}

#[test]
fn looking_disturbs_no_run_and_needs_only_what_it_looks_at() {
    let inputs = inputs();
    let dir = inputs.path();
    run(dir, &format!("{RUN} --output out"));
    let before = fs::read(dir.join("out/metrics.jsonl")).unwrap();
    let (planned, _) = run(dir, &format!("{RUN} --output out --plan"));
    assert!(String::from_utf8(planned.stdout).unwrap().contains("steps: 2"));
    let (preview, _) = run(dir, &format!("{RUN} --output out --preview 1"));
    assert!(String::from_utf8(preview.stdout).unwrap().starts_with("row 1: 1 example"));
    assert_eq!(fs::read(dir.join("out/metrics.jsonl")).unwrap(), before);
    // config.json alone: a model that has not been downloaded.
    fs::create_dir(dir.join("other")).unwrap();
    fs::copy(dir.join("model/config.json"), dir.join("other/config.json")).unwrap();
    let (planned, _) = run(dir, "train --model other --plan --memory 24GiB --device cpu");
    let planned = String::from_utf8(planned.stdout).unwrap();
    assert_says(&planned, &["LoRA, rank 16", "peak", "steps: unknown without the data"]);
    assert!(!dir.join("runs").exists());
}

#[test]
fn the_paths_that_an_adapter_keeps_are_clean() {
    let inputs = inputs();
    let dir = inputs.path();
    fs::create_dir(dir.join("configs")).unwrap();
    let config = "model = \"../model\"\noutput_dir = \"../out\"\ndevice = \"cpu\"\nlora = true\n\
                  [data]\ntrain = \"../data.jsonl\"\n[train]\nmax_steps = 1\n";
    fs::write(dir.join("configs/run.toml"), config).unwrap();
    let (_, said) = run(dir, "train configs/run.toml");
    assert_says(&said, &["warm-up at a learning rate of 0", "train.warmup_steps = 0"]);
    let saved = fs::read_to_string(dir.join("out/adapter_config.json")).unwrap();
    assert!(saved.contains("/model\"") && !saved.contains(".."), "{saved}");
    let saved = fs::read_to_string(dir.join("out/config.toml")).unwrap();
    assert!(!saved.contains(".."), "{saved}");
    let (_, said) = run(dir, "train configs/run.toml --output b --set warmup_steps=0");
    assert!(!said.contains("warm-up at"), "{said}");
}

#[test]
fn what_has_no_effect_is_noted_and_the_run_goes_on() {
    let inputs = inputs();
    let dir = inputs.path();
    let config = "model: model\noutput_dir: out\ndevice: cpu\nlora: true\nmax_steps: 2\n\
                  train_file: data.jsonl\nwandb_project:\nwandb_entity: me\nddp_timeout: 5\n\
                  do_train: true\nreport_to: none\ncolour:\n";
    fs::write(dir.join("run.yaml"), config).unwrap();
    let (_, said) = run(dir, "train run.yaml");
    assert_says(
        &said,
        &[
            "note: run.yaml: wandb_entity, report_to: metrics go to metrics.jsonl in output_dir\n",
            "note: run.yaml: ddp_timeout: one device computes\n",
            "note: run.yaml: do_train: train trains\n",
            "note: run.yaml: colour: no such key, and no value: left out\n",
        ],
    );
    let quiet = command(dir, "train run.yaml --quiet --output b").output().unwrap();
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{quiet:?}");
}

/// A run that is stopped says how to go on, and that command goes on with it.
#[cfg(unix)]
#[test]
fn a_stopped_run_says_how_to_go_on() {
    let inputs = inputs();
    let dir = inputs.path();
    let metrics = dir.join("runs/model/metrics.jsonl");
    let lines = || fs::read_to_string(&metrics).unwrap_or_default().lines().count();
    let arguments = RUN.replace("max_steps=2", "max_steps=400");
    let child = command(dir, &arguments).stderr(Stdio::piped()).spawn().unwrap();
    let started = std::time::Instant::now();
    while lines() < 3 && started.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    let told = "go on with it:    tunesmith ";
    let line = said.lines().find_map(|line| line.strip_prefix(told));
    let line = line.unwrap_or_else(|| panic!("no command in: {said}"));
    assert_eq!(line, "train runs/model/config.toml --resume");
    let (_, said) = run(dir, line);
    assert_says(&said, &["step 400/400", "result: runs/model\n"]);
    assert_eq!(lines(), 400);
    // A line stays for each tenth of the run.
    let tenths = said.lines().filter(|line| line.starts_with("step ")).count();
    assert!(tenths >= 9, "{said}");
}
