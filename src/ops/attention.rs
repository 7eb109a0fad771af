//! Causal attention over packed sequences, with grouped query heads, sliding windows, shared prompts and a KV
//! cache.
//!
//! Two implementations give the same results: [`Implementation::Flash`] walks over tiles of keys with
//! an online softmax and never holds a T x S matrix (Dao, 2023, arXiv:2307.08691);
//! [`Implementation::Eager`] is the plain formula, to read and to fall back on.

mod cpu;
mod eager;
mod params;
mod reference;
mod specs;
mod versions;

pub use params::AttentionLayout;

use super::grad_target::GradTarget;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernels::{KernelSpec, grid_1d};
use crate::tape::Tape;
use crate::tensor::{Saved, Tensor};
use params::{Constants, Params, launch};
use specs::{ATTENTION_BWD_DELTA, THREADS};
use versions::Version;

/// How attention is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Implementation {
    /// By tiles; memory grows with T.
    #[default]
    Flash,
    /// With the whole matrix of weights, f32 [NH, T, S]; memory grows with T * S.
    Eager,
}

/// softmax(scale q kᵀ) v over the keys that `layout` lets each query see.
///
/// `q` [T, NH, HD], `k` and `v` [S, NKV, HD] with NH a multiple of NKV: query head h reads kv-head
/// h / (NH / NKV). All of one dtype, as is the result [T, NH, HD].
///
/// # Errors
/// [`Error::Unsupported`] for HD above 256 and for an odd HD in 16 bits;
/// [`Error::MissingGradient`] when a gradient is wanted of attention with a KV cache.
pub fn attention(
    tape: &Tape,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &AttentionLayout,
    implementation: Implementation,
) -> Result<Tensor> {
    let params = check(q, k, v, layout)?;
    if params.tokens != params.keys {
        tape.no_backward("attention with a KV cache", &[q, k, v])?;
    }
    match implementation {
        Implementation::Flash => flash(tape, q, k, v, layout, params),
        Implementation::Eager => {
            eager::attention(tape, [q, k, v], layout, params, constants(q, layout))
        }
    }
}

fn check(q: &Tensor, k: &Tensor, v: &Tensor, layout: &AttentionLayout) -> Result<Params> {
    let wrong = || {
        let AttentionLayout { bounds, q_offset, .. } = layout;
        Error::internal("attention", format!("{q:?}, {k:?}, {v:?}, {bounds:?} at {q_offset}"))
    };
    let (&[tokens, heads, width], &[keys, kv_heads, kv_width]) = (q.shape(), k.shape()) else {
        return Err(wrong());
    };
    let one_dtype = q.dtype() == k.dtype() && q.dtype() == v.dtype();
    let fits = k.shape() == v.shape() && width == kv_width && one_dtype && width > 0;
    let groups = kv_heads > 0 && heads > 0 && heads % kv_heads == 0;
    let numbers = if is_shared(layout) { 4 } else { 2 };
    let bounded = layout.bounds.len() == numbers * keys && layout.bounds.dtype() == DType::U32;
    let small = q.len().max(k.len()) <= i32::MAX as usize;
    // Every query is a key, so every row of the softmax has at least one entry.
    if !fits || !groups || !bounded || !small || tokens + layout.q_offset != keys {
        return Err(wrong());
    }
    if layout.window == Some(0) {
        return Err(Error::input("a sliding window of 0 keys sees nothing; use at least 1"));
    }
    if width > MAX_WIDTH || (q.dtype() != DType::F32 && width % 2 != 0) {
        return Err(Error::Unsupported {
            op: "attention",
            backend: q.device().capabilities().description.clone(),
            why: format!(
                "heads are {width} wide in {}; up to {MAX_WIDTH} is possible, even in 16 bits",
                q.dtype().name()
            ),
        });
    }
    Ok(Params {
        tokens: tokens as u32,
        keys: keys as u32,
        heads: heads as u32,
        kv_heads: kv_heads as u32,
        q_offset: layout.q_offset as u32,
        window: layout.window.unwrap_or(u32::MAX),
        scale: layout.scale,
    })
}

/// Whether sequences share prompts.
fn is_shared(layout: &AttentionLayout) -> bool {
    matches!(layout.bounds.shape(), [_, 4])
}

fn constants(q: &Tensor, layout: &AttentionLayout) -> Constants {
    Constants { width: q.columns(), shared: is_shared(layout) }
}

fn flash(
    tape: &Tape,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &AttentionLayout,
    params: Params,
) -> Result<Tensor> {
    let device = q.device();
    let (tokens, heads, constants) = (q.dim(0), q.dim(1), constants(q, layout));
    let out = Tensor::empty(device, q.shape(), q.dtype())?;
    // lse and delta share a buffer, so that no kernel needs more than 8.
    let stats = Tensor::empty(device, &[tokens, heads, 2], DType::F32)?;
    let views = [q.view(), k.view(), v.view(), layout.bounds.view(), out.view(), stats.view()];
    Version::fwd(q).launch(&views, params, q, constants, params.heads)?;

    let targets = [q, k, v].map(GradTarget::of);
    let inputs = [q, k, v].map(Saved::of);
    let (saved_out, bounds) = (out.clone(), layout.bounds.clone());
    Ok(tape.record("attention", &[q, k, v], out, move |dout| {
        let [q, k, v] = [&inputs[0].get()?, &inputs[1].get()?, &inputs[2].get()?];
        let [q_grad, k_grad, v_grad] = &targets;
        let device = q.device();
        launch(
            &ATTENTION_BWD_DELTA,
            &[saved_out.view(), dout.view(), stats.view()],
            params,
            constants,
            device,
            grid_1d(tokens * heads, THREADS as usize),
        )?;
        let read = [q.view(), k.view(), v.view(), dout.view(), stats.view(), bounds.view()];
        if k_grad.is_some() || v_grad.is_some() {
            let dk = Tensor::empty(device, k.shape(), k.dtype())?;
            let dv = Tensor::empty(device, v.shape(), v.dtype())?;
            let views = [read.as_slice(), &[dk.view(), dv.view()]].concat();
            Version::bwd_dkv(q, constants).launch(&views, params, q, constants, params.kv_heads)?;
            for (target, gradient) in [(k_grad, dk), (v_grad, dv)] {
                if let Some(target) = target {
                    target.add(gradient)?;
                }
            }
        }
        if let Some(target) = q_grad {
            let dq = Tensor::empty(device, q.shape(), q.dtype())?;
            let views = [read.as_slice(), &[dq.view()]].concat();
            Version::bwd_dq(q, constants).launch(&views, params, q, constants, params.heads)?;
            target.add(dq)?;
        }
        Ok(())
    }))
}

/// The widest head whose sums fit a thread's registers.
const MAX_WIDTH: usize = 256;

pub(super) const KERNELS: &[&KernelSpec] = &[
    &specs::ATTENTION_FWD,
    &specs::ATTENTION_BWD_DELTA,
    &specs::ATTENTION_BWD_DKV,
    &specs::ATTENTION_BWD_DQ,
    &versions::ATTENTION_FWD_MMA,
    &versions::ATTENTION_BWD_DKV_MMA,
    &versions::ATTENTION_BWD_DQ_MMA,
    &versions::ATTENTION_FWD_WGMMA,
    &versions::ATTENTION_BWD_DKV_WGMMA,
    &versions::ATTENTION_BWD_DQ_WGMMA,
    &eager::SCORES,
    &eager::SOFTMAX,
    &eager::SOFTMAX_BWD,
    &eager::WEIGHTED_SUM,
    &eager::WEIGHTED_SUM_BWD,
];
