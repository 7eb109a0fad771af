//! Runs a case on a device and on the reference, forward and backward, and compares.

use super::cases::{Case, Input, Rule, Values, cases};
use super::random_normal;
use crate::backend::dry::{Dry, Launch};
use crate::backend::reference::Reference;
use crate::backend::{Capabilities, Device};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tape::{Tape, gradcheck};
use crate::tensor::Tensor;

/// One tensor of one case, compared.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// `out 0` or `d<input>`.
    pub tensor: String,
    /// Its dtype on the device.
    pub dtype: DType,
    /// The largest error, as a share of what is allowed at that element.
    pub share: f64,
    /// The largest absolute error.
    pub error: f64,
    /// What is allowed at the element where `share` is largest.
    pub bound: f64,
    /// Nothing was written behind the tensor.
    pub guard_intact: bool,
}

impl Comparison {
    /// Whether the device may be trusted with this.
    pub fn passed(&self) -> bool {
        // A NaN share fails.
        self.share <= 1.0 && self.guard_intact
    }
}

struct Outcome {
    outputs: Vec<Tensor>,
    grads: Vec<(&'static str, Tensor)>,
}

impl Outcome {
    fn tensors(&self) -> impl Iterator<Item = (String, bool, &Tensor)> {
        let outputs = self.outputs.iter().enumerate();
        let outputs = outputs.map(|(i, tensor)| (format!("out {i}"), false, tensor));
        outputs.chain(self.grads.iter().map(|(name, tensor)| (format!("d{name}"), true, tensor)))
    }
}

/// Runs `case` on `device` and compares every output and every gradient with the f64 reference.
///
/// # Errors
/// What the op reports; a disagreement is not an error but a [`Comparison`] that has not passed.
pub fn verify(case: &Case, device: &Device) -> Result<Vec<Comparison>> {
    let exact = run(case, &Device::new(Reference::<f64>::new()), false)?;
    let found = run(case, device, false)?;
    let has_16_bit =
        case.inputs.iter().any(|input| matches!(input.dtype, DType::BF16 | DType::F16));
    let naive = if has_16_bit || matches!(case.rule, Rule::Naive) {
        Some(run(case, &Device::new(Reference::<f32>::new()), false)?)
    } else {
        None
    };
    let magnitude = match (&naive, &case.rule) {
        (None, Rule::Reduction(_)) => Some(run(case, &Device::new(Reference::<f64>::new()), true)?),
        _ => None,
    };

    let mut comparisons = Vec::new();
    for (index, ((name, is_grad, tensor), (_, _, reference))) in
        found.tensors().zip(exact.tensors()).enumerate()
    {
        let reference = reference.read_f64()?;
        let values = if tensor.dtype().is_float() { tensor.read_f64()? } else { integers(tensor)? };
        let nth = |outcome: &Option<Outcome>| -> Result<Option<Vec<f64>>> {
            let tensor = outcome.as_ref().and_then(|o| o.tensors().nth(index).map(|t| t.2.clone()));
            tensor.map(|tensor| tensor.read_f64()).transpose()
        };
        let bounds = match (&case.rule, nth(&naive)?, nth(&magnitude)?) {
            (Rule::Exact, _, _) => vec![0.0; reference.len()],
            (_, Some(naive), _) => {
                naive_bounds(&reference, &naive, if is_grad { 3.0 } else { 2.0 })
            }
            (Rule::Reduction(terms), _, Some(sums)) => {
                let terms = *terms.get(index).ok_or_else(|| {
                    Error::internal(case.op, format!("the case names no K for {name}"))
                })?;
                let factor = 4.0 * (terms as f64).sqrt() * 2f64.powi(-24);
                sums.iter().map(|sum| factor * sum.abs()).collect()
            }
            _ => elementwise_bounds(&reference),
        };
        comparisons.push(compare(name, tensor, &values, &reference, &bounds)?);
    }
    Ok(comparisons)
}

/// Every version of a kernel that the case table launches on a device with these capabilities.
///
/// # Errors
/// What an op reports.
pub fn launches(capabilities: Capabilities) -> Result<Vec<Launch>> {
    launches_of(&cases(), capabilities)
}

/// Every version of a kernel that these cases launch on a device with these capabilities.
///
/// # Errors
/// What an op reports.
pub fn launches_of(cases: &[Case], capabilities: Capabilities) -> Result<Vec<Launch>> {
    let dry = Dry::new(capabilities);
    let launches = dry.launches();
    let device = Device::new(dry);
    for case in cases {
        run(case, &device, false)?;
    }
    Ok(launches.take())
}

/// Finite differences on the f64 reference device, for cases small enough.
pub fn gradcheck_case(case: &Case) -> Result<()> {
    let device = Device::new(Reference::<f64>::new());
    let inputs = inputs(case, &device)?;
    gradcheck(&inputs, |tape, inputs| {
        let mut outputs = (case.run)(tape, inputs)?;
        Ok(outputs.swap_remove(0))
    })
}

/// The inputs of a case on a device, the same numbers on all of them.
pub fn inputs(case: &Case, device: &Device) -> Result<Vec<Tensor>> {
    let numbered = case.inputs.iter().enumerate();
    numbered.map(|(number, input)| make(input, number, device, false)).collect()
}

/// The inputs of a case that is timed and not checked: normal numbers are made on the device, where a
/// large case's come in milliseconds.
pub fn inputs_for_timing(case: &Case, device: &Device) -> Result<Vec<Tensor>> {
    let numbered = case.inputs.iter().enumerate();
    numbered
        .map(|(number, input)| {
            let Values::Normal(std) = input.values else {
                return make(input, number, device, false);
            };
            let tensor = Tensor::empty(device, &input.shape, input.dtype)?;
            random_normal(&tensor, std, 0, number as u32)?;
            Ok(match input.grad {
                Some(dtype) => tensor.with_grad(input.name, dtype),
                None => tensor,
            })
        })
        .collect()
}

fn run(case: &Case, device: &Device, absolute: bool) -> Result<Outcome> {
    let inputs = case
        .inputs
        .iter()
        .enumerate()
        .map(|(number, input)| make(input, number, device, absolute))
        .collect::<Result<Vec<_>>>()?;
    let tape = Tape::recording();
    let outputs = (case.run)(&tape, &inputs)?;
    let mut grads = Vec::new();
    if inputs.iter().any(Tensor::needs_grad) {
        let out = &outputs[0];
        let dout = Input::new("dout", out.shape(), out.dtype());
        tape.backward(out, make(&dout, inputs.len(), device, absolute)?)?;
        for (input, tensor) in case.inputs.iter().zip(&inputs).filter(|(_, t)| t.needs_grad()) {
            let grad = tensor.grad().ok_or_else(|| Error::MissingGradient {
                tensor: input.name.into(),
                why: format!("the backward of {} brought none", case.op),
            })?;
            grads.push((input.name, grad));
        }
    }
    pollster::block_on(device.synchronize())?;
    Ok(Outcome { outputs, grads })
}

/// The tensor of an input; `number` seeds its contents, so all devices see the same.
fn make(input: &Input, number: usize, device: &Device, absolute: bool) -> Result<Tensor> {
    let count: usize = input.shape.iter().product();
    let tensor = match &input.values {
        Values::Integers(values) => Tensor::from_u32(device, &input.shape, values)?,
        Values::Bytes(bytes) => Tensor::from_bytes(device, &input.shape, DType::U8, bytes)?,
        floats => {
            let mut values = match floats {
                Values::Normal(std) => normal(number as u64, count, 0.0, *std),
                Values::AroundOne(std) => normal(number as u64, count, 1.0, *std),
                Values::Floats(values) => values.clone(),
                Values::Integers(_) | Values::Bytes(_) => Vec::new(),
            };
            if absolute {
                values.iter_mut().for_each(|value| *value = value.abs());
            }
            Tensor::from_f32(device, &input.shape, input.dtype, &values)?
        }
    };
    Ok(match input.grad {
        Some(dtype) => tensor.with_grad(input.name, dtype),
        None => tensor,
    })
}

/// Normal numbers by Box and Muller from the splitmix64 generator.
fn normal(seed: u64, count: usize, mean: f32, std: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed;
    let mut uniform = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..count)
        .map(|_| {
            let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
            mean + std * (radius * (std::f64::consts::TAU * uniform()).cos()) as f32
        })
        .collect()
}

fn integers(tensor: &Tensor) -> Result<Vec<f64>> {
    let bytes = tensor.read_bytes()?;
    Ok(match tensor.dtype() {
        DType::U32 => bytemuck::allocation::pod_collect_to_vec::<u8, u32>(&bytes)
            .into_iter()
            .map(f64::from)
            .collect(),
        _ => bytes.into_iter().map(f64::from).collect(),
    })
}

fn elementwise_bounds(reference: &[f64]) -> Vec<f64> {
    let squares: f64 = reference.iter().map(|value| value * value).sum();
    let rms = (squares / reference.len().max(1) as f64).sqrt();
    reference.iter().map(|value| 1.3e-6 * value.abs() + 1e-5 * rms).collect()
}

/// `factor` times the largest error of the naive computation; at least four f32 roundings of the
/// largest value, for where the naive computation happens to be exact.
pub(crate) fn naive_bounds(reference: &[f64], naive: &[f64], factor: f64) -> Vec<f64> {
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let error = largest(&mut reference.iter().zip(naive).map(|(a, b)| (a - b).abs()));
    let floor = largest(&mut reference.iter().map(|value| value.abs())) * 2f64.powi(-22);
    vec![(factor * error).max(floor); reference.len()]
}

/// Values of a tensor against the reference, with what is allowed at each element.
pub(crate) fn compare(
    name: String,
    tensor: &Tensor,
    values: &[f64],
    reference: &[f64],
    bounds: &[f64],
) -> Result<Comparison> {
    if values.len() != reference.len() {
        let what = format!("{name} has {} elements, not {}", values.len(), reference.len());
        return Err(Error::internal("verify", what));
    }
    let guard_intact = tensor.device().guard_intact(&tensor.view().buffer)?;
    let mut worst = Comparison {
        tensor: name,
        dtype: tensor.dtype(),
        share: 0.0,
        error: 0.0,
        bound: bounds.first().copied().unwrap_or(0.0),
        guard_intact,
    };
    for ((value, expected), &bound) in values.iter().zip(reference).zip(bounds) {
        let both_same = value == expected || (value.is_nan() && expected.is_nan());
        let error = if both_same { 0.0 } else { (value - expected).abs() };
        let share = if error == 0.0 { 0.0 } else { error / bound };
        worst.error = worst.error.max(error);
        if !(share <= worst.share) {
            (worst.share, worst.bound) = (share, bound);
            if share.is_nan() {
                break;
            }
        }
    }
    Ok(worst)
}
