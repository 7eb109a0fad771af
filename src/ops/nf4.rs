//! NF4 weights (QLoRA, Dettmers et al., 2023, arXiv:2305.14314) on the device: quantizing, decoding,
//! and the product that decodes as it goes. Bit-equal to bitsandbytes when decoded.

use super::cpu::{Elements, Matrix, Scale, product as cpu_product};
use super::grad_target::GradTarget;
use super::host::words;
use super::matmul::{BLOCKED, BLOCKED_TILE, LAYOUTS, Layout, check_width, matmul_into, mma};
use super::wide_loads;
use crate::backend::{Device, KernelCall};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::kernels::{
    Binding, Header, HostCall, KernelSpec, KernelText, Kind, MMA, Real, RefCall, Requires,
    TENSOR_CORES, grid_1d,
};
use crate::quant::Nf4View;
use crate::quant::nf4::quantize_block;
use crate::quant::nf4::{Absmax, BLOCKSIZE, CODEBOOK, NESTED_BLOCKSIZE, Nf4Weight, THRESHOLDS};
use crate::tape::Tape;
use crate::tensor::Tensor;
use crate::{cuda_header, cuda_text, kernel_text, with_element};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// A frozen weight matrix in NF4 on a device: 4 bits per element and 0.127 bits (with double
/// quantization; else 0.5) for the scales.
#[derive(Clone, Debug)]
pub struct Nf4Tensor {
    shape: [usize; 2],
    /// u8 [ceil(N K / 2)], the even element of the flattened matrix in the high half.
    codes: Tensor,
    /// u8 [blocks]: quantized scales; one unused byte where they are not.
    scales: Tensor,
    /// f32: levels [16], then absmax [blocks], or map [256], offset [1], nested absmax [..].
    tables: Tensor,
    nested: bool,
    blocksize: usize,
    nested_blocksize: usize,
}

impl Nf4Tensor {
    /// Copies a quantized matrix to a device.
    pub fn from_host(device: &Device, weight: &Nf4Weight) -> Result<Self> {
        let codes = Tensor::from_bytes(device, &[weight.codes.len()], DType::U8, &weight.codes)?;
        Self::with_scales(weight.shape, codes, &weight.absmax, weight.blocksize)
    }

    /// Quantizes `w` [N, K] (any float dtype) in blocks of 64 on its device, and the scales too if
    /// `double_quant`.
    ///
    /// # Errors
    /// `Error::Unsupported` when N K is no multiple of 8; `Error::Input` for an infinite weight.
    pub fn quantize(w: &Tensor, double_quant: bool) -> Result<Self> {
        let &[n, k] = w.shape() else {
            return Err(Error::internal("nf4_quantize", format!("{w:?} is no matrix")));
        };
        if !w.len().is_multiple_of(8) {
            return Err(Error::Unsupported {
                op: "nf4_quantize",
                backend: w.device().capabilities().description.clone(),
                why: format!("{n} x {k} elements are no multiple of 8"),
            });
        }
        let device = w.device();
        let thresholds = Tensor::from_f32(device, &[15], DType::F32, &THRESHOLDS)?;
        let codes = Tensor::empty(device, &[w.len() / 2], DType::U8)?;
        let absmax = Tensor::empty(device, &[w.len().div_ceil(BLOCKSIZE)], DType::F32)?;
        let views = [w.view(), thresholds.view(), codes.view(), absmax.view()];
        KernelCall::new(&NF4_QUANTIZE, &views)
            .constant("NESTED", 0)
            .params(Params::new(w.len(), BLOCKSIZE, NESTED_BLOCKSIZE))
            .launch(device, grid_1d(w.len() / 8, BLOCK))?;
        let absmax = absmax.read_f32()?;
        if let Some(block) = absmax.iter().position(|absmax| !absmax.is_finite()) {
            return Err(Error::input(format!(
                "a weight among elements {} to {} is not finite, which NF4 cannot hold",
                block * BLOCKSIZE,
                (block + 1) * BLOCKSIZE - 1
            )));
        }
        let absmax = Absmax::F32(absmax);
        let absmax = if double_quant { absmax.double_quantize() } else { absmax };
        Self::with_scales([n, k], codes, &absmax, BLOCKSIZE)
    }

    fn with_scales(
        shape: [usize; 2],
        codes: Tensor,
        absmax: &Absmax,
        blocksize: usize,
    ) -> Result<Self> {
        let blocks = (shape[0] * shape[1]).div_ceil(blocksize.max(1));
        if blocksize == 0 || absmax.len() != blocks || codes.len() * 2 < shape[0] * shape[1] {
            let what = format!("{} scales and {codes:?} for {shape:?}", absmax.len());
            return Err(Error::internal("nf4", what));
        }
        let mut tables = CODEBOOK.to_vec();
        let mut scales: &[u8] = &[0];
        let mut nested_blocksize = NESTED_BLOCKSIZE;
        match absmax {
            Absmax::F32(values) => tables.extend(values),
            Absmax::Nested { codes, map, absmax, offset, blocksize } => {
                scales = codes;
                nested_blocksize = *blocksize;
                tables.extend(map.iter());
                tables.push(*offset);
                tables.extend(absmax);
            }
        }
        let device = codes.device();
        Ok(Self {
            shape,
            scales: Tensor::from_bytes(device, &[scales.len()], DType::U8, scales)?,
            tables: Tensor::from_f32(device, &[tables.len()], DType::F32, &tables)?,
            codes,
            nested: matches!(absmax, Absmax::Nested { .. }),
            blocksize,
            nested_blocksize,
        })
    }

    /// A weight over tensors that are on the device already, in the forms this type keeps; blocks of 64
    /// and 256.
    pub(crate) fn from_tensors(
        shape: [usize; 2],
        codes: &Tensor,
        scales: &Tensor,
        tables: &Tensor,
        nested: bool,
    ) -> Self {
        Self {
            shape,
            codes: codes.clone(),
            scales: scales.clone(),
            tables: tables.clone(),
            nested,
            blocksize: BLOCKSIZE,
            nested_blocksize: NESTED_BLOCKSIZE,
        }
    }

    /// Reads the matrix back to the host, for files.
    pub fn to_host(&self) -> Result<Nf4Weight> {
        let tables = self.tables.read_f32()?;
        let absmax = if self.nested {
            let mut map = Box::new([0.0; 256]);
            map.copy_from_slice(&tables[16..272]);
            Absmax::Nested {
                codes: self.scales.read_bytes()?,
                map,
                absmax: tables[273..].to_vec(),
                offset: tables[272],
                blocksize: self.nested_blocksize,
            }
        } else {
            Absmax::F32(tables[16..].to_vec())
        };
        let codes = self.codes.read_bytes()?;
        Ok(Nf4Weight { shape: self.shape, codes, absmax, blocksize: self.blocksize })
    }

    /// [N, K]: [out, in] of a linear layer.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.codes.device()
    }

    /// The packed codes: u8 [ceil(N K / 2)].
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// Bytes on the device.
    pub fn byte_len(&self) -> usize {
        self.codes.len() + self.scales.len() + 4 * self.tables.len()
    }
}

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
        .launch(weight.device(), grid_1d(threads, BLOCK))?;
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

const BLOCK: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    count: u32,
    blocksize: u32,
    nested_blocksize: u32,
    zero: u32,
}

impl Params {
    fn new(count: usize, blocksize: usize, nested_blocksize: usize) -> Self {
        Self {
            count: count as u32,
            blocksize: blocksize as u32,
            nested_blocksize: nested_blocksize as u32,
            zero: 0,
        }
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ProductParams {
    m: u32,
    n: u32,
    k: u32,
    blocksize: u32,
    nested_blocksize: u32,
    zero: u32,
}

/// `kernels-cuda/nf4.cuh`: the parameters above.
const NF4: Header = cuda_header!("nf4", &[]);

static TEXT: KernelText = kernel_text!("nf4").with_headers(&[NF4]);
static PRODUCT_TEXT: KernelText =
    kernel_text!("nf4_matmul").with_headers(&[NF4]).with_constants(&[LAYOUTS, BLOCKED]);
static PRODUCT_MMA_TEXT: KernelText =
    cuda_text!("nf4_matmul_mma", MMA, NF4).with_constants(&[LAYOUTS, &[("STAGES", mma::STAGES)]]);
static WIDE_TEXT: KernelText = cuda_text!("nf4_wide", NF4);

pub(super) const KERNELS: &[&KernelSpec] =
    &[&NF4_QUANTIZE, &NF4_DEQUANTIZE, &NF4_DEQUANTIZE_WIDE, &NF4_MATMUL, &NF4_MATMUL_MMA];

static NF4_QUANTIZE: KernelSpec = KernelSpec {
    name: "nf4_quantize",
    text: &TEXT,
    bindings: &[
        Binding::read("source", Kind::Float),
        Binding::read("thresholds", Kind::F32),
        Binding::write("new_codes", Kind::U8),
        Binding::write("absmax", Kind::F32),
    ],
    constants: &["NESTED"],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: quantize_reference,
    reference_f64: quantize_reference,
    cpu: |call| with_element!(call.dtype(0), W => quantize_cpu::<W>(call)),
};

static NF4_DEQUANTIZE: KernelSpec = KernelSpec {
    name: "nf4_dequantize",
    text: &TEXT,
    bindings: &[
        Binding::read("codes", Kind::U8),
        Binding::read("scales", Kind::U8),
        Binding::read("tables", Kind::F32),
        Binding::write("w", Kind::Float),
    ],
    constants: &["NESTED"],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: dequantize_reference,
    reference_f64: dequantize_reference,
    cpu: |call| with_element!(call.dtype(3), W => dequantize_cpu::<W>(call)),
};

static NF4_DEQUANTIZE_WIDE: KernelSpec = KernelSpec {
    name: "nf4_dequantize_wide",
    text: &WIDE_TEXT,
    requires: wide_loads::REQUIRES,
    ..NF4_DEQUANTIZE
};

static NF4_MATMUL: KernelSpec = KernelSpec {
    name: "nf4_matmul",
    text: &PRODUCT_TEXT,
    bindings: &[
        Binding::read("x", Kind::Float),
        Binding::read("codes", Kind::U8),
        Binding::read("scales", Kind::U8),
        Binding::read("tables", Kind::F32),
        Binding::update("out", Kind::Float),
    ],
    constants: &["LAYOUT", "ACCUMULATE", "NESTED"],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: product_reference,
    reference_f64: product_reference,
    cpu: product_cpu,
};

static NF4_MATMUL_MMA: KernelSpec = KernelSpec {
    name: "nf4_matmul_mma",
    text: &PRODUCT_MMA_TEXT,
    constants: &["TILE", "LAYOUT", "ACCUMULATE", "NESTED", "SHARED_BYTES"],
    requires: Requires::Sm(TENSOR_CORES),
    ..NF4_MATMUL
};

/// Codes are defined in f32 whatever the arithmetic: they must be equal to the bit.
fn quantize_reference<F: Real>(call: &mut RefCall<F>) {
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

fn dequantize_reference<F: Real>(call: &mut RefCall<F>) {
    let params: Params = call.params();
    let (dtype, w) = (call.dtype(3), call.output(3));
    for (i, w) in w.iter_mut().enumerate() {
        let value = decode_reference(call, 0, [params.blocksize, params.nested_blocksize], i);
        *w = F::from_f64(f64::from(dtype.round(value)));
    }
}

fn product_reference<F: Real>(call: &mut RefCall<F>) {
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

fn quantize_cpu<W: Element>(call: &mut HostCall) {
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

fn dequantize_cpu<W: Element>(call: &mut HostCall) {
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

fn product_cpu(call: &mut HostCall) {
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
    with_element!(call.dtype(4), Out => cpu_product(sizes, x, w, scale, call.output::<Out>(4)));
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
