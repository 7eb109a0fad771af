//! The bias of a linear layer.

use super::grad_target::GradTarget;
use super::host::{rows_per_task, words};
use super::matmul::check_width;
use super::simd::vectorized;
use crate::backend::KernelCall;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::tape::Tape;
use crate::tensor::Tensor;
use crate::{kernel_text, with_element};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// y = x + bias: `bias` `[N]` is added to every row of `x` [.., N]; the result has `x`'s dtype. The
/// gradient of the bias is the sum of the rows, in f32.
///
/// # Errors
/// `Error::Unsupported` for 16-bit rows of odd width.
pub fn add_bias(tape: &Tape, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if bias.len() != x.columns() {
        return Err(Error::internal("add_bias", format!("{x:?} with bias {bias:?}")));
    }
    check_width("add_bias", x)?;
    let y = Tensor::empty(x.device(), x.shape(), x.dtype())?;
    let params = Params { rows: x.rows() as u32, columns: x.columns() as u32, accumulate: 0 };
    KernelCall::new(&ADD_BIAS, &[x.view(), bias.view(), y.view()])
        .params(params)
        .launch(x.device(), grid_1d(words(&y), BLOCK))?;
    let (x_grad, bias_grad) = (GradTarget::of(x), GradTarget::of(bias));
    Ok(tape.record("add_bias", &[x, bias], y, move |dy| {
        if let Some(x_grad) = &x_grad {
            x_grad.add(dy.clone())?;
        }
        if let Some(bias_grad) = &bias_grad {
            bias_grad.write(|adds, dbias| {
                KernelCall::new(&COLUMN_SUMS, &[dy.view(), dbias.view()])
                    .params(Params { accumulate: u32::from(adds), ..params })
                    .launch(dy.device(), grid_1d(dbias.len(), COLUMNS))
            })?;
        }
        Ok(())
    }))
}

const BLOCK: usize = 256;
/// Columns of one block of `column_sums`.
const COLUMNS: usize = 16;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    rows: u32,
    columns: u32,
    accumulate: u32,
}

static TEXT: KernelText = kernel_text!("bias");

pub(super) const KERNELS: &[&KernelSpec] = &[&ADD_BIAS, &COLUMN_SUMS];

static ADD_BIAS: KernelSpec = KernelSpec {
    name: "add_bias",
    text: &TEXT,
    bindings: &[
        Binding::read("x", Kind::Float),
        Binding::read("bias", Kind::Float),
        Binding::write("y", Kind::Float),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: add_bias_reference,
    reference_f64: add_bias_reference,
    cpu: |call| with_element!(call.dtype(0), X => with_element!(call.dtype(1), B => add_bias_cpu::<X, B>(call))),
};

static COLUMN_SUMS: KernelSpec = KernelSpec {
    name: "column_sums",
    text: &TEXT,
    bindings: &[Binding::read("x", Kind::Float), Binding::update("sums", Kind::F32)],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: column_sums_reference,
    reference_f64: column_sums_reference,
    cpu: |call| with_element!(call.dtype(0), X => column_sums_cpu::<X>(call)),
};

fn add_bias_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { columns, .. } = call.params();
    let (x, bias, y) = (call.input(0), call.input(1), call.output(2));
    for i in 0..y.len() {
        y[i] = x[i] + bias[i % columns as usize];
    }
}

fn column_sums_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { rows, columns, accumulate } = call.params();
    let (rows, columns) = (rows as usize, columns as usize);
    let (x, sums) = (call.input(0), call.output(1));
    for n in 0..columns {
        let mut sum = F::ZERO;
        for t in 0..rows {
            sum += x[t * columns + n];
        }
        sums[n] = if accumulate == 1 { sums[n] + sum } else { sum };
    }
}

fn add_bias_cpu<X: Element, B: Element>(call: &mut HostCall) {
    let Params { columns, .. } = call.params();
    let (x, bias, y) = (call.input::<X>(0), call.input::<B>(1), call.output::<X>(2));
    let task = rows_per_task(columns as usize) * columns as usize;
    y.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(y, x)| {
        vectorized(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(bias.len()).zip(x.chunks_exact(bias.len())) {
                    for ((y, &x), &bias) in y.iter_mut().zip(x).zip(bias) {
                        *y = X::from_f32(x.to_f32() + bias.to_f32());
                    }
                }
            },
        )
    });
}

fn column_sums_cpu<X: Element>(call: &mut HostCall) {
    let Params { columns, accumulate, .. } = call.params();
    let (x, sums) = (call.input::<X>(0), call.output::<f32>(1));
    // Each task owns a stripe of columns and walks down all rows: sums stay in row order.
    const STRIPE: usize = 64;
    sums.par_chunks_mut(STRIPE).enumerate().for_each(|(stripe, sums)| {
        vectorized(
            #[inline(always)]
            || {
                let mut down = [0.0f32; STRIPE];
                for row in x.chunks_exact(columns as usize) {
                    for (sum, x) in down.iter_mut().zip(&row[stripe * STRIPE..][..sums.len()]) {
                        *sum += x.to_f32();
                    }
                }
                for (sum, down) in sums.iter_mut().zip(down) {
                    *sum = if accumulate == 1 { *sum + down } else { down };
                }
            },
        )
    });
}
