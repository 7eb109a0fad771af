//! Configs of other tools, as their own examples write them.

use std::path::Path;

use super::tests::{assert_error, problems, with, yaml};
use super::*;
use crate::adapter::TargetModules;
use crate::data::DataFile;

/// The settings of axolotl's qlora-1b.yml and lora-8b.yml, LLaMA-Factory's qwen3_lora_sft.yaml, mlx_lm's
/// lora_config.yaml and TRL's example_config.yaml, in the order of these files.
const EXAMPLES: [(&str, &str, &[&str]); 5] = [
    (
        "base_model: a/b\nload_in_8bit: false\nload_in_4bit: true\n\
         datasets:\n  - path: d.jsonl\n    type: alpaca\n\
         dataset_prepared_path: last_run_prepared\nval_set_size: 0.1\noutput_dir: ./out\n\
         adapter: qlora\nlora_model_dir:\nsequence_len: 2048\nsample_packing: true\n\
         eval_sample_packing: true\nlora_r: 32\nlora_alpha: 16\nlora_dropout: 0.05\n\
         lora_target_modules:\n  - gate_proj\n  - q_proj\n\
         wandb_project:\nwandb_entity:\nwandb_watch:\nwandb_name:\nwandb_log_model:\n\
         gradient_accumulation_steps: 4\nmicro_batch_size: 2\nnum_epochs: 1\n\
         optimizer: adamw_bnb_8bit\nlr_scheduler: cosine\nlearning_rate: 0.0002\n\
         bf16: auto\ntf32: false\ngradient_checkpointing: true\nresume_from_checkpoint:\n\
         logging_steps: 1\nattn_implementation: flash_attention_2\n\
         loss_watchdog_threshold: 5.0\nloss_watchdog_patience: 3\nwarmup_ratio: 0.1\n\
         evals_per_epoch: 4\nsaves_per_epoch: 1\nweight_decay: 0.0\n\
         special_tokens:\n  pad_token: \"<|end_of_text|>\"\n",
        "",
        &[],
    ),
    (
        "base_model: a/b\nmodel_type: LlamaForCausalLM\ntokenizer_type: AutoTokenizer\n\
         load_in_8bit: true\nload_in_4bit: false\n\
         datasets:\n  - path: d.jsonl\n    type: alpaca\ndataset_prepared_path:\n\
         val_set_size: 0.05\noutput_dir: ./out\nsequence_len: 4096\nsample_packing: true\n\
         eval_sample_packing: false\nadapter: lora\nlora_model_dir:\nlora_r: 32\n\
         lora_alpha: 16\nlora_dropout: 0.05\nlora_target_linear: true\nwandb_project:\n\
         gradient_accumulation_steps: 4\nmicro_batch_size: 2\nnum_epochs: 4\n\
         optimizer: adamw_bnb_8bit\nlr_scheduler: cosine\nlearning_rate: 0.0002\nbf16: auto\n\
         tf32: false\ngradient_checkpointing: true\nresume_from_checkpoint:\nlogging_steps: 1\n\
         flash_attention: true\nwarmup_ratio: 0.1\nevals_per_epoch: 4\nsaves_per_epoch: 1\n\
         weight_decay: 0.0\nspecial_tokens:\n  pad_token: <|end_of_text|>\n",
        "load_in_8bit: true\n",
        &["load_in_8bit: expected false, found true: there is load_in_4bit = true"],
    ),
    (
        "model_name_or_path: a/b\ntrust_remote_code: true\nstage: sft\ndo_train: true\n\
         finetuning_type: lora\nlora_rank: 8\nlora_target: all\ndataset: identity\n\
         template: qwen3_nothink\ncutoff_len: 2048\nmax_samples: 1000\n\
         preprocessing_num_workers: 16\ndataloader_num_workers: 4\noutput_dir: saves/sft\n\
         logging_steps: 10\nsave_steps: 500\nplot_loss: true\noverwrite_output_dir: true\n\
         save_only_model: false\nreport_to: none\nper_device_train_batch_size: 1\n\
         gradient_accumulation_steps: 8\nlearning_rate: 1.0e-4\nnum_train_epochs: 3.0\n\
         lr_scheduler_type: cosine\nwarmup_ratio: 0.1\nbf16: true\nddp_timeout: 180000000\n\
         resume_from_checkpoint: null\n",
        "dataset: identity\ntemplate: qwen3_nothink\nmax_samples: 1000\nbf16: true\n",
        &[
            "run.yaml:8: dataset: nothing is downloaded: write data.train = \"FILE\"",
            "run.yaml:9: unknown key template: did you mean data.chat_template?",
            "run.yaml:11: max_samples: is not there",
            "run.yaml:27: bf16: is not a key here: write dtype = \"bfloat16\"",
        ],
    ),
    (
        "model: a/b\ntrain: true\nfine_tune_type: lora\ntraining_mode: normal\n\
         optimizer: adamw\ndata: /data\nseed: 0\nnum_layers: 16\nbatch_size: 4\n\
         iters: 1000\nval_batches: 25\nlearning_rate: 1e-5\nsteps_per_report: 10\n\
         steps_per_eval: 200\nresume_adapter_file: null\nadapter_path: adapters\n\
         save_every: 100\ntest: false\ntest_batches: 100\nmax_seq_length: 2048\n\
         grad_checkpoint: false\nlora_parameters:\n  keys: [self_attn.q_proj, self_attn.v_proj]\n  \
         rank: 8\n  scale: 20.0\n  dropout: 0.0\n",
        "num_layers: 16\nbatch_size: 4\niters: 1000\n",
        &[
            "run.yaml:8: num_layers: means the last layers",
            "run.yaml:9: unknown key batch_size: did you mean train.per_device_train_batch_size?",
            "run.yaml:10: unknown key iters: did you mean train.max_steps?",
        ],
    ),
    (
        "model_name_or_path:\n  a/b\ndataset_name:\n  stanfordnlp/imdb\nreport_to:\n  none\n\
         learning_rate:\n  0.0001\nlr_scheduler_type:\n  cosine\n",
        "dataset_name:\n  stanfordnlp/imdb\n",
        &[
            "run.yaml:4: dataset_name: nothing is downloaded: write data.train = \"FILE\"",
            "run.yaml: output_dir is missing",
        ],
    ),
];

#[test]
fn other_tools_examples_take_one_round_of_corrections() {
    for (text, refused, expected) in EXAMPLES {
        match expected {
            [] => _ = yaml(text).unwrap(),
            [one] => assert_error(yaml(text), &[one]),
            several => {
                let found = problems(yaml(text));
                assert_eq!(found.len(), several.len(), "{found:#?}");
                for (found, expected) in found.iter().zip(several) {
                    assert!(found.starts_with(expected), "{found}, expected {expected}");
                }
            }
        }
        let mut corrected = refused.lines().fold(text.to_owned(), |text, line| {
            assert!(text.contains(line), "{line}");
            text.replacen(&format!("{line}\n"), "", 1)
        });
        if !corrected.contains("data") || corrected.contains("preprocessing") {
            corrected += "train_file: d.jsonl\n";
        }
        if !corrected.contains("output_dir") && !corrected.contains("adapter_path") {
            corrected += "output_dir: o\n";
        }
        if let Err(error) = yaml(&corrected) {
            panic!("{error}\n{corrected}");
        }
    }
}

#[test]
fn what_has_no_effect_is_noted_in_a_line_for_each_reason() {
    let config = yaml(EXAMPLES[0].0).unwrap();
    let metrics = "run.yaml: wandb_project, wandb_entity";
    assert!(config.notes.iter().all(|note| !note.starts_with(metrics)), "no value, known: silent");
    let find = |key: &str| config.notes.iter().find(|note| note.contains(key)).unwrap();
    assert_eq!(find("tf32"), "run.yaml: tf32: float32 is float32 here");
    assert!(find("special_tokens").ends_with("batches have no padding"));
    assert!(find("loss_watchdog_threshold, loss_watchdog_patience").contains("not finite"));
    let config = with("zqxj_a = 1\n").err().map(|error| error.to_string()).unwrap_or_default();
    assert!(config.contains("unknown key zqxj_a"), "a value is not passed over: {config}");
    let config = yaml(&format!("{}zqxj_a:\nzqxj_b: ~\n", EXAMPLES[0].0)).unwrap();
    let note = "run.yaml: zqxj_a, zqxj_b: no such key, and no value: left out".to_owned();
    assert!(config.notes.contains(&note), "{:?}", config.notes);
    let harmless = "do_train = true\nddp_timeout = 1\nremove_unused_columns = false\n\
                    report_to = 'none'\n[lora]\nbias = 'none'\n";
    assert_eq!(with(harmless).unwrap().notes.len(), 5);
    // Values that would change the run are refused.
    for (line, part) in [
        ("[lora]\nbias = 'all'", "expected \"none\""),
        ("do_train = false", "this is the training program"),
        ("label_smoothing_factor = 0.1", "expected 0"),
        ("special_tokens = { eos_token = 'x' }", "tokenizer files"),
        ("data_seed = 3", "train.seed"),
        ("deepspeed = 'ds.json'", "gradient_accumulation_steps"),
    ] {
        assert_error(with(line), &[part]);
    }
}

#[test]
fn an_mlx_config_means_what_mlx_computes() {
    let (text, refused, _) = EXAMPLES[3];
    let text = refused.lines().fold(text.to_owned(), |text, line| text.replacen(line, "", 1));
    let config = yaml(&text).unwrap();
    let lora = config.lora.unwrap();
    // Its scale multiplies the update: 160 / 8.
    assert_eq!((lora.r, lora.lora_alpha), (8, 160.0));
    assert_eq!(lora.target_modules, TargetModules::Names(vec!["q_proj".into(), "v_proj".into()]));
    assert_eq!(config.data.train, [DataFile::new("/data/train.jsonl")]);
    assert_eq!(config.data.eval, EvalSource::File("/data/valid.jsonl".into()));
    assert_eq!(config.output_dir, Path::new("/base/adapters"));
    assert_eq!(config.train.eval_steps, Interval::Steps(200));
}

#[test]
fn shares_of_steps_and_counts_per_epoch_are_intervals() {
    let train = |lines: &str| with(&format!("eval_split = 0.1\n[train]\n{lines}")).unwrap().train;
    assert_eq!(train("eval_steps = 0.25").eval_steps, Interval::Share(0.25));
    // Transformers rounds up.
    assert_eq!(Interval::Share(0.25).of(10), Interval::Steps(3));
    assert_eq!(Interval::Share(0.01).of(10), Interval::Steps(1));
    // axolotl: 4 in each of 2 epochs are every eighth of all steps.
    let both = train("num_train_epochs = 2\nevals_per_epoch = 4\nsaves_per_epoch = 1");
    assert_eq!((both.eval_steps, both.save_steps), (Interval::Share(0.125), Interval::Epoch));
    assert_eq!(train("saves_per_epoch = 0").save_steps, Interval::Never);
    let best = "num_train_epochs = 2\nevals_per_epoch = 4\nload_best_model_at_end = true";
    assert_eq!(train(best).save_steps, Interval::Share(0.125));
    assert_error(with("eval_steps = 1.5"), &["a share of them"]);
    assert_error(with("eval_steps = 0.0"), &["a share of them"]);
    assert_error(with("[train]\neval_steps = 3\nevals_per_epoch = 2"), &["contradicts eval_steps"]);
    assert_error(with("num_train_epochs = 0.1\nsaves_per_epoch = 2"), &["less than one"]);
}
