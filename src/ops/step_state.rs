//! What changes between steps of equal shape, in one small device buffer: kernels read it there, so
//! that a step can be recorded once and replayed, and "a non-finite gradient is not applied" needs no
//! read-back.

use crate::backend::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;

/// Indices into the buffer.
pub use crate::kernels::slots as index;

/// The buffer of one run.
#[derive(Clone, Debug)]
pub struct StepState {
    tensor: Tensor,
}

impl StepState {
    /// A state with neutral values: scales of 1, step 0, nothing skipped.
    pub fn new(device: &Device) -> Result<Self> {
        let tensor = Tensor::empty(device, &[index::LEN], DType::F32)?;
        let state = Self { tensor };
        state.set(&StepValues::default())?;
        Ok(state)
    }

    /// A state over given slots, for tests: f32 `[16]`.
    pub fn from_tensor(tensor: &Tensor) -> Self {
        Self { tensor: tensor.clone() }
    }

    /// Sets the values of the next step.
    pub fn set(&self, values: &StepValues) -> Result<()> {
        let mut slots = [0.0f32; index::LEN];
        slots[index::LEARNING_RATE] = values.learning_rate;
        slots[index::BIAS_CORRECTION1] = values.bias_correction1;
        slots[index::BIAS_CORRECTION2] = values.bias_correction2;
        slots[index::CLIP] = 1.0;
        slots[index::INV_TOKENS] = values.inv_tokens;
        slots[index::LOSS_SCALE] = values.loss_scale;
        slots[index::STEP] = values.step as f32;
        self.tensor.set_bytes(bytemuck::cast_slice(&slots))
    }

    /// The buffer, for kernels: f32 `[16]`.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }
}

/// The values of one optimizer step, from the host.
#[derive(Clone, Copy, Debug)]
pub struct StepValues {
    /// Learning rate.
    pub learning_rate: f32,
    /// 1 - beta1^step.
    pub bias_correction1: f32,
    /// 1 - beta2^step.
    pub bias_correction2: f32,
    /// 1 / tokens that carry loss.
    pub inv_tokens: f32,
    /// Loss scale (1 but for f16).
    pub loss_scale: f32,
    /// Number of the step, from 1.
    pub step: u32,
}

impl Default for StepValues {
    fn default() -> Self {
        Self {
            learning_rate: 0.0,
            bias_correction1: 1.0,
            bias_correction2: 1.0,
            inv_tokens: 1.0,
            loss_scale: 1.0,
            step: 0,
        }
    }
}
