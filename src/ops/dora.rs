//! DoRA (Liu et al., 2024, arXiv:2402.09353): a magnitude for each row of a weight, in the place of the
//! norm that the row has with its low-rank update. The norm counts as a constant, as in PEFT.

use super::grad_target::GradTarget;
use super::host::{rows_per_task, words};
use super::matmul::{Layout, check_width, matmul_into};
use super::simd::vectorized;
use crate::backend::KernelCall;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::tape::Tape;
use crate::tensor::{Saved, Tensor};
use crate::{kernel_text, with_element};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// f32 `[N]`: the sum of the squares of each row of `w` [N, K].
pub fn row_squares(w: &Tensor) -> Result<Tensor> {
    let squares = Tensor::empty(w.device(), &[w.dim(0)], DType::F32)?;
    KernelCall::new(&ROW_SQUARES, &[w.view(), squares.view()])
        .params(Params::of(w.dim(0), w.columns()))
        .launch(w.device(), grid_1d(w.dim(0), 1))?;
    Ok(squares)
}

/// f32 `[N]`: `1 / |w[n] + scale · b[n] a|` for each row n of a weight w [N, K] with its update, from what
/// is known of it without making the sum: |w|² + 2 scale b·(w aᵀ) + scale² b·(a aᵀ) b.
///
/// `squares` `[N]` are those of [`row_squares`], `lora_a` [r, K], `lora_b` [N, r], and `aw` [r, N] is
/// a wᵀ, the layer's own product with `lora_a` for x; all f32. No gradient goes through it.
pub fn dora_norm(
    squares: &Tensor,
    lora_a: &Tensor,
    lora_b: &Tensor,
    aw: &Tensor,
    scale: f32,
) -> Result<Tensor> {
    let rank = lora_a.dim(0);
    let aa = Tensor::empty(squares.device(), &[rank, rank], DType::F32)?;
    matmul_into(Layout::NT, lora_a, lora_a, 1.0, false, &aa)?;
    norm(squares, &aa, lora_b, aw, scale)
}

/// [`dora_norm`] of an embedding `table` [V, C], whose transpose is the weight: f32 `[C]`. `squares` `[C]`
/// are those of its columns, `lora_a` [V, r] the transpose of A, `lora_b` [C, r].
pub fn dora_norm_of_embedding(
    squares: &Tensor,
    lora_a: &Tensor,
    lora_b: &Tensor,
    table: &Tensor,
    scale: f32,
) -> Result<Tensor> {
    let (device, rank) = (squares.device(), lora_a.columns());
    let aa = Tensor::empty(device, &[rank, rank], DType::F32)?;
    matmul_into(Layout::TN, lora_a, lora_a, 1.0, false, &aa)?;
    let aw = Tensor::empty(device, &[rank, table.columns()], DType::F32)?;
    matmul_into(Layout::TN, lora_a, table, 1.0, false, &aw)?;
    norm(squares, &aa, lora_b, &aw, scale)
}

/// `aa` [r, r] is a aᵀ.
fn norm(squares: &Tensor, aa: &Tensor, lora_b: &Tensor, aw: &Tensor, scale: f32) -> Result<Tensor> {
    let (device, rank, rows) = (squares.device(), aa.dim(0), squares.len());
    if lora_b.shape() != [rows, rank] || aw.shape() != [rank, rows] {
        let what = format!("{squares:?}, {lora_b:?} and {aw:?}");
        return Err(Error::internal("dora_norm", what));
    }
    let aab = Tensor::empty(device, &[rank, rows], DType::F32)?;
    matmul_into(Layout::NT, aa, lora_b, 1.0, false, &aab)?;
    let inverse = Tensor::empty(device, &[rows], DType::F32)?;
    let views = [squares.view(), lora_b.view(), aw.view(), aab.view(), inverse.view()];
    KernelCall::new(&DORA_NORM, &views)
        .params(Params { scale, ..Params::of(rank, rows) })
        .launch(device, grid_1d(rows, BLOCK))?;
    Ok(inverse)
}

/// `y[t,n] = x[t,n] · magnitude[n] · inverse[n]`: `x` [.., N] in any float dtype, the others f32 `[N]`; the
/// result has `x`'s dtype. `magnitude` may want a gradient, `inverse` may not.
///
/// # Errors
/// `Error::Unsupported` for 16-bit rows of odd width.
pub fn scale_columns(
    tape: &Tape,
    x: &Tensor,
    magnitude: &Tensor,
    inverse: &Tensor,
) -> Result<Tensor> {
    if [magnitude, inverse].iter().any(|vector| vector.len() != x.columns()) {
        let what = format!("{x:?} by {magnitude:?} and {inverse:?}");
        return Err(Error::internal("scale_columns", what));
    }
    check_width("scale_columns", x)?;
    let y = scaled(x, magnitude, inverse)?;
    let (x_grad, grad) = (GradTarget::of(x), GradTarget::of(magnitude));
    let kept = grad.is_some().then(|| Saved::of(x));
    let factors = x_grad.is_some().then(|| magnitude.detach());
    let inverse = inverse.detach();
    Ok(tape.record("scale_columns", &[x, magnitude], y, move |dy| {
        if let (Some(target), Some(magnitude)) = (&x_grad, &factors) {
            target.add(scaled(dy, magnitude, &inverse)?)?;
        }
        if let (Some(target), Some(x)) = (&grad, &kept) {
            let x = x.get()?;
            target.write(|adds, dm| {
                KernelCall::new(&MAGNITUDE_BWD, &[dy.view(), x.view(), inverse.view(), dm.view()])
                    .params(Params {
                        accumulate: adds.into(),
                        ..Params::of(dy.rows(), dy.columns())
                    })
                    .launch(dy.device(), grid_1d(dm.len(), COLUMNS))
            })?;
        }
        Ok(())
    }))
}

fn scaled(x: &Tensor, magnitude: &Tensor, inverse: &Tensor) -> Result<Tensor> {
    let y = Tensor::empty(x.device(), x.shape(), x.dtype())?;
    KernelCall::new(&SCALE_COLUMNS, &[x.view(), magnitude.view(), inverse.view(), y.view()])
        .params(Params::of(x.rows(), x.columns()))
        .launch(x.device(), grid_1d(words(&y), BLOCK))?;
    Ok(y)
}

const BLOCK: usize = 256;
/// Columns of one block of `magnitude_bwd`.
const COLUMNS: usize = 16;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    /// Of a matrix; of `dora_norm` the rank.
    rows: u32,
    columns: u32,
    accumulate: u32,
    scale: f32,
}

impl Params {
    fn of(rows: usize, columns: usize) -> Self {
        Self { rows: rows as u32, columns: columns as u32, accumulate: 0, scale: 1.0 }
    }
}

static TEXT: KernelText = kernel_text!("dora");

pub(super) const KERNELS: &[&KernelSpec] =
    &[&ROW_SQUARES, &DORA_NORM, &SCALE_COLUMNS, &MAGNITUDE_BWD];

static ROW_SQUARES: KernelSpec = KernelSpec {
    name: "row_squares",
    text: &TEXT,
    bindings: &[Binding::read("w", Kind::Float), Binding::write("squares", Kind::F32)],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: row_squares_reference,
    reference_f64: row_squares_reference,
    cpu: |call| with_element!(call.dtype(0), T => row_squares_cpu::<T>(call)),
};

static DORA_NORM: KernelSpec = KernelSpec {
    name: "dora_norm",
    text: &TEXT,
    bindings: &[
        Binding::read("norm_squares", Kind::F32),
        Binding::read("lora_b", Kind::F32),
        Binding::read("aw", Kind::F32),
        Binding::read("aab", Kind::F32),
        Binding::write("inverse", Kind::F32),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: dora_norm_reference,
    reference_f64: dora_norm_reference,
    cpu: dora_norm_cpu,
};

static SCALE_COLUMNS: KernelSpec = KernelSpec {
    name: "scale_columns",
    text: &TEXT,
    bindings: &[
        Binding::read("x", Kind::Float),
        Binding::read("magnitude", Kind::F32),
        Binding::read("column_inverse", Kind::F32),
        Binding::write("y", Kind::Float),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: scale_columns_reference,
    reference_f64: scale_columns_reference,
    cpu: |call| with_element!(call.dtype(0), T => scale_columns_cpu::<T>(call)),
};

static MAGNITUDE_BWD: KernelSpec = KernelSpec {
    name: "magnitude_bwd",
    text: &TEXT,
    bindings: &[
        Binding::read("dy", Kind::Float),
        Binding::read("bwd_x", Kind::Float),
        Binding::read("bwd_inverse", Kind::F32),
        Binding::update("dmagnitude", Kind::F32),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: magnitude_bwd_reference,
    reference_f64: magnitude_bwd_reference,
    cpu: |call| with_element!(call.dtype(0), D => with_element!(call.dtype(1), X => magnitude_bwd_cpu::<D, X>(call))),
};

fn row_squares_reference<F: Real>(call: &mut RefCall<F>) {
    let columns = call.params::<Params>().columns as usize;
    let (w, squares) = (call.input(0), call.output(1));
    for (n, sum) in squares.iter_mut().enumerate() {
        *sum = w[n * columns..][..columns].iter().map(|&w| w * w).sum();
    }
}

fn dora_norm_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { rows: rank, columns: rows, scale, .. } = call.params();
    let (rank, rows, scale) = (rank as usize, rows as usize, F::from_f64(f64::from(scale)));
    let (squares, lora_b) = (call.input(0), call.input(1));
    let (aw, aab, inverse) = (call.input(2), call.input(3), call.output(4));
    for n in 0..rows {
        let mut square = squares[n];
        for j in 0..rank {
            let twice = (scale + scale) * aw[j * rows + n];
            square += lora_b[n * rank + j] * (twice + scale * scale * aab[j * rows + n]);
        }
        inverse[n] = F::ONE / square.sqrt();
    }
}

fn scale_columns_reference<F: Real>(call: &mut RefCall<F>) {
    let columns = call.params::<Params>().columns as usize;
    let (x, magnitude) = (call.input(0), call.input(1));
    let (inverse, y) = (call.input(2), call.output(3));
    for i in 0..y.len() {
        y[i] = x[i] * (magnitude[i % columns] * inverse[i % columns]);
    }
}

fn magnitude_bwd_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { rows, columns, accumulate, .. } = call.params();
    let (rows, columns) = (rows as usize, columns as usize);
    let (dy, x, inverse) = (call.input(0), call.input(1), call.input(2));
    let dmagnitude = call.output(3);
    for n in 0..columns {
        let mut sum = F::ZERO;
        for t in 0..rows {
            sum += dy[t * columns + n] * x[t * columns + n];
        }
        let sum = sum * inverse[n];
        dmagnitude[n] = if accumulate == 1 { dmagnitude[n] + sum } else { sum };
    }
}

fn row_squares_cpu<T: Element>(call: &mut HostCall) {
    let columns = call.params::<Params>().columns as usize;
    let (w, squares) = (call.input::<T>(0), call.output::<f32>(1));
    squares.par_iter_mut().enumerate().for_each(|(n, sum)| {
        let row = &w[n * columns..][..columns];
        *sum = row.iter().map(|w| f64::from(w.to_f32()).powi(2)).sum::<f64>() as f32;
    });
}

fn dora_norm_cpu(call: &mut HostCall) {
    let Params { rows: rank, columns: rows, scale, .. } = call.params();
    let (rank, rows) = (rank as usize, rows as usize);
    let (squares, lora_b) = (call.input::<f32>(0), call.input::<f32>(1));
    let (aw, aab) = (call.input::<f32>(2), call.input::<f32>(3));
    call.output::<f32>(4).par_iter_mut().enumerate().for_each(|(n, inverse)| {
        let mut square = squares[n];
        for j in 0..rank {
            let update = 2.0 * scale * aw[j * rows + n] + scale * scale * aab[j * rows + n];
            square += lora_b[n * rank + j] * update;
        }
        *inverse = 1.0 / square.sqrt();
    });
}

fn scale_columns_cpu<T: Element>(call: &mut HostCall) {
    let columns = call.params::<Params>().columns as usize;
    let (x, magnitude) = (call.input::<T>(0), call.input::<f32>(1));
    let (inverse, y) = (call.input::<f32>(2), call.output::<T>(3));
    let task = rows_per_task(columns) * columns;
    y.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(y, x)| {
        vectorized(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(columns).zip(x.chunks_exact(columns)) {
                    let factors = magnitude.iter().zip(inverse);
                    for ((y, &x), (magnitude, inverse)) in y.iter_mut().zip(x).zip(factors) {
                        *y = T::from_f32(x.to_f32() * (magnitude * inverse));
                    }
                }
            },
        )
    });
}

fn magnitude_bwd_cpu<D: Element, X: Element>(call: &mut HostCall) {
    let Params { columns, accumulate, .. } = call.params();
    let columns = columns as usize;
    let (dy, x) = (call.input::<D>(0), call.input::<X>(1));
    let (inverse, dmagnitude) = (call.input::<f32>(2), call.output::<f32>(3));
    // Each task owns a stripe of columns and walks down all rows: sums stay in row order.
    const STRIPE: usize = 64;
    dmagnitude.par_chunks_mut(STRIPE).enumerate().for_each(|(stripe, out)| {
        let first = stripe * STRIPE;
        let mut down = [0.0f32; STRIPE];
        for (dy, x) in dy.chunks_exact(columns).zip(x.chunks_exact(columns)) {
            let products = dy[first..].iter().zip(&x[first..]).take(out.len());
            for (sum, (dy, x)) in down.iter_mut().zip(products) {
                *sum += dy.to_f32() * x.to_f32();
            }
        }
        for ((out, down), inverse) in out.iter_mut().zip(down).zip(&inverse[first..]) {
            let sum = down * inverse;
            *out = if accumulate == 1 { *out + sum } else { sum };
        }
    });
}
