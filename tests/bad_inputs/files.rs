//! Files that are not what they seem: numbers that are not finite, links that lead elsewhere, pipes and
//! devices.

use super::{
    TRAIN, WEIGHTS, case, check, config, contents, good_inputs, header, index, run, stderr,
};
use std::fs;
use std::path::Path;

/// Overwrites the first element of a float32 tensor.
fn poison(dir: &Path, tensor: &str, value: f32) {
    let path = dir.join(WEIGHTS);
    let mut bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let data = file.tensor(tensor).unwrap().data().as_ptr() as usize - bytes.as_ptr() as usize;
    bytes[data..data + 4].copy_from_slice(&value.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

const UP: &str = "model.layers.1.mlp.up_proj.weight";

#[test]
fn numbers_that_are_not_finite() {
    let says = &["model: tensor model.layers.1.mlp.up_proj.weight: element 0 is NaN"];
    check(&[
        case("LoRA", |d| poison(d, UP, f32::NAN), TRAIN, says),
        case("QLoRA", |d| poison(d, UP, f32::NAN), "train config.toml --load-in-4bit", says),
        case(
            "full",
            |d| {
                poison(d, UP, f32::NAN);
                config(d, "[lora]\nr = 2\n", "");
            },
            TRAIN,
            says,
        ),
        case(
            "evaluate",
            |d| poison(d, UP, f32::NAN),
            "evaluate --model model --data data.jsonl --device cpu --quiet",
            says,
        ),
        case(
            "an infinite norm",
            |d| poison(d, "model.norm.weight", f32::INFINITY),
            "train config.toml --load-in-4bit",
            &["tensor model.norm.weight: element 0 is inf"],
        ),
    ]);
}

#[cfg(unix)]
fn link(dir: &Path, name: &str) {
    let outside = dir.join(format!("outside-{name}"));
    let path = dir.join("model").join(name);
    match path.exists() {
        true => fs::rename(&path, &outside).unwrap(),
        false => fs::write(&outside, "a secret").unwrap(),
    }
    std::os::unix::fs::symlink(outside, path).unwrap();
}

#[cfg(unix)]
#[test]
fn links_out_of_a_model() {
    check(&[
        case(
            "weights",
            |d| link(d, "model.safetensors"),
            TRAIN,
            &["/model/model.safetensors: is a link out of the directory"],
        ),
        case(
            "the config",
            |d| link(d, "config.json"),
            TRAIN,
            &["/model/config.json: is a link out of the directory"],
        ),
        case(
            "the tokenizer",
            |d| link(d, "tokenizer.json"),
            TRAIN,
            &["/model/tokenizer.json: is a link out of the directory"],
        ),
        case(
            "a file that is only carried along",
            |d| link(d, "merges.txt"),
            TRAIN,
            &["/model/merges.txt: is a link out of the directory"],
        ),
    ]);
}

#[test]
fn an_index_that_names_another_kind_of_file() {
    check(&[case(
        "config.json as a shard",
        |d| index(d, "config.json"),
        TRAIN,
        &["index.json: the file \"config.json\" of weight_map", "the header claims"],
    )]);
}

/// A pipe would be waited for, and a device read without end.
#[cfg(unix)]
#[test]
fn pipes_in_the_place_of_files() {
    for name in ["config.json", "tokenizer.json", "model.safetensors", "merges.txt"] {
        let inputs = good_inputs();
        let path = inputs.path().join("model").join(name);
        let _ = fs::remove_file(&path);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let output = run(inputs.path(), TRAIN);
        fs::remove_file(&path).unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(name) && text.contains("is not a regular file"), "{text}");
        assert!(!contents(inputs.path()).contains_key(&inputs.path().join("out")));
    }
}

/// A message says enough of a bad value, and no more.
#[test]
fn long_and_odd_values_are_shown_in_part() {
    let inputs = good_inputs();
    let long = "x".repeat(100_000);
    let arguments = ["train", "config.toml", "--set", &format!("{long}=1")];
    let output = super::program(inputs.path(), "").args(arguments).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2));
    assert!(text.len() < 2_000 && text.contains("xxx..."), "{} bytes", text.len());

    let inputs = good_inputs();
    header(inputs.path().join(WEIGHTS), "model.norm.weight", "model\\u001b[31m.x");
    let text = stderr(&run(inputs.path(), "train config.toml --set lora.r=0"));
    assert!(!text.contains('\u{1b}'), "{text:?}");
}
