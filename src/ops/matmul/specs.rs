//! The kernels of the portable versions, and what the specs of all versions share.

use super::layout::{LAYOUTS, PRODUCT, THREADS};
use super::{cpu, reference};
use crate::kernel_text;
use crate::kernels::{Binding, Constants, KernelSpec, KernelText, Kind, Requires};

/// Rows of a tile of [`MATMUL_TILED`], and words of a row.
pub const TILE: usize = 16;
/// Rows and columns of a tile of [`MATMUL`], and k of a slab.
pub const BLOCKED_TILE: usize = 64;
/// The same, for kernel text.
pub(crate) const BLOCKED: Constants =
    &[("BM", BLOCKED_TILE as u32), ("BN", BLOCKED_TILE as u32), ("BK", 16)];

static NAIVE_TEXT: KernelText =
    kernel_text!("matmul_naive").with_headers(&[PRODUCT]).with_constants(&[LAYOUTS]);
static TILED_TEXT: KernelText = kernel_text!("matmul_tiled")
    .with_headers(&[PRODUCT])
    .with_constants(&[LAYOUTS, &[("TILE", TILE as u32)]]);
static TEXT: KernelText =
    kernel_text!("matmul").with_headers(&[PRODUCT]).with_constants(&[LAYOUTS, BLOCKED]);

pub static MATMUL_NAIVE: KernelSpec = whole("matmul_naive", &NAIVE_TEXT);
pub static MATMUL_TILED: KernelSpec = whole("matmul_tiled", &TILED_TEXT);
pub static MATMUL: KernelSpec = splitting("matmul", &TEXT);

const BINDINGS: &[Binding] = &[
    Binding::read("a", Kind::Float),
    Binding::read("b", Kind::Float),
    Binding::update("out", Kind::Float),
];

/// A version that sums all of K at once.
pub const fn whole(name: &'static str, text: &'static KernelText) -> KernelSpec {
    KernelSpec {
        name,
        text,
        bindings: BINDINGS,
        constants: &["LAYOUT", "ACCUMULATE"],
        block: [THREADS as u32, 1, 1],
        requires: Requires::Portable,
        reference_f32: reference::product,
        reference_f64: reference::product,
        cpu: cpu::matmul,
    }
}

/// A version that can split K.
pub const fn splitting(name: &'static str, text: &'static KernelText) -> KernelSpec {
    KernelSpec {
        reference_f32: reference::split_product,
        reference_f64: reference::split_product,
        cpu: cpu::matmul_split,
        ..whole(name, text)
    }
}
