//! Where a backward brings a gradient, without holding on to the memory of the tensor itself, and how
//! gradients that meet add up.

use super::add::kernels::{add_into, sum};
use crate::backend::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{GradSlot, Tensor};
use std::rc::Rc;

/// The gradient slot of a tensor that an op has read. Every backward brings its gradients through this:
/// it keeps the slot and the shape, so that the activation's memory can go back to the pool.
pub(crate) struct GradTarget {
    slot: Rc<GradSlot>,
    device: Device,
    shape: Vec<usize>,
}

impl GradTarget {
    /// The target for the gradient of `x`, if it wants one.
    pub fn of(x: &Tensor) -> Option<Self> {
        let slot = x.slot()?.clone();
        Some(Self { slot, device: x.device().clone(), shape: x.shape().to_vec() })
    }

    /// The gradient's dtype.
    pub fn dtype(&self) -> DType {
        self.slot.dtype()
    }

    /// Adds a finished gradient, of the slot's dtype. Writes in place only where nobody else holds the
    /// gradient so far.
    pub fn add(&self, dx: Tensor) -> Result<()> {
        let wrong = || {
            let Self { slot, shape, .. } = self;
            let what = format!("gradient {dx:?} of {shape:?} {}", slot.dtype().name());
            Error::internal("accumulate", what)
        };
        if dx.len() != self.shape.iter().product::<usize>() {
            return Err(wrong());
        }
        let so_far = match self.slot.take() {
            None if dx.dtype() == self.slot.dtype() => dx,
            None => return Err(wrong()),
            Some(so_far) if so_far.view().buffer.is_unique() => {
                add_into(&so_far, &dx)?;
                so_far
            }
            Some(so_far) if so_far.dtype() == dx.dtype() => {
                sum(&so_far, &dx.reshape(so_far.shape())?)?
            }
            Some(_) => return Err(wrong()),
        };
        self.slot.set(so_far);
        Ok(())
    }

    /// Brings a gradient that `write(adds, dx)` writes into `dx`, or adds to it when `adds`: in place
    /// where a gradient is there that nobody else holds, so that it costs no second pass.
    pub fn write(&self, write: impl FnOnce(bool, &Tensor) -> Result<()>) -> Result<()> {
        match self.slot.take() {
            Some(sum) if sum.view().buffer.is_unique() => {
                write(true, &sum.reshape(&self.shape)?)?;
                self.slot.set(sum);
                Ok(())
            }
            earlier => {
                if let Some(sum) = earlier {
                    self.slot.set(sum);
                }
                let dx = match self.slot.take_reserved() {
                    Some(reserved) => reserved.reshape(&self.shape)?,
                    None => Tensor::empty(&self.device, &self.shape, self.slot.dtype())?,
                };
                write(false, &dx)?;
                self.add(dx)
            }
        }
    }
}
