//! The ops against PyTorch: values and gradients of tests/fixtures/ops, which were computed in float64
//! outside this project. The reference device, which defines the ops, must agree to float64's
//! precision, the CPU to float32's.

use safetensors::SafeTensors;
use tunesmith::backend::cpu::Cpu;
use tunesmith::conformance::Reference;
use tunesmith::ops::step_state::StepState;
use tunesmith::ops::{self, AttentionLayout, Implementation, LogprobOptions};
use tunesmith::tape::Tape;
use tunesmith::tensor::Tensor;
use tunesmith::{DType, Device, Result};

/// Largest error as a share of the largest reference value.
const F64: f64 = 1e-12;
const F32: f64 = 1e-5;

struct Fixture {
    bytes: Vec<u8>,
}

impl Fixture {
    fn open() -> Self {
        Self { bytes: std::fs::read("tests/fixtures/ops/ops.safetensors").unwrap() }
    }

    fn get(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let values =
            tensor.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()));
        (tensor.shape().to_vec(), values.collect())
    }

    fn labels(&self, name: &str) -> Vec<i32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let values = tensor.data().chunks_exact(8);
        values.map(|b| i64::from_le_bytes(b.try_into().unwrap()) as i32).collect()
    }

    /// Labels as the ops take them.
    fn targets(&self, device: &Device, name: &str) -> Result<Tensor> {
        let targets = ops::target_ids(&self.labels(name));
        Tensor::from_u32(device, &[targets.len()], &targets)
    }

    fn tensor(&self, device: &Device, name: &str) -> Result<Tensor> {
        let (shape, values) = self.get(name);
        let tensor = Tensor::empty(device, &shape, DType::F32)?;
        device.upload_f64(tensor.view(), &values)?;
        Ok(tensor)
    }

    fn input(&self, device: &Device, name: &str) -> Result<Tensor> {
        Ok(self.tensor(device, name)?.with_grad(name, DType::F32))
    }

    fn compare(&self, tolerance: f64, name: &str, found: &Tensor) -> Result<()> {
        let (_, expected) = self.get(name);
        let found = found.read_f64()?;
        assert_eq!(found.len(), expected.len(), "{name}");
        let largest = expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let error = (found - expected).abs();
            assert!(error <= tolerance * largest, "{name}[{i}]: {found}, expected {expected}");
        }
        Ok(())
    }

    /// Runs backward with the fixture's `dout` and compares the gradients of `inputs`, which are named
    /// `<op>.<name>` with gradients in `<op>.d<name>`.
    fn compare_gradients(
        &self,
        tolerance: f64,
        tape: &Tape,
        (op, out): (&str, &Tensor),
        inputs: &[(&str, &Tensor)],
    ) -> Result<()> {
        tape.backward(out, self.tensor(out.device(), &format!("{op}.dout"))?)?;
        for (name, input) in inputs {
            self.compare(tolerance, &format!("{op}.d{name}"), &input.grad().unwrap())?;
        }
        Ok(())
    }
}

fn on_both(test: impl Fn(&Fixture, &Device, f64) -> Result<()>) {
    let fixture = Fixture::open();
    test(&fixture, &Device::new(Reference::<f64>::new()), F64).unwrap();
    test(&fixture, &Device::new(Cpu::poisoned()), F32).unwrap();
}

fn check_rope(name: &str) {
    on_both(|fixture, device, tolerance| {
        let tensor = |part: &str| format!("{name}.{part}");
        let x = fixture.input(device, &tensor("x"))?;
        let [cos, sin] = ["cos", "sin"].map(|part| fixture.tensor(device, &tensor(part)));
        let positions: Vec<u32> = (0..x.dim(0) as u32).collect();
        let positions = Tensor::from_u32(device, &[x.dim(0)], &positions)?;
        let tape = Tape::recording();
        let out = ops::rope(&tape, &x, &positions, &cos?, &sin?)?;
        fixture.compare(tolerance, &tensor("out"), &out)?;
        fixture.compare_gradients(tolerance, &tape, (name, &out), &[("x", &x)])
    });
}

#[test]
fn rope() {
    check_rope("rope");
    check_rope("rope_partial");
}

fn check_gated(name: &str, gated: impl Fn(&Tape, &Tensor, &Tensor) -> Result<Tensor>) {
    on_both(|fixture, device, tolerance| {
        let gate = fixture.input(device, &format!("{name}.gate"))?;
        let up = fixture.input(device, &format!("{name}.up"))?;
        let tape = Tape::recording();
        let out = gated(&tape, &gate, &up)?;
        fixture.compare(tolerance, &format!("{name}.out"), &out)?;
        let inputs = [("gate", &gate), ("up", &up)];
        fixture.compare_gradients(tolerance, &tape, (name, &out), &inputs)
    });
}

#[test]
fn swiglu_and_geglu() {
    check_gated("swiglu", ops::swiglu);
    check_gated("geglu", ops::geglu);
}

#[test]
fn rms_norm() {
    for (name, eps, offset) in [("rms_norm", 1e-5, 0.0), ("rms_norm_offset", 1e-6, 1.0)] {
        on_both(|fixture, device, tolerance| {
            let x = fixture.input(device, &format!("{name}.x"))?;
            let w = fixture.input(device, &format!("{name}.w"))?;
            let tape = Tape::recording();
            let out = ops::rms_norm(&tape, &x, &w, eps, offset)?;
            // The parameter block holds eps as f32, which is not eps to float64's last digits.
            let tolerance = tolerance.max(1e-9);
            fixture.compare(tolerance, &format!("{name}.out"), &out)?;
            fixture.compare_gradients(tolerance, &tape, (name, &out), &[("x", &x), ("w", &w)])
        });
    }
}

#[test]
fn attention() {
    let parameters = std::fs::read_to_string("tests/fixtures/ops/ops.json").unwrap();
    let parameters: serde_json::Value = serde_json::from_str(&parameters).unwrap();
    for case in parameters["attention"].as_array().unwrap() {
        let op = format!("attention.{}", case["name"].as_str().unwrap());
        let mut bounds: Vec<u32> = Vec::new();
        for length in case["lengths"].as_array().unwrap() {
            let (first, length) = (bounds.len() as u32 / 2, length.as_u64().unwrap() as u32);
            (0..length).for_each(|_| bounds.extend([first, first + length]));
        }
        let window = case["window"].as_u64().map(|window| window as u32);
        let scale = 1.0 / (case["head_dim"].as_f64().unwrap() as f32).sqrt();
        for implementation in [Implementation::Flash, Implementation::Eager] {
            on_both(|fixture, device, tolerance| {
                let inputs = ["q", "k", "v"].map(|name| (name, format!("{op}.{name}")));
                let inputs =
                    inputs.map(|(name, full)| (name, fixture.input(device, &full).unwrap()));
                let [(_, q), (_, k), (_, v)] = &inputs;
                let bounds = Tensor::from_u32(device, &[bounds.len() / 2, 2], &bounds)?;
                let layout = AttentionLayout { bounds, q_offset: 0, window, scale };
                let tape = Tape::recording();
                let out = ops::attention(&tape, q, k, v, &layout, implementation)?;
                // The parameter block holds the scale as f32.
                let tolerance = tolerance.max(1e-6);
                fixture.compare(tolerance, &format!("{op}.out"), &out)?;
                let inputs = inputs.each_ref().map(|(name, input)| (*name, input));
                fixture.compare_gradients(tolerance, &tape, (&op, &out), &inputs)
            });
        }
    }
}

/// With the identity for a weight the logits are the input.
#[test]
fn cross_entropy() {
    on_both(|fixture, device, tolerance| {
        let logits = fixture.input(device, "cross_entropy.logits")?;
        let vocabulary = logits.columns();
        let identity: Vec<f32> = (0..vocabulary * vocabulary)
            .map(|i| if i % (vocabulary + 1) == 0 { 1.0 } else { 0.0 })
            .collect();
        let shape = [vocabulary, vocabulary];
        let identity = Tensor::from_f32(device, &shape, DType::F32, &identity)?;
        let targets = fixture.targets(device, "cross_entropy.labels")?;
        let state = StepState::new(device)?;
        let tape = Tape::recording();
        let out = ops::linear_cross_entropy(&tape, &logits, &identity, &targets, &state)?;
        fixture.compare(tolerance, "cross_entropy.loss", &out.losses)?;
        let dout = Tensor::from_f32(device, &[1], DType::F32, &[1.0])?;
        tape.backward(&out.scaled_loss, dout)?;
        fixture.compare(tolerance, "cross_entropy.dlogits", &logits.grad().unwrap())
    });
}

#[test]
fn token_logprobs() {
    on_both(|fixture, device, tolerance| {
        let hidden = fixture.input(device, "token_logprobs.hidden")?;
        let head = fixture.input(device, "token_logprobs.head")?;
        let targets = fixture.targets(device, "token_logprobs.labels")?;
        let options = LogprobOptions { temperature: 0.8, details: true };
        let tape = Tape::recording();
        let found = ops::token_logprobs(&tape, &hidden, &head, &targets, options)?;
        fixture.compare(tolerance, "token_logprobs.logprobs", &found.logprobs)?;
        let details = found.details.unwrap();
        fixture.compare(tolerance, "token_logprobs.entropy", &details.entropy)?;
        fixture.compare(tolerance, "token_logprobs.is_most_likely", &details.is_most_likely)?;
        let squares = &details.log_sum_squares;
        fixture.compare(tolerance, "token_logprobs.log_sum_squares", squares)?;
        fixture.compare(tolerance, "token_logprobs.mean_logit", &details.mean_logit)?;
        let inputs = [("hidden", &hidden), ("head", &head)];
        fixture.compare_gradients(tolerance, &tape, ("token_logprobs", &found.logprobs), &inputs)
    });
}
