//! Dropout (Srivastava et al., 2014) whose mask is a function of where an element is, not of when it
//! is computed: accumulation splits, packing, recomputation and resuming all see the same mask.

use super::grad_target::GradTarget;
use super::matmul::check_width;
use super::step_state::{StepState, index};
use crate::backend::KernelCall;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::random::threefry4x32;
use crate::tape::Tape;
use crate::tensor::Tensor;
use crate::{kernel_text, with_element};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// What decides the mask. The bits of element (t, column) are word `column % 4` of Threefry-4x32-20
/// with key (seed, site, step) and counter (`ordinals[t]`, `positions[t]`, column / 4, 0).
#[derive(Clone, Debug)]
pub struct Dropout {
    /// Share of elements that become 0, from 0 up to but not including 1.
    pub p: f32,
    /// The run's seed.
    pub seed: u64,
    /// The place in the model: [`crate::random::site`] of the module's path.
    pub site: u32,
    /// u32 `[T]`: the ordinal of each token's example within the optimizer step.
    pub ordinals: Tensor,
    /// u32 `[T]`: the position of each token in its example.
    pub positions: Tensor,
    /// Holds the number of the step.
    pub step_state: StepState,
}

/// y = x / (1 - p) where the mask keeps an element of `x` [T, C], else 0; the gradient likewise.
///
/// # Errors
/// `Error::Unsupported` for 16-bit rows of odd width.
pub fn dropout(tape: &Tape, x: &Tensor, dropout: &Dropout) -> Result<Tensor> {
    let y = Tensor::empty(x.device(), x.shape(), x.dtype())?;
    dropout_into(x, dropout, false, &y)?;
    let (x_grad, dropout) = (GradTarget::of(x), dropout.clone());
    Ok(tape.record("dropout", &[x], y, move |dy| match &x_grad {
        Some(target) => target.write(|adds, dx| dropout_into(dy, &dropout, adds, dx)),
        None => Ok(()),
    }))
}

/// Writes `x` with dropout to `y`, or adds it if `accumulate`; the dtypes may differ.
pub(crate) fn dropout_into(
    x: &Tensor,
    dropout: &Dropout,
    accumulate: bool,
    y: &Tensor,
) -> Result<()> {
    let rows = x.rows();
    let fits = x.len() == y.len()
        && y.columns() == x.columns()
        && [&dropout.ordinals, &dropout.positions].iter().all(|tensor| tensor.len() == rows);
    if !fits || !(0.0..1.0).contains(&dropout.p) {
        let what = format!("{x:?} into {y:?}, p {}, {:?}", dropout.p, dropout.ordinals);
        return Err(Error::internal("dropout", what));
    }
    check_width("dropout", y)?;
    let keep = 1.0 - f64::from(dropout.p);
    let params = Params {
        rows: rows as u32,
        columns: x.columns() as u32,
        seed_low: dropout.seed as u32,
        seed_high: (dropout.seed >> 32) as u32,
        site: dropout.site,
        threshold: (f64::from(dropout.p) * 2f64.powi(32)) as u32,
        scale: (1.0 / keep) as f32,
        accumulate: u32::from(accumulate),
    };
    let views = [
        x.view(),
        dropout.ordinals.view(),
        dropout.positions.view(),
        dropout.step_state.tensor().view(),
        y.view(),
    ];
    let quads = rows * x.columns().div_ceil(4);
    KernelCall::new(&DROPOUT, &views).params(params).launch(x.device(), grid_1d(quads, BLOCK))
}

pub(super) const BLOCK: usize = 256;

/// The scalars of both kernels of the file.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Params {
    pub rows: u32,
    pub columns: u32,
    pub seed_low: u32,
    pub seed_high: u32,
    pub site: u32,
    pub threshold: u32,
    pub scale: f32,
    pub accumulate: u32,
}

impl Params {
    /// The random words of four elements from `column` (a multiple of 4) on.
    pub fn draw(&self, step: f32, ordinal: u32, position: u32, column: usize) -> [u32; 4] {
        let key = [self.seed_low, self.seed_high, self.site, step as u32];
        threefry4x32(key, [ordinal, position, column as u32 / 4, 0])
    }

    /// Which of them are kept.
    fn keeps(&self, step: f32, ordinal: u32, position: u32, column: usize) -> [bool; 4] {
        self.draw(step, ordinal, position, column).map(|bits| bits >= self.threshold)
    }
}

pub(super) static TEXT: KernelText = kernel_text!("dropout");

pub(super) const KERNELS: &[&KernelSpec] = &[&DROPOUT];

static DROPOUT: KernelSpec = KernelSpec {
    name: "dropout",
    text: &TEXT,
    bindings: &[
        Binding::read("x", Kind::Float),
        Binding::read("ordinals", Kind::U32),
        Binding::read("positions", Kind::U32),
        Binding::read("step_state", Kind::F32),
        Binding::update("y", Kind::Float),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference,
    reference_f64: reference,
    cpu: |call| with_element!(call.dtype(0), X => with_element!(call.dtype(4), Y => cpu::<X, Y>(call))),
};

fn reference<F: Real>(call: &mut RefCall<F>) {
    let params: Params = call.params();
    let (x, ordinals, positions) = (call.input(0), call.input_u32(1), call.input_u32(2));
    let step = call.input(3)[index::STEP].to_f64() as f32;
    let y = call.output(4);
    let columns = params.columns as usize;
    for t in 0..params.rows as usize {
        for column in 0..columns {
            let keeps = params.keeps(step, ordinals[t], positions[t], column);
            let i = t * columns + column;
            let scale = F::from_f64(f64::from(params.scale));
            let value = if keeps[column % 4] { x[i] * scale } else { F::ZERO };
            y[i] = if params.accumulate == 1 { y[i] + value } else { value };
        }
    }
}

fn cpu<X: Element, Y: Element>(call: &mut HostCall) {
    let params: Params = call.params();
    let (x, ordinals, positions) = (call.input::<X>(0), call.input::<u32>(1), call.input::<u32>(2));
    let step = call.input::<f32>(3)[index::STEP];
    let y = call.output::<Y>(4);
    let columns = params.columns as usize;
    let rows = y.par_chunks_exact_mut(columns).zip(x.par_chunks_exact(columns)).enumerate();
    rows.for_each(|(t, (y, x))| {
        for (quad, (y, x)) in y.chunks_mut(4).zip(x.chunks(4)).enumerate() {
            let keeps = params.keeps(step, ordinals[t], positions[t], quad * 4);
            for ((y, x), keep) in y.iter_mut().zip(x).zip(keeps) {
                let value = if keep { x.to_f32() * params.scale } else { 0.0 };
                let earlier = if params.accumulate == 1 { y.to_f32() } else { 0.0 };
                *y = Y::from_f32(earlier + value);
            }
        }
    });
}
