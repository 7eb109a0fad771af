//! The command line of `train`.

use std::path::{Path, PathBuf};

use clap::Parser;

use super::OutputOptions;
use crate::adapter::PeftConfig;
use crate::config::{
    Choice, DeviceSpec, DtypeChoice, Override, Resume, TrainConfig, describe_keys, parse_size,
    runs_of,
};
use crate::error::{Error, Result};
use crate::files;

/// Fine-tune a model: `train CONFIG.toml`, `train --model DIR --data FILE` (LoRA with the defaults),
/// or, without arguments, the quickstart
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "train", version, after_long_help = after_help())]
pub struct TrainOptions {
    /// The config: TOML or YAML
    pub config: Option<PathBuf>,
    /// A model directory, or Org/Name[@revision] in the local Hugging Face cache
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// The training data: JSON Lines, or one JSON array
    #[arg(long, value_name = "FILE")]
    pub data: Option<String>,
    /// Held-out data, evaluated during the run
    #[arg(long, value_name = "FILE")]
    pub eval: Option<String>,
    /// Where the result goes [default: the config's output_dir, else the next free runs/NAME]
    #[arg(long, value_name = "DIR")]
    pub output: Option<String>,
    /// LoRA on base weights in 4 bits
    #[arg(long)]
    pub qlora: bool,
    /// Train all weights instead of LoRA
    #[arg(long, conflicts_with_all = ["qlora", "load_in_4bit", "adapter"])]
    pub full: bool,
    /// Start from this PEFT adapter; its base model is the default of --model
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<String>,
    /// Store the frozen base weights in 4 bits: --qlora
    #[arg(long)]
    pub load_in_4bit: bool,
    /// Base weights and activations: auto, float32, bfloat16, float16
    #[arg(long, value_name = "DTYPE", value_parser = setting::<DtypeChoice>)]
    pub dtype: Option<String>,
    /// auto (CUDA, else a GPU through wgpu, else the CPU), cpu, wgpu[:i], cuda[:i], cuda-emulated
    #[arg(long, value_name = "DEVICE", value_parser = device)]
    pub device: Option<String>,
    /// Replace a setting of the config: section.key=value (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Go on with the run in output_dir: from its newest checkpoint, or from --resume=DIR
    #[arg(
        long,
        value_name = "CHECKPOINT_DIR",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        value_parser = resume
    )]
    pub resume: Option<Resume>,
    /// Print parameters, memory and steps; train nothing
    #[arg(long, conflicts_with = "preview")]
    pub plan: bool,
    /// Plan for this much device memory, such as 24GiB
    #[arg(long, value_name = "SIZE", requires = "plan", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// Print the first N rows as the loss sees them; train nothing
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub preview: Option<u64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub messages: OutputOptions,
}

fn after_help() -> String {
    format!(
        "A config is TOML or YAML; its relative paths start from where it lies. --set takes the same \
         keys:\n\n{}\nExit status: 0 done; 1 the run failed; 2 the command line, config, model or \
         data is wrong; 129, 130 and 143 after SIGHUP, SIGINT and SIGTERM, with a \
         checkpoint saved where a step was done.",
        describe_keys()
    )
}

/// What `train` is to do.
#[derive(Debug)]
pub enum TrainSource {
    /// The quickstart, with these settings on top of its config.
    Quickstart {
        /// The settings of the command line.
        overrides: Vec<Override>,
        /// What `--resume` says.
        resume: Resume,
    },
    /// The run of this config.
    Config(Box<TrainConfig>),
}

impl TrainOptions {
    /// The run that the command line describes.
    ///
    /// # Errors
    /// [`Error::Input`] for anything wrong in the config, or half a model and data.
    pub fn source(&self) -> Result<TrainSource> {
        let overrides = self.overrides()?;
        let mut config = match (&self.config, self.base_model()?, &self.data) {
            (Some(path), ..) => TrainConfig::load(path, &overrides)?,
            (None, Some(model), Some(data)) => {
                TrainConfig::for_model_and_data(&model, Path::new(data), &overrides)?
            }
            // A plan needs no data: settings are checked as if there were some.
            (None, Some(model), None) if self.plan => {
                let mut config =
                    TrainConfig::for_model_and_data(&model, Path::new("none"), &overrides)?;
                config.data.train.clear();
                config
            }
            (None, None, None) => {
                let resume = self.resume.clone().unwrap_or_default();
                return Ok(TrainSource::Quickstart { overrides, resume });
            }
            (None, model, _) => {
                let missing = if model.is_some() { "--data FILE" } else { "--model DIR" };
                return Err(Error::input(format!(
                    "{missing} is missing: give a config, or --model and --data, or nothing for \
                     the quickstart"
                )));
            }
        };
        if let Some(resume) = &self.resume {
            config.resume = resume.clone();
            let is_given = |set: &Override| set.is_for("output_dir");
            if let (None, Some(model)) = (&self.config, self.base_model()?)
                && !overrides.iter().any(is_given)
            {
                config.output_dir = output_of(resume, &model)?;
            }
        }
        Ok(TrainSource::Config(Box::new(config)))
    }

    /// The options that stand for settings, then every `--set`.
    fn overrides(&self) -> Result<Vec<Override>> {
        let on = |given: bool, value: &str| given.then(|| value.to_owned());
        let load_in_4bit = on(self.load_in_4bit || self.qlora, "true");
        let options = [
            ("--model", "model", self.model.clone()),
            ("--data", "data.train", self.data.clone()),
            ("--eval", "data.eval", self.eval.clone()),
            ("--output", "output_dir", self.output.clone()),
            ("--qlora", "lora", on(self.qlora, "true")),
            ("--full", "lora", on(self.full, "false")),
            ("--adapter", "lora.adapter", self.adapter.clone()),
            ("--load-in-4bit", "quantization.load_in_4bit", load_in_4bit),
            ("--dtype", "dtype", self.dtype.clone()),
            ("--device", "device", self.device.clone()),
        ];
        let mut overrides: Vec<Override> = options
            .into_iter()
            .filter_map(|(option, key, value)| Some(Override::option(option, key, &value?)))
            .collect();
        for text in &self.set {
            overrides.push(Override::set(text)?);
        }
        Ok(overrides)
    }

    /// `--model`, or the base model of `--adapter`.
    fn base_model(&self) -> Result<Option<String>> {
        match (&self.model, &self.adapter) {
            (Some(model), _) => Ok(Some(model.clone())),
            (None, Some(adapter)) => PeftConfig::base_of(Path::new(adapter)).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// The run to go on with where no output directory is given: that of the checkpoint, or the newest run
/// on the model.
fn output_of(resume: &Resume, model: &str) -> Result<PathBuf> {
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(|error| Error::io(path.display(), error));
    match resume {
        Resume::From(checkpoint) => {
            let checkpoint = absolute(checkpoint)?;
            Ok(checkpoint.parent().unwrap_or(&checkpoint).to_owned())
        }
        _ => absolute(&files::last_taken(&runs_of(model))),
    }
}

/// A name that the config will read: checked here, where the message is about the option.
fn setting<C: Choice>(text: &str) -> std::result::Result<String, String> {
    C::parse(text).map(|_| text.to_owned())
}

/// The same of a device.
fn device(text: &str) -> std::result::Result<String, String> {
    text.parse::<DeviceSpec>().map(|_| text.to_owned())
}

/// `--resume` alone is the newest checkpoint.
fn resume(directory: &str) -> std::result::Result<Resume, String> {
    match directory {
        "" => Ok(Resume::Latest),
        _ => Ok(Resume::From(PathBuf::from(directory))),
    }
}
