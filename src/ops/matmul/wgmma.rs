//! The product on Hopper's tensor cores: when it is worth it, its tiles and its launch.

use super::layout::{LAYOUTS, Layout, PRODUCT};
use super::mma;
use super::specs::whole;
use crate::backend::{KernelCall, TensorMap};
use crate::cuda_text;
use crate::dtype::DType;
use crate::kernels::{KernelSpec, KernelText, MMA, Requires, WGMMA};
use crate::tensor::Tensor;

/// Rows of a tile, and k of a slab: a row of a box.
const TILE_M: usize = 128;
const SLAB: usize = 64;
/// Slabs that are on their way or in use.
const STAGES: usize = 4;
/// Tiles below which the wider ones would leave much of a GPU without work.
const FEW_WIDE_TILES: usize = 96;
/// Tiles below which the smaller ones of [`mma`] use more of it.
const FEW_TILES: usize = 64;

/// Whether the kernel can multiply these.
pub(crate) fn fits(a: &Tensor, b: &Tensor) -> bool {
    let aligned = [a, b].iter().all(|operand| operand.columns().is_multiple_of(mma::CHUNK));
    let some = !a.is_empty() && !b.is_empty();
    a.device().capabilities().is_hopper()
        && aligned
        && some
        && a.dtype() == b.dtype()
        && a.dtype() != DType::F32
}

/// The width of the tiles for an [m, n] result; none where it has few. A function of the
/// sizes alone, as the bits of a result must be, whatever GPU of this kind makes it.
pub(crate) fn tile(m: usize, n: usize) -> Option<usize> {
    let tiles = |width| m.div_ceil(TILE_M) * n.div_ceil(width);
    if tiles(256) >= FEW_WIDE_TILES {
        return Some(256);
    }
    (tiles(128) >= FEW_TILES).then_some(128)
}

/// The call but for what all versions have, and its grid.
pub(super) fn launch(
    call: KernelCall,
    layout: Layout,
    [a, b, out]: [&Tensor; 3],
    tile: usize,
) -> (KernelCall, [u32; 3]) {
    let map = |view: usize, operand: &Tensor, box_rows: usize| TensorMap {
        view,
        rows: operand.rows(),
        columns: operand.columns(),
        box_rows: box_rows as u32,
    };
    // Where k runs along the rows of an operand a box has all rows of the tile, else all k of the slab.
    let (a_rows, b_rows) = match layout {
        Layout::NT => (TILE_M, tile),
        Layout::NN => (TILE_M, SLAB),
        Layout::TN => (SLAB, SLAB),
    };
    let stage = (TILE_M + tile) * SLAB * a.dtype().size();
    let barriers = 2 * size_of::<u64>();
    let shared_bytes = (STAGES * (stage + barriers)) as u32;
    let call = call
        .constant("TILE", tile as u32)
        .constant("SHARED_BYTES", shared_bytes)
        .map(map(0, a, a_rows))
        .map(map(1, b, b_rows))
        .shared_bytes(shared_bytes);
    let tiles = out.rows().div_ceil(TILE_M) * out.columns().div_ceil(tile);
    let blocks = tiles.min(out.device().capabilities().multiprocessors as usize);
    (call, [blocks as u32, 1, 1])
}

static TEXT: KernelText = cuda_text!("matmul_wgmma", MMA, WGMMA, PRODUCT).with_constants(&[
    LAYOUTS,
    &[("STAGES", STAGES as u32), ("TILE_M", TILE_M as u32), ("SLAB", SLAB as u32)],
]);

pub(super) static MATMUL_WGMMA: KernelSpec = KernelSpec {
    constants: &["LAYOUT", "ACCUMULATE", "TILE", "SHARED_BYTES"],
    block: [384, 1, 1],
    requires: Requires::Hopper,
    ..whole("matmul_wgmma", &TEXT)
};
