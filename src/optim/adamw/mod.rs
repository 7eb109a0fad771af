//! AdamW with both moments in f32.

use super::{Kind, Optimizer, Settings, StateTensor};
use crate::backend::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::nn::Parameter;
use crate::ops::{self, AdamW, StepState, StepValues};
use crate::tensor::Tensor;

/// `adamw_torch`. PyTorch's fused version, Transformers' own of the past and bitsandbytes' in 32 bits make
/// the same update.
pub const KIND: Kind = Kind {
    names: &["adamw_torch", "adamw_torch_fused", "paged_adamw_32bit", "adamw", "adamw_hf"],
    full_training_only: false,
    new: |device, parameters, settings| Ok(Box::new(Adam::new(device, parameters, settings)?)),
};

/// The moments of every parameter, in the parameters' order.
pub struct Adam {
    settings: Settings,
    moments: Vec<Moments>,
}

/// First and second moments of one parameter, f32, of its shape.
pub(super) struct Moments {
    /// Mean of gradients.
    m: Tensor,
    /// Mean of squared gradients.
    v: Tensor,
}

impl Adam {
    /// Moments of zero.
    pub fn new(device: &Device, parameters: &[Parameter], settings: Settings) -> Result<Self> {
        let moments = parameters.iter().map(|parameter| Moments::new(device, parameter));
        Ok(Self { settings, moments: moments.collect::<Result<_>>()? })
    }
}

impl Optimizer for Adam {
    fn state(&self, parameter: usize) -> Vec<StateTensor<'_>> {
        self.moments[parameter].state()
    }

    fn begin(&self, step: u64, values: &mut StepValues) {
        begin(&self.settings, step, values);
    }

    fn update(&self, parameters: &[Parameter], grads: &[Tensor], state: &StepState) -> Result<()> {
        for ((parameter, grad), moments) in parameters.iter().zip(grads).zip(&self.moments) {
            moments.update(&self.settings, parameter, grad, state)?;
        }
        Ok(())
    }
}

impl Moments {
    /// Zeros.
    pub fn new(device: &Device, parameter: &Parameter) -> Result<Self> {
        let zeros = || ops::zeros(device, parameter.master.shape(), DType::F32);
        Ok(Self { m: zeros()?, v: zeros()? })
    }

    /// As [`Optimizer::state`].
    pub fn state(&self) -> Vec<StateTensor<'_>> {
        vec![
            StateTensor { name: "exp_avg", tensor: &self.m },
            StateTensor { name: "exp_avg_sq", tensor: &self.v },
        ]
    }

    /// As [`Optimizer::update`], of one parameter.
    pub fn update(
        &self,
        settings: &Settings,
        parameter: &Parameter,
        grad: &Tensor,
        state: &StepState,
    ) -> Result<()> {
        let weight_decay = settings.decay_of(parameter) as f32;
        let lr_ratio = parameter.lr_ratio;
        let [beta1, beta2, eps] =
            [settings.beta1, settings.beta2, settings.eps].map(|value| value as f32);
        let settings = AdamW { beta1, beta2, eps, weight_decay, lr_ratio };
        ops::adamw(settings, &parameter.master, &self.m, &self.v, grad, state)
    }
}

/// As [`Optimizer::begin`]: 1 - beta^step, of the betas that the kernel multiplies with.
pub(super) fn begin(settings: &Settings, step: u64, values: &mut StepValues) {
    // f64: 1 - 0.999 has few digits in f32.
    let correction = |beta: f64| (1.0 - f64::from(beta as f32).powf(step as f64)) as f32;
    values.bias_correction1 = correction(settings.beta1);
    values.bias_correction2 = correction(settings.beta2);
}
