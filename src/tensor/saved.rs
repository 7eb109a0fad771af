//! What a backward keeps of a tensor that it will read: the memory, or the way to compute the same
//! values again.

use super::Tensor;
use crate::error::Result;
use std::rc::Rc;

/// How the values of a tensor are computed again, for whoever would rather not keep them.
pub(crate) trait Origin {
    /// The values, to the bit as they were. However many ask for them, they are computed once.
    fn recompute(&self) -> Result<Tensor>;
}

/// The values of a tensor, for later. Holds no memory of a tensor that has an [`Origin`].
#[derive(Clone)]
pub(crate) struct Saved {
    values: Values,
    shape: Rc<[usize]>,
}

#[derive(Clone)]
enum Values {
    Kept(Tensor),
    Recomputed(Rc<dyn Origin>),
}

impl Saved {
    /// The values of `x`.
    pub fn of(x: &Tensor) -> Self {
        let values = match &x.origin {
            Some(origin) => Values::Recomputed(origin.clone()),
            None => Values::Kept(x.detach()),
        };
        Self { values, shape: x.shape.clone() }
    }

    /// The tensor, without a gradient slot.
    ///
    /// # Errors
    /// What computing it again reports.
    pub fn get(&self) -> Result<Tensor> {
        match &self.values {
            Values::Kept(tensor) => Ok(tensor.clone()),
            Values::Recomputed(origin) => origin.recompute()?.detach().reshape(&self.shape),
        }
    }
}
