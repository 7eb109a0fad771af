//! Ten steps of single parameters against bitsandbytes' 8-bit AdamW and PyTorch's Muon, as
//! tests/fixtures/optimizers holds them.

mod common;

use common::{cpu, fixture, json};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use tunesmith::nn::Parameter;
use tunesmith::ops::StepValues;
use tunesmith::ops::step_state::StepState;
use tunesmith::optim::{Kind, Optimizer, Settings};
use tunesmith::tensor::Tensor;
use tunesmith::{DType, Device, Result};

/// Largest difference of a parameter's total change, as a share of that change (L2 norms).
const CHANGE: f64 = 1e-3;
/// The share of codes that may be neighbours of bitsandbytes': where a moment lies on the border of two,
/// the last bit of a sum decides.
const OTHER_CODES: f64 = 1e-3;

#[derive(Deserialize)]
struct Log {
    learning_rate: f32,
    weight_decay: f64,
    steps: u64,
}

struct Fixture {
    bytes: Vec<u8>,
    log: Log,
}

impl Fixture {
    fn open(name: &str) -> Self {
        let dir = fixture("optimizers");
        let bytes = std::fs::read(dir.join(format!("{name}.safetensors"))).unwrap();
        Self { bytes, log: json(&dir.join("optimizers.json")) }
    }

    fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.bytes).unwrap().tensor(name).is_ok()
    }

    fn get(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (data, shape) = (tensor.data(), tensor.shape().to_vec());
        let values = match tensor.dtype() {
            Dtype::U8 => data.iter().map(|&byte| f64::from(byte)).collect(),
            Dtype::F16 => data
                .chunks_exact(2)
                .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f64())
                .collect(),
            Dtype::F32 => data
                .chunks_exact(4)
                .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
                .collect(),
            Dtype::F64 => {
                data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
            }
            other => panic!("{name}: {other:?}"),
        };
        (shape, values)
    }

    fn tensor(&self, device: &Device, name: &str) -> Result<Tensor> {
        let (shape, values) = self.get(name);
        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        Tensor::from_f32(device, &shape, DType::F32, &values)
    }

    /// All steps of one parameter, which is called `name` to the optimizer; `check` is told each step.
    fn follow(
        &self,
        device: &Device,
        optim: &str,
        key: &str,
        name: &str,
        mut check: impl FnMut(u64, &Parameter, &dyn Optimizer) -> Result<()>,
    ) -> Result<()> {
        let master = self.tensor(device, &format!("{key}.param.0"))?;
        let parameters = [Parameter::new(name, master, DType::F32)?];
        let optim = Kind::find(optim).unwrap();
        let weight_decay = self.log.weight_decay;
        let settings = Settings { optim, weight_decay, ..Settings::default() };
        let optimizer = (optim.new)(device, &parameters, settings)?;
        let state = StepState::new(device)?;
        for step in 1..=self.log.steps {
            let learning_rate = self.log.learning_rate;
            let mut values = StepValues { learning_rate, ..StepValues::default() };
            optimizer.begin(step, &mut values);
            state.set(&values)?;
            let grad = self.tensor(device, &format!("{key}.grad.{step}"))?;
            optimizer.update(&parameters, &[grad], &state)?;
            if self.has(&format!("{key}.param.{step}")) {
                self.check_change(key, step, &parameters[0])?;
                check(step, &parameters[0], optimizer.as_ref())?;
            }
        }
        Ok(())
    }

    fn check_change(&self, key: &str, step: u64, parameter: &Parameter) -> Result<()> {
        let (_, start) = self.get(&format!("{key}.param.0"));
        let (_, expected) = self.get(&format!("{key}.param.{step}"));
        let found = parameter.master.read_f32()?.into_iter().map(f64::from);
        let norm = |a: Vec<f64>, b: &[f64]| {
            a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
        };
        let off = norm(found.collect(), &expected);
        let change = norm(start, &expected);
        let what = format!("{key}, step {step}: off by {off:e} after a change of {change:e}");
        println!("{what}: {:.2e}", off / change);
        assert!(off <= CHANGE * change, "{what}");
        Ok(())
    }
}

/// bitsandbytes' names of what the optimizer keeps.
const NAMES: [(&str, &str); 4] = [
    ("exp_avg", "state1"),
    ("exp_avg_sq", "state2"),
    ("exp_avg_absmax", "absmax1"),
    ("exp_avg_sq_absmax", "absmax2"),
];

fn check_adamw_8bit(device: &Device) -> Result<()> {
    let fixture = Fixture::open("adamw_8bit");
    for (key, is_quantized) in [("matrix", true), ("sparse", true), ("small", false)] {
        fixture.follow(device, "adamw_8bit", key, "weight", |step, _, optimizer| {
            let state = optimizer.state(0);
            assert_eq!(state.len(), if is_quantized { 4 } else { 2 });
            for (found, (name, theirs)) in state.iter().zip(NAMES) {
                assert_eq!(found.name, name);
                let label = format!("{key}.{theirs}.{step}");
                let (_, expected) = fixture.get(&label);
                match found.tensor.dtype() {
                    DType::U8 => check_codes(&label, &found.tensor.read_bytes()?, &expected),
                    _ => {
                        let share = share_of(name);
                        let expected: Vec<_> = expected.iter().map(|x| x * share).collect();
                        check_floats(&label, &found.tensor.read_f32()?, &expected);
                    }
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Of what is stored: 1 - beta has few digits in f32, and moments are sums with that factor. Their bias
/// correction has it too, so that it counts for nothing.
fn share_of(state: &str) -> f64 {
    let beta: f32 = if state.starts_with("exp_avg_sq") { 0.999 } else { 0.9 };
    let exact = if beta == 0.9 { 0.1 } else { 0.001 };
    (1.0 - f64::from(beta)) / exact
}

fn check_codes(label: &str, found: &[u8], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{label}");
    let other = found.iter().zip(expected).filter(|&(&a, &b)| f64::from(a) != b).count();
    let far = found.iter().zip(expected).filter(|&(&a, &b)| (f64::from(a) - b).abs() > 1.0);
    println!("{label}: {other} of {} codes differ", found.len());
    assert_eq!(far.count(), 0, "{label}: codes are not even neighbours");
    let most = OTHER_CODES * found.len() as f64;
    assert!(other as f64 <= most, "{label}: {other} of {} codes differ", found.len());
}

fn check_floats(label: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{label}");
    let largest = expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    for (i, (&found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(error <= 1e-5 * largest, "{label}[{i}]: {found}, expected {expected}");
    }
}

fn check_muon(device: &Device) -> Result<()> {
    let fixture = Fixture::open("muon");
    for key in ["wide", "tall", "square"] {
        let name = "model.layers.0.mlp.up_proj.weight";
        fixture.follow(device, "muon", key, name, |step, _, optimizer| {
            let [momentum] = &optimizer.state(0)[..] else { panic!("{key}: one tensor") };
            assert_eq!(momentum.name, "momentum_buffer");
            let label = format!("{key}.momentum_buffer.{step}");
            let (_, expected) = fixture.get(&label);
            check_floats(&label, &momentum.tensor.read_f32()?, &expected);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn adamw_8bit_follows_bitsandbytes() -> Result<()> {
    check_adamw_8bit(&cpu())
}

#[test]
fn muon_follows_pytorch() -> Result<()> {
    check_muon(&cpu())
}

#[cfg(feature = "wgpu")]
#[test]
fn wgpu_follows_bitsandbytes_and_pytorch() -> Result<()> {
    check_adamw_8bit(&common::wgpu())?;
    check_muon(&common::wgpu())
}

#[cfg(feature = "cuda-emulated")]
#[test]
fn cuda_emulated_follows_bitsandbytes_and_pytorch() -> Result<()> {
    let Some(device) = common::cuda_emulated(80) else { return Ok(()) };
    check_adamw_8bit(&device)?;
    check_muon(&device)
}

/// 8-bit moments begin at the size from which bitsandbytes has them, and take a quarter of the memory.
#[test]
fn state_is_counted_as_it_is() -> Result<()> {
    let device = cpu();
    let bytes = |optim: &str, name: &str, shape: &[usize]| -> Result<u64> {
        let master = tunesmith::ops::zeros(&device, shape, DType::F32)?;
        let parameters = [Parameter::new(name, master, DType::F32)?];
        let optim = Kind::find(optim).unwrap();
        let settings = Settings { optim, ..Settings::default() };
        let optimizer = (optim.new)(&device, &parameters, settings)?;
        Ok(optimizer.state(0).iter().map(|state| state.byte_len()).sum())
    };
    let (block, head) = ("model.layers.1.self_attn.q_proj.weight", "lm_head.weight");
    assert_eq!(bytes("adamw_torch", block, &[64, 64])?, 8 * 4096);
    assert_eq!(bytes("adamw_8bit", block, &[64, 64])?, 2 * 4096 + 2 * 4 * 16);
    assert_eq!(bytes("paged_adamw_8bit", block, &[45, 91])?, 8 * 4095);
    assert_eq!(bytes("muon", block, &[64, 64])?, 4 * 4096);
    assert_eq!(bytes("muon", head, &[64, 64])?, 8 * 4096);
    assert_eq!(bytes("muon", "model.layers.1.input_layernorm.weight", &[64])?, 8 * 64);
    Ok(())
}
