//! The gradients of whole models: on the CPU against their definition, and the definition against what
//! Transformers and PEFT compute (tests/fixtures/gradients, by tools/check_verify_model.py).

mod common;

use common::{cpu, fixture, json};
use std::collections::BTreeMap;
use std::path::Path;
use tunesmith::gradients::{Subject, random_rows};
use tunesmith::model::{ModelConfig, Weights, check};
use tunesmith::{DType, Result};

/// Calls `with` the subject of a family's small model, or of the quickstart's.
fn with_subject<T>(
    family: &str,
    dtype: DType,
    nf4: Option<bool>,
    with: impl FnOnce(&Subject) -> Result<T>,
) -> Result<T> {
    let dir = match family {
        "starter" => Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/starter"),
        _ => fixture("models").join(family),
    };
    let (mut config, mut weights) = (ModelConfig::open(&dir)?, Weights::open(&dir)?);
    check(&mut weights, &mut config)?;
    let sequences = random_rows(config.spec.vocab_size);
    let subject = Subject { config: &config, weights: &weights, dtype, nf4, sequences: &sequences };
    with(&subject)
}

#[test]
fn the_definition_is_what_transformers_and_peft_compute() -> Result<()> {
    let mut checked = 0;
    for entry in std::fs::read_dir(fixture("gradients")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let expected: BTreeMap<String, [f64; 2]> = json(&path);
        let found = with_subject(name, DType::F32, None, |subject| subject.define()?.summary())?;
        assert_eq!(found.len(), expected.len(), "{name}");
        for (tensor, found) in found {
            let expected = expected[&tensor];
            for (found, expected_number) in found.iter().zip(expected) {
                let off = (found - expected_number).abs();
                assert!(
                    off <= 1e-4 * expected[0].abs(),
                    "{name} {tensor}: {found}, not {expected:?}"
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked} tensors");
    Ok(())
}

#[test]
fn the_cpu_agrees_with_the_definition() -> Result<()> {
    for family in ["llama", "gemma3", "phi3", "qwen2", "starter"] {
        // Two elements of 16 bits stand in a word: the vocabularies of the small models are odd.
        let dtypes = [(DType::F32, None), (DType::F32, Some(true)), (DType::BF16, None)];
        let count = if family == "starter" { 3 } else { 2 };
        for (dtype, nf4) in dtypes.into_iter().take(count) {
            with_subject(family, dtype, nf4, |subject| {
                for found in subject.verify(&cpu(), &subject.define()?)? {
                    let tensor = &found.tensor;
                    assert!(found.passed(), "{family} {dtype:?} {nf4:?} {tensor}: {}", found.share);
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Weights that are off by as little as the rounding to 4 bits are found in every tensor.
#[test]
fn what_is_computed_from_other_weights_is_found() -> Result<()> {
    let definition = with_subject("llama", DType::F32, None, |subject| subject.define())?;
    with_subject("llama", DType::F32, Some(true), |subject| {
        let compared = subject.verify(&cpu(), &definition)?;
        assert_eq!(compared.len(), 1 + 2 * 14);
        let passed: Vec<_> = compared.iter().filter(|found| found.passed()).collect();
        assert!(passed.is_empty(), "{passed:?}");
        Ok(())
    })
}

#[cfg(feature = "cli")]
#[test]
fn the_program_says_that_all_agree_and_prints_a_script() {
    use std::process::Command;
    let model = fixture("models/llama");
    let verify = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tunesmith"));
        command.args(["verify", "--device", "cpu", "--model"]).arg(&model).args(arguments);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (status, table, said) = verify(&[]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("28 gradients and the loss: all agree"), "{said}");
    assert!(table.contains("model.layers.1.mlp.down_proj") && table.contains("dlora_A"), "{table}");
    let (status, script, said) = verify(&["--python"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(script.contains("\"layers\":[0,") && script.contains("get_peft_model"), "{script}");
    let (_, lines, _) = verify(&["--json", "--quiet"]);
    let rows: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() == 29 && rows.iter().all(|row| row["passed"] == true), "{lines}");
    let data = model.join("reference.json");
    let (status, _, said) = verify(&["--data", data.to_str().unwrap()]);
    assert_eq!(status, Some(2), "a file of other rows: {said}");
}
