//! Softmax over rows of logits that may come in slices of the vocabulary: its statistics, and its gradient
//! in the logits' place. The probabilities themselves are never written.

use super::simd::vectorized;
use super::step_state::{StepState, index};
use super::vector;
use crate::backend::KernelCall;
use crate::dtype::Element;
use crate::error::Result;
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::tensor::Tensor;
use crate::{kernel_text, with_element};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// The target of a token that has none: the -100 of label files.
pub const IGNORE: u32 = u32::MAX;

/// Numbers that are kept of a row: m, l, z, and with details s, a, q and t.
pub(super) fn width(details: bool) -> usize {
    if details { 7 } else { 3 }
}

/// Takes a slice of `logits` [rows, columns], which begins at vocabulary entry `first_column`, into the
/// statistics of its rows, f32 [rows, 3 or 7]; the slice that begins at 0 comes first. Rows whose target is
/// [`IGNORE`] are left alone.
///
/// Of a row: m, the largest logit; l, the sum of e^(logit - m); z, the target's logit, or [`MASK`]; and
/// where there is room for details: s, the sum of (logit - m) e^(logit - m); a, the first vocabulary entry
/// with the largest logit, exact below 2^24; q, the sum of e^(2 (logit - m)); and t, the sum of the logits.
pub(super) fn stats(
    logits: &Tensor,
    targets: &Tensor,
    stats: &Tensor,
    first_column: usize,
) -> Result<()> {
    KernelCall::new(&STATS, &[logits.view(), targets.view(), stats.view()])
        .constant("WIDTH", stats.columns() as u32)
        .params(Params::of(logits, first_column, false))
        .launch(logits.device(), grid_1d(logits.rows(), 1))
}

/// What each row's p - onehot is multiplied with.
#[derive(Clone)]
pub(super) enum Scales {
    /// INV_TOKENS * LOSS_SCALE of the step state: the gradient of the mean cross-entropy.
    Mean(StepState),
    /// -dout, f32 [rows]: the gradient of the targets' log-probabilities.
    PerToken(Tensor),
}

impl Scales {
    /// Those of `rows` rows from `first` on.
    pub fn narrow(&self, first: usize, rows: usize) -> Result<Self> {
        Ok(match self {
            Self::Mean(state) => Self::Mean(state.clone()),
            Self::PerToken(dout) => Self::PerToken(dout.narrow(first, rows)?),
        })
    }
}

/// Turns a slice of `logits` into its gradient: scale * (p - [column is the target]), exact zeros in rows
/// whose target is [`IGNORE`].
pub(super) fn bwd(
    stats: &Tensor,
    targets: &Tensor,
    scales: &Scales,
    logits: &Tensor,
    first_column: usize,
) -> Result<()> {
    let (scales, per_token) = match scales {
        Scales::Mean(state) => (state.tensor(), false),
        Scales::PerToken(dout) => (dout, true),
    };
    KernelCall::new(&BWD, &[stats.view(), targets.view(), scales.view(), logits.view()])
        .constant("WIDTH", stats.columns() as u32)
        .params(Params::of(logits, first_column, per_token))
        .launch(logits.device(), grid_1d(logits.rows(), 1))
}

const BLOCK: u32 = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    rows: u32,
    columns: u32,
    /// The vocabulary entry of column 0: 0 in the first slice.
    first_column: u32,
    /// Whether `scales` is a dout and not a step state.
    per_token: u32,
}

impl Params {
    fn of(logits: &Tensor, first_column: usize, per_token: bool) -> Self {
        Self {
            rows: logits.rows() as u32,
            columns: logits.columns() as u32,
            first_column: first_column as u32,
            per_token: u32::from(per_token),
        }
    }
}

static TEXT: KernelText = kernel_text!("softmax");

pub(super) const KERNELS: &[&KernelSpec] = &[&STATS, &BWD];

static STATS: KernelSpec = KernelSpec {
    name: "softmax_stats",
    text: &TEXT,
    bindings: &[
        Binding::read("logits", Kind::Float),
        Binding::read("targets", Kind::U32),
        Binding::update("stats", Kind::F32),
    ],
    constants: &["WIDTH"],
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: stats_reference,
    reference_f64: stats_reference,
    cpu: |call| with_element!(call.dtype(0), T => stats_cpu::<T>(call)),
};

static BWD: KernelSpec = KernelSpec {
    name: "softmax_bwd",
    text: &TEXT,
    bindings: &[
        Binding::read("stats", Kind::F32),
        Binding::read("targets", Kind::U32),
        Binding::read("scales", Kind::F32),
        Binding::update("logits", Kind::Float),
    ],
    constants: &["WIDTH"],
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: bwd_reference,
    reference_f64: bwd_reference,
    cpu: |call| with_element!(call.dtype(3), T => bwd_cpu::<T>(call)),
};

/// Where a maximum starts, and the logit of a target that is in no slice.
const MASK: f32 = -1e30;

fn stats_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { rows, columns, first_column, .. } = call.params();
    let (columns, width) = (columns as usize, call.constant("WIDTH") as usize);
    let (logits, targets, stats) = (call.input(0), call.input_u32(1), call.output(2));
    for row in 0..rows as usize {
        if targets[row] == IGNORE {
            continue;
        }
        let logits = &logits[row * columns..][..columns];
        let mask = F::from_f64(f64::from(MASK));
        let stats = &mut stats[width * row..][..width];
        if first_column == 0 {
            stats.fill(F::ZERO);
            (stats[0], stats[2]) = (mask, mask);
        }
        let (before, sum_before) = (stats[0], stats[1]);
        let largest = logits.iter().fold(before, |a, &b| a.max(b));
        let sum: F = logits.iter().map(|&z| (z - largest).exp()).sum();
        stats[1] = sum_before * (before - largest).exp() + sum;
        stats[0] = largest;
        let column = targets[row].wrapping_sub(first_column) as usize;
        if column < columns {
            stats[2] = logits[column];
        }
        if let [weighted, first, squares, total] = &mut stats[3..] {
            // The same sum about the new maximum: each logit - m grows by `moved`.
            let moved = before - largest;
            let sum: F = logits.iter().map(|&z| (z - largest) * (z - largest).exp()).sum();
            *weighted = (*weighted + moved * sum_before) * moved.exp() + sum;
            if largest > before {
                let place = logits.iter().position(|&z| z == largest).unwrap_or(0);
                *first = F::from_f64(f64::from(first_column) + place as f64);
            }
            let square = |z: &F| (*z - largest).exp() * (*z - largest).exp();
            let sum: F = logits.iter().map(square).sum();
            *squares = *squares * moved.exp() * moved.exp() + sum;
            *total += logits.iter().copied().sum();
        }
    }
}

fn bwd_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { rows, columns, first_column, per_token } = call.params();
    let (columns, width) = (columns as usize, call.constant("WIDTH") as usize);
    let (stats, targets, scales) = (call.input(0), call.input_u32(1), call.input(2));
    let logits = call.output(3);
    for row in 0..rows as usize {
        let scale = match per_token {
            0 => scales[index::INV_TOKENS] * scales[index::LOSS_SCALE],
            _ => -scales[row],
        };
        let target = targets[row].wrapping_sub(first_column) as usize;
        let stats = &stats[width * row..][..width];
        for (column, z) in logits[row * columns..][..columns].iter_mut().enumerate() {
            let p = (*z - stats[0]).exp() / stats[1];
            *z = match targets[row] {
                IGNORE => F::ZERO,
                _ if column == target => scale * (p - F::ONE),
                _ => scale * p,
            };
        }
    }
}

fn stats_cpu<T: Element>(call: &mut HostCall) {
    let Params { columns, first_column, .. } = call.params();
    let (columns, width) = (columns as usize, call.constant("WIDTH") as usize);
    let (logits, targets) = (call.input::<T>(0), call.input::<u32>(1));
    let stats = call.output::<f32>(2);
    let rows = stats.par_chunks_mut(width).zip(logits.par_chunks(columns)).zip(targets);
    rows.for_each(|((stats, logits), &target)| {
        vectorized(
            #[inline(always)]
            || {
                if target == IGNORE {
                    return;
                }
                if first_column == 0 {
                    stats.fill(0.0);
                    (stats[0], stats[2]) = (MASK, MASK);
                }
                let largest = vector::max(logits, stats[0]);
                if let [before, sum, _, weighted, first, squares, total] = stats {
                    let moved = *before - largest;
                    *weighted = (*weighted + moved * *sum) * vector::exp(moved)
                        + vector::sum_weighted_exp(logits, largest);
                    if largest > *before {
                        let place = logits.iter().position(|z| z.to_f32() == largest);
                        *first = (first_column as usize + place.unwrap_or(0)) as f32;
                    }
                    let factor = vector::exp(moved);
                    *squares =
                        *squares * factor * factor + vector::sum_squared_exp(logits, largest);
                    *total = (f64::from(*total) + vector::sum(logits)) as f32;
                }
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

fn bwd_cpu<T: Element>(call: &mut HostCall) {
    let Params { columns, first_column, per_token, .. } = call.params();
    let width = call.constant("WIDTH") as usize;
    let (stats, targets) = (call.input::<f32>(0), call.input::<u32>(1));
    let (scales, logits) = (call.input::<f32>(2), call.output::<T>(3));
    let scale_of = |row: usize| match per_token {
        0 => scales[index::INV_TOKENS] * scales[index::LOSS_SCALE],
        _ => -scales[row],
    };
    let rows = logits.par_chunks_mut(columns as usize).zip(stats.par_chunks(width)).zip(targets);
    rows.enumerate().for_each(|(row, ((logits, stats), &target))| {
        vectorized(
            #[inline(always)]
            || {
                if target == IGNORE {
                    return logits.fill(T::from_f32(0.0));
                }
                let scale = scale_of(row);
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
