//! What may happen to a run while it goes on, and to its files before it is resumed: it ends with the same
//! bits as a run that went through, or says what is wrong.

#![cfg(feature = "tokenizers")]

mod common;

use common::runs::{
    RESUME, Watch, assert_same_result, config, go, metrics, prepare, train, write_inputs,
};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tunesmith::{Error, Result};

const LORA: &str = "[lora]\nr = 4";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Inputs, and the result of a run that went through in `straight`.
fn straight(mode: &str) -> Result<TempDir> {
    let dir = tempfile::tempdir().unwrap();
    write_inputs(dir.path());
    train(config(dir.path(), mode, "straight", &[])?, &mut Watch::default())?;
    Ok(dir)
}

/// Trains in `out` until after a step.
fn stop(dir: &Path, mode: &str, after: u64) -> Result<PathBuf> {
    let stopped = train(config(dir, mode, "out", &[])?, &mut Watch::until(after));
    assert!(matches!(stopped, Err(Error::Interrupted(15))), "{stopped:?}");
    Ok(dir.join("out"))
}

/// Goes on in `out`; what was said.
fn resume(dir: &Path, mode: &str, settings: &[&str]) -> Result<Vec<String>> {
    let mut watch = Watch::default();
    let settings: Vec<&str> = settings.iter().copied().chain([RESUME]).collect();
    train(config(dir, mode, "out", &settings)?, &mut watch)?;
    Ok(watch.said)
}

/// Asserts that going on is an error that says all of this.
fn assert_refused(dir: &Path, mode: &str, settings: &[&str], parts: &[&str]) {
    let error = resume(dir, mode, settings).unwrap_err();
    assert_eq!(error.exit_status(), 2, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
    }
}

fn copy_run(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_run(&path, &target),
            false => _ = fs::copy(&path, &target).unwrap(),
        }
    }
}

fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_run_may_be_stopped_anywhere() -> Result<()> {
    // Logged means are over three steps, so that stops fall between them.
    let mode = "logging_steps = 3\n[lora]\nr = 4\nlora_dropout = 0.1";
    let dir = straight(mode)?;
    let dir = dir.path();
    let expected = dir.join("straight");
    let mut stops = 0;
    for question in (1..).step_by(2) {
        let _ = fs::remove_dir_all(dir.join("out"));
        let mut watch = Watch { stop_at_question: question, ..Watch::default() };
        match train(config(dir, mode, "out", &[])?, &mut watch) {
            Ok(_) => break,
            Err(Error::Stopped(15)) => {
                assert!(!dir.join("out/checkpoint-0").exists());
                assert!(resume(dir, mode, &[])?.iter().any(|said| said.contains("begins anew")));
            }
            Err(Error::Interrupted(15)) => _ = resume(dir, mode, &[])?,
            Err(other) => return Err(other),
        }
        stops += 1;
        assert_same_result(&dir.join("out"), &expected, WEIGHTS);
    }
    assert!(stops > 10, "only {stops} stops");
    Ok(())
}

#[test]
fn a_damaged_checkpoint_is_told_and_the_one_before_is_taken() -> Result<()> {
    let dir = straight(LORA)?;
    let dir = dir.path();
    let kept = stop(dir, &format!("save_total_limit = 0\n{LORA}"), 6)?;
    let mode = format!("save_total_limit = 0\n{LORA}");
    copy_run(&kept, &dir.join("kept"));
    let files = ["adapter_config.json", "optimizer.safetensors", "tokenizer.json", "config.toml"];
    for file in files.iter().chain(&["run_state.json", "trainer_state.json", "manifest.json"]) {
        fs::remove_dir_all(&kept).unwrap();
        copy_run(&dir.join("kept"), &kept);
        flip_a_bit(&kept.join("checkpoint-6").join(file));
        let said = resume(dir, &mode, &[])?;
        let is_told =
            |said: &String| said.contains("checkpoint-6 is damaged") && said.contains(file);
        assert!(said.iter().any(is_told), "{file}: {said:?}");
        assert_same_result(&kept, &dir.join("straight"), WEIGHTS);
    }
    flip_a_bit(&kept.join("checkpoint-5/optimizer.safetensors"));
    let named = format!("resume_from_checkpoint=\"{}\"", kept.join("checkpoint-5").display());
    let error = train(config(dir, &mode, "out", &[&named])?, &mut Watch::default()).unwrap_err();
    assert!(error.to_string().contains("the content of optimizer.safetensors"), "{error}");
    Ok(())
}

#[test]
fn a_run_may_become_longer() -> Result<()> {
    // Rates that do not depend on the length: the same bits as a run that asked for it at first.
    let constant = "lr_scheduler_type = \"constant\"\n[lora]\nr = 4";
    let dir = straight(constant)?;
    let dir = dir.path();
    train(config(dir, constant, "out", &["train.max_steps=5"])?, &mut Watch::default())?;
    let said = resume(dir, constant, &[])?;
    let is_told = |said: &String| {
        said.contains("7 steps in all now, 5") && said.ends_with("learning rate 1.00e-2 at step 6")
    };
    assert!(said.iter().any(is_told), "{said:?}");
    assert_same_result(&dir.join("out"), &dir.join("straight"), WEIGHTS);
    let state = fs::read_to_string(dir.join("out/trainer_state.json")).unwrap();
    assert!(state.contains("\"max_steps\": 7"), "{state}");

    // Rates that do: those of the longer run from there on.
    let rates = |output: &str| -> Vec<f64> {
        let metrics = metrics(&dir.join(output));
        metrics.iter().filter_map(|metrics| metrics["learning_rate"].as_f64()).collect()
    };
    train(config(dir, LORA, "cosine", &[])?, &mut Watch::default())?;
    fs::remove_dir_all(dir.join("out")).unwrap();
    train(config(dir, LORA, "out", &["max_steps=5", "save_steps=5"])?, &mut Watch::default())?;
    let short = rates("out");
    let said = resume(dir, LORA, &[])?;
    assert!(said.iter().any(|said| said.contains("had the rates of 5 steps")), "{said:?}");
    let (found, long) = (rates("out"), rates("cosine"));
    assert_eq!((&found[..5], &found[5..]), (&short[..], &long[5..]));
    assert_ne!(short[..], long[..5]);

    assert_refused(dir, LORA, &["max_steps=4"], &["was saved by a longer run", "done 5 steps"]);
    Ok(())
}

#[test]
fn what_was_the_first_epoch_may_become_two() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_inputs(dir);
    let mode = "warmup_steps = 0\n[lora]\nr = 4";
    let once =
        ["data.eval_split=0", "per_device_train_batch_size=40", "max_steps=1", "save_steps=1"];
    train(config(dir, mode, "out", &once)?, &mut Watch::default())?;
    let twice =
        ["data.eval_split=0", "per_device_train_batch_size=40", "max_steps=2", "save_steps=1"];
    resume(dir, mode, &twice)?;
    let rates: Vec<_> = metrics(&dir.join("out"))
        .iter()
        .map(|metrics| metrics["learning_rate"].as_f64().unwrap())
        .collect();
    // The second step of two, at the middle of the cosine.
    assert!((rates[0] - 0.01).abs() < 1e-12 && (rates[1] - 0.005).abs() < 1e-12, "{rates:?}");
    Ok(())
}

#[test]
fn another_base_model_is_refused() -> Result<()> {
    let dir = straight(LORA)?;
    let dir = dir.path();
    stop(dir, LORA, 2)?;
    let config_json = dir.join("model/config.json");
    let text = fs::read_to_string(&config_json).unwrap();
    let at = text.find("\"rms_norm_eps\": 1e-0").unwrap();
    let mut other = text.clone();
    other.replace_range(at..at + 20, "\"rms_norm_eps\": 1e-03");
    fs::write(&config_json, &other[..]).unwrap();
    assert_refused(dir, LORA, &[], &["other base model", "config.json"]);
    fs::write(&config_json, text).unwrap();

    let weights = dir.join("model/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    assert_refused(dir, LORA, &[], &["other base model", "weights"]);
    bytes[last] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    resume(dir, LORA, &[])?;
    assert_same_result(&dir.join("out"), &dir.join("straight"), WEIGHTS);
    Ok(())
}

#[test]
fn changed_settings_are_named_and_allowed_or_refused_with_the_reason() -> Result<()> {
    let dir = straight(LORA)?;
    let dir = dir.path();
    stop(dir, LORA, 2)?;
    for (setting, name, reason) in [
        ("learning_rate=0.5", "train.learning_rate is 0.5, was 0.01", "taken with the other value"),
        ("seed=4", "train.seed is 4, was 3", "would have seen other examples"),
        ("load_in_4bit=true", "load_in_4bit is true", "the base weights would be others"),
        ("lora.r=8", "lora.r is 8, was 4", "would have another form"),
        ("optim=adamw_8bit", "train.optim is", "the saved state is that of the other optimizer"),
    ] {
        assert_refused(dir, LORA, &[setting], &["checkpoint-2", name, reason]);
    }
    let said = resume(dir, LORA, &["attn_implementation=eager", "save_total_limit=7"])?.join("\n");
    for part in ["attn_implementation is \"eager\", was", "save_total_limit is 7", "the last bits"]
    {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    Ok(())
}

#[test]
fn the_model_may_be_deleted_once_a_run_has_begun() -> Result<()> {
    for mode in [LORA, "[lora]\nr = 4\n[quantization]\nload_in_4bit = true"] {
        let dir = straight(mode)?;
        let dir = dir.path();
        fs::write(dir.join("model/merges.txt"), "carried along").unwrap();
        let delete = |step| {
            if step == 1 {
                fs::remove_dir_all(dir.join("model")).unwrap();
            }
        };
        let mut watch = Watch { after: Some(&delete), ..Watch::default() };
        train(config(dir, mode, "out", &[])?, &mut watch)?;
        assert_same_result(&dir.join("out"), &dir.join("straight"), WEIGHTS);
        for place in ["out", "out/checkpoint-5"] {
            let read = |name: &str| fs::read(dir.join(place).join(name)).unwrap();
            assert_eq!(read("merges.txt"), b"carried along");
            for name in ["tokenizer.json", "tokenizer_config.json"] {
                assert_eq!(
                    read(name),
                    fs::read(dir.join("straight").join(name)).unwrap(),
                    "{name}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn weights_that_change_while_a_run_starts_are_told() -> Result<()> {
    for mode in [LORA, "[lora]\nr = 4\n[quantization]\nload_in_4bit = true"] {
        let dir = tempfile::tempdir().unwrap();
        write_inputs(dir.path());
        let prepared = prepare(config(dir.path(), mode, "out", &[])?)?;
        let weights = dir.path().join("model/model.safetensors");
        let file = fs::File::options().write(true).open(weights).unwrap();
        file.set_len(file.metadata().unwrap().len() - 4).unwrap();
        let error = go(&prepared, &mut Watch::default()).unwrap_err();
        assert_eq!(error.exit_status(), 1);
        assert!(error.to_string().contains("model.safetensors: the file changed"), "{error}");
        assert!(!dir.path().join("out").exists());
    }
    Ok(())
}

#[test]
fn two_runs_do_not_share_an_output_directory() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_inputs(dir);
    let is_refused = Cell::new(0);
    let second = |_| {
        for settings in [&[][..], &[RESUME]] {
            let error = prepare(config(dir, LORA, "out", settings).unwrap()).err().unwrap();
            let message = error.to_string();
            let is_told =
                message.contains("another run writes to") || message.contains("not empty");
            assert!(error.exit_status() == 2 && is_told, "{error}");
            is_refused.set(is_refused.get() + 1);
        }
    };
    // Both were prepared before either had begun.
    let other = prepare(config(dir, LORA, "out", &[])?)?;
    let late = |_| {
        let error = go(&other, &mut Watch::default()).unwrap_err();
        assert!(error.to_string().contains("another run writes to"), "{error}");
        second(0);
    };
    train(
        config(dir, LORA, "out", &["max_steps=1"])?,
        &mut Watch { after: Some(&late), ..Watch::default() },
    )?;
    assert_eq!(is_refused.get(), 2);
    let error = go(&other, &mut Watch::default()).unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
    Ok(())
}

#[test]
fn a_run_with_its_best_checkpoint_may_be_moved() -> Result<()> {
    let mode = "load_best_model_at_end = true\nsave_total_limit = 0";
    // The rate is so high that the evaluation after the first step, which is warm-up, is the best.
    let settings =
        ["learning_rate=1.0", "lr_scheduler_type=constant", "eval_steps=1", "save_steps=1"];
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_inputs(dir);
    train(config(dir, mode, "straight", &settings)?, &mut Watch::default())?;
    let state = fs::read_to_string(dir.join("straight/trainer_state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let best = state["best_global_step"].as_u64().unwrap();
    assert!(best < 6, "the best step is {best}");
    assert_eq!(state["best_model_checkpoint"], format!("checkpoint-{best}"));

    let stopped = train(config(dir, mode, "before", &settings)?, &mut Watch::until(6));
    assert!(matches!(stopped, Err(Error::Interrupted(15))), "{stopped:?}");
    fs::rename(dir.join("before"), dir.join("out")).unwrap();
    resume(dir, mode, &settings)?;
    assert_same_result(&dir.join("out"), &dir.join("straight"), "model.safetensors");

    fs::remove_file(dir.join("out").join("model.safetensors")).unwrap();
    fs::remove_dir_all(dir.join("out/checkpoint-7")).unwrap();
    fs::remove_dir_all(dir.join(format!("out/checkpoint-{best}"))).unwrap();
    let said = resume(dir, mode, &settings)?;
    assert!(
        said.iter().any(|said| said.contains("best checkpoint so far is not there")),
        "{said:?}"
    );
    Ok(())
}

#[test]
fn leftovers_of_a_killed_run_are_taken_away() -> Result<()> {
    let dir = straight(LORA)?;
    let dir = dir.path();
    let out = stop(dir, LORA, 5)?;
    for name in [".checkpoint-6.partial", ".checkpoint-2.removed"] {
        fs::create_dir(out.join(name)).unwrap();
        fs::write(out.join(name).join("optimizer.safetensors"), "half").unwrap();
    }
    // Killed between the two renames of a save.
    fs::rename(out.join("checkpoint-5"), out.join(".checkpoint-5.replaced")).unwrap();
    resume(dir, LORA, &[])?;
    assert_same_result(&out, &dir.join("straight"), WEIGHTS);
    let hidden = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name());
    let hidden: Vec<_> = hidden.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
    Ok(())
}
