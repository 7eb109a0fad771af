//! Rotary position embedding (Su et al., 2021, arXiv:2104.09864) in the half-rotated form of Llama:
//! columns i and i + R/2 of a head are the two coordinates that turn by the angle position * inv_freq[i].
//! The first R columns of a head turn: all of them, or in partial rotary embeddings some.

use super::grad_target::GradTarget;
use super::host::rows_per_task;
use super::simd::vectorized;
use crate::backend::KernelCall;
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

/// Rotates the heads of `x` [T, H, HD] by their tokens' positions; same shape and dtype out.
///
/// `positions` u32 `[T]` are rows of the tables `cos` and `sin`, f32 [P, R/2] with R <= HD, and must be below P.
/// The gradient goes to `x` alone: it is turned back by the transposed rotation, for which `x` itself is
/// not needed.
///
/// # Errors
/// [`Error::Unsupported`] for a 16-bit `x` whose R/2 or (HD - R)/2 is odd: its halves would share a word.
pub fn rope(
    tape: &Tape,
    x: &Tensor,
    positions: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
) -> Result<Tensor> {
    let &[tokens, _, width] = x.shape() else {
        return Err(Error::internal("rope", format!("{x:?} is not [T, H, HD]")));
    };
    let half = cos.columns();
    let fits = positions.len() == tokens && 2 * half <= width && sin.shape() == cos.shape();
    if !fits || half == 0 || !width.is_multiple_of(2) {
        let what = format!("{x:?} at {positions:?} with tables {cos:?} and {sin:?}");
        return Err(Error::internal("rope", what));
    }
    if x.dtype() != DType::F32 && (!half.is_multiple_of(2) || !width.is_multiple_of(4)) {
        return Err(Error::Unsupported {
            op: "rope",
            backend: x.device().capabilities().description.clone(),
            why: format!(
                "a head width of {width} of which {} columns turn needs dtype float32, not {}",
                2 * half,
                x.dtype().name()
            ),
        });
    }
    tape.no_backward("rope (for its tables)", &[cos, sin])?;
    let y = rotate(x, positions, cos, sin, 1.0)?;
    let (x_grad, tables) = (GradTarget::of(x), [positions, cos, sin].map(Tensor::detach));
    Ok(tape.record("rope", &[x], y, move |dy| {
        let [positions, cos, sin] = &tables;
        match &x_grad {
            Some(target) => target.add(rotate(dy, positions, cos, sin, -1.0)?),
            None => Ok(()),
        }
    }))
}

fn rotate(
    x: &Tensor,
    positions: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    direction: f32,
) -> Result<Tensor> {
    let y = Tensor::empty(x.device(), x.shape(), x.dtype())?;
    let (heads, half) = (x.dim(1), cos.columns());
    let words = x.len() / 2 * x.dtype().size() / 4;
    let views = [x.view(), positions.view(), cos.view(), sin.view(), y.view()];
    KernelCall::new(&ROPE, &views)
        .params(Params {
            tokens: x.dim(0) as u32,
            heads: heads as u32,
            half: half as u32,
            still: (x.dim(2) / 2 - half) as u32,
            direction,
        })
        .launch(x.device(), grid_1d(words, BLOCK))?;
    Ok(y)
}

const BLOCK: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    tokens: u32,
    heads: u32,
    half: u32,
    /// Half of the columns of a head that do not turn.
    still: u32,
    /// 1 turns forward, -1 back.
    direction: f32,
}

static TEXT: KernelText = kernel_text!("rope");

pub(super) const KERNELS: &[&KernelSpec] = &[&ROPE];

static ROPE: KernelSpec = KernelSpec {
    name: "rope",
    text: &TEXT,
    bindings: &[
        Binding::read("x", Kind::Float),
        Binding::read("positions", Kind::U32),
        Binding::read("cos_table", Kind::F32),
        Binding::read("sin_table", Kind::F32),
        Binding::write("y", Kind::Float),
    ],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: rope_reference,
    reference_f64: rope_reference,
    cpu: |call| with_element!(call.dtype(0), T => rope_cpu::<T>(call)),
};

fn rope_reference<F: Real>(call: &mut RefCall<F>) {
    let Params { tokens, heads, half, still, direction } = call.params();
    let [heads, half, still] = [heads, half, still].map(|n| n as usize);
    let (x, positions) = (call.input(0), call.input_u32(1));
    let (cos, sin, y) = (call.input(2), call.input(3), call.output(4));
    for (t, &position) in positions[..tokens as usize].iter().enumerate() {
        for h in 0..heads {
            let first = (t * heads + h) * 2 * (half + still);
            for i in 0..half {
                let angle = position as usize * half + i;
                let (c, s) = (cos[angle], sin[angle] * F::from_f64(f64::from(direction)));
                let (a, b) = (x[first + i], x[first + half + i]);
                y[first + i] = a * c - b * s;
                y[first + half + i] = b * c + a * s;
            }
            let passed = first + 2 * half..first + 2 * (half + still);
            y[passed.clone()].copy_from_slice(&x[passed]);
        }
    }
}

fn rope_cpu<T: Element>(call: &mut HostCall) {
    let Params { heads, half, still, direction, .. } = call.params();
    let [heads, half, still] = [heads, half, still].map(|n| n as usize);
    let width = 2 * (half + still);
    let columns = heads * width;
    let (x, positions) = (call.input::<T>(0), call.input::<u32>(1));
    let (cos, sin, y) = (call.input::<f32>(2), call.input::<f32>(3), call.output::<T>(4));
    let task = rows_per_task(columns);
    y.par_chunks_mut(task * columns)
        .zip(x.par_chunks(task * columns))
        .zip(positions.par_chunks(task))
        .for_each(|((y, x), positions)| {
            vectorized(
                #[inline(always)]
                || {
                    let rows = y.chunks_exact_mut(columns).zip(x.chunks_exact(columns));
                    for ((y, x), &position) in rows.zip(positions) {
                        let angles = position as usize * half..(position as usize + 1) * half;
                        let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
                        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                            let (y, y_still) = y.split_at_mut(2 * half);
                            let (x, x_still) = x.split_at(2 * half);
                            y_still.copy_from_slice(x_still);
                            let (y_first, y_second) = y.split_at_mut(half);
                            let (x_first, x_second) = x.split_at(half);
                            for i in 0..half {
                                let (c, s) = (cos[i], sin[i] * direction);
                                let (a, b) = (x_first[i].to_f32(), x_second[i].to_f32());
                                y_first[i] = T::from_f32(a * c - b * s);
                                y_second[i] = T::from_f32(b * c + a * s);
                            }
                        }
                    }
                },
            )
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Device, cpu::Cpu};

    #[test]
    fn a_quarter_turn_swaps_the_halves() -> Result<()> {
        let device = Device::new(Cpu::poisoned());
        let x = Tensor::from_f32(&device, &[1, 1, 4], DType::F32, &[1.0, 2.0, 3.0, 4.0])?;
        let positions = Tensor::from_u32(&device, &[1], &[1])?;
        let cos = Tensor::from_f32(&device, &[2, 2], DType::F32, &[1.0, 1.0, 0.0, 0.0])?;
        let sin = Tensor::from_f32(&device, &[2, 2], DType::F32, &[0.0, 0.0, 1.0, 1.0])?;
        let y = rope(&Tape::inference(), &x, &positions, &cos, &sin)?;
        assert_eq!(y.read_f32()?, [-3.0, -4.0, 1.0, 2.0]);
        Ok(())
    }

    #[test]
    fn halves_that_share_a_word_are_refused() -> Result<()> {
        let device = Device::new(Cpu::new());
        let x = Tensor::empty(&device, &[1, 1, 6], DType::BF16)?;
        let positions = Tensor::from_u32(&device, &[1], &[0])?;
        let table = Tensor::empty(&device, &[1, 3], DType::F32)?;
        let refused = rope(&Tape::inference(), &x, &positions, &table, &table);
        assert!(matches!(refused, Err(Error::Unsupported { op: "rope", .. })));
        Ok(())
    }
}
