//! Optimizers: each is one folder, with a [`Kind`], and a line in [`KINDS`]. What all of them share is
//! here: gradients are clipped to their global norm, and those that are not finite change nothing.
//!
//! To add one: a folder with its state, the [`Optimizer`] that moves it by ops, and its `KIND`; a line
//! below. The config, checkpoints, the memory plan and the trainer know it then.

pub mod adamw;
pub mod adamw_8bit;
pub mod muon;

use crate::backend::Device;
use crate::error::Result;
use crate::nn::Parameter;
use crate::ops::{self, StepState, StepValues};
use crate::tensor::Tensor;

/// Every optimizer; the first is the default.
pub const KINDS: &[&Kind] = &[&adamw::KIND, &adamw_8bit::KIND, &muon::KIND];

/// Makes an optimizer for parameters, with a state of zeros.
pub type New = fn(&Device, &[Parameter], Settings) -> Result<Box<dyn Optimizer>>;

/// An optimizer that a config may name.
pub struct Kind {
    /// Its name first, then what other tools call the same update.
    pub names: &'static [&'static str],
    /// Whether it is for full training alone.
    pub full_training_only: bool,
    /// Makes one, with a state of zeros, for these parameters.
    pub new: New,
}

impl Kind {
    /// The name that is written.
    pub fn name(&self) -> &'static str {
        self.names[0]
    }

    /// The kind of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        KINDS.iter().copied().find(|kind| kind.names.contains(&name))
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

/// The settings of an optimizer, by Transformers' names.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Which one.
    pub optim: &'static Kind,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean of squares.
    pub eps: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// The norm above which gradients are scaled down; 0 is never.
    pub max_grad_norm: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            optim: KINDS[0],
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
        }
    }
}

impl Settings {
    /// The weight decay of a parameter: none on biases and norm weights.
    fn decay_of(&self, parameter: &Parameter) -> f64 {
        if parameter.decays() { self.weight_decay } else { 0.0 }
    }
}

/// An optimizer with its state, for the parameters it was made for.
pub trait Optimizer {
    /// The state of the parameter of this index, in the order of a checkpoint; the memory plan counts
    /// the same tensors.
    fn state(&self, parameter: usize) -> Vec<StateTensor<'_>>;

    /// Begins the step of this number (from 1): what the step state must hold for [`Self::update`],
    /// such as bias corrections.
    fn begin(&self, step: u64, values: &mut StepValues);

    /// Moves the master values of `parameters`, and the state, by their gradients `grads`, in the
    /// parameters' order. `state` has the learning rate, what gradients are multiplied with, and
    /// whether to leave everything as it is.
    fn update(&self, parameters: &[Parameter], grads: &[Tensor], state: &StepState) -> Result<()>;
}

/// One tensor of an optimizer's state.
pub struct StateTensor<'a> {
    /// What it is to its parameter; PyTorch's name where it has one (`exp_avg`).
    pub name: &'static str,
    /// The values; dtype and shape are its own.
    pub tensor: &'a Tensor,
}

impl StateTensor<'_> {
    /// Bytes of its elements.
    pub fn byte_len(&self) -> u64 {
        (self.tensor.len() * self.tensor.dtype().size()) as u64
    }
}

/// Applies the gradients that the parameters hold, clipped to the global norm `max_grad_norm`, and
/// forgets them. `state` brings the learning rate and takes the norm; a norm that is not finite changes
/// nothing.
///
/// # Errors
/// [`crate::Error::MissingGradient`] for a parameter that no gradient reached.
pub fn step(
    optimizer: &dyn Optimizer,
    parameters: &[Parameter],
    max_grad_norm: f64,
    state: &StepState,
) -> Result<()> {
    let grads = parameters.iter().map(Parameter::grad).collect::<Result<Vec<_>>>()?;
    ops::grad_norm(state.tensor().device(), &grads, max_grad_norm as f32, state)?;
    optimizer.update(parameters, &grads, state)?;
    parameters.iter().try_for_each(Parameter::refresh)?;
    parameters.iter().for_each(Parameter::clear_grad);
    Ok(())
}
