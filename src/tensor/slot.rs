//! Where a gradient arrives.

use super::Tensor;
use crate::dtype::DType;
use std::cell::RefCell;

/// The place of one tensor's gradient. Empty until a backward pass brings one.
pub struct GradSlot {
    name: String,
    dtype: DType,
    grad: RefCell<Option<Tensor>>,
    /// Memory for the next gradient: a parameter's lies where it lay in the step before.
    reserved: RefCell<Option<Tensor>>,
}

impl GradSlot {
    /// An empty slot for gradients of `dtype`.
    pub(crate) fn new(name: &str, dtype: DType) -> Self {
        Self {
            name: name.to_owned(),
            dtype,
            grad: RefCell::new(None),
            reserved: RefCell::new(None),
        }
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

    /// Keeps memory of the gradient's size and dtype for the next one.
    pub(crate) fn reserve(&self, memory: Tensor) {
        *self.reserved.borrow_mut() = Some(memory);
    }

    /// Whether there is a gradient, or memory for one.
    pub(crate) fn has_memory(&self) -> bool {
        self.grad.borrow().is_some() || self.reserved.borrow().is_some()
    }

    /// Takes the memory that was kept.
    pub(crate) fn take_reserved(&self) -> Option<Tensor> {
        self.reserved.borrow_mut().take()
    }

    /// Replaces the gradient.
    pub fn set(&self, grad: Tensor) {
        *self.grad.borrow_mut() = Some(grad);
    }
}
