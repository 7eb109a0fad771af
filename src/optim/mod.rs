//! The optimizer: AdamW over all parameters, behind the global gradient norm.

use crate::backend::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::nn::Parameter;
use crate::ops::{self, AdamW, StepState};
use crate::tensor::Tensor;

/// The optimizer's settings, by Transformers' names.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of squared gradients.
    pub beta2: f32,
    /// Added to the root of the mean of squares.
    pub eps: f32,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f32,
    /// The norm above which gradients are scaled down; 0 is never.
    pub max_grad_norm: f32,
}

/// First and second moments of one parameter, f32, of its shape.
pub struct Moments {
    /// Mean of gradients.
    pub m: Tensor,
    /// Mean of squared gradients.
    pub v: Tensor,
}

/// The moments of every parameter, in the parameters' order.
pub struct Optimizer {
    settings: Settings,
    /// One for each parameter.
    pub moments: Vec<Moments>,
}

impl Optimizer {
    /// Moments of zero.
    pub fn new(device: &Device, parameters: &[Parameter], settings: Settings) -> Result<Self> {
        let zeros = |p: &Parameter| ops::zeros(device, p.master.shape(), DType::F32);
        let moments = parameters
            .iter()
            .map(|p| Ok(Moments { m: zeros(p)?, v: zeros(p)? }))
            .collect::<Result<_>>()?;
        Ok(Self { settings, moments })
    }

    /// Applies the gradients that the parameters hold, clipped to the global norm, and forgets them.
    /// `state` brings the learning rate and takes the norm; a norm that is not finite changes
    /// nothing.
    ///
    /// # Errors
    /// [`crate::Error::MissingGradient`] for a parameter that no gradient reached.
    pub fn step(&self, parameters: &[Parameter], state: &StepState) -> Result<()> {
        let Settings { beta1, beta2, eps, weight_decay, max_grad_norm } = self.settings;
        let grads = parameters.iter().map(Parameter::grad).collect::<Result<Vec<_>>>()?;
        ops::grad_norm(state.tensor().device(), &grads, max_grad_norm, state)?;
        for ((parameter, moments), grad) in parameters.iter().zip(&self.moments).zip(&grads) {
            let weight_decay = if parameter.decays() { weight_decay } else { 0.0 };
            let settings = AdamW { beta1, beta2, eps, weight_decay };
            ops::adamw(settings, &parameter.master, &moments.m, &moments.v, grad, state)?;
            parameter.refresh()?;
        }
        parameters.iter().for_each(Parameter::clear_grad);
        Ok(())
    }
}
