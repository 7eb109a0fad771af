//! The kernels of NF4 weights.

use super::params::THREADS;
use super::{cpu, reference};
use crate::kernels::{Binding, Header, KernelSpec, KernelText, Kind, MMA, Requires, TENSOR_CORES};
use crate::ops::matmul::{BLOCKED, LAYOUTS, mma};
use crate::ops::wide_loads;
use crate::{cuda_header, cuda_text, kernel_text, with_element};

/// `kernels-cuda/nf4.cuh`: their parameters.
const NF4: Header = cuda_header!("nf4", &[]);

static TEXT: KernelText = kernel_text!("nf4").with_headers(&[NF4]);
static PRODUCT_TEXT: KernelText =
    kernel_text!("nf4_matmul").with_headers(&[NF4]).with_constants(&[LAYOUTS, BLOCKED]);
static PRODUCT_MMA_TEXT: KernelText =
    cuda_text!("nf4_matmul_mma", MMA, NF4).with_constants(&[LAYOUTS, &[("STAGES", mma::STAGES)]]);
static WIDE_TEXT: KernelText = cuda_text!("nf4_wide", NF4);

pub static NF4_QUANTIZE: KernelSpec = KernelSpec {
    name: "nf4_quantize",
    text: &TEXT,
    bindings: &[
        Binding::read("source", Kind::Float),
        Binding::read("thresholds", Kind::F32),
        Binding::write("new_codes", Kind::U8),
        Binding::write("absmax", Kind::F32),
    ],
    constants: &["NESTED"],
    block: [THREADS as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference::quantize,
    reference_f64: reference::quantize,
    cpu: |call| with_element!(call.dtype(0), W => cpu::quantize::<W>(call)),
};

pub static NF4_DEQUANTIZE: KernelSpec = KernelSpec {
    name: "nf4_dequantize",
    text: &TEXT,
    bindings: &[
        Binding::read("codes", Kind::U8),
        Binding::read("scales", Kind::U8),
        Binding::read("tables", Kind::F32),
        Binding::write("w", Kind::Float),
    ],
    constants: &["NESTED"],
    block: [THREADS as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference::dequantize,
    reference_f64: reference::dequantize,
    cpu: |call| with_element!(call.dtype(3), W => cpu::dequantize::<W>(call)),
};

pub static NF4_DEQUANTIZE_WIDE: KernelSpec = KernelSpec {
    name: "nf4_dequantize_wide",
    text: &WIDE_TEXT,
    requires: wide_loads::REQUIRES,
    ..NF4_DEQUANTIZE
};

pub static NF4_MATMUL: KernelSpec = KernelSpec {
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
    block: [THREADS as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference::product,
    reference_f64: reference::product,
    cpu: cpu::product,
};

pub static NF4_MATMUL_MMA: KernelSpec = KernelSpec {
    name: "nf4_matmul_mma",
    text: &PRODUCT_MMA_TEXT,
    constants: &["TILE", "LAYOUT", "ACCUMULATE", "NESTED", "SHARED_BYTES"],
    requires: Requires::Sm(TENSOR_CORES),
    ..NF4_MATMUL
};
