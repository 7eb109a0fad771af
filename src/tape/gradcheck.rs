//! Finite differences: the test that a backward is the derivative of its forward.

use super::Tape;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Steps and tolerances of PyTorch's `gradcheck`.
const EPSILON: f64 = 1e-6;
const ABSOLUTE: f64 = 1e-5;
const RELATIVE: f64 = 1e-3;

/// Compares the gradients of `f` with central differences, element by element, for every input that
/// wants a gradient. The inputs must live on the f64 reference device; outputs are weighted with
/// fixed irregular numbers so that no error cancels.
///
/// # Errors
/// Says input, element, analytic and numeric value of the first disagreement.
pub fn gradcheck(inputs: &[Tensor], f: impl Fn(&Tape, &[Tensor]) -> Result<Tensor>) -> Result<()> {
    let tape = Tape::recording();
    let output = f(&tape, inputs)?;
    let device = output.device().clone();
    let weights: Vec<f64> =
        (0..output.len()).map(|i| ((i as f64 + 1.0) * 0.754_877_666).fract() * 2.0 - 1.0).collect();
    let dout = Tensor::empty(&device, output.shape(), output.dtype())?;
    device.upload_f64(dout.view(), &weights)?;
    tape.backward(&output, dout)?;

    let objective = || -> Result<f64> {
        let values = f(&Tape::inference(), inputs)?.read_f64()?;
        Ok(values.iter().zip(&weights).map(|(value, weight)| value * weight).sum())
    };
    for (number, input) in inputs.iter().enumerate().filter(|(_, input)| input.needs_grad()) {
        let grad = input.grad().ok_or_else(|| Error::MissingGradient {
            tensor: format!("input {number}"),
            why: "backward brought none".into(),
        })?;
        let analytic = grad.read_f64()?;
        let mut values = input.read_f64()?;
        for i in 0..values.len() {
            let value = values[i];
            let mut at = |x: f64| {
                values[i] = x;
                device.upload_f64(input.view(), &values)?;
                objective()
            };
            let numeric = (at(value + EPSILON)? - at(value - EPSILON)?) / (2.0 * EPSILON);
            at(value)?;
            let bound = ABSOLUTE + RELATIVE * numeric.abs();
            // `!(a <= b)`: a NaN must fail too.
            if !((analytic[i] - numeric).abs() <= bound) {
                let what = format!("input {number}[{i}]: {} but {numeric} by steps", analytic[i]);
                return Err(Error::internal("gradcheck", what));
            }
        }
    }
    Ok(())
}
