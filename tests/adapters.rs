//! Several adapters over one base: a pass chooses, and finds what a model with that adapter alone gives.

mod common;

use common::{Row, batch, cpu, fixture, json, open, options};
use std::rc::Rc;
use tunesmith::adapter::{PeftAdapter, attach, attach_as, detach};
use tunesmith::data::Batch;
use tunesmith::evaluate::Evaluation;
use tunesmith::model::transformer::Model;
use tunesmith::nn::{AdapterChoice, Context};
use tunesmith::objective::Reference;
use tunesmith::objective::sft::Sft;
use tunesmith::ops::Implementation;
use tunesmith::{DType, Device, Result, Tape, Tensor};

fn model(device: &Device, nf4: Option<bool>) -> Result<Model> {
    Ok(open(device, &fixture("models/llama"), options(nf4, false, 64))?.0)
}

/// Two adapters that change something: that of the trajectories, whose B is zero, with other values in it.
fn adapters(model: &Model) -> Result<[PeftAdapter; 2]> {
    let device = model.embed_tokens.device();
    let with_b = |from: f32| -> Result<PeftAdapter> {
        let dir = fixture("trajectories/llama/adapter");
        let mut adapter = PeftAdapter::load(&dir, &model.config, device)?;
        for lora in adapter.layers.values_mut() {
            let values: Vec<f32> =
                (0..lora.lora_b.len()).map(|i| 0.1 * (i as f32 + from).sin()).collect();
            lora.lora_b = Tensor::from_f32(device, lora.lora_b.shape(), DType::F32, &values)?;
        }
        Ok(adapter)
    };
    Ok([with_b(0.0)?, with_b(1.0)?])
}

fn rows() -> Batch {
    let steps: Vec<Vec<Row>> = json(&fixture("trajectories/llama/batches.json"));
    batch(&steps[0], 0)
}

fn hidden(model: &Model, adapter: AdapterChoice) -> Result<Vec<f32>> {
    let (device, batch) = (model.embed_tokens.device(), rows());
    let attention = Implementation::Flash;
    let context = Context::of_sequences(device, &batch.positions, &batch.bounds, attention, None)?;
    let context = Rc::new(Context { adapter, ..context });
    model.hidden(&Tape::inference(), &batch.input_ids, &context)?.read_f32()
}

#[test]
fn a_pass_chooses_its_adapter() -> Result<()> {
    for nf4 in [None, Some(true)] {
        let device = cpu();
        let mut model = model(&device, nf4)?;
        let [first, second] = adapters(&model)?;
        let default = AdapterChoice::default();
        let alone = |model: &mut Model, adapter: &PeftAdapter| {
            attach(model, adapter)?;
            let found = hidden(model, default);
            detach(model)?;
            found
        };
        let base = hidden(&model, default)?;
        let (with_first, with_second) = (alone(&mut model, &first)?, alone(&mut model, &second)?);
        assert!(base != with_first && base != with_second && with_first != with_second);

        let before = device.memory().in_use;
        attach(&mut model, &first)?;
        attach_as(&mut model, "reference", &second)?;
        assert_eq!(device.memory().in_use, before, "a copy was made");
        assert!(hidden(&model, default)? == with_first);
        assert!(hidden(&model, AdapterChoice::Named("reference"))? == with_second);
        assert!(hidden(&model, AdapterChoice::Off)? == base);
        assert!(hidden(&model, AdapterChoice::Named("absent"))? == base);
    }
    Ok(())
}

#[test]
fn an_evaluation_measures_the_base_and_the_adapter() -> Result<()> {
    let mut model = model(&cpu(), None)?;
    let [adapter, _] = adapters(&model)?;
    let loss = |model: &Model, choice| -> Result<f64> {
        let mut found = Evaluation::default();
        let none = Reference::default();
        found.add(&Sft, model, Implementation::Flash, choice, &none, &rows())?;
        Ok(found.loss())
    };
    let base = loss(&model, AdapterChoice::default())?;
    attach(&mut model, &adapter)?;
    let tuned = loss(&model, AdapterChoice::default())?;
    assert_eq!(loss(&model, AdapterChoice::Off)?, base);
    assert_ne!(base, tuned);
    Ok(())
}
