//! Where a gradient arrives.

use super::Tensor;
use crate::dtype::DType;
use std::cell::RefCell;

/// The place of one tensor's gradient. Empty until a backward pass brings one.
pub struct GradSlot {
    name: String,
    dtype: DType,
    grad: RefCell<Option<Tensor>>,
}

impl GradSlot {
    /// An empty slot for gradients of `dtype`.
    pub(crate) fn new(name: &str, dtype: DType) -> Self {
        Self { name: name.to_owned(), dtype, grad: RefCell::new(None) }
    }

    /// The tensor's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The gradient's dtype: f32 for parameters, the tensor's own for activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The gradient so far.
    pub fn get(&self) -> Option<Tensor> {
        self.grad.borrow().clone()
    }

    /// Takes the gradient out.
    pub fn take(&self) -> Option<Tensor> {
        self.grad.borrow_mut().take()
    }

    /// Replaces the gradient.
    pub fn set(&self, grad: Tensor) {
        *self.grad.borrow_mut() = Some(grad);
    }
}
