//! Tokens per second and peak memory of whole training steps.
//!
//! `cargo bench --bench steps -- --shape 12M --mode lora --dtype float32 --steps 5`
//!
//! Random weights and tokens, AdamW included: what `tools/bench_peft.py` measures of PEFT, with the same
//! shapes, flags and keys in its one JSON line. Nothing is recomputed but with
//! `--gradient-checkpointing`, as the trainer's setting of that name. The first step is not timed. Peak
//! memory is the process's and the device's, loading included; `planned_device_mib` is what a run on the
//! counting device foretells, as `--plan` does.
//!
//! `--answer 64` makes each row two answers of 64 tokens to the rest of its `--length`, a prompt that stands
//! once; with `--written-out` it stands before each of them. `computed_tokens` are those that go through the
//! layers, `tokens_per_second` counts those of the sequences written out in both.
//!
//! `--shape 8B` and `1B` are Llama 3.1 and 3.2 of those sizes, for a GPU; `--layers`, `--rows` and
//! `--length` make them smaller.

use std::time::Instant;

use clap::builder::PossibleValue;
use clap::{Parser, ValueEnum};
use serde_json::json;
use tunesmith::adapter::{PeftConfig, TargetModules, trainable};
use tunesmith::backend::DeviceSpec;
use tunesmith::conformance::Dry;
use tunesmith::data::{Batch, Group, GroupSpan, Sequence};
use tunesmith::model::ModelConfig;
use tunesmith::model::load::{LoadOptions, Source, load};
use tunesmith::model::transformer::Recompute;
use tunesmith::objective::sft::Sft;
use tunesmith::ops::Implementation;
use tunesmith::optim::Settings;
use tunesmith::random::Rng;
use tunesmith::train::trainer::Trainer;
use tunesmith::{DType, Device, Error, Result};

/// Measure training steps on random weights and tokens
#[derive(Parser)]
#[command(name = "steps")]
struct Options {
    /// The model and the batch
    #[arg(long, value_enum, default_value = "12m", ignore_case = true)]
    shape: Shape,
    /// What is trained
    #[arg(long, value_enum, default_value = "lora")]
    mode: Mode,
    /// Of weights and activations
    #[arg(long, value_enum, default_value = "float32")]
    dtype: Float,
    /// Layers of the model [default: the shape's]
    #[arg(long)]
    layers: Option<usize>,
    /// Rows in a step [default: the shape's]
    #[arg(long)]
    rows: Option<usize>,
    /// Tokens in a row [default: the shape's]
    #[arg(long)]
    length: Option<usize>,
    /// Rows are pairs: answers of so many tokens to one prompt
    #[arg(long)]
    answer: Option<usize>,
    /// The prompt of a pair stands before each of its answers
    #[arg(long, requires = "answer")]
    written_out: bool,
    /// Compute layers again in the backward pass
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Timed steps
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// CPU threads [default: all]
    #[arg(long)]
    threads: Option<usize>,
    /// Where to compute
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shape {
    #[value(name = "12M")]
    M12,
    #[value(name = "135M")]
    M135,
    #[value(name = "1B")]
    B1,
    #[value(name = "8B")]
    B8,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Mode {
    Lora,
    Qlora,
    Full,
}

#[derive(Clone, Copy, ValueEnum)]
enum Float {
    Float32,
    Bfloat16,
}

impl Shape {
    /// The model, rows in a step, tokens in a row.
    fn sizes(self) -> (serde_json::Value, usize, usize) {
        match self {
            Self::M12 => (
                json!({
                    "hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8,
                    "num_key_value_heads": 4, "intermediate_size": 688, "vocab_size": 8192,
                    "tie_word_embeddings": false,
                }),
                4,
                256,
            ),
            Self::M135 => (
                json!({
                    "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
                    "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152,
                    "tie_word_embeddings": true,
                }),
                2,
                256,
            ),
            Self::B1 => (
                json!({
                    "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
                    "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 128256,
                    "tie_word_embeddings": true,
                }),
                8,
                2048,
            ),
            Self::B8 => (
                json!({
                    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
                    "tie_word_embeddings": false,
                }),
                4,
                4096,
            ),
        }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    // As the programs do; 0 threads means all.
    rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads.unwrap_or(0))
        .use_current_thread()
        .build_global()
        .map_err(|error| Error::run(error.to_string()))?;
    let (config, rows, length) = sizes(&options)?;
    let device = options.device.open(&|message| eprintln!("{message}"))?;
    let planned = planned_bytes(&options, &config, &device, rows, length)?;
    eprintln!("the plan is a peak of {} MiB", planned >> 20);
    let start = Instant::now();
    let mut trainer = trainer(&options, &config, &device, &Source::Random(0), length)?;
    pollster::block_on(device.synchronize())?;
    eprintln!("the model was made in {:.1} s", start.elapsed().as_secs_f64());

    let mut rng = Rng::new(1, "bench tokens", 0);
    let (mut tokens, mut computed_tokens) = (0, 0);
    let (mut seconds, mut cpu_seconds) = (Vec::new(), Vec::new());
    for step in 1..=options.steps + 1 {
        let batch = random_batch(&options, &mut rng, config.spec.vocab_size, rows, length);
        (tokens, computed_tokens) = (written_out_tokens(&batch), batch.num_tokens());
        let (start, cpu_start) = (Instant::now(), processor_seconds());
        trainer.step(step, 2e-4, &[batch])?;
        pollster::block_on(device.synchronize())?;
        seconds.push(start.elapsed().as_secs_f64());
        cpu_seconds.extend(cpu_start.zip(processor_seconds()).map(|(start, end)| end - start));
    }
    let fastest = seconds[1..].iter().copied().fold(f64::INFINITY, f64::min);
    let step_seconds = median(&seconds[1..]);
    let name = |value: Option<PossibleValue>| value.map(|value| value.get_name().to_owned());
    let trained: usize = trainer.parameters.iter().map(|p| p.master.len()).sum();
    let found = json!({
        "shape": name(options.shape.to_possible_value()),
        "mode": name(options.mode.to_possible_value()),
        "dtype": name(options.dtype.to_possible_value()),
        "threads": rayon::current_num_threads(),
        "steps": options.steps,
        "step_seconds": step_seconds,
        "fastest_step_seconds": fastest,
        "cpu_seconds": cpu_seconds.get(1..).map(median),
        "tokens_per_second": f64::from(tokens) / step_seconds,
        "computed_tokens": computed_tokens,
        "peak_rss_mib": peak_rss_mib(),
        "peak_device_mib": device.memory().peak >> 20,
        "planned_device_mib": planned >> 20,
        "gradient_checkpointing": options.gradient_checkpointing,
        "trainable_parameters": trained,
        "device": device.capabilities().description,
    });
    println!("{found}");
    Ok(())
}

/// The model, the rows of a batch and the tokens of a row.
fn sizes(options: &Options) -> Result<(ModelConfig, usize, usize)> {
    let (mut keys, rows, length) = options.shape.sizes();
    let (rows, length) = (options.rows.unwrap_or(rows), options.length.unwrap_or(length));
    if let Some(layers) = options.layers {
        keys["num_hidden_layers"] = layers.into();
    }
    keys["model_type"] = "llama".into();
    keys["max_position_embeddings"] = length.max(2048).into();
    let config = ModelConfig::from_json(&keys.to_string(), "the benchmark's config")?;
    Ok((config, rows, length))
}

/// The peak of two steps on a device that only counts.
fn planned_bytes(
    options: &Options,
    config: &ModelConfig,
    device: &Device,
    rows: usize,
    length: usize,
) -> Result<u64> {
    let dry = Device::new(Dry::new(device.capabilities().clone()));
    let mut trainer = trainer(options, config, &dry, &Source::Shapes, length)?;
    let mut rng = Rng::new(1, "planned tokens", 0);
    let batch = random_batch(options, &mut rng, config.spec.vocab_size, rows, length);
    for step in [1, 2] {
        trainer.step(step, 0.0, std::slice::from_ref(&batch))?;
    }
    Ok(dry.memory().peak)
}

fn trainer(
    options: &Options,
    config: &ModelConfig,
    device: &Device,
    source: &Source,
    max_positions: usize,
) -> Result<Trainer> {
    let load_options = LoadOptions {
        dtype: match options.dtype {
            Float::Float32 => DType::F32,
            Float::Bfloat16 => DType::BF16,
        },
        nf4: (options.mode == Mode::Qlora).then_some(true),
        train_all: options.mode == Mode::Full,
        max_positions,
    };
    let (mut model, mut parameters) = load(device, config, source, load_options)?;
    if options.gradient_checkpointing {
        model.recompute = Recompute::Layer;
    }
    if options.mode != Mode::Full {
        let adapter = PeftConfig {
            r: 16,
            lora_alpha: 32.0,
            target_modules: TargetModules::AllLinear,
            ..PeftConfig::default()
        };
        parameters = trainable::attach_fresh(&mut model, &adapter, 0)?;
    }
    Trainer::new(model, parameters, Sft, Settings::default(), Implementation::Flash, 0)
}

/// Rows of random tokens, of which all but the first carry loss, or pairs, whose answers do.
fn random_batch(
    options: &Options,
    rng: &mut Rng,
    vocab: usize,
    rows: usize,
    length: usize,
) -> Batch {
    let mut ids = |count: usize| -> Vec<u32> {
        (0..count).map(|_| (rng.next_f32() * vocab as f32) as u32 % vocab as u32).collect()
    };
    let mut row = || {
        let Some(answer) = options.answer.map(|answer| answer.min(length)) else {
            return Group::of(Sequence::new(ids(length), std::iter::repeat(true)));
        };
        let prompt = ids(length - answer);
        let sequence = |answer: Vec<u32>| {
            let trained = (0..length).map(|t| t >= prompt.len());
            Sequence::new([prompt.as_slice(), answer.as_slice()].concat(), trained)
        };
        let sequences = vec![sequence(ids(answer)), sequence(ids(answer))];
        match options.written_out {
            true => Group { sequences, ..Group::default() },
            false => Group::sharing(sequences),
        }
    };
    Batch::of(&(0..rows).map(|_| row()).collect::<Vec<_>>(), 0)
}

/// Tokens of all sequences, each with the prompt that it shares.
fn written_out_tokens(batch: &Batch) -> u32 {
    let of_group = |group: &GroupSpan| {
        let [first, past] = group.prefix;
        group.sequences.iter().map(|[start, end]| past - first + end - start).sum::<u32>()
    };
    batch.groups.iter().map(of_group).sum()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

/// Processor time that this process has had, where the system tells (Linux counts hundredths).
fn processor_seconds() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = status.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

/// The most memory this process has had, where the system tells.
fn peak_rss_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib >> 10)
}
