//! One optimizer step: micro-batches forward and backward, then the update. Names no device and
//! writes no file.

use crate::backend::Device;
use crate::data::Batch;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::model::transformer::Model;
use crate::nn::{Context, Noise, Parameter};
use crate::objective::{Chosen, Gradient, Means, Measures, Pass, Reference, Totals};
use crate::ops::step_state::index;
use crate::ops::{Implementation, StepState, StepValues};
use crate::optim::{self, Optimizer, Settings};
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::rc::Rc;

/// Loss scale of the first f16 step, and the bounds it moves between (as PyTorch's GradScaler).
const FIRST_LOSS_SCALE: f32 = 65_536.0;
const SMALLEST_LOSS_SCALE: f32 = 1.0 / 16_384.0;
/// Finite f16 steps after which the scale is doubled.
const GROWTH_INTERVAL: u32 = 2_000;
/// Steps in a row whose gradient may be non-finite, where no loss scale can be blamed.
const MAX_SKIPPED: u32 = 3;

/// A model in training.
pub struct Trainer {
    /// The model.
    pub model: Model,
    /// What is trained.
    pub parameters: Vec<Parameter>,
    /// What it is trained for.
    pub objective: Chosen,
    /// The policy to compare with.
    pub reference: Reference,
    /// How, with its state.
    pub optimizer: Box<dyn Optimizer>,
    /// Scale of the loss and what moves it.
    pub scaler: LossScaler,
    /// NEFTune's alpha: how much noise the embeddings get; 0 is none.
    pub neftune_alpha: f32,
    settings: Settings,
    attention: Implementation,
    seed: u64,
    device: Device,
    state: StepState,
    /// f32 [1]: the gradient that every backward starts from.
    one: Tensor,
}

/// What one optimizer step found.
#[derive(Clone, Debug)]
pub struct StepOutcome {
    /// The loss: the sum of its terms over the step's divisor.
    pub loss: f64,
    /// What else the objective measured.
    pub means: Means,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// The gradient was not finite and was not applied.
    pub skipped: bool,
}

/// The loss scale: 1 but for f16, where small gradients would vanish without one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaler {
    /// The scale of the next step.
    pub scale: f32,
    /// Finite steps since it last changed.
    pub finite_steps: u32,
    /// Non-finite steps in a row.
    pub skipped_steps: u32,
    /// Whether the dtype needs one.
    pub dynamic: bool,
}

impl LossScaler {
    fn new(dtype: DType) -> Self {
        let dynamic = dtype == DType::F16;
        let scale = if dynamic { FIRST_LOSS_SCALE } else { 1.0 };
        Self { scale, finite_steps: 0, skipped_steps: 0, dynamic }
    }

    /// Halves the scale after a non-finite gradient, doubles it after many finite ones.
    fn update(&mut self, step: u64, skipped: bool) -> Result<()> {
        if !skipped {
            (self.finite_steps, self.skipped_steps) = (self.finite_steps + 1, 0);
            if self.dynamic && self.finite_steps == GROWTH_INTERVAL {
                (self.scale, self.finite_steps) = (self.scale * 2.0, 0);
            }
            return Ok(());
        }
        (self.finite_steps, self.skipped_steps) = (0, self.skipped_steps + 1);
        if self.dynamic {
            self.scale /= 2.0;
        }
        if self.scale < SMALLEST_LOSS_SCALE || (!self.dynamic && self.skipped_steps > MAX_SKIPPED) {
            return Err(Error::run(format!(
                "the gradient of step {step} is not finite, and neither were those of the {} steps \
                 before it; nothing of them was applied. Lower learning_rate, set max_grad_norm, \
                 or use dtype = \"float32\"",
                self.skipped_steps - 1
            )));
        }
        Ok(())
    }
}

impl Trainer {
    /// A trainer whose optimizer has a fresh state.
    pub fn new(
        model: Model,
        parameters: Vec<Parameter>,
        objective: impl Into<Chosen>,
        settings: Settings,
        attention: Implementation,
        seed: u64,
    ) -> Result<Self> {
        let device = model.embed_tokens.device().clone();
        if parameters.is_empty() {
            return Err(Error::internal("Trainer", "nothing to train"));
        }
        Ok(Self {
            optimizer: (settings.optim.new)(&device, &parameters, settings)?,
            scaler: LossScaler::new(model.embed_tokens.dtype()),
            neftune_alpha: 0.0,
            state: StepState::new(&device)?,
            one: Tensor::from_f32(&device, &[1], DType::F32, &[1.0])?,
            model,
            parameters,
            objective: objective.into(),
            reference: Reference::default(),
            settings,
            attention,
            seed,
            device,
        })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How attention is computed.
    pub fn attention(&self) -> Implementation {
        self.attention
    }

    /// Optimizer step number `step` (from 1) on its micro-batches.
    ///
    /// # Errors
    /// `Error::Run` for a loss that is not finite, or gradients that stay so; what the ops report.
    pub fn step(
        &mut self,
        step: u64,
        learning_rate: f64,
        batches: &[Batch],
    ) -> Result<StepOutcome> {
        let outcome = self.step_unless(step, learning_rate, batches, &|| false)?;
        outcome.ok_or_else(|| Error::internal("Trainer", "the step was given up"))
    }

    /// [`Trainer::step`], given up where `stop` says so between two micro-batches: nothing has changed
    /// then.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step_unless(
        &mut self,
        step: u64,
        learning_rate: f64,
        batches: &[Batch],
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<StepOutcome>> {
        let Some(outcome) = self.compute(step, learning_rate, batches, stop)? else {
            return Ok(None);
        };
        if !outcome.loss.is_finite() {
            return Err(Error::run(format!(
                "the loss of step {step} is {}; checkpoints saved before are intact: lower \
                 learning_rate, check the model and the data, or use dtype = \"float32\"",
                outcome.loss
            )));
        }
        self.scaler.update(step, outcome.skipped)?;
        Ok(Some(outcome))
    }

    /// [`Trainer::step_unless`] whatever it finds, as on a device that only counts.
    ///
    /// # Errors
    /// What the ops report.
    pub(super) fn compute(
        &self,
        step: u64,
        learning_rate: f64,
        batches: &[Batch],
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<StepOutcome>> {
        let divisor = self.objective.divisor(batches);
        let mut values = StepValues {
            learning_rate: learning_rate as f32,
            inv_tokens: 1.0 / divisor as f32,
            loss_scale: self.scaler.scale,
            step: step as u32,
            ..StepValues::default()
        };
        self.parameters.iter().try_for_each(Parameter::reserve_grad)?;
        self.optimizer.begin(step, &mut values);
        self.state.set(&values)?;
        let mut measured = Vec::new();
        for (number, batch) in batches.iter().enumerate() {
            if number > 0 && stop() {
                self.parameters.iter().for_each(Parameter::clear_grad);
                return Ok(None);
            }
            measured.push(self.accumulate(batch, batches, values.loss_scale / divisor as f32)?);
        }
        // What a loss that is not finite does to the weights is never saved: the run ends with it. So
        // the update need not wait until the losses are read.
        let max_grad_norm = self.settings.max_grad_norm;
        optim::step(self.optimizer.as_ref(), &self.parameters, max_grad_norm, &self.state)?;
        let mut totals = Totals::default();
        measured.iter().try_for_each(|measures| totals.add(measures))?;
        let slots = self.state.tensor().read_f32()?;
        Ok(Some(StepOutcome {
            loss: totals.loss / divisor,
            means: totals.means,
            grad_norm: f64::from(slots[index::GRAD_NORM]),
            skipped: slots[index::SKIP] != 0.0,
        }))
    }

    /// Adds the gradients of one micro-batch of a step, whose terms are multiplied with `scale`.
    fn accumulate(&self, batch: &Batch, step: &[Batch], scale: f32) -> Result<Measures> {
        let noise = Noise {
            seed: self.seed,
            ordinals: Tensor::from_u32(&self.device, &[batch.num_tokens()], &batch.ordinals)?,
            step_state: self.state.clone(),
            neftune_alpha: self.neftune_alpha,
            dropout: self.objective.drops_out(),
        };
        let context = Context::of_batch(&self.device, batch, self.attention, Some(noise))?;
        self.objective.accumulate(&Pass {
            model: &self.model,
            batch,
            step,
            step_state: &self.state,
            context: Rc::new(context),
            frozen: &self.reference,
            tape: Tape::recording(),
            gradient: Some(Gradient { one: &self.one, scale }),
        })
    }
}
