//! Outputs, checkpoints, and runs that end early.

use super::{TRAIN, case, check, config, contents, data, good_inputs, program, run, stderr, train};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn outputs_and_checkpoints() {
    check(&[
        case(
            "a full directory",
            |d| fs::create_dir_all(d.join("out/x")).unwrap(),
            TRAIN,
            &["/out is not empty", "--resume"],
        ),
        case(
            "a file",
            |d| fs::write(d.join("out"), "x").unwrap(),
            TRAIN,
            &["/out is a file", "give a directory"],
        ),
        case(
            "below a file",
            |d| config(d, "\"out\"", "\"data.jsonl/out\""),
            TRAIN,
            &["output_dir", "cannot be used"],
        ),
        case(
            "nothing to resume",
            |d| {
                fs::create_dir(d.join("out")).unwrap();
                fs::write(d.join("out/notes.txt"), "x").unwrap();
            },
            "train config.toml --resume",
            &["no checkpoint in", "/out, and it holds notes.txt"],
        ),
        case(
            "no checkpoint",
            |_| {},
            "train config.toml --resume=model",
            &["model is no checkpoint"],
        ),
        case(
            "another learning rate",
            train,
            "train config.toml --resume --set lr=0.5",
            &["/out/checkpoint-2", "train.learning_rate is 0.5, was 0.0002"],
        ),
        case(
            "another rank",
            train,
            "train config.toml --resume --set lora.r=3",
            &["lora.r is 3, was 2"],
        ),
        case(
            "fewer steps than are done",
            train,
            "train config.toml --resume --set max_steps=1",
            &["checkpoint-2 was saved by a longer run", "has done 2 steps"],
        ),
        case(
            "other data",
            |d| {
                train(d);
                data(d, "{\"text\": \"b\"}\n");
            },
            "train config.toml --resume",
            &["other training data"],
        ),
        case(
            "an export over a model",
            |_| {},
            "export --to merged --model model --output model",
            &["--output model is not empty"],
        ),
    ]);
}

#[test]
fn a_loss_that_is_not_finite() {
    let inputs = good_inputs();
    let arguments =
        "train config.toml --set learning_rate=1e30 --set warmup_steps=0 --set max_steps=9";
    let output = run(inputs.path(), arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("the loss of step 2 is NaN") && text.contains("learning_rate"), "{text}");
    assert!(!inputs.path().join("out/adapter_model.safetensors").exists());
}

/// A disk that is full, as a limit on the size of files that the adapter exceeds.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full() {
    let inputs = good_inputs();
    let out = inputs.path().join("out");
    let output = Command::new("bash")
        .args(["-c", "trap '' XFSZ; ulimit -f 9; exec \"$0\" train config.toml --set lora.r=8"])
        .arg(env!("CARGO_BIN_EXE_tunesmith"))
        .current_dir(inputs.path())
        .output()
        .unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: cannot write") && text.contains("checkpoint-2"), "{text}");
    let left = contents(&out).into_keys().map(|path| path.strip_prefix(&out).unwrap().to_owned());
    let left: Vec<PathBuf> = left.collect();
    assert_eq!(left, ["config.toml", "metrics.jsonl"].map(PathBuf::from), "{text}");
}

/// A run that is asked to stop saves a checkpoint, from which it goes on.
#[cfg(unix)]
#[test]
fn signals() {
    let inputs = good_inputs();
    let metrics = inputs.path().join("out/metrics.jsonl");
    let lines = || fs::read_to_string(&metrics).unwrap_or_default().lines().count();
    let mut saved = 0;
    let mut signals = vec![("INT", 130, ""), ("TERM", 143, "--resume")];
    // Under nohup it is ignored, and stays so.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    if ignored.is_some_and(|mask| mask.ends_with(['0', '2', '4', '6', '8', 'a', 'c', 'e'])) {
        signals.push(("HUP", 129, "--resume"));
    }
    for (signal, status, resume) in signals {
        let arguments = format!("{TRAIN} --set max_steps=1000000 {resume}");
        let before = lines();
        let child = program(inputs.path(), &arguments).stderr(Stdio::piped()).spawn().unwrap();
        let started = std::time::Instant::now();
        while lines() < before + 3 && started.elapsed().as_secs() < 60 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{text}");
        for part in ["saving, then leaving; press Ctrl-C again", "a checkpoint was saved"] {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
        let out = inputs.path().join("out");
        let newest = tunesmith::train::start::checkpoints(&out).pop().unwrap().0;
        assert!(newest > saved, "{newest} after {saved}: {text}");
        saved = newest;
    }
}

/// Nobody reads what is said, or it cannot be written: the run goes on.
#[cfg(unix)]
#[test]
fn messages_that_nobody_reads() {
    let inputs = good_inputs();
    let mut child = program(inputs.path(), TRAIN).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(inputs.path().join("out/adapter_model.safetensors").is_file());

    let inputs = good_inputs();
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let status = program(inputs.path(), TRAIN).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    let status = program(inputs.path(), TRAIN).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(2), "an error decides the exit status all the same");
}

/// A rate at which the loss explodes, and stays a number.
#[test]
fn a_loss_that_explodes() {
    let inputs = good_inputs();
    config(inputs.path(), "[lora]\nr = 2\n", "");
    let arguments = "train config.toml --set learning_rate=10 --set warmup_steps=0 --set max_steps=6 \
                     --set lr_scheduler_type=constant --json";
    let output = run(inputs.path(), arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("the training has diverged"), "{text}");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(summary["warning"].as_str().unwrap().contains("has diverged"), "{summary}");
}

/// What a killed export left is in nobody's way.
#[test]
fn leftovers_of_a_killed_export() {
    let inputs = good_inputs();
    let dir = inputs.path();
    fs::create_dir(dir.join(".o.partial")).unwrap();
    fs::write(dir.join(".o.partial/model.safetensors"), "half").unwrap();
    let output = run(dir, "export --model model --device cpu --to merged --output o");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(dir.join("o/model.safetensors").is_file());
    let left = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(left.is_empty(), "{left:?}");
}
