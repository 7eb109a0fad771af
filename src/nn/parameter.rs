//! A tensor that training changes.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops;
use crate::tape::Tape;
use crate::tensor::Tensor;

/// A trainable tensor: f32 master values for the optimizer, and the values that the forward pass
/// reads, in the model's dtype. In f32 the two are one.
#[derive(Clone)]
pub struct Parameter {
    /// The tensor's name in Hugging Face's or PEFT's files.
    pub name: String,
    /// f32; what the optimizer updates and what is saved.
    pub master: Tensor,
    /// What the forward pass reads; its slot receives the gradient, in f32.
    pub value: Tensor,
    /// What its learning rate is, as a multiple of the run's: other than 1 with LoRA+.
    pub lr_ratio: f32,
}

impl Parameter {
    /// A parameter with these f32 values, read by the forward pass in `dtype`.
    pub fn new(name: &str, master: Tensor, dtype: DType) -> Result<Self> {
        let value = ops::cast(&Tape::inference(), &master, dtype)?.with_grad(name, DType::F32);
        Ok(Self { name: name.to_owned(), master, value, lr_ratio: 1.0 })
    }

    /// Whether weight decay applies: to matrices and DoRA's magnitudes, not to biases and norm weights.
    pub fn decays(&self) -> bool {
        self.master.shape().len() > 1 || self.name.contains("lora_magnitude_vector")
    }

    /// The gradient that the backward passes of this step brought.
    ///
    /// # Errors
    /// [`Error::MissingGradient`] where none arrived: training would leave the tensor as it is.
    pub fn grad(&self) -> Result<Tensor> {
        self.value.grad().ok_or_else(|| Error::MissingGradient {
            tensor: self.name.clone(),
            why: "the loss does not depend on it".into(),
        })
    }

    /// Takes memory for the gradient, unless there is some: before the activations of a step take theirs, so
    /// that gradients do not lie scattered among them.
    pub fn reserve_grad(&self) -> Result<()> {
        if let Some(slot) = self.value.slot().filter(|slot| !slot.has_memory()) {
            let device = self.value.device();
            slot.reserve(Tensor::empty(device, self.value.shape(), slot.dtype())?);
        }
        Ok(())
    }

    /// Forgets the gradient, before the next step; its memory is kept for the next one.
    pub fn clear_grad(&self) {
        let Some(slot) = self.value.slot() else { return };
        let whole = |grad: &Tensor| {
            grad.len() == grad.view().buffer.len() && grad.view().buffer.is_unique()
        };
        if let Some(grad) = slot.take().filter(whole) {
            slot.reserve(grad);
        }
    }

    /// Brings the forward pass's values up to date after the optimizer has changed the master's.
    pub fn refresh(&self) -> Result<()> {
        match self.value.view().buffer.same(&self.master.view().buffer) {
            true => Ok(()),
            false => ops::cast_into(&self.master, &self.value),
        }
    }
}
