//! Results that are computed again in the backward pass instead of being kept: those of single ops,
//! and those of whole functions (Chen et al., 2016, arXiv:1604.06174).
//!
//! Kernels are deterministic, so gradients have the same bits whatever is computed again.

use super::Tape;
use crate::error::Result;
use crate::tensor::{GradSlot, Origin, Saved, Tensor};
use std::cell::RefCell;
use std::rc::Rc;

impl Tape {
    /// Sets whether results that cost no product are computed again in the backward pass instead of
    /// being kept: `Tape::recomputable`.
    pub fn recompute_elementwise(&self, recompute: bool) {
        self.recomputes_elementwise.set(recompute);
    }

    /// `output`, which `forward` computes again from what the op's backward keeps anyway; where this
    /// tape asks for that, whoever saves `output` keeps `forward` instead of the memory. `output` has
    /// been recorded.
    pub(crate) fn recomputable(
        &self,
        output: Tensor,
        forward: impl Fn() -> Result<Tensor> + 'static,
    ) -> Tensor {
        let recompute = self.recomputes_elementwise.get() && self.keeps_nodes();
        match recompute && output.needs_grad() {
            true => output.with_origin(Rc::new(Op { forward, values: RefCell::default() })),
            false => output,
        }
    }

    /// Runs `forward` and keeps only `x` of it; runs it again when its result or its gradient is first
    /// wanted in the backward pass. Whoever saves the result keeps no memory of it either, so end
    /// `forward` where what follows needs its result, and the rest is never run again.
    ///
    /// `forward` must be a function of its argument and of parameters alone.
    ///
    /// # Errors
    /// What `forward` reports.
    pub fn checkpoint(
        &self,
        x: &Tensor,
        forward: impl Fn(&Tape, &Tensor) -> Result<Tensor> + 'static,
    ) -> Result<Tensor> {
        if !self.keeps_nodes() {
            return forward(self, x);
        }
        let y = forward(&Tape::probe(), x)?;
        let region = Rc::new(Region {
            x: Saved::of(x),
            x_slot: x.slot().cloned(),
            recomputes_elementwise: self.recomputes_elementwise.get(),
            forward,
            pass: RefCell::default(),
        });
        let in_backward = region.clone();
        let recorded = self.record("checkpoint", &[&y], y.detach(), move |dy| {
            let (tape, y) = in_backward.take()?;
            let Some(slot) = y.slot().cloned() else { return Ok(()) };
            drop(y);
            slot.set(dy.clone());
            tape.walk()
        });
        Ok(match recorded.needs_grad() {
            true => recorded.with_origin(region),
            false => recorded,
        })
    }
}

/// One op. Its values are there from the first who asks for them until the last who saved them is gone.
struct Op<F> {
    forward: F,
    values: RefCell<Option<Tensor>>,
}

impl<F: Fn() -> Result<Tensor>> Origin for Op<F> {
    fn recompute(&self) -> Result<Tensor> {
        if let Some(values) = &*self.values.borrow() {
            return Ok(values.clone());
        }
        let values = (self.forward)()?;
        *self.values.borrow_mut() = Some(values.clone());
        Ok(values)
    }
}

/// A function of `x`, and its second run once that has been wanted.
struct Region<F> {
    x: Saved,
    x_slot: Option<Rc<GradSlot>>,
    recomputes_elementwise: bool,
    forward: F,
    pass: RefCell<Option<(Tape, Tensor)>>,
}

impl<F: Fn(&Tape, &Tensor) -> Result<Tensor>> Region<F> {
    /// The second run, to walk back over: gradients of `x` go where those of the first would.
    fn take(&self) -> Result<(Tape, Tensor)> {
        match self.pass.take() {
            Some(pass) => Ok(pass),
            None => self.run(),
        }
    }

    fn run(&self) -> Result<(Tape, Tensor)> {
        let tape = Tape::recording();
        tape.recompute_elementwise(self.recomputes_elementwise);
        let x = self.x.get()?.with_slot(self.x_slot.clone());
        let y = (self.forward)(&tape, &x)?;
        Ok((tape, y))
    }
}

impl<F: Fn(&Tape, &Tensor) -> Result<Tensor>> Origin for Region<F> {
    fn recompute(&self) -> Result<Tensor> {
        let pass = self.take()?;
        let y = pass.1.clone();
        *self.pass.borrow_mut() = Some(pass);
        Ok(y)
    }
}
