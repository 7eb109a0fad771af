//! How much memory a run needs, known before it starts: the run's own code, one training step of it,
//! is run on a device that only counts.

use super::build::build;
use super::prepare::Prepared;
use super::steps::Steps;
use super::trainer::Trainer;
use crate::backend::dry::{Counts, Dry};
use crate::backend::{Backend, Device, machine};
use crate::config::GradientCheckpointing;
use crate::data::{Batch, Plan};
use crate::error::{Error, Result};
use crate::evaluate::evaluate;
use crate::model::transformer::Recompute;
use crate::ops::scratch_of;
use std::rc::Rc;

/// The rungs of the ladder, lowest first.
const LADDER: [Recompute; 4] =
    [Recompute::Nothing, Recompute::Elementwise, Recompute::Mlp, Recompute::Layer];

/// Bytes that a run holds on its device.
#[derive(Clone, Copy, Debug)]
pub struct MemoryPlan {
    /// What the backward pass recomputes.
    pub recompute: Recompute,
    /// Weights, trained ones included.
    pub weights: u64,
    /// Weights that are there for the policy to compare with alone.
    pub reference: u64,
    /// State of the optimizer.
    pub optimizer: u64,
    /// Gradients, activations and work space at the peak of a step or an evaluation.
    pub step: u64,
    /// What the program holds besides, where that is memory of the device too, as on the CPU: itself,
    /// tokenizer and examples, which are measured where the system tells, and what kernels hold as they run.
    pub program: u64,
    /// Elements that are trained.
    pub trained: u64,
    /// Tokens of the largest micro-batch.
    pub tokens: usize,
}

impl MemoryPlan {
    /// The peak.
    pub fn peak(&self) -> u64 {
        self.buffers() + self.program
    }

    /// The peak of the device's buffers.
    pub fn buffers(&self) -> u64 {
        self.weights + self.reference + self.optimizer + self.step
    }
}

/// A run on a device that only counts, ready for its first step.
struct Rehearsal {
    trainer: Trainer,
    device: Device,
    counts: Rc<Counts>,
    batch: Batch,
    held_out: Option<Batch>,
    optimizer: u64,
    weights: u64,
    /// The peak while the model was loaded.
    loaded: u64,
    program: u64,
}

impl Rehearsal {
    fn new(prepared: &Prepared, dry: Dry) -> Result<Self> {
        // Before the rehearsal makes something of its own.
        let (program, dry) = match dry.capabilities().arena {
            true => (machine::anonymous().unwrap_or(0), dry.with_scratch(scratch_of)),
            false => (0, dry),
        };
        let counts = dry.counts();
        let device = Device::new(dry);
        let (trainer, _) = build(prepared, &device, Recompute::Nothing, true)?;
        let states = (0..trainer.parameters.len()).flat_map(|i| trainer.optimizer.state(i));
        let optimizer = states.map(|state| state.byte_len()).sum();
        let memory = device.memory();
        let weights = memory.in_use.saturating_sub(optimizer);
        // The other pools give back what loading no longer needs.
        let loaded = if device.capabilities().arena { memory.peak } else { memory.in_use };
        let batch = largest_batch(prepared);
        let eval_size = prepared.config.train.per_device_eval_batch_size;
        let held_out = prepared.eval.as_ref().map(|data| {
            let plan = Plan::eval(data, eval_size);
            let batches = 0..plan.num_batches();
            let largest = batches.max_by_key(|&batch| plan.batch_tokens(data, batch));
            plan.batch(data, largest.unwrap_or(0))
        });
        Ok(Self { trainer, device, counts, batch, held_out, optimizer, weights, loaded, program })
    }

    /// What is held before the first step.
    fn held(&self) -> MemoryPlan {
        MemoryPlan {
            recompute: Recompute::Nothing,
            weights: self.weights.saturating_sub(self.trainer.reference.bytes),
            reference: self.trainer.reference.bytes,
            optimizer: self.optimizer,
            step: 0,
            program: self.program,
            trained: self.trained(),
            tokens: self.batch.num_tokens(),
        }
    }

    fn trained(&self) -> u64 {
        self.trainer.parameters.iter().map(|p| p.master.len() as u64).sum()
    }

    /// The plan with this recomputation: that of an evaluation, and of a step of two micro-batches, of which
    /// the second finds the first one's gradients.
    fn plan(&mut self, recompute: Recompute) -> Result<MemoryPlan> {
        self.counts.start_again();
        let Self { trainer, device, batch, held_out, .. } = self;
        trainer.model.recompute = recompute;
        // As a run does it: where buffers lie depends on the order.
        let evaluate = |trainer: &Trainer| {
            let batches = held_out.iter().cloned();
            evaluate(&*trainer.objective, &trainer.model, trainer.attention(), batches)
        };
        evaluate(trainer)?;
        trainer.compute(1, 0.0, &[batch.clone(), batch.clone()], &|| false)?;
        evaluate(trainer)?;
        let peak = device.memory().peak.max(self.loaded);
        let held = self.held();
        let step = peak.saturating_sub(held.buffers());
        let program = held.program + self.counts.scratch();
        Ok(MemoryPlan { recompute, step, program, ..held })
    }
}

/// Epochs whose micro-batches are looked at: each one is shuffled anew, so the largest one grows a little.
const EPOCHS: usize = 32;

/// The micro-batch of the run with the most tokens.
fn largest_batch(prepared: &Prepared) -> Batch {
    let data = &prepared.train;
    let mut steps = match prepared.has_data {
        true => Steps::new(data, prepared.batching.clone(), &prepared.config.train).total(),
        false => 1,
    };
    let mut largest = (0, Batch::default());
    for epoch in 0..EPOCHS {
        let plan = Plan::epoch(data, &prepared.batching, epoch as u32);
        let end = plan.batches((steps - 1).min(plan.num_steps() as u64) as usize).end;
        let found = (0..end).max_by_key(|&batch| plan.batch_tokens(data, batch));
        if let Some(batch) = found
            && plan.batch_tokens(data, batch) > largest.0
        {
            largest = (plan.batch_tokens(data, batch), plan.batch(data, batch));
        }
        steps = steps.saturating_sub(plan.num_steps() as u64);
        if steps == 0 {
            break;
        }
    }
    largest.1
}

/// The memory that the run may use: `max_memory`, else what the device has, else, of a device that does not
/// tell, what the machine has.
pub fn limit(prepared: &Prepared, device: &Device) -> Option<u64> {
    let of_device = || device.capabilities().memory_bytes.or_else(machine::available);
    prepared.config.max_memory.or_else(of_device)
}

/// The plan with the recomputation that the config asks for; `auto` is the lowest rung that fits.
///
/// # Errors
/// `Error::Input` with the table and what to change, when nothing fits.
pub fn choose(prepared: &Prepared, device: &Device) -> Result<MemoryPlan> {
    let (lowest, higher) = match prepared.config.train.gradient_checkpointing {
        GradientCheckpointing::On => (Recompute::Layer, &[][..]),
        GradientCheckpointing::Off => (LADDER[0], &[][..]),
        GradientCheckpointing::Auto => (LADDER[0], &LADDER[1..]),
    };
    let limit = limit(prepared, device).unwrap_or(u64::MAX);
    let mut rehearsal = Rehearsal::new(prepared, Dry::new(device.capabilities().clone()))?;
    let refuse = |plan: &MemoryPlan| {
        Err(Error::input(format!(
            "the run needs {} and {} may be used:\n{}\nLower per_device_train_batch_size or \
             max_length{}",
            size(plan.peak()),
            size(limit),
            table(plan),
            match prepared.config.quantization.load_in_4bit {
                true => "",
                false => ", or set load_in_4bit = true with [lora]",
            }
        )))
    };
    // A step of what cannot be held at all need not be counted.
    let held = rehearsal.held();
    if held.peak() > limit {
        return refuse(&held);
    }
    let mut plan = rehearsal.plan(lowest)?;
    for &rung in higher {
        if plan.peak() <= limit {
            break;
        }
        plan = rehearsal.plan(rung)?;
    }
    if plan.peak() <= limit { Ok(plan) } else { refuse(&plan) }
}

/// The plan as lines of text.
pub fn table(plan: &MemoryPlan) -> String {
    let recompute = match plan.recompute {
        Recompute::Nothing => "nothing recomputed",
        Recompute::Elementwise => "element-wise results recomputed",
        Recompute::Mlp => "MLP intermediates recomputed",
        Recompute::Layer => "layers recomputed",
    };
    let reference = match plan.reference {
        0 => String::new(),
        bytes => format!("  reference policy       {:>10}\n", size(bytes)),
    };
    let program = match plan.program {
        0 => String::new(),
        bytes => format!("\n  program, examples      {:>10}", size(bytes)),
    };
    format!(
        "  weights                {:>10}\n{reference}  optimizer moments      {:>10}\n  gradients, activations \
         {:>10}  ({} tokens a micro-batch, {recompute}){program}\n  peak                   {:>10}",
        size(plan.weights),
        size(plan.optimizer),
        size(plan.step),
        plan.tokens,
        size(plan.peak()),
    )
}

/// Bytes in words: `1.25 GiB`.
pub fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    match mib >= 1024.0 {
        true => format!("{:.2} GiB", mib / 1024.0),
        false => format!("{mib:.1} MiB"),
    }
}

#[cfg(all(test, feature = "tokenizers"))]
mod tests {
    use super::*;
    use crate::backend::Capabilities;
    use crate::backend::dry::Launch;
    use crate::config::{Syntax, TrainConfig};
    use std::{fs, path::Path};

    const LLAMA_3_8B: &str = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "hidden_act": "silu", "tie_word_embeddings": false}"#;
    const LAYERS: u64 = 32;
    /// Micro-batches of the step that is counted.
    const MICRO_BATCHES: u64 = 2;

    /// Llama 3 8B, from its config.json and a tokenizer: QLoRA of rank 16 on all linear layers in
    /// bf16, 4 rows of 4096 tokens.
    fn qlora_8b(dir: &Path, more: &str) -> Result<Prepared> {
        fs::write(dir.join("config.json"), LLAMA_3_8B).unwrap();
        let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/starter");
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(starter.join(name), dir.join(name)).unwrap();
        }
        let text = format!(
            "model = \".\"\noutput_dir = \"out\"\ndtype = \"bfloat16\"\n[data]\ntrain = \"elsewhere\"\n\
             max_length = 4096\n[train]\nper_device_train_batch_size = 4\n{more}\n[lora]\nr = 16\n\
             [quantization]\nload_in_4bit = true\n"
        );
        let mut config = TrainConfig::parse(&text, Syntax::Toml, "config.toml", dir, &[])?;
        // A plan of full micro-batches.
        config.data.train.clear();
        Prepared::for_plan(config, jiff::civil::date(2024, 1, 1).at(0, 0, 0, 0))
    }

    fn hopper(memory_bytes: u64) -> Dry {
        Dry::new(Capabilities {
            description: "an H100".into(),
            fast_bf16: true,
            many_blocks: true,
            compute_capability: Some(90),
            multiprocessors: 132,
            max_binding_bytes: u32::MAX as usize,
            arena: false,
            guard_bytes: 0,
            memory_bytes: Some(memory_bytes),
        })
    }

    /// How often kernels of the files whose names begin so were launched.
    fn times(launches: &[Launch], stem: &str) -> u64 {
        let of_files = launches.iter().filter(|launch| launch.spec.text.stem.starts_with(stem));
        of_files.map(|launch| launch.times).sum()
    }

    #[test]
    fn an_8b_qlora_step_fits_80_gb_and_recomputes_no_product() -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let prepared = qlora_8b(dir.path(), "")?;
        // Peak in GB; what a micro-batch launches beyond one that keeps everything: products, attention,
        // norms, SwiGLU. A linear layer is three products, two of them LoRA's. The very first norm reads
        // frozen embeddings: nothing keeps its input, so its result is kept.
        let expected = [
            (Recompute::Nothing, 82.0, [0, 0, 0, 0]),
            (Recompute::Elementwise, 59.0, [0, 0, 2 * LAYERS - 1, LAYERS]),
            (Recompute::Mlp, 30.0, [2 * 3 * LAYERS, 0, 3 * LAYERS - 1, LAYERS]),
            (Recompute::Layer, 15.0, [6 * 3 * LAYERS, LAYERS, 4 * LAYERS - 1, LAYERS]),
        ];
        let dry = hopper(80 << 30);
        let launches = dry.launches();
        let mut rehearsal = Rehearsal::new(&prepared, dry)?;
        let mut least = Vec::new();
        for (rung, peak, more) in expected {
            launches.take();
            let plan = rehearsal.plan(rung)?;
            let launches = launches.take();
            let found = ["matmul", "attention_fwd", "rms_norm", "swiglu"]
                .map(|stem| times(&launches, stem));
            println!("{rung:?}: {:.2} GB, {found:?}", plan.peak() as f64 / 1e9);
            assert!(plan.peak() as f64 <= peak * 1e9, "{rung:?}: {} bytes", plan.peak());
            if least.is_empty() {
                least = found.to_vec();
            }
            for ((found, least), more) in found.iter().zip(&least).zip(more) {
                assert_eq!(found - least, more * MICRO_BATCHES, "{rung:?}: {found:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn auto_recomputes_as_little_as_fits() -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let prepared = qlora_8b(dir.path(), "")?;
        let chosen = |prepared: &Prepared, gib: u64| {
            choose(prepared, &Device::new(hopper(gib << 30))).map(|plan| plan.recompute)
        };
        assert_eq!(chosen(&prepared, 141)?, Recompute::Nothing);
        assert_eq!(chosen(&prepared, 74)?, Recompute::Elementwise);
        assert_eq!(chosen(&prepared, 40)?, Recompute::Mlp);
        assert_eq!(chosen(&prepared, 24)?, Recompute::Layer);
        let refused = chosen(&prepared, 12).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|message| message.contains("layers recomputed")));
        let always = qlora_8b(dir.path(), "gradient_checkpointing = true")?;
        assert_eq!(chosen(&always, 141)?, Recompute::Layer);
        let never = qlora_8b(dir.path(), "gradient_checkpointing = false")?;
        assert!(chosen(&never, 74).is_err());
        Ok(())
    }

    /// Nothing of these sizes is made: neither factors on the host nor a batch.
    #[test]
    fn what_cannot_fit_is_refused_by_arithmetic() -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let device = Device::open("cpu")?;
        let refused = |rank: usize| {
            let mut prepared = qlora_8b(dir.path(), "")?;
            if let Some(lora) = &mut prepared.config.lora {
                lora.r = rank;
            }
            Ok::<_, Error>(choose(&prepared, &device).err().map(|error| error.to_string()))
        };
        let message = refused(120_000)?.unwrap_or_default();
        assert!(message.contains("the run needs") && message.contains("may be used"), "{message}");
        for rank in [1_000_000, 2_147_483_647] {
            let message = refused(rank)?.unwrap_or_default();
            assert!(message.contains("makes a factor of"), "{message}");
        }
        let text = "model = \".\"\noutput_dir = \"out\"\n[data]\ntrain = \"elsewhere\"\nmax_length = 4096\n\
                    [train]\nper_device_train_batch_size = 4000000000\n";
        let mut config = TrainConfig::parse(text, Syntax::Toml, "config.toml", dir.path(), &[])?;
        config.data.train.clear();
        let refused =
            Prepared::for_plan(config, jiff::civil::date(2024, 1, 1).at(0, 0, 0, 0)).err();
        let message = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains("too many to plan"), "{message}");
        Ok(())
    }

    /// The CPU's plan counts what evaluating takes, and what the program holds already.
    #[test]
    fn evaluations_and_the_program_are_planned_on_the_cpu() -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let device = Device::open("cpu")?;
        let plan = |more: &str| {
            let mut prepared = qlora_8b(dir.path(), more)?;
            prepared.config.max_memory = Some(1 << 50);
            let example = prepared.config.objective.largest_group(4096);
            prepared.train.examples.truncate(1);
            prepared.eval = Some(crate::data::Dataset {
                examples: vec![example; prepared.config.train.per_device_eval_batch_size],
                ..prepared.train.clone()
            });
            choose(&prepared, &device)
        };
        let few = plan("gradient_checkpointing = true\nper_device_eval_batch_size = 1")?;
        let many = plan("gradient_checkpointing = true\nper_device_eval_batch_size = 32")?;
        assert!(many.step > 2 * few.step, "{} and {}", many.step, few.step);
        assert_eq!((many.weights, many.optimizer), (few.weights, few.optimizer));
        if cfg!(target_os = "linux") {
            assert!(few.program > 1 << 20, "{}", few.program);
        }
        assert_eq!(few.peak(), few.buffers() + few.program);
        Ok(())
    }
}
