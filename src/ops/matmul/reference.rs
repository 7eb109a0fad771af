//! The definition of the product, in naive loops.

use super::layout::{Layout, Params, SplitParams};
use crate::kernels::{Real, RefCall};

/// Of the versions that do not split K.
pub fn product<F: Real>(call: &mut RefCall<F>) {
    let product: Params = call.params();
    multiply(call, product, product.k);
}

/// Of those that can.
pub fn split_product<F: Real>(call: &mut RefCall<F>) {
    let SplitParams { product, depth } = call.params();
    multiply(call, product, depth);
}

fn multiply<F: Real>(call: &mut RefCall<F>, Params { m, n, k, alpha }: Params, depth: u32) {
    let [m, n, k, depth] = [m, n, k, depth].map(|size| size as usize);
    let layout = call.constant("LAYOUT");
    let accumulate = call.constant("ACCUMULATE") == 1;
    let (a, b, out) = (call.input(0), call.input(1), call.output(2));
    for (split, out) in out.chunks_exact_mut((m * n).max(1)).enumerate() {
        let k_of_split = split * depth..((split + 1) * depth).min(k);
        for i in 0..m {
            for j in 0..n {
                let mut sum = F::ZERO;
                for l in k_of_split.clone() {
                    let a = if layout == Layout::TN as u32 { a[l * m + i] } else { a[i * k + l] };
                    let b = if layout == Layout::NT as u32 { b[j * k + l] } else { b[l * n + j] };
                    sum += a * b;
                }
                let value = F::from_f64(f64::from(alpha)) * sum;
                out[i * n + j] = if accumulate { out[i * n + j] + value } else { value };
            }
        }
    }
}
