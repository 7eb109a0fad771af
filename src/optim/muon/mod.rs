//! Muon for the matrices of a model's blocks, AdamW for the rest: embeddings, the head, norms, biases.
//!
//! Both have the one learning rate of the config. What PyTorch calls `match_rms_adamw` (Liu et al., 2025,
//! arXiv:2502.16982) makes that fit: a step of Muon, times 0.2 sqrt(max(M, N)), is about as large as one
//! of AdamW. PyTorch's other choice, `original`, wants a rate of its own, hundreds of times as high.

use super::adamw::{self, Moments};
use super::{Kind, Optimizer, Settings, StateTensor};
use crate::backend::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::nn::Parameter;
use crate::ops::{self, StepState, StepValues};
use crate::tensor::Tensor;

/// `muon`.
pub const KIND: Kind = Kind {
    names: &["muon"],
    full_training_only: true,
    new: |device, parameters, settings| Ok(Box::new(Muon::new(device, parameters, settings)?)),
};

/// Decay of the momentum; PyTorch's default.
const MOMENTUM: f64 = 0.95;

/// The state of every parameter, in the parameters' order.
pub struct Muon {
    settings: Settings,
    states: Vec<State>,
}

enum State {
    /// Momentum of a block's matrix, f32, of its shape.
    Matrix(Tensor),
    Other(Moments),
}

impl Muon {
    /// Momentum and moments of zero.
    pub fn new(device: &Device, parameters: &[Parameter], settings: Settings) -> Result<Self> {
        let state = |parameter: &Parameter| match is_block_matrix(parameter) {
            true => ops::zeros(device, parameter.master.shape(), DType::F32).map(State::Matrix),
            false => Moments::new(device, parameter).map(State::Other),
        };
        Ok(Self { settings, states: parameters.iter().map(state).collect::<Result<_>>()? })
    }
}

/// Whether a parameter is a matrix of one of the model's blocks.
fn is_block_matrix(parameter: &Parameter) -> bool {
    parameter.master.shape().len() == 2 && parameter.name.contains(".layers.")
}

impl Optimizer for Muon {
    fn state(&self, parameter: usize) -> Vec<StateTensor<'_>> {
        match &self.states[parameter] {
            State::Matrix(momentum) => {
                vec![StateTensor { name: "momentum_buffer", tensor: momentum }]
            }
            State::Other(moments) => moments.state(),
        }
    }

    fn begin(&self, step: u64, values: &mut StepValues) {
        adamw::begin(&self.settings, step, values);
    }

    fn update(&self, parameters: &[Parameter], grads: &[Tensor], state: &StepState) -> Result<()> {
        for ((parameter, grad), own) in parameters.iter().zip(grads).zip(&self.states) {
            match own {
                State::Other(moments) => moments.update(&self.settings, parameter, grad, state)?,
                State::Matrix(momentum) => {
                    let longer = parameter.master.rows().max(parameter.master.columns());
                    let settings = ops::Muon {
                        momentum: MOMENTUM,
                        weight_decay: self.settings.decay_of(parameter) as f32,
                        lr_ratio: 0.2 * (longer as f32).sqrt(),
                    };
                    ops::muon(settings, &parameter.master, momentum, grad, state)?;
                }
            }
        }
        Ok(())
    }
}
