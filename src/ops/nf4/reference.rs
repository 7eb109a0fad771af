//! The definitions of the kernels of NF4 weights.

use super::params::{Params, ProductParams};
use crate::kernels::{Real, RefCall};
use crate::ops::matmul::Layout;
use crate::quant::nf4::{BLOCKSIZE, quantize_block};

/// Codes are defined in f32 whatever the arithmetic: they must be equal to the bit.
pub fn quantize<F: Real>(call: &mut RefCall<F>) {
    let (w, codes, absmax) = (call.input(0), call.output_u8(2), call.output(3));
    for (number, block) in w.chunks(BLOCKSIZE).enumerate() {
        let block: Vec<f32> = block.iter().map(|value| value.to_f64() as f32).collect();
        let scale = quantize_block(&block, &mut codes[number * BLOCKSIZE / 2..]);
        absmax[number] = F::from_f64(f64::from(scale));
    }
}

/// Element `i` decoded, by the definition: in f32, every operation rounded.
fn decode_reference<F: Real>(call: &RefCall<F>, first: usize, sizes: [u32; 2], i: usize) -> f32 {
    let (codes, scales) = (call.input_u8(first), call.input_u8(first + 1));
    let table = |index: usize| call.input(first + 2)[index].to_f64() as f32;
    let block = i / sizes[0] as usize;
    let scale = if call.constant("NESTED") == 0 {
        table(16 + block)
    } else {
        let nested_absmax = table(273 + block / sizes[1] as usize);
        table(16 + usize::from(scales[block])) * nested_absmax + table(272)
    };
    let code = if i.is_multiple_of(2) { codes[i / 2] >> 4 } else { codes[i / 2] & 15 };
    table(usize::from(code)) * scale
}

pub fn dequantize<F: Real>(call: &mut RefCall<F>) {
    let params: Params = call.params();
    let (dtype, w) = (call.dtype(3), call.output(3));
    for (i, w) in w.iter_mut().enumerate() {
        let value = decode_reference(call, 0, [params.blocksize, params.nested_blocksize], i);
        *w = F::from_f64(f64::from(dtype.round(value)));
    }
}

pub fn product<F: Real>(call: &mut RefCall<F>) {
    let params: ProductParams = call.params();
    let (m, n, k) = (params.m as usize, params.n as usize, params.k as usize);
    let transposed = call.constant("LAYOUT") == Layout::NT as u32;
    let accumulate = call.constant("ACCUMULATE") == 1;
    let (x, dtype, out) = (call.input(0), call.dtype(0), call.output(4));
    let sizes = [params.blocksize, params.nested_blocksize];
    let w: Vec<F> = (0..n * k)
        .map(|i| F::from_f64(f64::from(dtype.round(decode_reference(call, 1, sizes, i)))))
        .collect();
    for i in 0..m {
        for j in 0..n {
            let mut sum = F::ZERO;
            for l in 0..k {
                sum += x[i * k + l] * if transposed { w[j * k + l] } else { w[l * n + j] };
            }
            out[i * n + j] = if accumulate { out[i * n + j] + sum } else { sum };
        }
    }
}
