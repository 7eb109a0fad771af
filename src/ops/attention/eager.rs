//! Attention by the plain formula: all scores, their softmax, the weighted sum of values.
//!
//! Holds the weights p [NH, T, S] in f32 until the backward has used them. Five small kernels do both
//! directions, each thread one result:
//!
//! ```text
//! scores             s  = scale q · k        dp = dout · v
//! softmax            p  = softmax(s)
//! softmax_bwd                                ds = p (dp - sum_j p dp) scale
//! weighted_sum       out = p v               dq = ds k
//! weighted_sum_bwd                           dv = pᵀ dout, dk = dsᵀ q
//! ```

use super::params::{
    ATTENTION, AttentionLayout, CONSTANTS, Constants, Params, Seen, Sizes, Visibility, launch,
};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::ops::cpu::widened;
use crate::ops::grad_target::GradTarget;
use crate::ops::host::words;
use crate::ops::vector::{self, dot};
use crate::tape::Tape;
use crate::tensor::{Saved, Tensor};
use crate::{kernel_text, with_element};
use rayon::prelude::*;

/// [`crate::ops::attention()`] by this implementation; `params` are checked.
#[expect(clippy::too_many_lines, reason = "the steps of one formula")]
pub fn attention(
    tape: &Tape,
    [q, k, v]: [&Tensor; 3],
    layout: &AttentionLayout,
    params: Params,
    constants: Constants,
) -> Result<Tensor> {
    let device = q.device();
    let [tokens, heads] = [q.dim(0), q.dim(1)];
    let keys = k.dim(0);
    let limit = device.capabilities().max_binding_bytes.min(i32::MAX as usize);
    if 4 * heads * tokens * keys > limit {
        return Err(Error::Unsupported {
            op: "eager attention",
            backend: device.capabilities().description.clone(),
            why: format!(
                "its {heads} x {tokens} x {keys} weights are more than a buffer holds; use \
                 attn_implementation = \"flash\""
            ),
        });
    }
    let grid = |results| grid_1d(results, BLOCK as usize);
    let rows = heads * tokens;
    let p = Tensor::empty(device, &[heads, tokens, keys], DType::F32)?;
    launch(&SCORES, &[q.view(), k.view(), p.view()], params, constants, device, grid(p.len()))?;
    launch(&SOFTMAX, &[layout.bounds.view(), p.view()], params, constants, device, grid(rows))?;
    let out = Tensor::empty(device, q.shape(), q.dtype())?;
    launch(
        &WEIGHTED_SUM,
        &[p.view(), v.view(), out.view()],
        params,
        constants,
        device,
        grid(words(&out)),
    )?;

    let targets = [q, k, v].map(GradTarget::of);
    let inputs = [q, k, v].map(Saved::of);
    Ok(tape.record("attention", &[q, k, v], out, move |dout| {
        let [q, k, v] = [&inputs[0].get()?, &inputs[1].get()?, &inputs[2].get()?];
        let [q_grad, k_grad, v_grad] = &targets;
        let device = q.device();
        if let Some(target) = v_grad {
            let dv = Tensor::empty(device, v.shape(), v.dtype())?;
            let views = [p.view(), dout.view(), dv.view()];
            launch(&WEIGHTED_SUM_BWD, &views, params, constants, device, grid(words(&dv)))?;
            target.add(dv)?;
        }
        if q_grad.is_none() && k_grad.is_none() {
            return Ok(());
        }
        let plain = Params { scale: 1.0, ..params };
        let ds = Tensor::empty(device, p.shape(), DType::F32)?;
        launch(
            &SCORES,
            &[dout.view(), v.view(), ds.view()],
            plain,
            constants,
            device,
            grid(ds.len()),
        )?;
        launch(&SOFTMAX_BWD, &[p.view(), ds.view()], params, constants, device, grid(rows))?;
        if let Some(target) = q_grad {
            let dq = Tensor::empty(device, q.shape(), q.dtype())?;
            let views = [ds.view(), k.view(), dq.view()];
            launch(&WEIGHTED_SUM, &views, params, constants, device, grid(words(&dq)))?;
            target.add(dq)?;
        }
        if let Some(target) = k_grad {
            let dk = Tensor::empty(device, k.shape(), k.dtype())?;
            let views = [ds.view(), q.view(), dk.view()];
            launch(&WEIGHTED_SUM_BWD, &views, params, constants, device, grid(words(&dk)))?;
            target.add(dk)?;
        }
        Ok(())
    }))
}

const BLOCK: u32 = 128;

static TEXT: KernelText = kernel_text!("attention_eager").with_headers(&[ATTENTION]);

pub static SCORES: KernelSpec = KernelSpec {
    name: "attention_eager_scores",
    text: &TEXT,
    bindings: &[
        Binding::read("query", Kind::Float),
        Binding::read("key", Kind::Float),
        Binding::write("scores", Kind::F32),
    ],
    constants: CONSTANTS,
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: scores_reference,
    reference_f64: scores_reference,
    cpu: |call| with_element!(call.dtype(0), T => scores_cpu::<T>(call)),
};

pub static SOFTMAX: KernelSpec = KernelSpec {
    name: "attention_eager_softmax",
    text: &TEXT,
    bindings: &[Binding::read("bounds", Kind::U32), Binding::update("p", Kind::F32)],
    constants: CONSTANTS,
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: softmax_reference,
    reference_f64: softmax_reference,
    cpu: softmax_cpu,
};

pub static SOFTMAX_BWD: KernelSpec = KernelSpec {
    name: "attention_eager_softmax_bwd",
    text: &TEXT,
    bindings: &[Binding::read("p", Kind::F32), Binding::update("ds", Kind::F32)],
    constants: CONSTANTS,
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: softmax_bwd_reference,
    reference_f64: softmax_bwd_reference,
    cpu: softmax_bwd_cpu,
};

pub static WEIGHTED_SUM: KernelSpec = KernelSpec {
    name: "attention_eager_weighted_sum",
    text: &TEXT,
    bindings: &[
        Binding::read("weights", Kind::F32),
        Binding::read("value", Kind::Float),
        Binding::write("out", Kind::Float),
    ],
    constants: CONSTANTS,
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: weighted_sum_reference,
    reference_f64: weighted_sum_reference,
    cpu: |call| with_element!(call.dtype(1), T => weighted_sum_cpu::<T>(call)),
};

pub static WEIGHTED_SUM_BWD: KernelSpec = KernelSpec {
    name: "attention_eager_weighted_sum_bwd",
    text: &TEXT,
    bindings: &[
        Binding::read("weights", Kind::F32),
        Binding::read("dout", Kind::Float),
        Binding::write("dvalue", Kind::Float),
    ],
    constants: CONSTANTS,
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: weighted_sum_bwd_reference,
    reference_f64: weighted_sum_bwd_reference,
    cpu: |call| with_element!(call.dtype(1), T => weighted_sum_bwd_cpu::<T>(call)),
};

fn scores_reference<F: Real>(call: &mut RefCall<F>) {
    let params: Params = call.params();
    let sizes = Sizes::new(&params, call.constant("HEAD_WIDTH"));
    let (query, key, scores) = (call.input(0), call.input(1), call.output(2));
    for h in 0..sizes.heads {
        for t in 0..sizes.tokens {
            for j in 0..sizes.keys {
                let mut sum = F::ZERO;
                for d in 0..sizes.width {
                    sum += query[sizes.query(t, h) + d] * key[sizes.key(j, h) + d];
                }
                scores[sizes.row(h, t) + j] = sum * F::from_f64(f64::from(params.scale));
            }
        }
    }
}

fn softmax_reference<F: Real>(call: &mut RefCall<F>) {
    let params: Params = call.params();
    let visibility = Visibility::new(&params, call.constant("SHARED"), call.input_u32(0));
    let p = call.output(1);
    for (row, p) in p.chunks_exact_mut(params.keys as usize).enumerate() {
        let i = row % params.tokens as usize + params.q_offset as usize;
        let seen = visibility.seen(i);
        let largest = seen.keys().fold(p[i], |a, j| a.max(p[j]));
        let sum: F = seen.keys().map(|j| (p[j] - largest).exp()).sum();
        for (j, p) in p.iter_mut().enumerate() {
            let is_seen = seen.prompt.contains(&j) || seen.own.contains(&j);
            *p = if is_seen { (*p - largest).exp() / sum } else { F::ZERO };
        }
    }
}

fn softmax_bwd_reference<F: Real>(call: &mut RefCall<F>) {
    let params: Params = call.params();
    let (p, ds) = (call.input(0), call.output(1));
    let rows = p.chunks_exact(params.keys as usize).zip(ds.chunks_exact_mut(params.keys as usize));
    for (p, ds) in rows {
        let delta: F = p.iter().zip(&*ds).map(|(&p, &dp)| p * dp).sum();
        for (ds, &p) in ds.iter_mut().zip(p) {
            *ds = p * (*ds - delta) * F::from_f64(f64::from(params.scale));
        }
    }
}

fn weighted_sum_reference<F: Real>(call: &mut RefCall<F>) {
    let sizes = Sizes::new(&call.params(), call.constant("HEAD_WIDTH"));
    let (weights, value, out) = (call.input(0), call.input(1), call.output(2));
    for t in 0..sizes.tokens {
        for h in 0..sizes.heads {
            for d in 0..sizes.width {
                let mut sum = F::ZERO;
                for j in 0..sizes.keys {
                    sum += weights[sizes.row(h, t) + j] * value[sizes.key(j, h) + d];
                }
                out[sizes.query(t, h) + d] = sum;
            }
        }
    }
}

fn weighted_sum_bwd_reference<F: Real>(call: &mut RefCall<F>) {
    let sizes = Sizes::new(&call.params(), call.constant("HEAD_WIDTH"));
    let (weights, dout, dvalue) = (call.input(0), call.input(1), call.output(2));
    for j in 0..sizes.keys {
        for kv_head in 0..sizes.kv_heads {
            for d in 0..sizes.width {
                let mut sum = F::ZERO;
                for h in kv_head * sizes.group..(kv_head + 1) * sizes.group {
                    for t in 0..sizes.tokens {
                        sum += weights[sizes.row(h, t) + j] * dout[sizes.query(t, h) + d];
                    }
                }
                dvalue[(j * sizes.kv_heads + kv_head) * sizes.width + d] = sum;
            }
        }
    }
}

fn scores_cpu<T: Element>(call: &mut HostCall) {
    let params: Params = call.params();
    let sizes = Sizes::new(&params, call.constant("HEAD_WIDTH"));
    let (query, key) = (widened(call.input::<T>(0)), widened(call.input::<T>(1)));
    let scores = call.output::<f32>(2);
    scores.par_chunks_mut(sizes.keys).enumerate().for_each(|(row, scores)| {
        let (h, t) = (row / sizes.tokens, row % sizes.tokens);
        let query = &query[sizes.query(t, h)..][..sizes.width];
        for (j, score) in scores.iter_mut().enumerate() {
            *score = dot(query, &key[sizes.key(j, h)..][..sizes.width]) * params.scale;
        }
    });
}

fn softmax_cpu(call: &mut HostCall) {
    let params: Params = call.params();
    let shared = call.constant("SHARED");
    let (bounds, p) = (call.input::<u32>(0), call.output::<f32>(1));
    let visibility = Visibility::new(&params, shared, bounds);
    p.par_chunks_mut(params.keys as usize).enumerate().for_each(|(row, p)| {
        let i = row % params.tokens as usize + params.q_offset as usize;
        let Seen { prompt, own } = visibility.seen(i);
        p[..prompt.start].fill(0.0);
        p[prompt.end..own.start].fill(0.0);
        p[own.end..].fill(0.0);
        let parts = [prompt, own];
        let largest = parts.iter().fold(f32::MIN, |max, part| vector::max(&p[part.clone()], max));
        let sum = parts
            .iter()
            .fold(0.0, |sum, part| sum + vector::exp_in_place(&mut p[part.clone()], largest));
        for part in parts {
            p[part].iter_mut().for_each(|p| *p /= sum);
        }
    });
}

fn softmax_bwd_cpu(call: &mut HostCall) {
    let params: Params = call.params();
    let (p, ds) = (call.input::<f32>(0), call.output::<f32>(1));
    let rows = p.par_chunks(params.keys as usize).zip(ds.par_chunks_mut(params.keys as usize));
    rows.for_each(|(p, ds)| {
        let delta = dot(p, ds);
        for (ds, p) in ds.iter_mut().zip(p) {
            *ds = p * (*ds - delta) * params.scale;
        }
    });
}

fn weighted_sum_cpu<T: Element>(call: &mut HostCall) {
    let sizes = Sizes::new(&call.params(), call.constant("HEAD_WIDTH"));
    let (weights, value) = (call.input::<f32>(0), widened(call.input::<T>(1)));
    let out = call.output::<T>(2);
    out.par_chunks_mut(sizes.width).enumerate().for_each(|(row, out)| {
        let (t, h) = (row / sizes.heads, row % sizes.heads);
        let mut sums = vec![0.0f32; sizes.width];
        for (j, &weight) in weights[sizes.row(h, t)..][..sizes.keys].iter().enumerate() {
            add_scaled(&mut sums, weight, &value[sizes.key(j, h)..]);
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = T::from_f32(sum));
    });
}

fn weighted_sum_bwd_cpu<T: Element>(call: &mut HostCall) {
    let sizes = Sizes::new(&call.params(), call.constant("HEAD_WIDTH"));
    let (weights, dout) = (call.input::<f32>(0), widened(call.input::<T>(1)));
    let dvalue = call.output::<T>(2);
    dvalue.par_chunks_mut(sizes.width).enumerate().for_each(|(row, dvalue)| {
        let (j, kv_head) = (row / sizes.kv_heads, row % sizes.kv_heads);
        let mut sums = vec![0.0f32; sizes.width];
        for h in kv_head * sizes.group..(kv_head + 1) * sizes.group {
            for t in 0..sizes.tokens {
                add_scaled(&mut sums, weights[sizes.row(h, t) + j], &dout[sizes.query(t, h)..]);
            }
        }
        dvalue.iter_mut().zip(sums).for_each(|(dvalue, sum)| *dvalue = T::from_f32(sum));
    });
}

fn add_scaled(sums: &mut [f32], factor: f32, values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += factor * value;
    }
}
