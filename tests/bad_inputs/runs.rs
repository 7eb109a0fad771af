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
            |_| {},
            "train config.toml --resume",
            &["no complete checkpoint in", "/out"],
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
            "other steps",
            train,
            "train config.toml --resume --set max_steps=3",
            &["other steps (2, now 3)"],
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
    for (signal, status, resume) in [("INT", 130, ""), ("TERM", 143, "--resume")] {
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
        assert!(text.contains("a checkpoint was saved"), "{text}");
        let out = inputs.path().join("out");
        let newest = tunesmith::train::checkpoint::checkpoints(&out).pop().unwrap().0;
        assert!(newest > saved, "{newest} after {saved}: {text}");
        saved = newest;
    }
}
