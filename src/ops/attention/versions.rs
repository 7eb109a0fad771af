//! The versions of the flash kernels: portable, on tensor cores, on Hopper's.

use super::params::Params;
use super::specs::{ATTENTION_BWD_DKV, ATTENTION_BWD_DQ, ATTENTION_FWD, TILE};
use crate::DType;
use crate::backend::{KernelCall, TensorMap, View};
use crate::cuda_text;
use crate::error::Result;
use crate::kernels::{KernelSpec, KernelText, MMA, Requires, TENSOR_CORES, WGMMA};
use crate::tensor::Tensor;

/// Queries or keys that a block owns on tensor cores.
const MMA_TILE: usize = 64;
/// The widest heads: of the forward, and of the backward, where dk and dv share the registers.
const MAX_WIDTH: [usize; 2] = [256, 128];

/// Queries or keys that a block owns on Hopper's, where there are as many.
const HOPPER_TILE: usize = 128;
/// Widths of heads there: whole boxes of the copy engine, and sums that fit the registers.
const HOPPER_WIDTHS: [usize; 2] = [64, 128];
/// The barriers of a ring of two stages, and the one for what comes once.
const RING_BYTES: usize = 32;
const BARRIER_BYTES: usize = 8;

/// One of the kernels that walk over tiles, chosen for queries [T, NH, HD].
pub(super) struct Version {
    spec: &'static KernelSpec,
    tile: usize,
    shared_bytes: usize,
    /// How many keys the forward takes at a time, where the host decides it.
    keys: Option<usize>,
    /// Rows of the boxes in which the first views are copied: q, k, v, dout.
    boxes: &'static [u32],
}

impl Version {
    /// The forward.
    pub fn fwd(q: &Tensor) -> Self {
        let width = q.columns();
        if fits_hopper(q) {
            // The queries, and two stages of keys and of values, of 16 bits.
            let shared_bytes = 10 * HOPPER_TILE * width + 2 * RING_BYTES + BARRIER_BYTES;
            return Self::hopper(&ATTENTION_FWD_WGMMA, shared_bytes, &[128, 128, 128]);
        }
        if !fits(q, MAX_WIDTH[0]) {
            return Self::portable(&ATTENTION_FWD);
        }
        // Fewer for wide heads, whose sums take the registers.
        let keys = match width {
            ..=128 => 64,
            129..=192 => 32,
            _ => 16,
        };
        // The queries, and two stages of keys and values, of 16 bits.
        let shared_bytes = (2 * MMA_TILE + 8 * keys) * width;
        Self { keys: Some(keys), ..Self::mma(&ATTENTION_FWD_MMA, shared_bytes) }
    }

    /// The gradients of keys and values.
    pub fn bwd_dkv(q: &Tensor) -> Self {
        match Backward::of(q) {
            Backward::Portable => Self::portable(&ATTENTION_BWD_DKV),
            // A step brings lse, delta and the bounds of its 32 queries too,
            Backward::Mma(bytes) => Self::mma(&ATTENTION_BWD_DKV_MMA, bytes + 2 * 32 * 16),
            // or lse and delta of its 64.
            Backward::Hopper(bytes) => {
                Self::hopper(&ATTENTION_BWD_DKV_WGMMA, bytes + 2 * 64 * 8, &[64, 128, 128, 64])
            }
        }
    }

    /// The gradient of queries.
    pub fn bwd_dq(q: &Tensor) -> Self {
        match Backward::of(q) {
            Backward::Portable => Self::portable(&ATTENTION_BWD_DQ),
            Backward::Mma(bytes) => Self::mma(&ATTENTION_BWD_DQ_MMA, bytes),
            Backward::Hopper(bytes) => {
                Self::hopper(&ATTENTION_BWD_DQ_WGMMA, bytes, &[128, 64, 64, 128])
            }
        }
    }

    fn portable(spec: &'static KernelSpec) -> Self {
        Self { spec, tile: TILE, shared_bytes: 0, keys: None, boxes: &[] }
    }

    fn mma(spec: &'static KernelSpec, shared_bytes: usize) -> Self {
        Self { tile: MMA_TILE, shared_bytes, ..Self::portable(spec) }
    }

    fn hopper(spec: &'static KernelSpec, shared_bytes: usize, boxes: &'static [u32]) -> Self {
        Self { tile: HOPPER_TILE, shared_bytes, boxes, ..Self::portable(spec) }
    }

    /// Launches the kernel for `q` and `heads` heads, of queries or of keys.
    pub fn launch(&self, views: &[&View], params: Params, q: &Tensor, heads: u32) -> Result<()> {
        let tiles = q.dim(0).div_ceil(self.tile) as u32;
        let mut call = KernelCall::new(self.spec, views)
            .constant("HEAD_WIDTH", q.columns() as u32)
            .params(params)
            .shared_bytes(self.shared_bytes as u32);
        if let Some(keys) = self.keys {
            call = call.constant("KEYS", keys as u32);
        }
        // All heads of a token are a row.
        let rows = [params.tokens, params.keys, params.keys, params.tokens];
        for (view, (rows, &box_rows)) in rows.into_iter().zip(self.boxes).enumerate() {
            let rows = rows as usize;
            let columns = views[view].len / rows.max(1);
            call = call.map(TensorMap { view, rows, columns, box_rows });
        }
        call.launch(q.device(), [tiles, heads, 1])
    }
}

/// The version of both kernels of the backward, with the shared memory for their tiles.
enum Backward {
    Portable,
    Mma(usize),
    Hopper(usize),
}

impl Backward {
    fn of(q: &Tensor) -> Self {
        // p and ds rounded to f16 err by more than three times what f16 itself does.
        if !fits(q, MAX_WIDTH[1]) || q.dtype() == DType::F16 {
            return Self::Portable;
        }
        // Two tiles that the block owns, and two stages of two tiles half as long, of 16 bits.
        match fits_hopper(q) {
            true => Self::Hopper(8 * HOPPER_TILE * q.columns() + RING_BYTES + BARRIER_BYTES),
            false => Self::Mma(8 * MMA_TILE * q.columns()),
        }
    }
}

/// Whether tensor cores take these queries, of heads up to `max_width`.
fn fits(q: &Tensor, max_width: usize) -> bool {
    let width = q.columns();
    let whole = width <= max_width && width.is_multiple_of(16);
    q.device().capabilities().has_tensor_cores() && q.dtype() != DType::F32 && whole
}

/// Whether Hopper's do, and have a whole tile to work on.
fn fits_hopper(q: &Tensor) -> bool {
    let whole = HOPPER_WIDTHS.contains(&q.columns()) && q.dim(0) >= HOPPER_TILE;
    q.device().capabilities().is_hopper() && q.dtype() != DType::F32 && whole
}

static FWD_MMA_TEXT: KernelText = cuda_text!("attention_fwd_mma", MMA);
static BWD_MMA_TEXT: KernelText = cuda_text!("attention_bwd_mma", MMA);

pub(super) static ATTENTION_FWD_MMA: KernelSpec = KernelSpec {
    name: "attention_fwd_mma",
    text: &FWD_MMA_TEXT,
    constants: &["HEAD_WIDTH", "KEYS"],
    requires: Requires::Sm(TENSOR_CORES),
    ..ATTENTION_FWD
};

pub(super) static ATTENTION_BWD_DKV_MMA: KernelSpec = KernelSpec {
    name: "attention_bwd_dkv_mma",
    text: &BWD_MMA_TEXT,
    requires: Requires::Sm(TENSOR_CORES),
    ..ATTENTION_BWD_DKV
};

pub(super) static ATTENTION_BWD_DQ_MMA: KernelSpec = KernelSpec {
    name: "attention_bwd_dq_mma",
    text: &BWD_MMA_TEXT,
    requires: Requires::Sm(TENSOR_CORES),
    ..ATTENTION_BWD_DQ
};

static FWD_WGMMA_TEXT: KernelText = cuda_text!("attention_fwd_wgmma", MMA, WGMMA);
static BWD_WGMMA_TEXT: KernelText = cuda_text!("attention_bwd_wgmma", MMA, WGMMA);
/// Threads of a block: those who copy, and two warpgroups that multiply.
const HOPPER_BLOCK: [u32; 3] = [384, 1, 1];

pub(super) static ATTENTION_FWD_WGMMA: KernelSpec = KernelSpec {
    name: "attention_fwd_wgmma",
    text: &FWD_WGMMA_TEXT,
    block: HOPPER_BLOCK,
    requires: Requires::Hopper,
    ..ATTENTION_FWD
};

pub(super) static ATTENTION_BWD_DKV_WGMMA: KernelSpec = KernelSpec {
    name: "attention_bwd_dkv_wgmma",
    text: &BWD_WGMMA_TEXT,
    block: HOPPER_BLOCK,
    requires: Requires::Hopper,
    ..ATTENTION_BWD_DKV
};

pub(super) static ATTENTION_BWD_DQ_WGMMA: KernelSpec = KernelSpec {
    name: "attention_bwd_dq_wgmma",
    text: &BWD_WGMMA_TEXT,
    block: HOPPER_BLOCK,
    requires: Requires::Hopper,
    ..ATTENTION_BWD_DQ
};
