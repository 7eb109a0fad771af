//! The CPU functions of the product's kernels.

use super::layout::{Layout, Params, SplitParams};
use crate::kernels::HostCall;
use crate::ops::cpu::{Elements, Matrix, Scale, product, widened_product};
use crate::with_element;

/// Of the versions that do not split K.
pub fn matmul(call: &mut HostCall) {
    let product: Params = call.params();
    run(call, product);
}

/// Of those that can. Ops do not ask for that here: it serves GPUs.
pub fn matmul_split(call: &mut HostCall) {
    let SplitParams { product: params, depth } = call.params();
    if depth >= params.k {
        return run(call, params);
    }
    let [m, n, k, depth] = [params.m, params.n, params.k, depth].map(|size| size as usize);
    let (a, b) = operands(call, [m, n, k]);
    let scale = scale(call, params.alpha);
    with_element!(call.dtype(2), Out => {
        let splits = call.output::<Out>(2).chunks_exact_mut((m * n).max(1));
        for (k_first, out) in (0..k).step_by(depth).zip(splits) {
            widened_product([m, n], k_first..(k_first + depth).min(k), a, b, scale, out);
        }
    });
}

fn run(call: &mut HostCall, Params { m, n, k, alpha }: Params) {
    let sizes = [m, n, k].map(|size| size as usize);
    let (a, b) = operands(call, sizes);
    let scale = scale(call, alpha);
    with_element!(call.dtype(2), Out => product(sizes, a, b, scale, call.output::<Out>(2)));
}

fn scale(call: &HostCall, alpha: f32) -> Scale {
    Scale { alpha, accumulate: call.constant("ACCUMULATE") == 1 }
}

/// A [M, K] and B [K, N] as they lie in memory.
fn operands<'a>(
    call: &HostCall<'a>,
    [m, n, k]: [usize; 3],
) -> (Matrix<Elements<'a>>, Matrix<Elements<'a>>) {
    let layout = call.constant("LAYOUT");
    let (a, b) = (Elements::of(call, 0), Elements::of(call, 1));
    match layout {
        _ if layout == Layout::NT as u32 => (Matrix::rows(a, k), Matrix::rows(b, k).transposed()),
        _ if layout == Layout::NN as u32 => (Matrix::rows(a, k), Matrix::rows(b, n)),
        _ => (Matrix::rows(a, m).transposed(), Matrix::rows(b, n)),
    }
}
