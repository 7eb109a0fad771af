//! NF4 weights (QLoRA, Dettmers et al., 2023, arXiv:2305.14314) on the device: quantizing, decoding,
//! and the product that decodes as it goes. Bit-equal to bitsandbytes when decoded.

mod cpu;
mod params;
mod reference;
mod specs;
mod tensor;

pub use tensor::Nf4Tensor;

use super::grad_target::GradTarget;
use super::host::words;
use super::matmul::{BLOCKED_TILE, Layout, check_width, matmul_into, mma};
use super::wide_loads;
use crate::backend::KernelCall;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernels::{KernelSpec, grid_1d};
use crate::tape::Tape;
use crate::tensor::Tensor;
use params::{Params, ProductParams, THREADS};
use specs::{NF4_DEQUANTIZE, NF4_DEQUANTIZE_WIDE, NF4_MATMUL, NF4_MATMUL_MMA, NF4_QUANTIZE};

/// The whole matrix [N, K] decoded and rounded to `dtype`.
///
/// # Errors
/// `Error::Unsupported` for 16-bit rows of odd width.
pub fn nf4_dequantize(weight: &Nf4Tensor, dtype: DType) -> Result<Tensor> {
    let w = Tensor::empty(weight.device(), &weight.shape, dtype)?;
    check_width("nf4_dequantize", &w)?;
    let views = [weight.codes.view(), weight.scales.view(), weight.tables.view(), w.view()];
    // Codes that lie together must share a scale.
    let chunks =
        wide_loads::chunks(&w).filter(|_| weight.blocksize.is_multiple_of(wide_loads::CHUNK));
    let (spec, threads) = match chunks {
        Some(chunks) => (&NF4_DEQUANTIZE_WIDE, chunks),
        None => (&NF4_DEQUANTIZE, words(&w)),
    };
    KernelCall::new(spec, &views)
        .constant("NESTED", u32::from(weight.nested))
        .params(Params::new(w.len(), weight.blocksize, weight.nested_blocksize))
        .launch(weight.device(), grid_1d(threads, THREADS))?;
    Ok(w)
}

/// y = x Wᵀ: `x` [.., K] times the transpose of the NF4 matrix [N, K] gives [.., N] in `x`'s dtype.
/// Weights are rounded to that dtype before the product, as bitsandbytes does; sums are f32. The weight
/// is frozen: only `x` can want a gradient, dx = dy W.
///
/// # Errors
/// `Error::Unsupported` when a 16-bit result would have rows of odd width.
pub fn nf4_matmul(tape: &Tape, x: &Tensor, weight: &Nf4Tensor) -> Result<Tensor> {
    if x.columns() != weight.shape[1] {
        let what = format!("{x:?} times the transpose of NF4 {:?}", weight.shape);
        return Err(Error::internal("nf4_matmul", what));
    }
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = weight.shape[0];
    }
    let y = Tensor::empty(x.device(), &shape, x.dtype())?;
    product(Layout::NT, x, weight, false, &y)?;
    let (x_grad, weight) = (GradTarget::of(x), weight.clone());
    Ok(tape.record("nf4_matmul", &[x], y, move |dy| match &x_grad {
        Some(target) => target.write(|adds, dx| product(Layout::NN, dy, &weight, adds, dx)),
        None => Ok(()),
    }))
}

fn product(
    layout: Layout,
    x: &Tensor,
    weight: &Nf4Tensor,
    accumulate: bool,
    out: &Tensor,
) -> Result<()> {
    check_width("nf4_matmul", out)?;
    if worth_decoding(x, out) {
        // The matrix in 16 bits lives as long as this product.
        let w = nf4_dequantize(weight, x.dtype())?;
        return matmul_into(layout, x, &w, 1.0, accumulate, out);
    }
    let (m, n, k) = (out.rows(), out.columns(), x.columns());
    let views =
        [x.view(), weight.codes.view(), weight.scales.view(), weight.tables.view(), out.view()];
    let fast = fits_tensor_cores(x, weight);
    let (spec, tile) =
        if fast { (&NF4_MATMUL_MMA, mma::tile(m, n)) } else { (&NF4_MATMUL, BLOCKED_TILE) };
    let mut call = KernelCall::new(spec, &views);
    if fast {
        // The stages of x, and two slabs of the weight.
        let shared_bytes = (mma::STAGES + 2) * mma::slab_bytes(tile);
        call = call
            .constant("TILE", tile as u32)
            .constant("SHARED_BYTES", shared_bytes)
            .shared_bytes(shared_bytes);
    }
    call.constant("LAYOUT", layout as u32)
        .constant("ACCUMULATE", u32::from(accumulate))
        .constant("NESTED", u32::from(weight.nested))
        .params(ProductParams {
            m: m as u32,
            n: n as u32,
            k: k as u32,
            blocksize: weight.blocksize as u32,
            nested_blocksize: weight.nested_blocksize as u32,
            zero: 0,
        })
        .launch(out.device(), [n.div_ceil(tile) as u32, m.div_ceil(tile) as u32, 1])
}

/// Whether to decode the weight once, for a product that reads its tiles from memory: on Hopper, whose
/// tensor cores outrun what decodes for them tile by tile, where there are many rows. Decoding an [N, K]
/// matrix moves 2.5 N K bytes; the product with M rows is 2 M N K FLOPs. At 4 TB/s and 700 TFLOP/s that is
/// a fifth of its time at 1,024 rows. The weights are the same to the bit: they are rounded either way.
fn worth_decoding(x: &Tensor, out: &Tensor) -> bool {
    const FEW_ROWS: usize = 1024;
    x.rows() >= FEW_ROWS
        && x.device().capabilities().is_hopper()
        && x.dtype() != DType::F32
        && [x, out].iter().all(|tensor| tensor.columns().is_multiple_of(mma::CHUNK))
}

/// Whether [`NF4_MATMUL_MMA`] can multiply these: 8 codes that lie together share a scale and a row, and
/// a block's number is a shift away.
fn fits_tensor_cores(x: &Tensor, weight: &Nf4Tensor) -> bool {
    let blocks = [weight.blocksize, weight.nested_blocksize];
    x.device().capabilities().has_tensor_cores()
        && x.dtype() != DType::F32
        && [x.columns(), weight.shape[1]].iter().all(|width| width.is_multiple_of(mma::CHUNK))
        && blocks.iter().all(|size| size.is_power_of_two() && *size >= mma::CHUNK)
}

pub(super) const KERNELS: &[&KernelSpec] =
    &[&NF4_QUANTIZE, &NF4_DEQUANTIZE, &NF4_DEQUANTIZE_WIDE, &NF4_MATMUL, &NF4_MATMUL_MMA];
