//! NEFTune (Jain et al., 2023): uniform noise on the embeddings of the tokens, in training only. The
//! noise is drawn as dropout's mask is: a function of where an element is.

use super::dropout::{BLOCK, Params, TEXT};
use super::grad_target::GradTarget;
use super::matmul::check_width;
use super::step_state::{StepState, index};
use crate::backend::KernelCall;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::kernels::{Binding, HostCall, KernelSpec, Kind, Real, RefCall, Requires, grid_1d};
use crate::tape::Tape;
use crate::tensor::Tensor;
use crate::with_element;
use rayon::prelude::*;

/// What decides the noise.
#[derive(Clone, Debug)]
pub struct Neftune {
    /// The noise of an example of L tokens is uniform in +-alpha / sqrt(L C).
    pub alpha: f32,
    /// The run's seed.
    pub seed: u64,
    /// The place in the model: [`crate::random::site`] of the module's path.
    pub site: u32,
    /// u32 `[T]`: the ordinal of each token's example within the optimizer step.
    pub ordinals: Tensor,
    /// u32 `[T]`: the position of each token in its example.
    pub positions: Tensor,
    /// u32 [T, 2]: first and one-past-last token of each token's example.
    pub bounds: Tensor,
    /// Holds the number of the step.
    pub step_state: StepState,
}

/// y = x + noise, for embeddings x [T, C]; the gradient of x is that of y.
///
/// L is the length of the token's own example, as in the paper. (Transformers takes the length of the
/// padded batch, so that an example's noise there depends on what it happens to be batched with.)
///
/// # Errors
/// `Error::Unsupported` for 16-bit rows of odd width.
pub fn neftune(tape: &Tape, x: &Tensor, noise: &Neftune) -> Result<Tensor> {
    let (rows, columns) = (x.rows(), x.columns());
    let places = [&noise.ordinals, &noise.positions];
    if places.iter().any(|places| places.len() != rows) || noise.bounds.len() != 2 * rows {
        return Err(Error::internal("neftune", format!("{x:?}, {noise:?}")));
    }
    let y = Tensor::empty(x.device(), x.shape(), x.dtype())?;
    check_width("neftune", &y)?;
    let params = Params {
        rows: rows as u32,
        columns: columns as u32,
        seed_low: noise.seed as u32,
        seed_high: (noise.seed >> 32) as u32,
        site: noise.site,
        threshold: 0,
        scale: (f64::from(noise.alpha) / (columns as f64).sqrt()) as f32,
        accumulate: 0,
    };
    let views = [
        x.view(),
        noise.ordinals.view(),
        noise.positions.view(),
        noise.step_state.tensor().view(),
        y.view(),
        noise.bounds.view(),
    ];
    let quads = rows * columns.div_ceil(4);
    KernelCall::new(&NEFTUNE, &views).params(params).launch(x.device(), grid_1d(quads, BLOCK))?;
    let x_grad = GradTarget::of(x);
    Ok(tape.record("neftune", &[x], y, move |dy| match &x_grad {
        Some(target) => target.add(dy.clone()),
        None => Ok(()),
    }))
}

pub(super) const KERNELS: &[&KernelSpec] = &[&NEFTUNE];

static NEFTUNE: KernelSpec = KernelSpec {
    name: "neftune",
    text: &TEXT,
    bindings: &[
        Binding::read("x", Kind::Float),
        Binding::read("ordinals", Kind::U32),
        Binding::read("positions", Kind::U32),
        Binding::read("step_state", Kind::F32),
        Binding::write("y", Kind::Float),
        Binding::read("bounds", Kind::U32),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference,
    reference_f64: reference,
    cpu: |call| with_element!(call.dtype(0), T => cpu::<T>(call)),
};

/// A random word as a number in [-1, 1), a multiple of 2^-23: exact in f32.
fn signed_unit(bits: u32) -> f32 {
    (bits >> 8) as f32 * f32::EPSILON - 1.0
}

fn reference<F: Real>(call: &mut RefCall<F>) {
    let params: Params = call.params();
    let (x, ordinals, positions) = (call.input(0), call.input_u32(1), call.input_u32(2));
    let step = call.input(3)[index::STEP].to_f64() as f32;
    let bounds = call.input_u32(5);
    let y = call.output(4);
    let columns = params.columns as usize;
    for t in 0..params.rows as usize {
        let length = f64::from(bounds[2 * t + 1] - bounds[2 * t]);
        let magnitude = f64::from(params.scale) / length.sqrt();
        for column in 0..columns {
            let word = params.draw(step, ordinals[t], positions[t], column)[column % 4];
            let noise = f64::from(signed_unit(word)) * magnitude;
            y[t * columns + column] = x[t * columns + column] + F::from_f64(noise);
        }
    }
}

fn cpu<T: Element>(call: &mut HostCall) {
    let params: Params = call.params();
    let (x, ordinals, positions) = (call.input::<T>(0), call.input::<u32>(1), call.input::<u32>(2));
    let step = call.input::<f32>(3)[index::STEP];
    let bounds = call.input::<u32>(5);
    let y = call.output::<T>(4);
    let columns = params.columns as usize;
    let rows = y.par_chunks_exact_mut(columns).zip(x.par_chunks_exact(columns)).enumerate();
    rows.for_each(|(t, (y, x))| {
        let magnitude = params.scale / ((bounds[2 * t + 1] - bounds[2 * t]) as f32).sqrt();
        for (quad, (y, x)) in y.chunks_mut(4).zip(x.chunks(4)).enumerate() {
            let words = params.draw(step, ordinals[t], positions[t], quad * 4);
            for ((y, x), word) in y.iter_mut().zip(x).zip(words) {
                *y = T::from_f32(x.to_f32() + signed_unit(word) * magnitude);
            }
        }
    });
}
