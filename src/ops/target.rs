//! Where a backward brings a gradient, without holding on to the memory of the tensor itself.

use super::add::accumulate_slot;
use crate::backend::Device;
use crate::error::{Error, Result};
use crate::tensor::{GradSlot, Tensor};
use std::rc::Rc;

/// The gradient slot of a tensor that an op has read. A backward that needs nothing but the slot keeps
/// this, so that the activation's memory can go back to the pool.
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

    /// Adds a finished gradient.
    pub fn add(&self, dx: Tensor) -> Result<()> {
        if dx.len() != self.shape.iter().product::<usize>() {
            let what = format!("gradient {dx:?} of {:?}", self.shape);
            return Err(Error::internal("accumulate", what));
        }
        accumulate_slot(&self.slot, dx)
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
                let dx = Tensor::empty(&self.device, &self.shape, self.slot.dtype())?;
                write(false, &dx)?;
                self.add(dx)
            }
        }
    }
}
