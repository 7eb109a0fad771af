//! Reverse-mode differentiation: a list of what was computed, walked backwards.
//!
//! An op computes its output and [`Tape::record`]s a closure that, given the gradient of the output,
//! adds the gradients of those inputs that want one. Nodes are listed in the order of execution, so
//! the reverse order visits every consumer of a tensor before its producer.

mod gradcheck;
mod recompute;

pub use gradcheck::gradcheck;

use crate::error::{Error, Result};
use crate::tensor::{GradSlot, Tensor};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

type Backward = Box<dyn FnOnce(&Tensor) -> Result<()>>;

struct Node {
    op: &'static str,
    output: Rc<GradSlot>,
    shape: Vec<usize>,
    backward: Backward,
}

/// The computation so far. Make a new one for each forward pass.
pub struct Tape {
    mode: Mode,
    recomputes_elementwise: Cell<bool>,
    nodes: RefCell<Vec<Node>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Inference,
    /// As recording, but no node is kept: for a pass that will be run again.
    Probe,
    Recording,
}

impl Tape {
    fn new(mode: Mode) -> Self {
        Self { mode, recomputes_elementwise: Cell::new(false), nodes: RefCell::default() }
    }

    /// A tape that records, for training.
    pub fn recording() -> Self {
        Self::new(Mode::Recording)
    }

    /// A tape that records nothing, for evaluation and generation: outputs want no gradient.
    pub fn inference() -> Self {
        Self::new(Mode::Inference)
    }

    /// A tape on which outputs want gradients as on a recording one, but which keeps nothing: it tells
    /// what a pass depends on.
    pub(crate) fn probe() -> Self {
        Self::new(Mode::Probe)
    }

    /// Whether outputs of this tape's ops want gradients.
    pub fn is_recording(&self) -> bool {
        self.mode != Mode::Inference
    }

    /// Whether this tape keeps nodes to walk back over.
    pub(crate) fn keeps_nodes(&self) -> bool {
        self.mode == Mode::Recording
    }

    /// Whether an op with these inputs will be recorded, so that it should save what its backward
    /// needs.
    pub fn wants(&self, inputs: &[&Tensor]) -> bool {
        self.is_recording() && inputs.iter().any(|input| input.needs_grad())
    }

    /// Puts an op on the tape and returns `output` with a gradient slot, if this tape records and
    /// any of `inputs` wants a gradient; else returns `output` as it is.
    ///
    /// `backward` gets the gradient of the output. It must bring a gradient to every input that
    /// [`Tensor::needs_grad`] and may skip the work for the others.
    pub fn record(
        &self,
        op: &'static str,
        inputs: &[&Tensor],
        output: Tensor,
        backward: impl FnOnce(&Tensor) -> Result<()> + 'static,
    ) -> Tensor {
        if !self.wants(inputs) {
            return output;
        }
        let output = output.with_grad(op, output.dtype());
        if let Some(slot) = output.slot().cloned().filter(|_| self.keeps_nodes()) {
            let shape = output.shape().to_vec();
            let node = Node { op, output: slot, shape, backward: Box::new(backward) };
            self.nodes.borrow_mut().push(node);
        }
        output
    }

    /// Refuses inputs that want a gradient, for ops that have no backward.
    ///
    /// # Errors
    /// [`Error::MissingGradient`]: a silent cut here would train nothing.
    pub fn no_backward(&self, op: &'static str, inputs: &[&Tensor]) -> Result<()> {
        match inputs.iter().find_map(|input| input.slot()) {
            Some(slot) if self.is_recording() => Err(Error::MissingGradient {
                tensor: slot.name().to_owned(),
                why: format!("{op} has no backward"),
            }),
            _ => Ok(()),
        }
    }

    /// Walks the tape backwards from `output`, whose gradient is `dout`. Every tensor that wants a
    /// gradient and that `output` depends on has it afterwards; saved tensors are dropped as the
    /// walk passes them.
    ///
    /// # Errors
    /// [`Error::MissingGradient`] when `output` depends on nothing that wants a gradient.
    pub fn backward(&self, output: &Tensor, dout: Tensor) -> Result<()> {
        self.backward_from([(output, dout)])
    }

    /// [`Tape::backward`] from several outputs at once, each with its gradient, which may come from the
    /// host ([`Tensor::from_f32`]): for a loss that is not computed on the tape. The gradients that
    /// arrive are those of sum over outputs of sum(output * dout).
    ///
    /// # Errors
    /// [`Error::MissingGradient`] when one of them depends on nothing that wants a gradient;
    /// [`Error::Internal`] when one is there twice, or its gradient has another size or dtype.
    pub fn backward_from<'a>(
        &self,
        outputs: impl IntoIterator<Item = (&'a Tensor, Tensor)>,
    ) -> Result<()> {
        for (output, dout) in outputs {
            let Some(slot) = output.slot() else {
                return Err(Error::MissingGradient {
                    tensor: "any parameter".into(),
                    why: "the loss depends on no tensor that wants a gradient".into(),
                });
            };
            if dout.len() != output.len() || dout.dtype() != slot.dtype() {
                return Err(Error::internal("backward", format!("{dout:?} for {output:?}")));
            }
            if slot.get().is_some() {
                let what = format!("{} has a gradient before the walk begins", slot.name());
                return Err(Error::internal("backward", what));
            }
            slot.set(dout);
        }
        self.walk()
    }

    /// Walks backwards from the outputs whose slots hold gradients.
    fn walk(&self) -> Result<()> {
        while let Some(node) = self.pop() {
            // An output that the loss does not depend on has no gradient to hand on.
            if let Some(dout) = node.output.take() {
                // Under another shape the gradient is the same run of elements.
                let dout = dout.reshape(&node.shape)?;
                (node.backward)(&dout).map_err(|error| match error {
                    Error::Internal { op, what } => {
                        Error::internal(format!("{op}, in the backward of {}", node.op), what)
                    }
                    other => other,
                })?;
            }
        }
        Ok(())
    }

    // A method of its own, so that the borrow ends before the node's closure runs.
    fn pop(&self) -> Option<Node> {
        self.nodes.borrow_mut().pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Device, cpu::Cpu};
    use crate::{DType, ops};

    /// Of outputs that lie on each other's way too; and what cannot be right is an error.
    #[test]
    fn a_walk_from_several_outputs_adds_their_gradients() -> Result<()> {
        let device = Device::new(Cpu::new());
        let tensor = |values: &[f32]| Tensor::from_f32(&device, &[2], DType::F32, values);
        let x = tensor(&[1.0, 2.0])?.with_grad("x", DType::F32);
        let tape = Tape::recording();
        let twice = ops::add(&tape, &x, &x)?;
        let thrice = ops::add(&tape, &twice, &x)?;
        let douts = [tensor(&[1.0, 10.0])?, tensor(&[100.0, 1000.0])?];
        let fails = |outputs: Vec<(&Tensor, Tensor)>| tape.backward_from(outputs).is_err();
        assert!(fails(vec![(&tensor(&[0.0, 0.0])?, tensor(&[1.0, 1.0])?)]));
        assert!(fails(vec![(&thrice, tensor(&[1.0, 1.0])?.narrow(0, 1)?)]));

        tape.backward_from([(&twice, douts[0].clone()), (&thrice, douts[1].clone())])?;
        let dx = x.grad().map(|gradient| gradient.read_f32()).transpose()?;
        assert_eq!(dx, Some(vec![302.0, 3020.0]));
        // What the caller gave is as it was.
        assert_eq!(douts[0].read_f32()?, [1.0, 10.0]);

        let twice = ops::add(&tape, &x, &x)?;
        assert!(fails(vec![(&twice, douts[0].clone()), (&twice, douts[1].clone())]));
        Ok(())
    }
}
