//! Matrix products: the linear layer, forward and backward, and every other product of the crate.
//!
//! Five rungs of one kernel show how a GPU product is made fast: [`Rung::Naive`], [`Rung::Tiled`],
//! [`Rung::Blocked`], [`Rung::TensorCore`], [`Rung::Hopper`]. Training uses the last one that device and
//! operands allow, from the third on; all are tested and benched.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod blocks;
mod cpu;
#[cfg(target_arch = "x86_64")]
mod dot;
pub(super) mod mma;
mod operand;
#[cfg(target_arch = "x86_64")]
mod pack;
mod scratch;
mod sgemm;
mod split;
pub(super) mod wgmma;

#[cfg(target_arch = "x86_64")]
pub(super) use blocks::small_product;
pub(super) use cpu::nf4 as nf4_cpu;
#[cfg(not(target_arch = "x86_64"))]
pub(super) use cpu::small_product;
pub(super) use operand::Block;
pub(super) use sgemm::{Threads, sgemm};

use super::grad_target::GradTarget;
use super::host::words;
use crate::backend::KernelCall;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel_text;
use crate::kernels::{Binding, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d};
use crate::tape::Tape;
use crate::tensor::{Saved, Tensor};
use bytemuck::{Pod, Zeroable};

/// y = x wᵀ: `x` [.., K] times the transpose of `w` [N, K] gives [.., N] in `x`'s dtype; sums are f32.
/// A linear layer without bias. The two dtypes may differ.
///
/// # Errors
/// `Error::Unsupported` when a 16-bit result would have rows of odd width.
pub fn matmul(tape: &Tape, x: &Tensor, w: &Tensor) -> Result<Tensor> {
    if w.shape().len() != 2 || x.columns() != w.columns() {
        return Err(Error::internal("matmul", format!("{x:?} times the transpose of {w:?}")));
    }
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = w.dim(0);
    }
    let y = Tensor::empty(x.device(), &shape, x.dtype())?;
    matmul_into(Layout::NT, x, w, 1.0, false, &y)?;
    let (x_grad, w_grad) = (GradTarget::of(x), GradTarget::of(w));
    // A frozen weight costs no activation memory: x is kept for dw alone.
    let x_in = w_grad.is_some().then(|| Saved::of(x));
    let w_in = x_grad.is_some().then(|| w.detach());
    Ok(tape.record("matmul", &[x, w], y, move |dy| {
        if let (Some(target), Some(w)) = (&x_grad, &w_in) {
            target.write(|adds, dx| matmul_into(Layout::NN, dy, w, 1.0, adds, dx))?;
        }
        if let (Some(target), Some(x)) = (&w_grad, &x_in) {
            let x = x.get()?;
            target.write(|adds, dw| matmul_into(Layout::TN, dy, &x, 1.0, adds, dw))?;
        }
        Ok(())
    }))
}

/// How the operands of out [M, N] = A [M, K] · B [K, N] lie in memory: N as written here, T transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// a [M, K], b [N, K]: the forward product.
    NT,
    /// a [M, K], b [K, N]: the gradient of x.
    NN,
    /// a [K, M], b [K, N]: the gradient of w.
    TN,
}

/// The versions of the kernel, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    /// One thread per output word, no staging.
    Naive,
    /// 16 x 16 tiles in shared memory.
    Tiled,
    /// 64 x 64 tiles in shared memory, 4 x 4 sums in registers.
    Blocked,
    /// Tiles of this many rows and columns on tensor cores.
    TensorCore(mma::Version, usize),
    /// Tiles of 128 rows and this many columns on Hopper's tensor cores.
    Hopper(usize),
}

impl Rung {
    /// Rows and columns of a block's tile, for the versions that can split K.
    fn tile(self) -> Option<usize> {
        match self {
            Self::Naive | Self::Tiled | Self::Hopper(_) => None,
            Self::Blocked => Some(64),
            Self::TensorCore(_, tile) => Some(tile),
        }
    }
}

/// out = alpha · A · B, plus what `out` held before if `accumulate`. The leading dimensions of each
/// tensor count as one; every tensor has its own float dtype.
///
/// # Errors
/// `Error::Unsupported` for a 16-bit `out` of odd width.
pub(crate) fn matmul_into(
    layout: Layout,
    a: &Tensor,
    b: &Tensor,
    alpha: f32,
    accumulate: bool,
    out: &Tensor,
) -> Result<()> {
    matmul_rung(fastest(a, b, out), None, layout, a, b, alpha, accumulate, out)
}

/// The version for these operands on their device.
fn fastest(a: &Tensor, b: &Tensor, out: &Tensor) -> Rung {
    let (m, n) = (out.rows(), out.columns());
    if wgmma::fits(a, b)
        && let Some(tile) = wgmma::tile(m, n)
    {
        return Rung::Hopper(tile);
    }
    match mma::version(a, b) {
        Some(version) => Rung::TensorCore(version, version.tile(m, n)),
        None => Rung::Blocked,
    }
}

/// [`matmul_into`] with a version of choice. `depth` is the k that a block works through, a multiple of
/// [`split::GRANULE`]; `None` takes what suits the sizes.
#[allow(clippy::too_many_arguments)]
pub(crate) fn matmul_rung(
    rung: Rung,
    depth: Option<usize>,
    layout: Layout,
    a: &Tensor,
    b: &Tensor,
    alpha: f32,
    accumulate: bool,
    out: &Tensor,
) -> Result<()> {
    let (m, k) = match layout {
        Layout::NT | Layout::NN => (a.rows(), a.columns()),
        Layout::TN => (a.columns(), a.rows()),
    };
    let (n, b_k) = match layout {
        Layout::NT => (b.rows(), b.columns()),
        Layout::NN | Layout::TN => (b.columns(), b.rows()),
    };
    let too_large = [a, b, out].iter().any(|tensor| tensor.len() > i32::MAX as usize);
    if k != b_k || out.rows() != m || out.columns() != n || too_large {
        let what = format!("{layout:?} product of {a:?} and {b:?} into {out:?}");
        return Err(Error::internal("matmul", what));
    }
    check_width("matmul", out)?;
    let depth = match (rung.tile(), depth) {
        (Some(_), Some(depth)) => depth,
        (Some(tile), None) if out.device().capabilities().many_blocks => {
            split::depth([m, n, k], tile)
        }
        _ => k,
    };
    let parts = split::parts([m, n, k], depth, out)?;
    let (sums, alpha_of_sums) = match &parts {
        Some(parts) => (parts, 1.0),
        None => (out, alpha),
    };
    let product = Params { m: m as u32, n: n as u32, k: k as u32, alpha: alpha_of_sums };
    let call = |spec| {
        let call = KernelCall::new(spec, &[a.view(), b.view(), sums.view()])
            .constant("LAYOUT", layout as u32)
            .constant("ACCUMULATE", u32::from(accumulate && parts.is_none()));
        match rung.tile() {
            Some(_) => call.params(SplitParams { product, depth: depth as u32 }),
            None => call.params(product),
        }
    };
    let splits = parts.as_ref().map_or(1, |parts| parts.dim(0) as u32);
    let tiles = |height, width| [n.div_ceil(width) as u32, m.div_ceil(height) as u32, splits];
    let (call, grid) = match rung {
        Rung::Naive => (call(&MATMUL_NAIVE), grid_1d(words(out), BLOCK)),
        Rung::Tiled => {
            let width = if out.dtype() == DType::F32 { 16 } else { 32 };
            (call(&MATMUL_TILED), tiles(16, width))
        }
        Rung::Blocked => (call(&MATMUL), tiles(64, 64)),
        Rung::TensorCore(version, tile) => {
            let (spec, shared_bytes) = version.kernel(a.dtype(), b.dtype(), tile);
            let call = call(spec).constant("TILE", tile as u32).shared_bytes(shared_bytes);
            (call, tiles(tile, tile))
        }
        Rung::Hopper(tile) => wgmma::launch(call(&wgmma::MATMUL_WGMMA), layout, [a, b, out], tile),
    };
    call.launch(out.device(), grid)?;
    match &parts {
        Some(parts) => split::sum(parts, alpha, accumulate, out),
        None => Ok(()),
    }
}

/// Refuses 16-bit rows of odd width: two elements share a word, and a thread owns whole words.
pub(crate) fn check_width(op: &'static str, out: &Tensor) -> Result<()> {
    if out.dtype() != DType::F32 && !out.columns().is_multiple_of(2) {
        return Err(Error::Unsupported {
            op,
            backend: out.device().capabilities().description.clone(),
            why: format!(
                "rows of {} {} elements; an odd width needs float32",
                out.columns(),
                out.dtype().name()
            ),
        });
    }
    Ok(())
}

const BLOCK: usize = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    m: u32,
    n: u32,
    k: u32,
    alpha: f32,
}

/// Of the versions that can split K: block z of the grid sums k from z · depth, for an [M, N] of its own.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SplitParams {
    product: Params,
    depth: u32,
}

static NAIVE_TEXT: KernelText = kernel_text!("matmul_naive");
static TILED_TEXT: KernelText = kernel_text!("matmul_tiled");
static TEXT: KernelText = kernel_text!("matmul");

pub(super) const KERNELS: &[&KernelSpec] = &[
    &MATMUL_NAIVE,
    &MATMUL_TILED,
    &MATMUL,
    &mma::MATMUL_MMA,
    &mma::MATMUL_F32_MMA,
    &split::SUM_SPLITS,
    &wgmma::MATMUL_WGMMA,
];

static MATMUL_NAIVE: KernelSpec = rung("matmul_naive", &NAIVE_TEXT);
static MATMUL_TILED: KernelSpec = rung("matmul_tiled", &TILED_TEXT);
static MATMUL: KernelSpec = split_rung("matmul", &TEXT);

const BINDINGS: &[Binding] = &[
    Binding::read("a", Kind::Float),
    Binding::read("b", Kind::Float),
    Binding::update("out", Kind::Float),
];

const fn rung(name: &'static str, text: &'static KernelText) -> KernelSpec {
    KernelSpec {
        name,
        text,
        bindings: BINDINGS,
        constants: &["LAYOUT", "ACCUMULATE"],
        block: [BLOCK as u32, 1, 1],
        requires: Requires::Portable,
        reference_f32: reference,
        reference_f64: reference,
        cpu: cpu::matmul,
    }
}

/// A version that can split K.
const fn split_rung(name: &'static str, text: &'static KernelText) -> KernelSpec {
    KernelSpec {
        reference_f32: reference_split,
        reference_f64: reference_split,
        cpu: cpu::matmul_split,
        ..rung(name, text)
    }
}

fn reference<F: Real>(call: &mut RefCall<F>) {
    let product: Params = call.params();
    multiply(call, product, product.k);
}

fn reference_split<F: Real>(call: &mut RefCall<F>) {
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
