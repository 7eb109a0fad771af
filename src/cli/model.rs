//! The command lines of the programs that take a model as it is.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, Parser, ValueEnum};

use super::{DeviceOptions, OutputOptions, choice, number};
use crate::config::{Choice, DtypeChoice};
use crate::data::Format;
use crate::error::{Error, Result};
use crate::export::gguf::mix::Mix;

/// The model to load.
#[derive(Args, Clone, Debug, Default)]
pub struct ModelOptions {
    /// A model directory, or Org/Name[@revision] in the local Hugging Face cache; with --adapter,
    /// the adapter's base model is the default
    #[arg(long, value_name = "DIR", required_unless_present = "adapter")]
    pub model: Option<String>,
    /// A PEFT adapter; several as NAME=DIR where the program takes several; those that are given as
    /// DIR:WEIGHT are added up to one, each times its weight
    #[arg(long, value_name = "[NAME=]DIR[:WEIGHT]")]
    pub adapter: Vec<AdapterOption>,
    /// Store the weights in 4 bits
    #[arg(long)]
    pub load_in_4bit: bool,
    /// auto, float32, bfloat16, float16; with --adapter, what it was trained with is the default;
    /// for export --to gguf also q8_0, q4_k_m
    #[arg(long, value_name = "DTYPE", value_parser = choice::<DtypeOption>)]
    pub dtype: Option<DtypeOption>,
}

/// What `--dtype` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtypeOption {
    /// The dtype to compute in, or to write.
    Float(DtypeChoice),
    /// A mix of blocks to write in a GGUF file.
    Blocks(Mix),
}

impl Choice for DtypeOption {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Float(DtypeChoice::Auto)),
        ("float32", Self::Float(DtypeChoice::Float32)),
        ("bfloat16", Self::Float(DtypeChoice::Bfloat16)),
        ("float16", Self::Float(DtypeChoice::Float16)),
        ("q8_0", Self::Blocks(Mix::Q8_0)),
        ("q4_k_m", Self::Blocks(Mix::Q4_K_M)),
        ("Q8_0", Self::Blocks(Mix::Q8_0)),
        ("Q4_K_M", Self::Blocks(Mix::Q4_K_M)),
    ];
}

impl ModelOptions {
    /// The dtype to compute in.
    ///
    /// # Errors
    /// [`Error::Input`] for what only a GGUF file can have.
    pub fn dtype(&self) -> Result<Option<DtypeChoice>> {
        match self.dtype {
            None => Ok(None),
            Some(DtypeOption::Float(choice)) => Ok(Some(choice)),
            Some(DtypeOption::Blocks(mix)) => Err(Error::input(format!(
                "--dtype {} is for export --to gguf; expected auto, float32, bfloat16 or float16",
                mix.name()
            ))),
        }
    }

    /// The one adapter of a program that takes no more.
    ///
    /// # Errors
    /// [`Error::Input`] where several are given.
    pub fn single_adapter(&self) -> Result<Option<&AdapterOption>> {
        match self.adapter.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            // They are one together.
            [first, ..] if self.adapter.iter().all(|adapter| adapter.weight.is_some()) => {
                Ok(Some(first))
            }
            _ => Err(Error::input(
                "--adapter: this program takes one adapter, or several that are added up by weights: \
                 --adapter DIR:0.5",
            )),
        }
    }

    /// Adapters that can be told apart: one, or several with different names.
    ///
    /// # Errors
    /// [`Error::Input`] where a name is missing or given twice.
    pub fn named_adapters(&self) -> Result<&[AdapterOption]> {
        for (index, adapter) in self.adapter.iter().enumerate() {
            let shown = adapter.path.display();
            match &adapter.name {
                None if self.adapter.len() > 1 && adapter.weight.is_none() => {
                    return Err(Error::input(format!(
                        "--adapter {shown}: each of several adapters needs a name: --adapter \
                         NAME={shown}"
                    )));
                }
                Some(name) if self.adapter[..index].iter().any(|a| a.name == adapter.name) => {
                    return Err(Error::input(format!(
                        "--adapter {name}={shown}: the name {name} is given twice"
                    )));
                }
                // `/adapter none` turns adapters off.
                Some(name) if name == "none" => {
                    return Err(Error::input("--adapter none=...: `none` means no adapter"));
                }
                _ => {}
            }
        }
        Ok(&self.adapter)
    }
}

/// `DIR` or `NAME=DIR`, and `:WEIGHT` behind it where it is to be added to others.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterOption {
    /// The name to switch to it by.
    pub name: Option<String>,
    /// The adapter's directory.
    pub path: PathBuf,
    /// What its update is multiplied by: those with a weight are added up to one adapter.
    pub weight: Option<f64>,
}

impl FromStr for AdapterOption {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        // A directory may have `:` in its name.
        let is_weight = |weight: &f64| weight.is_finite() && !Path::new(text).exists();
        let split = text.rsplit_once(':').filter(|(path, _)| !path.is_empty());
        let weight = split.and_then(|(_, weight)| weight.parse().ok()).filter(is_weight);
        let text = match (split, weight) {
            (Some((path, _)), Some(_)) => path,
            _ => text,
        };
        let unnamed = || Self { name: None, path: PathBuf::from(text), weight };
        match text.split_once('=') {
            // A directory may have `=` in its name.
            Some((name, _)) if name.contains(['/', '\\']) => Ok(unnamed()),
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok(Self { name: Some(name.to_owned()), path: PathBuf::from(path), weight })
            }
            None if !text.is_empty() => Ok(unnamed()),
            _ => Err("expected DIR, NAME=DIR or NAME=DIR:WEIGHT".to_owned()),
        }
    }
}

/// Complete a prompt with a model, or chat with it
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "generate", version)]
pub struct GenerateOptions {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelOptions,
    /// The text to complete; with --chat, the message to answer
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Chat through the model's template
    #[arg(long)]
    pub chat: bool,
    /// The system message of the chat
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub system: Option<String>,
    /// The most tokens to generate [default: generation_config.json, else 256]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_new_tokens: Option<u64>,
    /// Divide logits by this; 0 takes the likeliest token
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = non_negative)]
    pub temperature: Option<f64>,
    /// Choose among the K likeliest tokens; 0 is all
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = share)]
    pub top_p: Option<f64>,
    /// Choose among tokens at least this probable, relative to the likeliest
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = share)]
    pub min_p: Option<f64>,
    /// Divide the logits of tokens seen before by this; 1 is none
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = positive)]
    pub repetition_penalty: Option<f64>,
    /// The seed of sampling
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputOptions,
}

/// What `generate` is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GenerateMode<'a> {
    /// Complete raw text.
    Complete(&'a str),
    /// Answer once.
    Answer {
        /// The system message.
        system: Option<&'a str>,
        /// The user's message.
        prompt: &'a str,
    },
    /// Chat until the input ends.
    Chat {
        /// The system message.
        system: Option<&'a str>,
    },
}

impl GenerateOptions {
    /// What the options ask for.
    ///
    /// # Errors
    /// [`Error::Input`] where there is nothing to complete, or a system message for no chat.
    pub fn mode(&self) -> Result<GenerateMode<'_>> {
        let (prompt, system) = (self.prompt.as_deref(), self.system.as_deref());
        match (self.chat, prompt) {
            (true, Some(prompt)) => Ok(GenerateMode::Answer { system, prompt }),
            (true, None) if self.output.json => {
                Err(Error::input("--json with --chat needs --prompt TEXT: a chat has no end"))
            }
            (true, None) => Ok(GenerateMode::Chat { system }),
            (false, _) if system.is_some() => {
                Err(Error::input("--system is the system message of a chat: give --chat too"))
            }
            (false, Some(prompt)) => Ok(GenerateMode::Complete(prompt)),
            (false, None) => Err(Error::input("give --prompt TEXT to complete, or --chat")),
        }
    }
}

/// Measure the loss per token and the perplexity of a model on a file
#[derive(Clone, Debug, Parser)]
#[command(name = "evaluate", version)]
pub struct EvaluateOptions {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelOptions,
    /// The examples: JSON Lines, or one JSON array
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// auto, text, messages, prompt-completion, preference, alpaca, sharegpt
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = choice::<Option<Format>>)]
    // By its full path, so that clap takes it for a value and not for an option that may be left out.
    pub format: std::option::Option<Format>,
    /// The longest example in tokens [default: 1024, or the model's context if that is smaller]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    pub max_length: Option<u64>,
    /// Write the score of each row of the data here, as a reward model gives it (JSON Lines)
    #[arg(long, value_name = "FILE")]
    pub scores: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputOptions,
}

/// Write a model, merged with its adapter, in another form
#[derive(Clone, Debug, Parser)]
#[command(name = "export", version)]
pub struct ExportOptions {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelOptions,
    /// The form to write
    #[arg(long, value_name = "FORM")]
    pub to: ExportTarget,
    /// The directory (merged, nf4) or file (gguf, gguf-lora) to write
    #[arg(long, value_name = "PATH")]
    pub output: PathBuf,
    /// Which base weights an adapter is added to [default: those it was trained on: after QLoRA
    /// what the 4-bit weights decode to]
    #[arg(long, value_name = "BASE")]
    pub merge_into: Option<MergeInto>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub messages: OutputOptions,
}

/// The forms of `export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportTarget {
    /// A Hugging Face model directory with the adapter merged in
    Merged,
    /// The same, with linear layers in bitsandbytes' NF4
    Nf4,
    /// A GGUF file
    Gguf,
    /// A GGUF file with the adapter alone, which llama.cpp loads beside the model
    GgufLora,
}

/// The base weights that an adapter is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MergeInto {
    /// The model's weights as they are
    Original,
    /// What the 4-bit weights of the training decode to
    Dequantized,
}

/// Check every kernel, forward and backward, against the CPU reference; or, with --model, the gradients
/// of that model
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "verify", version)]
pub struct VerifyOptions {
    /// A model directory, or Org/Name[@revision] in the local Hugging Face cache: its loss and gradients,
    /// with LoRA on its first and last block, against their definition in f64
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// The rows, of which the first few are computed [default: tokens at random]
    #[arg(long, value_name = "FILE", requires = "model")]
    pub data: Option<PathBuf>,
    /// Store the weights in 4 bits
    #[arg(long, requires = "model")]
    pub load_in_4bit: bool,
    /// Weights and activations: auto, float32, bfloat16, float16
    #[arg(long, value_name = "DTYPE", requires = "model", value_parser = choice::<DtypeChoice>)]
    pub dtype: Option<DtypeChoice>,
    /// Print the Python script that repeats it with Transformers and PEFT (weights as they are)
    #[arg(long, requires = "model", conflicts_with_all = ["json", "load_in_4bit"])]
    pub python: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputOptions,
}

fn non_negative(text: &str) -> std::result::Result<f64, String> {
    number(text, "a number of at least 0", |value| value >= 0.0)
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    number(text, "a number above 0", |value| value > 0.0)
}

fn share(text: &str) -> std::result::Result<f64, String> {
    number(text, "a number from 0 to 1", |value| (0.0..=1.0).contains(&value))
}
