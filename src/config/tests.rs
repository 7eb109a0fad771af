//! Configs as users write them, and the messages for the mistakes they make.

use std::path::Path;

use super::*;
use crate::adapter::TargetModules;
use crate::data::DataFile;
use crate::ops::Implementation;

const MINIMAL: &str = "model = \"Org/Name\"\noutput_dir = \"out\"\n";

pub(super) fn toml(text: &str, set: &[&str]) -> Result<TrainConfig> {
    let overrides: Vec<Override> = set.iter().map(|text| Override::set(text).unwrap()).collect();
    TrainConfig::parse(text, Syntax::Toml, "run.toml", Path::new("/base"), &overrides)
}

/// A minimal config with these lines, from line 3 on, and a training file.
pub(super) fn with(lines: &str) -> Result<TrainConfig> {
    toml(&format!("{MINIMAL}{lines}"), &["data.train=/d.jsonl"])
}

pub(super) fn yaml(text: &str) -> Result<TrainConfig> {
    TrainConfig::parse(text, Syntax::Yaml, "run.yaml", Path::new("/base"), &[])
}

pub(super) fn assert_error(result: Result<TrainConfig>, parts: &[&str]) {
    let error = result.expect_err("the config was accepted");
    assert_eq!(error.exit_status(), 2);
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    let problems = message.lines().skip(1).count();
    assert!(problems == 0 || message.starts_with("2 things") || message.starts_with("3 things"));
}

/// The lines of an error that tells several problems, the line that counts them left out.
pub(super) fn problems(result: Result<TrainConfig>) -> Vec<String> {
    let message = result.expect_err("the config was accepted").to_string();
    let lines: Vec<String> = message.lines().map(|line| line.trim().to_owned()).collect();
    assert!(lines[0].ends_with("things are wrong in the config:"), "{message}");
    lines[1..].to_vec()
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = with("").unwrap();
    assert_eq!(config.model, "Org/Name");
    assert_eq!(config.output_dir, Path::new("/base/out"));
    assert_eq!(config.data.train, [DataFile::new("/d.jsonl")]);
    assert_eq!(config.lora, None);
    assert_eq!(config.data.max_length, None);
    assert!(config.data.completion_only_loss && config.data.shuffle && !config.data.packing);
    let train = &config.train;
    assert_eq!(train.learning_rate, 2e-5);
    assert_eq!((train.per_device_train_batch_size, train.per_device_eval_batch_size), (4, 8));
    assert_eq!((train.warmup_steps, train.max_grad_norm), (0.03, 1.0));
    assert_eq!((train.eval_steps, train.logging_steps), (Interval::Epoch, Interval::Steps(1)));

    let config = with("dtype = \"float32\"\n[lora]").unwrap();
    let lora = config.lora.unwrap();
    assert_eq!((lora.r, lora.lora_alpha, lora.lora_dropout), (16, 32.0, 0.0));
    assert_eq!(lora.target_modules, TargetModules::AllLinear);
    assert_eq!(config.train.learning_rate, 2e-4);
    assert_eq!(config.quantization.bnb_4bit_compute_dtype, DtypeChoice::Float32);
}

#[test]
fn an_axolotl_config_means_the_same_as_its_toml() {
    let foreign = yaml(
        "base_model: ./llama\n\
         output_dir: /out\n\
         datasets:\n  - path: a.jsonl\n    type: alpaca\n  - path: /b.jsonl\n    type: alpaca\n\
         val_set_size: 0.05\n\
         sequence_len: 2048\n\
         sample_packing: true\n\
         adapter: qlora\n\
         lora_r: 8\nlora_alpha: 16\nlora_dropout: 0.05\n\
         lora_target_modules: [v_proj, q_proj]\n\
         micro_batch_size: 2\n\
         num_epochs: 3\n\
         optimizer: adamw_torch\n\
         lr_scheduler: linear\n\
         learning_rate: 1e-4\n\
         warmup_ratio: 0.1\n\
         train_on_inputs: false\n\
         flash_attention: true\n\
         saves_per_epoch: 1\n\
         special: ~\n"
            .replace("special: ~\n", "resume_from_checkpoint:\n")
            .as_str(),
    );
    let native = toml(
        r#"
        model = "/base/llama"
        output_dir = "/out"
        [quantization]
        load_in_4bit = true
        [lora]
        r = 8
        lora_alpha = 16
        lora_dropout = 0.05
        target_modules = ["q_proj", "v_proj"]
        [data]
        train = [{ path = "a.jsonl", weight = 1 }, "/b.jsonl"]
        eval_split = 0.05
        format = "alpaca"
        max_length = 2048
        packing = true
        [train]
        per_device_train_batch_size = 2
        num_train_epochs = 3.0
        lr_scheduler_type = "linear"
        learning_rate = 1e-4
        warmup_steps = 0.1
        "#,
        &[],
    );
    assert_eq!(foreign.unwrap(), native.unwrap());
}

#[test]
fn everything_wrong_is_told_at_once_in_the_order_of_the_lines() {
    let text = "[lora]\nr = 0\nxyzzy = 1\n[train]\nlearning_rat = 1\nsede = 'x'\nbf16 = true\n";
    let found = problems(toml(text, &[]));
    let expected = [
        "run.toml:2: lora.r: expected a whole number",
        "run.toml:3: unknown key lora.xyzzy",
        "run.toml:5: unknown key train.learning_rat: did you mean train.learning_rate?",
        "run.toml:6: unknown key train.sede: did you mean train.seed?",
        "run.toml:7: train.bf16: is not a key here",
        "run.toml: model is missing",
        "run.toml: output_dir is missing",
        "run.toml: data.train is missing",
        "the keys of [lora] are r, ",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}, expected {expected}");
    }
}

#[test]
fn keys_are_found_by_their_meaning() {
    for (line, key) in [
        ("batch_size = 4", "train.per_device_train_batch_size"),
        ("scheduler = 'cosine'", "train.lr_scheduler_type"),
        ("iters = 5", "train.max_steps"),
        ("[train]\nwarmup = 5", "train.warmup_steps"),
        ("grad_clip = 1.0", "train.max_grad_norm"),
        ("precision = 'bf16'", "dtype"),
        ("quantize = true", "quantization.load_in_4bit"),
        ("block_size = 5", "data.max_length"),
        ("[lora]\nscaling = 2", "lora.lora_alpha"),
        ("train_dataset = 'x'", "data.train"),
    ] {
        assert_error(with(line), &[&format!("did you mean {key}?")]);
    }
    assert_error(with("data = 3"), &["run.toml:3: data: expected a table of keys"]);
    assert_error(with("quantization = 3"), &["quantization: expected a table of keys, found 3"]);
    // A name of two keys.
    assert_eq!(with("alpha = 8").unwrap().lora.unwrap().lora_alpha, 8.0);
    let both = with("objective = 'cpo'\nalpha = 8");
    assert_error(both, &["run.toml:4: alpha: is lora.lora_alpha, or cpo.alpha: write which"]);
    for dtype in ["bf16", "torch.bfloat16", "bfloat16"] {
        let config = with(&format!("dtype = '{dtype}'")).unwrap();
        assert_eq!(config.dtype, DtypeChoice::Bfloat16);
        assert!(config.to_toml().contains("dtype = \"bfloat16\""));
    }
    assert_eq!(with("bf16 = 'auto'").unwrap().dtype, DtypeChoice::Auto);
}

#[test]
fn a_flat_trl_config_is_understood() {
    let config = yaml(
        "model_name_or_path: Qwen/Qwen3-0.6B\n\
         output_dir: out\n\
         train: train.jsonl\n\
         eval: eval.jsonl\n\
         torch_dtype: bfloat16\n\
         attn_implementation: flash_attention_2\n\
         use_peft: true\n\
         load_in_4bit: true\n\
         max_steps: -1\n\
         assistant_only_loss: false\n\
         eval_strategy: steps\n\
         eval_steps: 50\n\
         save_strategy: no\n\
         report_to: none\n",
    )
    .unwrap();
    assert_eq!(config.model, "Qwen/Qwen3-0.6B");
    assert_eq!(config.data.eval, EvalSource::File("/base/eval.jsonl".into()));
    assert_eq!(config.attn_implementation, Implementation::Flash);
    assert!(config.quantization.load_in_4bit && !config.data.completion_only_loss);
    assert_eq!(config.lora, Some(LoraConfig::default()));
    assert_eq!(config.train.max_steps, None);
    assert_eq!(config.train.eval_steps, Interval::Steps(50));
    assert_eq!(config.train.save_steps, Interval::Never);
}

#[test]
fn unknown_keys_name_their_line_and_the_nearest_key() {
    assert_error(
        with("[train]\nlearning_rat = 1"),
        &["run.toml:4: unknown key train.learning_rat", "did you mean train.learning_rate?"],
    );
    assert_error(with("[train]\npacking = true"), &["run.toml:4", "did you mean data.packing?"]);
    assert_error(with("ouput = 1"), &["run.toml:3", "did you mean output_dir?"]);
    assert_error(with("micro_batch_sice = 1"), &["per_device_train_batch_size"]);
    assert_error(
        with("[lorra]\nr = 1"),
        &["run.toml:3", "unknown key lorra", "did you mean lora?"],
    );
    assert_error(with("[lora]\nxyzzy = 1"), &["the keys of [lora] are r, lora_alpha"]);
    assert_error(with("zqxj = 'x'"), &["unknown key zqxj", "max_memory"]);
    assert_error(yaml("model: a/b\noutput_dir: o\ntrian:\n  seed: 1\n"), &["run.yaml:3", "trian"]);
    assert_error(
        toml(&format!("{MINIMAL}[data]\ntrain = [{{ paht = 'x' }}]"), &[]),
        &["run.toml:4", "paht", "path and weight"],
    );
}

#[test]
fn keys_of_other_tools_are_answered_with_what_to_write() {
    assert_error(with("bf16 = true"), &["run.toml:3: bf16", "dtype = \"bfloat16\""]);
    assert_error(with("[train]\nbf16 = true"), &["run.toml:4", "dtype = \"bfloat16\""]);
    assert_error(with("fp16 = true"), &["dtype = \"float16\""]);
    assert_error(with("warmup_ratio = 1.5"), &["warmup_ratio", "not including 1"]);
    assert_error(with("dataset_name = \"a/b\""), &["data.train"]);
    assert_error(with("load_in_8bit = true"), &["load_in_4bit"]);
    assert_error(with("adapter = \"runs/a\""), &["lora.adapter"]);
    for objective in ["grpo", "rlhf", "distill"] {
        let line = format!("objective = \"{objective}\"");
        assert_error(with(&line), &["run.toml:3", objective, "not there yet"]);
    }
    assert_error(with("objective = \"simpo\""), &["objective = \"cpo\"", "loss_type"]);
}

#[test]
fn wrong_values_say_what_is_expected_and_what_was_found() {
    let cases = [
        ("[lora]\nr = 0", "lora.r: expected a whole number of at least 1, found 0"),
        ("[lora]\nr = 8.5", "found 8.5"),
        ("[lora]\nlora_dropout = 1.0", "not including 1, found 1.0"),
        ("[lora]\ntarget_modules = ['q_prj']", "did you mean \"q_proj\"?"),
        ("[lora]\ntarget_modules = []", "empty list"),
        ("[train]\nlearning_rate = -1e-4", "at least 0, found -0.0001"),
        ("[train]\nlearning_rate = '2e-4'", "found the text \"2e-4\""),
        ("[train]\nlearning_rate = nan", "found NaN"),
        ("[train]\nwarmup_steps = -1", "found -1"),
        ("[train]\nwarmup_steps = 1.5", "found 1.5"),
        ("[train]\nadam_beta2 = 1", "found 1"),
        ("[train]\nadam_epsilon = 0", "above 0, found 0"),
        ("[train]\nmax_steps = 0", "at least 1, found 0"),
        ("[train]\nseed = true", "found true"),
        ("[train]\nlr_scheduler_type = 'cosin'", "did you mean \"cosine\"?"),
        (
            "[train]\noptim = 'lion'",
            "one of \"adamw_torch\", \"adamw_8bit\", \"muon\", found \"lion\"",
        ),
        ("[train]\noptim = 'adamw_8bits'", "did you mean \"adamw_8bit\"?"),
        ("[train]\ngradient_checkpointing = 'unsloth'", "\"auto\", true or false"),
        ("[data]\nmax_length = 1", "at least 2"),
        ("[data]\npacking = 'yes'", "true or false"),
        ("[data]\neval_split = 1", "not including 1"),
        ("[data]\nformat = 'jsonl'", "\"prompt-completion\""),
        ("device = 'cude'", "did you mean cuda?"),
        ("dtype = 'int8'", "one of \"auto\", \"float32\", \"bfloat16\", \"float16\""),
        ("max_memory = '20 Gigs'", "\"20GiB\""),
        ("output_dir = ''", "duplicate key"),
        ("[train]\nseed = 99999999999999999999", "64 bits"),
        ("seed =", "not valid TOML"),
    ];
    for (lines, part) in cases {
        let line = if lines.starts_with('[') { "run.toml:4" } else { "run.toml:3" };
        assert_error(with(lines), &[line, part]);
    }
    assert_error(yaml(""), &["run.yaml: model is missing"]);
    assert_error(yaml("just text"), &["run.yaml:1", "key: value"]);
    assert_error(yaml("model: [a\n"), &["run.yaml:", "not valid YAML"]);
    assert_error(yaml("model: a\nmodel: b\n"), &["run.yaml:2", "duplicate"]);
    assert_error(yaml("model: a/b\noutput_dir: o\nlora:\n"), &["run.yaml:3", "lora: {}"]);
}

#[test]
fn contradictions_are_errors() {
    let cases: [(&str, &[&str]); 11] = [
        ("lora_r = 8\n[lora]\nr = 4", &["lora.r", "already given as lora_r (run.toml:3)"]),
        ("[data]\neval = 'e'\neval_split = 0.1", &["run.toml:5", "data.eval"]),
        ("load_in_4bit = true", &["run.toml:3", "[lora]"]),
        ("use_peft = false\n[lora]\nr = 8", &["run.toml:3: use_peft", "contradicts"]),
        ("[lora]\nadapter = 'a'\nr = 8", &["run.toml:5: lora.r", "lora.adapter"]),
        ("[train]\nload_best_model_at_end = true", &["eval_split"]),
        ("[train]\neval_strategy = 'steps'", &["needs eval_steps above 0"]),
        ("[train]\nsave_strategy = 'epoch'\nsave_steps = 5", &["contradicts save_steps = 5"]),
        (
            "[data]\neval_split = 0.1\n[train]\nearly_stopping_patience = 2\neval_steps = 2\n\
             save_steps = 3",
            &["a multiple of eval_steps"],
        ),
        ("[train]\noptim = 'muon'\n[lora]\nr = 4", &["run.toml:4: train.optim", "remove [lora]"]),
        ("warmup_steps = 3\nwarmup_ratio = 0.1", &["warmup", "already given"]),
    ];
    for (lines, parts) in cases {
        assert_error(with(lines), parts);
    }
    assert_error(toml("", &[]), &["run.toml: model is missing"]);
    assert_error(toml(MINIMAL, &[]), &["data.train is missing"]);
}

#[test]
fn early_stopping_implies_the_best_model_and_saves_with_evaluations() {
    let config =
        with("eval_split = 0.1\n[train]\nearly_stopping_patience = 2\neval_steps = 5").unwrap();
    assert!(config.train.load_best_model_at_end);
    assert_eq!(config.train.save_steps, Interval::Steps(5));
}

#[test]
fn the_command_line_replaces_what_the_file_says() {
    let file = format!("{MINIMAL}[train]\nseed = 1\nmax_steps = 5\n[data]\ntrain = 'a'\n");
    let set = ["seed=7", "train.max_steps=9", "lora_r=4", "chat_template=chatml", "lora.r=8"];
    let config = toml(&file, &set).unwrap();
    assert_eq!((config.train.seed, config.train.max_steps), (7, Some(9)));
    assert_eq!(config.lora.unwrap().r, 8);
    assert_eq!(config.data.chat_template, Some(TemplateSource::Named("chatml".into())));

    let here = std::env::current_dir().unwrap();
    let config = toml(&file, &["target_modules=v_proj,q_proj"]).unwrap();
    let targets = config.lora.unwrap().target_modules;
    assert_eq!(targets, TargetModules::Names(vec!["q_proj".into(), "v_proj".into()]));

    let config = toml(&file, &["output_dir=2026", "data.train=b.jsonl", "lora=true"]).unwrap();
    assert_eq!(config.output_dir, here.join("2026"));
    assert_eq!(config.data.train[0].path, here.join("b.jsonl"));
    assert_eq!(config.lora, Some(LoraConfig::default()));

    assert_error(toml(&file, &["train.sede=1"]), &["--set train.sede=1", "train.seed"]);
    assert_error(toml(&file, &["seed=x"]), &["--set seed=x: seed", "the text \"x\""]);
    assert_error(toml(&file, &["seed=99999999999999999999"]), &["found the text"]);
    assert!(Override::set("seed").unwrap_err().to_string().contains("section.key=value"));
}

#[test]
fn a_model_and_a_data_file_are_enough() {
    let data = Path::new("/d.jsonl");
    let config = TrainConfig::for_model_and_data("Org/Name@main", data, &[]).unwrap();
    assert_eq!(config.model, "Org/Name@main");
    assert!(config.output_dir.ends_with("runs/Name"));
    assert_eq!(config.data.train[0].path, data);
    let overrides = [Override::set("output_dir=/x").unwrap()];
    let config = TrainConfig::for_model_and_data("/m", data, &overrides).unwrap();
    assert_eq!((config.model.as_str(), config.output_dir.as_path()), ("/m", Path::new("/x")));
}

#[test]
fn four_bit_weights_are_decoded_to_the_dtype() {
    let section =
        "[lora]\n[quantization]\nload_in_4bit = true\nbnb_4bit_compute_dtype = \"float32\"";
    assert_eq!(with(section).unwrap().dtype, DtypeChoice::Float32);
    let contradiction = with(&format!("dtype = \"bfloat16\"\n{section}"));
    assert_error(contradiction, &["bnb_4bit_compute_dtype", "the same as dtype = \"bfloat16\""]);
}

#[test]
fn saying_a_thing_twice_is_no_contradiction() {
    let config = yaml(
        "base_model: m\noutput_dir: o\ndatasets: [path: d]\nadapter: qlora\nload_in_4bit: true\n",
    );
    let config = config.unwrap();
    assert!(config.quantization.load_in_4bit && config.lora.is_some());
}

#[test]
fn settings_that_part_two_runs_are_told() {
    let (now, saved) = (with("seed = 1\nsave_steps = 3").unwrap(), with("seed = 2").unwrap());
    let told = |now: &TrainConfig| {
        let changes = now.changes(&saved).into_iter();
        changes.map(|change| (change.text, change.refused.is_some())).collect::<Vec<_>>()
    };
    assert!(told(&now).contains(&("train.seed is 1, was 2".to_owned(), true)));
    let saving =
        |(text, is_refused): &(String, bool)| text.starts_with("train.save_s") && !is_refused;
    assert!(told(&now).iter().any(saving), "{:?}", told(&now));
    let lora = with("[lora]\nr = 4").unwrap();
    assert!(told(&lora).contains(&("lora.r is 4, was not set".to_owned(), true)));
}

#[test]
fn the_saved_config_reads_back_the_same() {
    let full = r#"
        device = "cuda:1"
        max_memory = "20GiB"
        dtype = "bfloat16"
        init = "random"
        attn_implementation = "eager"
        [quantization]
        load_in_4bit = true
        bnb_4bit_use_double_quant = false
        bnb_4bit_compute_dtype = "bfloat16"
        [lora]
        r = 3
        lora_alpha = 0.1
        target_modules = ["down_proj", "q_proj"]
        use_rslora = true
        [data]
        train = [{ path = "a \"b\".jsonl", weight = 0.3 }, "c"]
        eval_split = 0.1
        format = "sharegpt"
        chat_template = "t.jinja"
        max_length = 77
        excess_length_strategy = "raise"
        packing = true
        completion_only_loss = false
        shuffle = false
        [train]
        max_steps = 12
        learning_rate = 3.3333333333333335e-7
        lr_scheduler_type = "constant_with_warmup"
        warmup_steps = 5
        gradient_checkpointing = true
        logging_steps = 0
        early_stopping_patience = 3
        save_total_limit = 0
        neftune_noise_alpha = 5
    "#;
    let file = format!("{MINIMAL}{full}");
    let cases = [
        with("").unwrap(),
        with("[lora]\nadapter = \"a\"\nlora_dropout = 0.1").unwrap(),
        with("eval_strategy = \"no\"\nsave_strategy = \"no\"\nlogging_strategy = \"no\"").unwrap(),
        with("data.eval = \"e.jsonl\"\ndata.chat_template = \"chatml\"").unwrap(),
        toml(&file, &[]).unwrap(),
    ];
    for config in cases {
        let saved = config.to_toml();
        let elsewhere = Path::new("/elsewhere");
        let again = TrainConfig::parse(&saved, Syntax::Toml, "config.toml", elsewhere, &[]);
        assert_eq!(again.unwrap_or_else(|error| panic!("{error}\n{saved}")), config, "{saved}");
    }
}

#[test]
fn files_are_read_by_extension_and_paths_start_from_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.yml");
    std::fs::write(&path, "model: a/b\noutput_dir: ../out\ndata:\n  train: d.jsonl\n").unwrap();
    let config = TrainConfig::load(&path, &[]).unwrap();
    assert_eq!(config.data.train[0].path, dir.path().join("d.jsonl"));
    assert_eq!(config.output_dir, dir.path().parent().unwrap().join("out"));
    // A directory beside the config wins over a hub id of the same form.
    std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
    assert_eq!(Path::new(&TrainConfig::load(&path, &[]).unwrap().model), dir.path().join("a/b"));
    assert_error(
        TrainConfig::load(&dir.path().join("none.toml"), &[]),
        &["cannot read", "none.toml"],
    );
    assert_error(TrainConfig::load(&dir.path().join("run.json"), &[]), &[".toml, .yaml or .yml"]);
}

#[test]
fn an_optimizer_has_the_names_of_other_tools() {
    for (name, expected) in [
        ("adamw_torch_fused", "adamw_torch"),
        ("paged_adamw_32bit", "adamw_torch"),
        ("adamw_bnb_8bit", "adamw_8bit"),
        ("paged_adamw_8bit", "adamw_8bit"),
        ("muon", "muon"),
    ] {
        let config = with(&format!("optim = '{name}'")).unwrap();
        assert_eq!(config.train.optim.name(), expected);
        assert!(config.to_toml().contains(&format!("optim = \"{expected}\"")));
    }
}

/// Places are found by halving: this took a minute when every key counted its lines from the top.
#[test]
fn a_file_of_many_keys_is_read_in_linear_time_and_a_huge_one_is_refused() {
    let message = |found: Result<TrainConfig>| found.err().map(|error| error.to_string());
    let keys: String = (0..60_000).map(|i| format!("k{i} = 1\n")).collect();
    let found = message(toml(&keys, &[])).unwrap_or_default();
    assert!(found.contains("k0") && found.contains("and 59903 more"), "{found:.200}");
    let keys: String = (0..60_000).map(|i| format!("k{i}: 1\n")).collect();
    assert!(message(yaml(&keys)).is_some_and(|message| message.contains("k0")));
    let many = "# a line\n".repeat(200_000);
    assert_error(toml(&many, &[]), &["run.toml has 1800000 bytes", "is it a data file?"]);
    assert_error(yaml(&many), &["run.yaml has 1800000 bytes"]);
}
