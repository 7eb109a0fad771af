//! A fine-tune through the library: QLoRA on the starter model, adapter saved in PEFT's form.
//!
//! `cargo run --release --example train`

use std::path::Path;
use tunesmith::adapter::{PeftConfig, TargetModules, peft, trainable};
use tunesmith::data::{BatchOptions, DataFile, Dataset, ExcessLength, LoadOptions, Plan};
use tunesmith::model::{ModelConfig, Weights, load};
use tunesmith::objective::sft::Sft;
use tunesmith::ops::Implementation;
use tunesmith::optim::Settings;
use tunesmith::tokenizer::TextProcessor;
use tunesmith::train::trainer::Trainer;
use tunesmith::{DType, Device, Result};

/// Trains for `steps` steps and saves the adapter in `output`; the loss of each step.
fn fine_tune(device: &Device, steps: usize, output: &Path) -> Result<Vec<f64>> {
    let base = Path::new("examples/starter");
    let text = TextProcessor::load(base, None, base, jiff::civil::date(2026, 1, 1).at(0, 0, 0, 0))?;
    let (max_length, seed) = (128, 42);

    let (config, weights) = (ModelConfig::open(base)?, Weights::open(base)?);
    let nf4 = Some(true); // with double quantization
    let options =
        load::LoadOptions { dtype: DType::F32, nf4, train_all: false, max_positions: max_length };
    let (mut model, _) = load::load(device, &config, &load::Source::Weights(&weights), options)?;
    let lora = PeftConfig {
        r: 16,
        lora_alpha: 32.0,
        target_modules: TargetModules::AllLinear.named(&config.spec),
        base_model_name_or_path: Some(base.display().to_string()),
        ..PeftConfig::default()
    };
    let parameters = trainable::attach_fresh(&mut model, &lora, seed)?;
    let (adamw, attention) = (Settings::default(), Implementation::Flash);
    let mut trainer = Trainer::new(model, parameters, Sft, adamw, attention, seed)?;

    let rows = LoadOptions {
        format: None,
        max_length,
        excess_length: ExcessLength::Truncate,
        completion_only_loss: true,
        require_stop_token: true,
    };
    let files = [DataFile::new("examples/quickstart/train.jsonl")];
    let data = Dataset::load(&files, &text, &Sft, &rows)?;
    let batching = BatchOptions {
        per_device_train_batch_size: 16,
        gradient_accumulation_steps: 1,
        packing: false,
        max_length,
        shuffle: true,
        seed,
    };
    let plan = Plan::epoch(&data, &batching, 0);
    let mut losses = Vec::new();
    for step in 0..steps.min(plan.num_steps()) {
        let batches: Vec<_> = plan.batches(step).map(|batch| plan.batch(&data, batch)).collect();
        losses.push(trainer.step(step as u64 + 1, 3e-3, &batches)?.loss);
    }
    std::fs::create_dir_all(output).map_err(|error| tunesmith::Error::io("output", error))?;
    let weights = trainable::weights(&lora, &trainer.model, &trainer.parameters)?;
    peft::save(output, &lora, &weights, "")?;
    Ok(losses)
}

fn main() -> Result<()> {
    let device = Device::open("auto")?;
    println!("on {}", device.capabilities().description);
    let losses = fine_tune(&device, 100, Path::new("runs/example"))?;
    println!("loss {:.3} at first, {:.3} at last", losses[0], losses[losses.len() - 1]);
    println!("saved runs/example");
    Ok(())
}

#[test]
fn the_model_learns_and_the_adapter_is_read_again() -> Result<()> {
    let output = std::env::temp_dir().join(format!("tunesmith-example-{}", std::process::id()));
    let losses = fine_tune(&Device::open("cpu")?, 20, &output)?;
    assert!(losses[19] < losses[0] / 2.0, "{losses:?}");
    assert_eq!(PeftConfig::open(&output)?.r, 16);
    std::fs::remove_dir_all(&output).unwrap();
    Ok(())
}
