//! AdamW with 8-bit moments, as bitsandbytes has it: a quarter of the memory. Blocks of 256 elements
//! share a scale; tensors of fewer than 4,096 elements keep moments in f32.

use super::adamw::{self, Moments};
use super::{Kind, Optimizer, Settings, StateTensor};
use crate::backend::Device;
use crate::error::Result;
use crate::nn::Parameter;
use crate::ops::{self, AdamW8bit, Moments8bit, StepState, StepValues};
use crate::tensor::Tensor;

/// `adamw_8bit`. Paged, bitsandbytes can move the moments to host memory, which changes no value.
pub const KIND: Kind = Kind {
    names: &["adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"],
    full_training_only: false,
    new: |device, parameters, settings| Ok(Box::new(Adam8bit::new(device, parameters, settings)?)),
};

/// Elements from which moments are 8-bit; bitsandbytes' default.
const MIN_8BIT_SIZE: usize = 4096;

/// The moments of every parameter, in the parameters' order.
pub struct Adam8bit {
    settings: Settings,
    /// The dynamic maps on the device.
    tables: Tensor,
    moments: Vec<State>,
}

// One per parameter, so its size does not matter.
#[allow(clippy::large_enum_variant)]
enum State {
    Quantized(Moments8bit),
    Full(Moments),
}

impl Adam8bit {
    /// Moments of zero.
    pub fn new(device: &Device, parameters: &[Parameter], settings: Settings) -> Result<Self> {
        let state = |parameter: &Parameter| match parameter.master.len() < MIN_8BIT_SIZE {
            true => Moments::new(device, parameter).map(State::Full),
            false => Moments8bit::zeros(device, parameter.master.shape()).map(State::Quantized),
        };
        let moments = parameters.iter().map(state).collect::<Result<_>>()?;
        Ok(Self { settings, tables: ops::dynamic_tables(device)?, moments })
    }
}

impl Optimizer for Adam8bit {
    fn state(&self, parameter: usize) -> Vec<StateTensor<'_>> {
        match &self.moments[parameter] {
            State::Full(moments) => moments.state(),
            State::Quantized(Moments8bit { m, v, m_absmax, v_absmax }) => vec![
                StateTensor { name: "exp_avg", tensor: m },
                StateTensor { name: "exp_avg_sq", tensor: v },
                StateTensor { name: "exp_avg_absmax", tensor: m_absmax },
                StateTensor { name: "exp_avg_sq_absmax", tensor: v_absmax },
            ],
        }
    }

    fn begin(&self, step: u64, values: &mut StepValues) {
        adamw::begin(&self.settings, step, values);
    }

    fn update(&self, parameters: &[Parameter], grads: &[Tensor], state: &StepState) -> Result<()> {
        let Settings { beta1, beta2, eps, .. } = self.settings;
        let [beta1, beta2, eps] = [beta1, beta2, eps].map(|value| value as f32);
        for ((parameter, grad), moments) in parameters.iter().zip(grads).zip(&self.moments) {
            match moments {
                State::Full(moments) => moments.update(&self.settings, parameter, grad, state)?,
                State::Quantized(moments) => {
                    let weight_decay = self.settings.decay_of(parameter) as f32;
                    let lr_ratio = parameter.lr_ratio;
                    let settings = AdamW8bit { beta1, beta2, eps, weight_decay, lr_ratio };
                    let param = &parameter.master;
                    ops::adamw_8bit(settings, &self.tables, param, moments, grad, state)?;
                }
            }
        }
        Ok(())
    }
}
