//! Command lines as users type them.

use clap::CommandFactory;

use super::*;
use crate::config::{DtypeChoice, Resume};
use crate::error::{Error, Result};

fn train(arguments: &[&str]) -> TrainOptions {
    TrainOptions::try_parse_from([&["train"], arguments].concat()).unwrap()
}

fn usage_error<P: Parser + std::fmt::Debug>(arguments: &[&str]) -> String {
    let error = P::try_parse_from([&["program"], arguments].concat()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

fn config(arguments: &[&str]) -> Result<crate::config::TrainConfig> {
    match train(arguments).source()? {
        TrainSource::Config(config) => Ok(*config),
        TrainSource::Quickstart { .. } => panic!("{arguments:?} is the quickstart"),
    }
}

#[test]
fn the_definitions_are_consistent() {
    Tunesmith::command().debug_assert();
    TrainOptions::command().debug_assert();
}

#[test]
fn no_argument_is_the_quickstart_and_half_a_model_an_error() {
    let source = train(&[]).source().unwrap();
    assert!(matches!(source, TrainSource::Quickstart { overrides, .. } if overrides.is_empty()));
    let source = train(&["--device", "cpu", "--set", "seed=1", "--resume"]).source().unwrap();
    let TrainSource::Quickstart { overrides, resume } = source else { panic!("{source:?}") };
    assert_eq!((overrides.len(), resume), (2, Resume::Latest));
    let error = train(&["--model", "m"]).source().unwrap_err();
    assert!(matches!(&error, Error::Input(message) if message.contains("--data")), "{error}");
    let error = train(&["--data", "d"]).source().unwrap_err();
    assert!(matches!(&error, Error::Input(message) if message.contains("--model")), "{error}");
}

#[test]
fn options_of_train_are_settings() {
    let config = config(&[
        "--model",
        "Org/Name",
        "--data=/d.jsonl",
        "--load-in-4bit",
        "--dtype",
        "float32",
        "--device",
        "cuda:1",
        "--set",
        "lora_r=4",
        "--set",
        "output_dir=/out",
        "--resume=/out/checkpoint-5",
    ])
    .unwrap();
    assert_eq!(config.dtype, DtypeChoice::Float32);
    assert_eq!(config.device, DeviceSpec::Cuda(Some(1)));
    assert!(config.quantization.load_in_4bit);
    assert_eq!(config.lora.unwrap().r, 4);
    assert_eq!(config.resume, Resume::From("/out/checkpoint-5".into()));
}

#[test]
fn a_model_and_data_are_lora_unless_all_weights_are_asked_for() {
    let run =
        |more: &[&str]| config(&[&["--model", "Org/Name", "--data", "/d.jsonl"], more].concat());
    let lora = run(&["--eval", "/e.jsonl"]).unwrap();
    assert_eq!((lora.lora.is_some(), lora.train.learning_rate), (true, 2e-4));
    assert!(!lora.quantization.load_in_4bit && lora.output_dir.ends_with("runs/Name"));
    assert_eq!(lora.data.eval, crate::config::EvalSource::File("/e.jsonl".into()));
    for four_bits in ["--qlora", "--load-in-4bit"] {
        let qlora = run(&[four_bits, "--output", "/out"]).unwrap();
        assert!(qlora.lora.is_some() && qlora.quantization.load_in_4bit);
        assert_eq!(qlora.output_dir, std::path::Path::new("/out"));
    }
    for full in [&["--full"][..], &["--set", "lora=false"]] {
        let full = run(full).unwrap();
        assert_eq!((full.lora, full.train.learning_rate), (None, 2e-5));
    }
    let muon = run(&["--set", "optim=muon"]).unwrap_err().to_string();
    assert!(muon.contains("--full"), "{muon}");
    assert!(run(&["--full", "--set", "optim=muon"]).is_ok());
    assert!(usage_error::<TrainOptions>(&["--full", "--qlora"]).contains("--qlora"));
    let resumed = run(&["--resume=/runs/a/checkpoint-5"]).unwrap();
    assert_eq!(resumed.output_dir, std::path::Path::new("/runs/a"));
}

#[test]
fn the_model_of_an_adapter_is_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let arguments = ["--adapter", path, "--data", "d", "--set", "output_dir=/out"];
    let error = config(&arguments).unwrap_err();
    assert!(error.to_string().contains("adapter_config.json"), "{error}");
    let json = r#"{"peft_type": "LORA", "r": 4, "target_modules": "all-linear",
        "base_model_name_or_path": "Org/Name", "revision": "abc"}"#;
    std::fs::write(dir.path().join("adapter_config.json"), json).unwrap();
    let config = config(&arguments).unwrap();
    assert_eq!(config.model, "Org/Name@abc");
    assert_eq!(config.lora.unwrap().adapter.as_deref(), Some(dir.path()));
}

#[test]
fn usage_errors_say_what_is_expected() {
    assert!(usage_error::<TrainOptions>(&["--device", "cude"]).contains("did you mean cuda?"));
    assert!(usage_error::<TrainOptions>(&["--dtype", "bf61"]).contains("bf16"));
    assert!(usage_error::<TrainOptions>(&["--memory", "24GiB"]).contains("--plan"));
    assert!(usage_error::<TrainOptions>(&["--plan", "--memory", "x"]).contains("20GiB"));
    assert!(usage_error::<TrainOptions>(&["--preview", "0"]).contains("--preview"));
    assert!(usage_error::<GenerateOptions>(&["--prompt", "x"]).contains("--model"));
    assert!(usage_error::<EvaluateOptions>(&["--model", "m"]).contains("--data"));
    assert!(
        usage_error::<ExportOptions>(&["--model", "m", "--to", "onnx", "--output", "o"])
            .contains("gguf")
    );
    assert_eq!(train(&["--plan", "--memory", "24GiB"]).memory, Some(24 << 30));
    let planned = train(&["--model", "m", "--plan"]).source().unwrap();
    assert!(matches!(planned, TrainSource::Config(config) if config.data.train.is_empty()));
    assert!(train(&["--model", "m"]).source().is_err());
    // A directory after a space is not the checkpoint: the option takes it after `=` only.
    assert_eq!(train(&["--resume", "run.toml"]).config, Some("run.toml".into()));
}

fn generate(arguments: &[&str]) -> GenerateOptions {
    let arguments = [&["generate", "--model", "m"], arguments].concat();
    GenerateOptions::try_parse_from(arguments).unwrap()
}

#[test]
fn generate_completes_answers_or_chats() {
    assert_eq!(generate(&["--prompt", "-x"]).mode().unwrap(), GenerateMode::Complete("-x"));
    assert_eq!(generate(&["--chat"]).mode().unwrap(), GenerateMode::Chat { system: None });
    let answer = generate(&["--chat", "--prompt", "p", "--system", "s"]);
    let expected = GenerateMode::Answer { system: Some("s"), prompt: "p" };
    assert_eq!(answer.mode().unwrap(), expected);
    for wrong in [&[][..], &["--prompt", "p", "--system", "s"], &["--chat", "--json"]] {
        assert_eq!(generate(wrong).mode().unwrap_err().exit_status(), 2);
    }
}

#[test]
fn several_adapters_have_names() {
    let adapters = |arguments: &[&str]| {
        let options = generate(&[&["--chat"], arguments].concat());
        options.model.named_adapters().map(<[AdapterOption]>::to_vec)
    };
    let one = adapters(&["--adapter", "runs/a=b/x"]).unwrap();
    assert_eq!(one, [AdapterOption { name: None, path: "runs/a=b/x".into(), weight: None }]);
    let two = adapters(&["--adapter", "a=x", "--adapter", "b=y"]).unwrap();
    assert_eq!(two[1], AdapterOption { name: Some("b".into()), path: "y".into(), weight: None });
    assert!(adapters(&["--adapter", "a=x", "--adapter", "y"]).is_err());
    assert!(adapters(&["--adapter", "a=x", "--adapter", "a=y"]).is_err());
    assert!(adapters(&["--adapter", "none=x"]).is_err());
    let two = generate(&["--chat", "--adapter", "a=x", "--adapter", "b=y"]);
    assert!(two.model.single_adapter().is_err());
}
