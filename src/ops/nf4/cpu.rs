//! The CPU functions of the kernels of NF4 weights.

use super::params::{Params, ProductParams};
use crate::dtype::{DType, Element};
use crate::kernels::HostCall;
use crate::ops::cpu::{self, Elements, Matrix, Scale};
use crate::ops::matmul::Layout;
use crate::quant::Nf4View;
use crate::quant::nf4::{BLOCKSIZE, quantize_block};
use crate::with_element;
use rayon::prelude::*;

pub fn quantize<W: Element>(call: &mut HostCall) {
    let (w, codes, absmax) = (call.input::<W>(0), call.output::<u8>(2), call.output::<f32>(3));
    let blocks = w.par_chunks(BLOCKSIZE).zip(codes.par_chunks_mut(BLOCKSIZE / 2));
    blocks.zip(absmax).with_min_len(64).for_each(|((w, codes), absmax)| {
        let mut values = [0.0; BLOCKSIZE];
        for (value, &w) in values.iter_mut().zip(w) {
            *value = w.to_f32();
        }
        *absmax = quantize_block(&values[..w.len()], codes);
    });
}

pub fn dequantize<W: Element>(call: &mut HostCall) {
    let params: Params = call.params();
    let sizes = [params.blocksize, params.nested_blocksize];
    let (view, w) = (view_of(call, 0, sizes, DType::F32), call.output::<W>(3));
    const TASK: usize = 4096;
    w.par_chunks_mut(TASK).enumerate().for_each(|(number, w)| {
        let mut values = [0.0; TASK];
        let values = &mut values[..w.len()];
        view.decode(number * TASK, values);
        for (w, &value) in w.iter_mut().zip(values.iter()) {
            *w = W::from_f32(value);
        }
    });
}

pub fn product(call: &mut HostCall) {
    let params: ProductParams = call.params();
    let sizes = [params.m, params.n, params.k].map(|size| size as usize);
    let blocks = [params.blocksize, params.nested_blocksize];
    let [_, n, k] = sizes;
    let x = Matrix::rows(Elements::of(call, 0), k);
    let weight = Elements::Nf4(view_of(call, 1, blocks, call.dtype(0)));
    let w = match call.constant("LAYOUT") == Layout::NT as u32 {
        true => Matrix::rows(weight, k).transposed(),
        false => Matrix::rows(weight, n),
    };
    let scale = Scale { alpha: 1.0, accumulate: call.constant("ACCUMULATE") == 1 };
    with_element!(call.dtype(4), Out => cpu::product(sizes, x, w, scale, call.output::<Out>(4)));
}

/// Bindings `first..first + 3` of a call as an NF4 weight.
fn view_of<'a>(
    call: &HostCall<'a>,
    first: usize,
    [blocksize, nested_blocksize]: [u32; 2],
    dtype: DType,
) -> Nf4View<'a> {
    Nf4View {
        codes: call.input(first),
        scales: call.input(first + 1),
        tables: call.input(first + 2),
        nested: call.constant("NESTED") == 1,
        blocksize: blocksize as usize,
        nested_blocksize: nested_blocksize as usize,
        dtype,
    }
}
