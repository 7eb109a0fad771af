//! RMSNorm (Zhang and Sennrich, 2019, arXiv:1910.07467): y = x / sqrt(mean(x^2) + eps) * weight,
//! over rows of any width; Gemma's with weight + 1, which `offset` is. The per-head norms of q and k are the
//! same op on rows of one head.

use super::grad_target::GradTarget;
use super::host::rows_per_task;
use super::simd::vectorized;
use super::vector::dot;
use super::wide_loads;
use crate::backend::{KernelCall, View};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::kernels::{
    Binding, Header, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::tape::Tape;
use crate::tensor::{Saved, Tensor};
use crate::{cuda_header, cuda_text, kernel_text, with_element};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// Normalises the innermost rows of `x` [.., C] and scales them with `weight` `[C]` + `offset`; same shape
/// and dtype out. The backward keeps `x` and 1 / rms of each row, from which y can be computed again.
pub fn rms_norm(tape: &Tape, x: &Tensor, weight: &Tensor, eps: f32, offset: f32) -> Result<Tensor> {
    let columns = x.columns();
    if weight.len() != columns || (x.dtype() != DType::F32 && !columns.is_multiple_of(2)) {
        return Err(Error::internal("rms_norm", format!("{x:?} with weight {weight:?}")));
    }
    let params = Params { rows: x.rows() as u32, columns: columns as u32, eps, offset };
    let (y, rstd) = forward(x, weight, params)?;
    let (x_grad, weight_grad) = (GradTarget::of(x), GradTarget::of(weight));
    let (saved, weight_in) = (Saved::of(x), x_grad.is_some().then(|| weight.detach()));
    let (saved_again, weight_again) = (saved.clone(), weight.detach());
    let y = tape.record("rms_norm", &[x, weight], y, move |dy| {
        let x = &saved.get()?;
        if let (Some(target), Some(weight)) = (&x_grad, &weight_in) {
            let dx = Tensor::empty(x.device(), x.shape(), x.dtype())?;
            let views = [dy.view(), x.view(), weight.view(), rstd.view(), dx.view()];
            call(&RMS_NORM_BWD_DX, &RMS_NORM_BWD_DX_WIDE, chunks_per_thread(x), &views)
                .params(params)
                .launch(x.device(), grid_1d(x.rows(), 1))?;
            target.add(dx)?;
        }
        if let Some(target) = &weight_grad {
            let dw = Tensor::empty(x.device(), &[columns], DType::F32)?;
            KernelCall::new(&RMS_NORM_BWD_DW, &[dy.view(), x.view(), rstd.view(), dw.view()])
                .params(params)
                .launch(x.device(), grid_1d(columns, BLOCK))?;
            target.add(dw)?;
        }
        Ok(())
    });
    Ok(tape.recomputable(y, move || {
        let (y, _) = forward(&saved_again.get()?, &weight_again, params)?;
        Ok(y)
    }))
}

/// y, and 1 / sqrt(mean(x^2) + eps) of each row.
fn forward(x: &Tensor, weight: &Tensor, params: Params) -> Result<(Tensor, Tensor)> {
    let y = Tensor::empty(x.device(), x.shape(), x.dtype())?;
    let rstd = Tensor::empty(x.device(), &[x.rows()], DType::F32)?;
    let views = [x.view(), weight.view(), y.view(), rstd.view()];
    call(&RMS_NORM_FWD, &RMS_NORM_FWD_WIDE, chunks_per_thread(x), &views)
        .params(params)
        .launch(x.device(), grid_1d(x.rows(), 1))?;
    Ok((y, rstd))
}

/// Rows from this width on keep a block of threads busy with chunks, and to this width stay in registers.
const WIDE: std::ops::RangeInclusive<usize> = 1024..=8192;

/// How many chunks a thread of the wide versions has of a row; `None` where they do not fit.
fn chunks_per_thread(x: &Tensor) -> Option<usize> {
    let columns = x.columns();
    let fits = WIDE.contains(&columns) && columns.is_multiple_of(wide_loads::CHUNK);
    (fits && wide_loads::chunks(x).is_some()).then(|| columns.div_ceil(wide_loads::CHUNK * BLOCK))
}

/// A call of the wide version where there are chunks.
fn call(
    portable: &'static KernelSpec,
    wide: &'static KernelSpec,
    chunks: Option<usize>,
    views: &[&View],
) -> KernelCall {
    match chunks {
        Some(chunks) => KernelCall::new(wide, views).constant("CHUNKS", chunks as u32),
        None => KernelCall::new(portable, views),
    }
}

const BLOCK: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    rows: u32,
    columns: u32,
    eps: f32,
    /// Added to the weight.
    offset: f32,
}

/// `kernels-cuda/rms_norm.cuh`: the parameters above.
const RMS_NORM: Header = cuda_header!("rms_norm", &[]);

static TEXT: KernelText = kernel_text!("rms_norm").with_headers(&[RMS_NORM]);
static WIDE_TEXT: KernelText = cuda_text!("rms_norm_wide", RMS_NORM);

pub(super) const KERNELS: &[&KernelSpec] =
    &[&RMS_NORM_FWD, &RMS_NORM_BWD_DX, &RMS_NORM_BWD_DW, &RMS_NORM_FWD_WIDE, &RMS_NORM_BWD_DX_WIDE];

static RMS_NORM_FWD: KernelSpec = KernelSpec {
    name: "rms_norm_fwd",
    text: &TEXT,
    bindings: &[
        Binding::read("x", Kind::Float),
        Binding::read("weight", Kind::Float),
        Binding::write("y", Kind::Float),
        Binding::write("rstd", Kind::F32),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: fwd_reference,
    reference_f64: fwd_reference,
    cpu: |call| with_element!(call.dtype(0), T => with_element!(call.dtype(1), W => fwd_cpu::<T, W>(call))),
};

static RMS_NORM_BWD_DX: KernelSpec = KernelSpec {
    name: "rms_norm_bwd_dx",
    text: &TEXT,
    bindings: &[
        Binding::read("dy", Kind::Float),
        Binding::read("x", Kind::Float),
        Binding::read("weight", Kind::Float),
        Binding::read("rstd", Kind::F32),
        Binding::write("dx", Kind::Float),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: bwd_dx_reference,
    reference_f64: bwd_dx_reference,
    cpu: |call| with_element!(call.dtype(0), T => with_element!(call.dtype(2), W => bwd_dx_cpu::<T, W>(call))),
};

static RMS_NORM_BWD_DW: KernelSpec = KernelSpec {
    name: "rms_norm_bwd_dw",
    text: &TEXT,
    bindings: &[
        Binding::read("dy", Kind::Float),
        Binding::read("x", Kind::Float),
        Binding::read("rstd", Kind::F32),
        Binding::write("dw", Kind::F32),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: bwd_dw_reference,
    reference_f64: bwd_dw_reference,
    cpu: |call| with_element!(call.dtype(0), T => bwd_dw_cpu::<T>(call)),
};

static RMS_NORM_FWD_WIDE: KernelSpec = KernelSpec {
    name: "rms_norm_fwd_wide",
    text: &WIDE_TEXT,
    constants: &["CHUNKS"],
    requires: wide_loads::REQUIRES,
    ..RMS_NORM_FWD
};

static RMS_NORM_BWD_DX_WIDE: KernelSpec = KernelSpec {
    name: "rms_norm_bwd_dx_wide",
    text: &WIDE_TEXT,
    constants: &["CHUNKS"],
    requires: wide_loads::REQUIRES,
    ..RMS_NORM_BWD_DX
};

fn fwd_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { rows, columns, eps, offset } = call.params();
    let (rows, columns, offset) = (rows as usize, columns as usize, F::from_f64(offset.into()));
    let (x, weight, y, rstd) = (call.input(0), call.input(1), call.output(2), call.output(3));
    for t in 0..rows {
        let mut sum = F::ZERO;
        for c in 0..columns {
            sum += x[t * columns + c] * x[t * columns + c];
        }
        let mean = sum / F::from_f64(columns as f64);
        rstd[t] = F::ONE / (mean + F::from_f64(f64::from(eps))).sqrt();
        for c in 0..columns {
            y[t * columns + c] = x[t * columns + c] * rstd[t] * (weight[c] + offset);
        }
    }
}

/// With g = dy * (weight + offset) and n = x * rstd: dx = rstd * (g - n * mean(g * n)).
fn bwd_dx_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { rows, columns, offset, .. } = call.params();
    let (rows, columns, offset) = (rows as usize, columns as usize, F::from_f64(offset.into()));
    let (dy, x, weight) = (call.input(0), call.input(1), call.input(2));
    let (rstd, dx) = (call.input(3), call.output(4));
    for t in 0..rows {
        let mut sum = F::ZERO;
        for c in 0..columns {
            sum += dy[t * columns + c] * (weight[c] + offset) * x[t * columns + c] * rstd[t];
        }
        let mean = sum / F::from_f64(columns as f64);
        for c in 0..columns {
            let i = t * columns + c;
            dx[i] = rstd[t] * (dy[i] * (weight[c] + offset) - x[i] * rstd[t] * mean);
        }
    }
}

/// dw[c] = sum over rows of dy * x * rstd.
fn bwd_dw_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { rows, columns, .. } = call.params();
    let (rows, columns) = (rows as usize, columns as usize);
    let (dy, x, rstd, dw) = (call.input(0), call.input(1), call.input(2), call.output(3));
    for c in 0..columns {
        let mut sum = F::ZERO;
        for t in 0..rows {
            sum += dy[t * columns + c] * x[t * columns + c] * rstd[t];
        }
        dw[c] = sum;
    }
}

fn fwd_cpu<T: Element, W: Element>(call: &mut HostCall) {
    let Params { columns, eps, offset, .. } = call.params();
    let columns = columns as usize;
    let (x, weight) = (call.input::<T>(0), call.input::<W>(1));
    let (y, rstd) = (call.output::<T>(2), call.output::<f32>(3));
    let task = rows_per_task(columns);
    y.par_chunks_mut(task * columns)
        .zip(rstd.par_chunks_mut(task))
        .zip(x.par_chunks(task * columns))
        .for_each(|((y, rstd), x)| {
            vectorized(
                #[inline(always)]
                || {
                    let rows = y.chunks_exact_mut(columns).zip(x.chunks_exact(columns));
                    for ((y, x), rstd) in rows.zip(rstd) {
                        let mean = dot(x, x) / columns as f32;
                        *rstd = 1.0 / (mean + eps).sqrt();
                        for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                            *y = T::from_f32(x.to_f32() * *rstd * (w.to_f32() + offset));
                        }
                    }
                },
            )
        });
}

fn bwd_dx_cpu<T: Element, W: Element>(call: &mut HostCall) {
    let Params { columns, offset, .. } = call.params();
    let columns = columns as usize;
    let (dy, x, weight) = (call.input::<T>(0), call.input::<T>(1), call.input::<W>(2));
    let (rstd, dx) = (call.input::<f32>(3), call.output::<T>(4));
    let task = rows_per_task(columns);
    dx.par_chunks_mut(task * columns)
        .zip(dy.par_chunks(task * columns))
        .zip(x.par_chunks(task * columns))
        .zip(rstd.par_chunks(task))
        .for_each(|(((dx, dy), x), rstd)| {
            vectorized(
                #[inline(always)]
                || {
                    let mut g = vec![0.0f32; columns];
                    for (t, &rstd) in rstd.iter().enumerate() {
                        let row = t * columns..(t + 1) * columns;
                        let (dx, dy, x) = (&mut dx[row.clone()], &dy[row.clone()], &x[row]);
                        for ((g, &dy), &w) in g.iter_mut().zip(dy).zip(weight) {
                            *g = dy.to_f32() * (w.to_f32() + offset);
                        }
                        let mean = dot(&g, x) * rstd / columns as f32;
                        for ((dx, &g), &x) in dx.iter_mut().zip(&g).zip(x) {
                            *dx = T::from_f32(rstd * (g - x.to_f32() * rstd * mean));
                        }
                    }
                },
            )
        });
}

fn bwd_dw_cpu<T: Element>(call: &mut HostCall) {
    let Params { columns, .. } = call.params();
    let columns = columns as usize;
    let (dy, x, rstd) = (call.input::<T>(0), call.input::<T>(1), call.input::<f32>(2));
    let dw = call.output::<f32>(3);
    // Each task owns a stripe of columns and walks down all rows: sums stay in row order.
    const STRIPE: usize = 64;
    dw.par_chunks_mut(STRIPE).enumerate().for_each(|(stripe, dw)| {
        vectorized(
            #[inline(always)]
            || {
                dw.fill(0.0);
                for (t, &rstd) in rstd.iter().enumerate() {
                    let start = t * columns + stripe * STRIPE;
                    let row = dy[start..start + dw.len()].iter().zip(&x[start..start + dw.len()]);
                    for (dw, (&dy, &x)) in dw.iter_mut().zip(row) {
                        *dw += dy.to_f32() * x.to_f32() * rstd;
                    }
                }
            },
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Device, reference::Reference};
    use crate::tape::gradcheck;

    #[test]
    fn backward_is_the_derivative() -> Result<()> {
        let device = Device::new(Reference::<f64>::new());
        let values: Vec<f32> = (0..15).map(|i| (i as f32 * 0.7).sin() + 0.2).collect();
        let x = Tensor::from_f32(&device, &[3, 5], DType::F32, &values)?;
        let weight = Tensor::from_f32(&device, &[5], DType::F32, &values[5..10])?;
        let inputs = [x.with_grad("x", DType::F32), weight.with_grad("weight", DType::F32)];
        gradcheck(&inputs, |tape, inputs| rms_norm(tape, &inputs[0], &inputs[1], 1e-3, 1.0))
    }
}
