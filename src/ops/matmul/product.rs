//! One product as it is launched: which version takes it, and with what grid.

use super::layout::{Layout, Params, SplitParams, THREADS, check_width};
use super::specs::{BLOCKED_TILE, MATMUL, MATMUL_NAIVE, MATMUL_TILED, TILE};
use super::{mma, split, wgmma};
use crate::backend::KernelCall;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernels::{KernelSpec, grid_1d};
use crate::ops::host::words;
use crate::tensor::Tensor;

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
            Self::Blocked => Some(BLOCKED_TILE),
            Self::TensorCore(_, tile) => Some(tile),
        }
    }
}

/// out = alpha · A · B, plus what `out` held before if `accumulate`. The leading dimensions of each tensor
/// count as one; every tensor has its own float dtype.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    /// How the operands lie.
    pub layout: Layout,
    /// A.
    pub a: &'a Tensor,
    /// B.
    pub b: &'a Tensor,
    /// Factor of the sums.
    pub alpha: f32,
    /// Whether to add.
    pub accumulate: bool,
    /// The result.
    pub out: &'a Tensor,
}

impl Product<'_> {
    /// Launches the version that suits operands and device.
    ///
    /// # Errors
    /// `Error::Unsupported` for a 16-bit `out` of odd width.
    pub fn run(&self) -> Result<()> {
        self.run_as(self.fastest(), None)
    }

    /// The version for these operands on their device.
    fn fastest(&self) -> Rung {
        let (m, n) = (self.out.rows(), self.out.columns());
        if wgmma::fits(self.a, self.b)
            && let Some(tile) = wgmma::tile(m, n)
        {
            return Rung::Hopper(tile);
        }
        match mma::version(self.a, self.b) {
            Some(version) => Rung::TensorCore(version, version.tile(m, n)),
            None => Rung::Blocked,
        }
    }

    /// [`Self::run`] with a version of choice. `depth` is the k that a block works through, a multiple of
    /// [`split::GRANULE`]; `None` takes what suits the sizes.
    pub fn run_as(&self, rung: Rung, depth: Option<usize>) -> Result<()> {
        let sizes @ [_, _, k] = self.sizes()?;
        let depth = match (rung.tile(), depth) {
            (Some(_), Some(depth)) => depth,
            (Some(tile), None) if self.out.device().capabilities().many_blocks => {
                split::depth(sizes, tile)
            }
            _ => k,
        };
        let parts = split::parts(sizes, depth, self.out)?;
        let (call, grid) = self.launch(rung, sizes, depth, parts.as_ref());
        call.launch(self.out.device(), grid)?;
        match &parts {
            Some(parts) => split::sum(parts, self.alpha, self.accumulate, self.out),
            None => Ok(()),
        }
    }

    /// [M, N, K], checked.
    fn sizes(&self) -> Result<[usize; 3]> {
        let Self { layout, a, b, out, .. } = *self;
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
        Ok([m, n, k])
    }

    /// The call and its grid; the sums go to `parts` where K is split.
    fn launch(
        &self,
        rung: Rung,
        [m, n, k]: [usize; 3],
        depth: usize,
        parts: Option<&Tensor>,
    ) -> (KernelCall, [u32; 3]) {
        let Self { layout, a, b, out, .. } = *self;
        let alpha = if parts.is_some() { 1.0 } else { self.alpha };
        let product = Params { m: m as u32, n: n as u32, k: k as u32, alpha };
        let call = |spec: &'static KernelSpec| {
            let call = KernelCall::new(spec, &[a.view(), b.view(), parts.unwrap_or(out).view()])
                .constant("LAYOUT", layout as u32)
                .constant("ACCUMULATE", u32::from(self.accumulate && parts.is_none()));
            match rung.tile() {
                Some(_) => call.params(SplitParams { product, depth: depth as u32 }),
                None => call.params(product),
            }
        };
        let splits = parts.map_or(1, |parts| parts.dim(0) as u32);
        let tiles = |height, width| [n.div_ceil(width) as u32, m.div_ceil(height) as u32, splits];
        match rung {
            Rung::Naive => (call(&MATMUL_NAIVE), grid_1d(words(out), THREADS)),
            Rung::Tiled => {
                let width = if out.dtype() == DType::F32 { TILE } else { 2 * TILE };
                (call(&MATMUL_TILED), tiles(TILE, width))
            }
            Rung::Blocked => (call(&MATMUL), tiles(BLOCKED_TILE, BLOCKED_TILE)),
            Rung::TensorCore(version, tile) => {
                let (spec, shared_bytes) = version.kernel(a.dtype(), b.dtype(), tile);
                let call = call(spec)
                    .constant("TILE", tile as u32)
                    .constant("SHARED_BYTES", shared_bytes)
                    .shared_bytes(shared_bytes);
                (call, tiles(tile, tile))
            }
            Rung::Hopper(tile) => {
                wgmma::launch(call(&wgmma::MATMUL_WGMMA), layout, [a, b, out], tile)
            }
        }
    }
}
