//! The ops against PyTorch: values and gradients of tests/fixtures/ops, which were computed in float64
//! outside this project. The reference device, which defines the ops, must agree to float64's
//! precision, the CPU to float32's.

use safetensors::SafeTensors;
use tunesmith::backend::cpu::Cpu;
use tunesmith::backend::reference::Reference;
use tunesmith::tape::Tape;
use tunesmith::tensor::Tensor;
use tunesmith::{DType, Device, Result, ops};

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

#[test]
fn rope() {
    on_both(|fixture, device, tolerance| {
        let x = fixture.input(device, "rope.x")?;
        let (cos, sin) = (fixture.tensor(device, "rope.cos")?, fixture.tensor(device, "rope.sin")?);
        let positions: Vec<u32> = (0..x.dim(0) as u32).collect();
        let positions = Tensor::from_u32(device, &[x.dim(0)], &positions)?;
        let tape = Tape::recording();
        let out = ops::rope(&tape, &x, &positions, &cos, &sin)?;
        fixture.compare(tolerance, "rope.out", &out)?;
        fixture.compare_gradients(tolerance, &tape, ("rope", &out), &[("x", &x)])
    });
}

#[test]
fn swiglu() {
    on_both(|fixture, device, tolerance| {
        let gate = fixture.input(device, "swiglu.gate")?;
        let up = fixture.input(device, "swiglu.up")?;
        let tape = Tape::recording();
        let out = ops::swiglu(&tape, &gate, &up)?;
        fixture.compare(tolerance, "swiglu.out", &out)?;
        let inputs = [("gate", &gate), ("up", &up)];
        fixture.compare_gradients(tolerance, &tape, ("swiglu", &out), &inputs)
    });
}

#[test]
fn rms_norm() {
    on_both(|fixture, device, tolerance| {
        let x = fixture.input(device, "rms_norm.x")?;
        let w = fixture.input(device, "rms_norm.w")?;
        let tape = Tape::recording();
        let out = ops::rms_norm(&tape, &x, &w, 1e-5)?;
        // The parameter block holds eps as f32, which is not 1e-5 to float64's last digits.
        let tolerance = tolerance.max(1e-9);
        fixture.compare(tolerance, "rms_norm.out", &out)?;
        fixture.compare_gradients(tolerance, &tape, ("rms_norm", &out), &[("x", &x), ("w", &w)])
    });
}
