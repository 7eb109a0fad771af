//! The output layer and the loss in one op, so that the logits [T, V] never exist at once.
//!
//! Rows go through in chunks: logits, statistics of the softmax, loss. When a gradient is wanted it is
//! taken while the logits of the chunk are there (as Liger Kernel does, arXiv:2410.10989), and kept until
//! backward hands it on. Where a binding cannot hold the whole weight, the vocabulary goes through in
//! slices as well, with an online softmax over them.

use super::grad_target::GradTarget;
use super::host::{rows_per_task, words};
use super::matmul::{Layout, matmul_into};
use super::simd::vectorized;
use super::step_state::{StepState, index};
use super::vector;
use crate::backend::{Device, KernelCall, View};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::tape::Tape;
use crate::tensor::Tensor;
use crate::{kernel_text, with_element};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// The target of a token that carries no loss: the -100 of label files.
pub const IGNORE: u32 = u32::MAX;

/// Labels as this op takes them: -100, which PyTorch ignores, becomes [`IGNORE`].
pub fn target_ids(labels: &[i32]) -> Vec<u32> {
    labels.iter().map(|&label| u32::try_from(label).unwrap_or(IGNORE)).collect()
}

/// What [`linear_cross_entropy`] computes.
pub struct CrossEntropy {
    /// f32 [1]: LOSS_SCALE * INV_TOKENS * sum of `losses`, both factors from the step state. Backward
    /// starts here, with a gradient of 1.
    pub scaled_loss: Tensor,
    /// f32 [T]: each token's cross-entropy in nats, 0 where there is no loss. For reports: it wants no
    /// gradient.
    pub losses: Tensor,
}

/// Cross-entropy of softmax(x weightᵀ) with `targets`.
///
/// `x` [T, C] and `weight` [V, C] in any float dtypes, `targets` u32 [T]: below V, or [`IGNORE`]. A target
/// that is neither gives a loss above 1e29. Logits have `x`'s dtype. The gradient of `weight` is f32.
///
/// # Errors
/// [`Error::Unsupported`] for an odd V when `x` is 16 bits wide.
pub fn linear_cross_entropy(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    step_state: &StepState,
) -> Result<CrossEntropy> {
    let columns = x.columns().max(1);
    let limit = x.device().capabilities().max_binding_bytes;
    // A slice is bound as weight and, in f32, as its gradient. Multiples of 128 keep offsets aligned.
    let slice = limit / (4 * columns) / 128 * 128;
    let chunk = CHUNK_BYTES / (weight.rows().max(1) * x.dtype().size()) / ROWS * ROWS;
    let pieces = Pieces { rows: chunk.max(ROWS), vocabulary: slice.max(128) };
    linear_cross_entropy_by(pieces, tape, x, weight, targets, step_state)
}

/// Logits held at a time: large enough for an efficient product, small beside a model.
const CHUNK_BYTES: usize = 64 << 20;
/// Chunks are multiples of so many rows: views of 4-byte elements then begin at multiples of 256 bytes.
const ROWS: usize = 64;

/// How much goes through at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    /// Rows of a chunk, a multiple of 64.
    pub rows: usize,
    /// Vocabulary entries of a slice, a multiple of 128.
    pub vocabulary: usize,
}

/// [`linear_cross_entropy`] in pieces of choice.
pub(super) fn linear_cross_entropy_by(
    pieces: Pieces,
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    step_state: &StepState,
) -> Result<CrossEntropy> {
    let (&[tokens, columns], &[vocabulary, weight_columns]) = (x.shape(), weight.shape()) else {
        return Err(Error::internal("linear_cross_entropy", format!("{x:?} and {weight:?}")));
    };
    if columns != weight_columns || targets.len() != tokens || tokens * vocabulary == 0 {
        let what = format!("{x:?}, {weight:?} and {targets:?}");
        return Err(Error::internal("linear_cross_entropy", what));
    }
    let device = x.device();
    let state = step_state.tensor();
    let losses = Tensor::empty(device, &[tokens], DType::F32)?;
    let wants = |input: &Tensor| tape.is_recording() && input.needs_grad();
    let gradient = |input: &Tensor, dtype| {
        wants(input).then(|| Tensor::empty(device, input.shape(), dtype)).transpose()
    };
    let (dx, dw) = (gradient(x, x.dtype())?, gradient(weight, DType::F32)?);

    let chunk = pieces.rows.min(tokens);
    let stats = Tensor::empty(device, &[chunk, 3], DType::F32)?;
    // One buffer per slice, used again for every chunk.
    let mut slices = Vec::new();
    for first in (0..vocabulary).step_by(pieces.vocabulary) {
        let width = pieces.vocabulary.min(vocabulary - first);
        slices.push((first, width, device.alloc(x.dtype(), chunk * width)?));
    }
    for start in (0..tokens).step_by(chunk) {
        let rows = chunk.min(tokens - start);
        let part = Chunk {
            device,
            targets: targets.reshape(&[tokens])?.narrow(start, rows)?,
            stats: stats.narrow(0, rows)?,
            state,
            rows,
        };
        let x = x.detach().narrow(start, rows)?;
        let logits = slices
            .iter()
            .map(|(first, width, buffer)| {
                let whole = Tensor::from_buffer(device, buffer.clone(), &[chunk, *width]);
                Ok((*first, whole.narrow(0, rows)?, weight.narrow(*first, *width)?))
            })
            .collect::<Result<Vec<_>>>()?;
        for (first, logits, weight) in &logits {
            matmul_into(Layout::NT, &x, weight, 1.0, false, logits)?;
            part.stats(*first, logits)?;
        }
        part.losses(&losses.narrow(start, rows)?)?;
        for (first, dlogits, weight) in &logits {
            if dx.is_some() || dw.is_some() {
                part.gradient(*first, dlogits)?;
            }
            if let Some(dx) = &dx {
                let dx = dx.narrow(start, rows)?;
                matmul_into(Layout::NN, dlogits, weight, 1.0, *first > 0, &dx)?;
            }
            if let Some(dw) = &dw {
                let dw = dw.narrow(*first, weight.dim(0))?;
                matmul_into(Layout::TN, dlogits, &x, 1.0, start > 0, &dw)?;
            }
        }
    }

    let scaled_loss = Tensor::empty(device, &[1], DType::F32)?;
    KernelCall::new(&TOTAL, &[losses.view(), state.view(), scaled_loss.view()])
        .params(Params { rows: tokens as u32, columns: 1, first_column: 0 })
        .launch(device, [1, 1, 1])?;
    let targets = [x, weight].map(GradTarget::of);
    let scaled_loss = tape.record("linear_cross_entropy", &[x, weight], scaled_loss, move |dout| {
        for (target, gradient) in targets.iter().zip([dx, dw]) {
            if let (Some(target), Some(gradient)) = (target, gradient) {
                scale(&gradient, dout, pieces.vocabulary)?;
                target.add(gradient)?;
            }
        }
        Ok(())
    });
    Ok(CrossEntropy { scaled_loss, losses })
}

/// y *= factor, `rows` of y at a time.
fn scale(y: &Tensor, factor: &Tensor, rows: usize) -> Result<()> {
    for first in (0..y.dim(0)).step_by(rows) {
        let part = y.narrow(first, rows.min(y.dim(0) - first))?;
        KernelCall::new(&SCALE, &[factor.view(), part.view()])
            .params(Params { rows: 1, columns: part.len() as u32, first_column: 0 })
            .launch(y.device(), grid_1d(words(&part), BLOCK as usize))?;
    }
    Ok(())
}

/// The rows at work.
struct Chunk<'a> {
    device: &'a Device,
    targets: Tensor,
    stats: Tensor,
    state: &'a Tensor,
    rows: usize,
}

impl Chunk<'_> {
    /// Brings the statistics up to date with a slice of logits.
    fn stats(&self, first_column: usize, logits: &Tensor) -> Result<()> {
        let views = [logits.view(), self.targets.view(), self.stats.view()];
        self.launch(&STATS, &views, first_column, logits.columns(), grid_1d(self.rows, 1))
    }

    /// Losses from the finished statistics.
    fn losses(&self, losses: &Tensor) -> Result<()> {
        let views = [self.stats.view(), self.targets.view(), losses.view()];
        self.launch(&LOSSES, &views, 0, 1, grid_1d(self.rows, BLOCK as usize))
    }

    /// Turns a slice of logits into its gradient.
    fn gradient(&self, first_column: usize, logits: &Tensor) -> Result<()> {
        let views = [self.stats.view(), self.targets.view(), self.state.view(), logits.view()];
        self.launch(&BWD, &views, first_column, logits.columns(), grid_1d(self.rows, 1))
    }

    fn launch(
        &self,
        spec: &'static KernelSpec,
        views: &[&View],
        first_column: usize,
        columns: usize,
        grid: [u32; 3],
    ) -> Result<()> {
        let (rows, columns) = (self.rows as u32, columns as u32);
        KernelCall::new(spec, views)
            .params(Params { rows, columns, first_column: first_column as u32 })
            .launch(self.device, grid)
    }
}

const BLOCK: u32 = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    rows: u32,
    columns: u32,
    /// The vocabulary entry of column 0: 0 in the first slice.
    first_column: u32,
}

static TEXT: KernelText = kernel_text!("cross_entropy");

pub(super) const KERNELS: &[&KernelSpec] = &[&STATS, &LOSSES, &BWD, &TOTAL, &SCALE];

static STATS: KernelSpec = KernelSpec {
    name: "cross_entropy_stats",
    text: &TEXT,
    bindings: &[
        Binding::read("logits", Kind::Float),
        Binding::read("targets", Kind::U32),
        Binding::update("stats", Kind::F32),
    ],
    constants: &[],
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: stats_reference,
    reference_f64: stats_reference,
    cpu: |call| with_element!(call.dtype(0), T => stats_cpu::<T>(call)),
};

static LOSSES: KernelSpec = KernelSpec {
    name: "cross_entropy_losses",
    text: &TEXT,
    bindings: &[
        Binding::read("stats", Kind::F32),
        Binding::read("targets", Kind::U32),
        Binding::write("losses", Kind::F32),
    ],
    constants: &[],
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: losses_reference,
    reference_f64: losses_reference,
    cpu: losses_cpu,
};

static BWD: KernelSpec = KernelSpec {
    name: "cross_entropy_bwd",
    text: &TEXT,
    bindings: &[
        Binding::read("stats", Kind::F32),
        Binding::read("targets", Kind::U32),
        Binding::read("step_state", Kind::F32),
        Binding::update("logits", Kind::Float),
    ],
    constants: &[],
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: bwd_reference,
    reference_f64: bwd_reference,
    cpu: |call| with_element!(call.dtype(3), T => bwd_cpu::<T>(call)),
};

static TOTAL: KernelSpec = KernelSpec {
    name: "cross_entropy_total",
    text: &TEXT,
    bindings: &[
        Binding::read("losses", Kind::F32),
        Binding::read("step_state", Kind::F32),
        Binding::write("scaled_loss", Kind::F32),
    ],
    constants: &[],
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: total_reference,
    reference_f64: total_reference,
    cpu: total_cpu,
};

static SCALE: KernelSpec = KernelSpec {
    name: "cross_entropy_scale",
    text: &TEXT,
    bindings: &[Binding::read("factor", Kind::F32), Binding::update("y", Kind::Float)],
    constants: &[],
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: scale_reference,
    reference_f64: scale_reference,
    cpu: |call| with_element!(call.dtype(1), T => scale_cpu::<T>(call)),
};

/// Where a maximum starts, and the logit of a target that is in no slice.
const MASK: f32 = -1e30;

/// stats[r] = (m, l, z): largest logit so far, sum of e^(logit - m) so far, the target's logit.
fn stats_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { rows, columns, first_column } = call.params();
    let columns = columns as usize;
    let (logits, targets, stats) = (call.input(0), call.input_u32(1), call.output(2));
    for row in 0..rows as usize {
        if targets[row] == IGNORE {
            continue;
        }
        let logits = &logits[row * columns..][..columns];
        let mask = F::from_f64(f64::from(MASK));
        let stats = &mut stats[3 * row..][..3];
        if first_column == 0 {
            stats.copy_from_slice(&[mask, F::ZERO, mask]);
        }
        let largest = logits.iter().fold(stats[0], |a, &b| a.max(b));
        let sum: F = logits.iter().map(|&z| (z - largest).exp()).sum();
        stats[1] = stats[1] * (stats[0] - largest).exp() + sum;
        stats[0] = largest;
        let column = targets[row].wrapping_sub(first_column) as usize;
        if column < columns {
            stats[2] = logits[column];
        }
    }
}

/// loss = m + ln l - z.
fn losses_reference<F: Real>(call: &mut RefCall<F>) {
    let (stats, targets, losses) = (call.input(0), call.input_u32(1), call.output(2));
    for (row, loss) in losses.iter_mut().enumerate() {
        let stats = &stats[3 * row..][..3];
        *loss = match targets[row] {
            IGNORE => F::ZERO,
            _ => stats[0] + stats[1].ln() - stats[2],
        };
    }
}

/// dlogits = INV_TOKENS * LOSS_SCALE * (e^(logit - m) / l - [column is the target]).
fn bwd_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { rows, columns, first_column } = call.params();
    let columns = columns as usize;
    let (stats, targets, state) = (call.input(0), call.input_u32(1), call.input(2));
    let logits = call.output(3);
    let scale = state[index::INV_TOKENS] * state[index::LOSS_SCALE];
    for row in 0..rows as usize {
        let target = targets[row].wrapping_sub(first_column) as usize;
        for (column, z) in logits[row * columns..][..columns].iter_mut().enumerate() {
            let p = (*z - stats[3 * row]).exp() / stats[3 * row + 1];
            *z = match targets[row] {
                IGNORE => F::ZERO,
                _ if column == target => scale * (p - F::ONE),
                _ => scale * p,
            };
        }
    }
}

fn total_reference<F: Real>(call: &mut RefCall<F>) {
    let (losses, state, total) = (call.input(0), call.input(1), call.output(2));
    let sum: F = losses.iter().copied().sum();
    total[0] = sum * state[index::INV_TOKENS] * state[index::LOSS_SCALE];
}

fn scale_reference<F: Real>(call: &mut RefCall<F>) {
    let factor = call.input(0)[0];
    call.output(1).iter_mut().for_each(|y| *y = *y * factor);
}

fn stats_cpu<T: Element>(call: &mut HostCall) {
    let Params { columns, first_column, .. } = call.params();
    let columns = columns as usize;
    let (logits, targets) = (call.input::<T>(0), call.input::<u32>(1));
    let stats = call.output::<f32>(2);
    let rows = stats.par_chunks_mut(3).zip(logits.par_chunks(columns)).zip(targets);
    rows.for_each(|((stats, logits), &target)| {
        vectorized(
            #[inline(always)]
            || {
                if target == IGNORE {
                    return;
                }
                if first_column == 0 {
                    stats.copy_from_slice(&[MASK, 0.0, MASK]);
                }
                let largest = vector::max(logits, stats[0]);
                stats[1] *= vector::exp(stats[0] - largest);
                stats[1] += vector::sum_exp(logits, largest);
                stats[0] = largest;
                if let Some(logit) = logits.get(target.wrapping_sub(first_column) as usize) {
                    stats[2] = logit.to_f32();
                }
            },
        )
    });
}

fn losses_cpu(call: &mut HostCall) {
    let (stats, targets) = (call.input::<f32>(0), call.input::<u32>(1));
    let losses = call.output::<f32>(2);
    for ((loss, stats), &target) in losses.iter_mut().zip(stats.chunks_exact(3)).zip(targets) {
        *loss = if target == IGNORE { 0.0 } else { stats[0] + stats[1].ln() - stats[2] };
    }
}

fn bwd_cpu<T: Element>(call: &mut HostCall) {
    let Params { columns, first_column, .. } = call.params();
    let (stats, targets) = (call.input::<f32>(0), call.input::<u32>(1));
    let (state, logits) = (call.input::<f32>(2), call.output::<T>(3));
    let scale = state[index::INV_TOKENS] * state[index::LOSS_SCALE];
    let rows = logits.par_chunks_mut(columns as usize).zip(stats.par_chunks(3)).zip(targets);
    rows.for_each(|((logits, stats), &target)| {
        vectorized(
            #[inline(always)]
            || {
                if target == IGNORE {
                    return logits.fill(T::from_f32(0.0));
                }
                let factor = scale / stats[1];
                let column = target.wrapping_sub(first_column) as usize;
                let at_target = logits.get(column).map(|z| {
                    let p = vector::exp(z.to_f32() - stats[0]) / stats[1];
                    T::from_f32(scale * (p - 1.0))
                });
                for z in logits.iter_mut() {
                    *z = T::from_f32(factor * vector::exp(z.to_f32() - stats[0]));
                }
                if let Some(value) = at_target {
                    logits[column] = value;
                }
            },
        )
    });
}

fn total_cpu(call: &mut HostCall) {
    let (losses, state) = (call.input::<f32>(0), call.input::<f32>(1));
    let sum: f64 = losses.iter().copied().map(f64::from).sum();
    call.output::<f32>(2)[0] = sum as f32 * state[index::INV_TOKENS] * state[index::LOSS_SCALE];
}

fn scale_cpu<T: Element>(call: &mut HostCall) {
    let (factor, y) = (call.input::<f32>(0)[0], call.output::<T>(1));
    // Training passes 1, and then there is nothing to do.
    if factor != 1.0 {
        y.par_chunks_mut(rows_per_task(1)).for_each(|y| {
            vectorized(
                #[inline(always)]
                || {
                    y.iter_mut().for_each(|y| *y = T::from_f32(y.to_f32() * factor));
                },
            )
        });
    }
}
