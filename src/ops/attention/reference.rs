//! What the flash kernels compute, in naive loops: the softmax of whole rows.

use super::params::{Params, Sizes, Visibility};
use crate::kernels::{Real, RefCall};

fn sizes<F: Real>(call: &RefCall<F>) -> (Params, Sizes) {
    let params: Params = call.params();
    (params, Sizes::new(&params, call.constant("HEAD_WIDTH")))
}

/// Who sees whom, of which `bounds` is the binding.
fn visibility<'a, F: Real>(call: &RefCall<'a, F>, bounds: usize) -> Visibility<'a> {
    Visibility::new(&call.params(), call.constant("SHARED"), call.input_u32(bounds))
}

fn dot<F: Real>(a: &[F], b: &[F]) -> F {
    let mut sum = F::ZERO;
    for (&a, &b) in a.iter().zip(b) {
        sum += a * b;
    }
    sum
}

/// out = softmax(scale q kᵀ) v over the seen keys, and lse.
pub fn fwd<F: Real>(call: &mut RefCall<F>) {
    let (params, sizes) = sizes(call);
    let scale = F::from_f64(f64::from(params.scale));
    let (q, k, v) = (call.input(0), call.input(1), call.input(2));
    let visibility = visibility(call, 3);
    let (out, stats) = (call.output(4), call.output(5));
    for t in 0..sizes.tokens {
        let seen = visibility.seen(t + sizes.offset);
        for h in 0..sizes.heads {
            let q = &q[sizes.query(t, h)..][..sizes.width];
            let scores: Vec<F> =
                seen.keys().map(|j| dot(q, &k[sizes.key(j, h)..][..sizes.width]) * scale).collect();
            let largest = scores.iter().fold(scores[0], |a, &b| a.max(b));
            let sum: F = scores.iter().map(|&s| (s - largest).exp()).sum();
            let lse = largest + sum.ln();
            stats[(t * sizes.heads + h) * 2] = lse;
            for d in 0..sizes.width {
                let mut value = F::ZERO;
                for (j, &s) in seen.keys().zip(&scores) {
                    value += (s - lse).exp() * v[sizes.key(j, h) + d];
                }
                out[sizes.query(t, h) + d] = value;
            }
        }
    }
}

/// delta[t,h] = dout[t,h] . out[t,h].
pub fn bwd_delta<F: Real>(call: &mut RefCall<F>) {
    let (_, sizes) = sizes(call);
    let (out, dout, stats) = (call.input(0), call.input(1), call.output(2));
    for row in 0..sizes.tokens * sizes.heads {
        let columns = row * sizes.width..(row + 1) * sizes.width;
        stats[row * 2 + 1] = dot(&dout[columns.clone()], &out[columns]);
    }
}

/// Calls `pair(t, h, j, p, ds)` for every query, head and key that see each other.
fn for_each_pair<F: Real>(
    call: &RefCall<F>,
    params: &Params,
    sizes: &Sizes,
    mut pair: impl FnMut(usize, usize, usize, F, F),
) {
    let scale = F::from_f64(f64::from(params.scale));
    let (q, k, v, dout) = (call.input(0), call.input(1), call.input(2), call.input(3));
    let (stats, visibility) = (call.input(4), visibility(call, 5));
    for t in 0..sizes.tokens {
        let seen = visibility.seen(t);
        for h in 0..sizes.heads {
            let q = &q[sizes.query(t, h)..][..sizes.width];
            let dout = &dout[sizes.query(t, h)..][..sizes.width];
            let row = (t * sizes.heads + h) * 2;
            let (lse, delta) = (stats[row], stats[row + 1]);
            for j in seen.keys() {
                let p = (dot(q, &k[sizes.key(j, h)..][..sizes.width]) * scale - lse).exp();
                let dp = dot(dout, &v[sizes.key(j, h)..][..sizes.width]);
                pair(t, h, j, p, p * (dp - delta) * scale);
            }
        }
    }
}

/// dv = pᵀ dout and dk = dsᵀ q, over queries and the heads of each group.
pub fn bwd_dkv<F: Real>(call: &mut RefCall<F>) {
    let (params, sizes) = sizes(call);
    let (q, dout) = (call.input(0), call.input(3));
    let (dk, dv) = (call.output(6), call.output(7));
    dk.fill(F::ZERO);
    dv.fill(F::ZERO);
    for_each_pair(call, &params, &sizes, |t, h, j, p, ds| {
        for d in 0..sizes.width {
            dv[sizes.key(j, h) + d] += p * dout[sizes.query(t, h) + d];
            dk[sizes.key(j, h) + d] += ds * q[sizes.query(t, h) + d];
        }
    });
}

/// dq = ds k.
pub fn bwd_dq<F: Real>(call: &mut RefCall<F>) {
    let (params, sizes) = sizes(call);
    let (k, dq) = (call.input(1), call.output(6));
    dq.fill(F::ZERO);
    for_each_pair(call, &params, &sizes, |t, h, j, _, ds| {
        for d in 0..sizes.width {
            dq[sizes.query(t, h) + d] += ds * k[sizes.key(j, h) + d];
        }
    });
}
