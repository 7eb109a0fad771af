//! The versions of the flash kernels: portable, on tensor cores, on Hopper's.

use super::params::{ATTENTION, Constants, Params};
use super::specs::{ATTENTION_BWD_DKV, ATTENTION_BWD_DQ, ATTENTION_FWD, TILE};
use crate::DType;
use crate::backend::{KernelCall, TensorMap, View};
use crate::cuda_text;
use crate::error::Result;
use crate::kernels::{KernelSpec, KernelText, MMA, Requires, TENSOR_CORES, WGMMA};
use crate::tensor::Tensor;

/// Queries or keys that a block owns on tensor cores, and those of a step of the backward's walk.
const MMA_TILE: usize = 64;
const MMA_WALK: usize = 32;
/// The widest heads: of the forward, and of the backward, where dk and dv share the registers.
const MAX_WIDTH: [usize; 2] = [256, 128];

/// Queries or keys that a block owns on Hopper's, where there are as many, and those of a step of the
/// backward's walk.
const HOPPER_TILE: usize = 128;
const HOPPER_WALK: usize = 64;
/// Widths of heads there: whole boxes of TMA, and sums that fit the registers.
const HOPPER_WIDTHS: [usize; 2] = [64, 128];
/// Stages of a ring, the two barriers of each, and the one for what comes once.
const STAGES: usize = 2;
const RING_BYTES: usize = STAGES * 2 * BARRIER_BYTES;
const BARRIER_BYTES: usize = 8;

/// One of the kernels that walk over tiles, chosen for queries [T, NH, HD].
pub(super) struct Version {
    spec: &'static KernelSpec,
    tile: usize,
    shared_bytes: usize,
    /// What only the host knows of the kernel's tiles.
    constants: Vec<(&'static str, usize)>,
    /// Rows of the boxes in which the first views are copied: q, k, v, dout.
    boxes: &'static [u32],
}

impl Version {
    /// The forward.
    pub fn fwd(q: &Tensor) -> Self {
        let width = q.columns();
        if fits_hopper(q) {
            // The queries, and the stages of keys and of values, of 16 bits.
            let tiles = (1 + 2 * STAGES) * HOPPER_TILE * 2 * width;
            let bytes = tiles + 2 * RING_BYTES + BARRIER_BYTES;
            let boxes = &[HOPPER_TILE as u32; 3];
            return Self::hopper(&ATTENTION_FWD_WGMMA, bytes, boxes).with("SHARED_BYTES", bytes);
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
        let bytes = (MMA_TILE + 2 * 2 * keys) * 2 * width;
        Self::mma(&ATTENTION_FWD_MMA, bytes).with("BC", keys).with("SHARED_BYTES", bytes)
    }

    /// The gradients of keys and values.
    pub fn bwd_dkv(q: &Tensor, constants: Constants) -> Self {
        const BOXES: &[u32] =
            &[HOPPER_WALK as u32, HOPPER_TILE as u32, HOPPER_TILE as u32, HOPPER_WALK as u32];
        match Backward::of(q, constants) {
            Backward::Portable => Self::portable(&ATTENTION_BWD_DKV),
            Backward::Mma(bytes) => Self::mma(&ATTENTION_BWD_DKV_MMA, bytes.dkv).of_both(bytes),
            Backward::Hopper(bytes) => {
                Self::hopper(&ATTENTION_BWD_DKV_WGMMA, bytes.dkv, BOXES).of_both(bytes)
            }
        }
    }

    /// The gradient of queries.
    pub fn bwd_dq(q: &Tensor, constants: Constants) -> Self {
        const BOXES: &[u32] =
            &[HOPPER_TILE as u32, HOPPER_WALK as u32, HOPPER_WALK as u32, HOPPER_TILE as u32];
        match Backward::of(q, constants) {
            Backward::Portable => Self::portable(&ATTENTION_BWD_DQ),
            Backward::Mma(bytes) => Self::mma(&ATTENTION_BWD_DQ_MMA, bytes.dq).of_both(bytes),
            Backward::Hopper(bytes) => {
                Self::hopper(&ATTENTION_BWD_DQ_WGMMA, bytes.dq, BOXES).of_both(bytes)
            }
        }
    }

    fn portable(spec: &'static KernelSpec) -> Self {
        Self { spec, tile: TILE, shared_bytes: 0, constants: Vec::new(), boxes: &[] }
    }

    fn mma(spec: &'static KernelSpec, shared_bytes: usize) -> Self {
        Self { tile: MMA_TILE, shared_bytes, ..Self::portable(spec) }
    }

    fn hopper(spec: &'static KernelSpec, shared_bytes: usize, boxes: &'static [u32]) -> Self {
        Self { tile: HOPPER_TILE, shared_bytes, boxes, ..Self::portable(spec) }
    }

    fn with(mut self, constant: &'static str, value: usize) -> Self {
        self.constants.push((constant, value));
        self
    }

    /// The two kernels of the backward are one text, which asserts the shared memory of each.
    fn of_both(self, bytes: SharedBytes) -> Self {
        self.with("DKV_BYTES", bytes.dkv).with("DQ_BYTES", bytes.dq)
    }

    /// Launches the kernel for `q` and `heads` heads, of queries or of keys.
    pub fn launch(
        &self,
        views: &[&View],
        params: Params,
        q: &Tensor,
        constants: Constants,
        heads: u32,
    ) -> Result<()> {
        let tiles = q.dim(0).div_ceil(self.tile) as u32;
        let mut call = constants
            .of(KernelCall::new(self.spec, views))
            .params(params)
            .shared_bytes(self.shared_bytes as u32);
        for &(name, value) in &self.constants {
            call = call.constant(name, value as u32);
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

/// The version of both kernels of the backward.
enum Backward {
    Portable,
    Mma(SharedBytes),
    Hopper(SharedBytes),
}

/// What each of them needs.
#[derive(Clone, Copy)]
struct SharedBytes {
    dkv: usize,
    dq: usize,
}

impl Backward {
    fn of(q: &Tensor, constants: Constants) -> Self {
        // p and ds rounded to f16 err by more than three times what f16 itself does.
        if !fits(q, MAX_WIDTH[1]) || q.dtype() == DType::F16 {
            return Self::Portable;
        }
        // Two tiles that the block owns, and two stages of two tiles of a step, of 16 bits.
        let tiles = |own: usize, walk: usize| (2 * own + 2 * 2 * walk) * 2 * q.columns();
        if fits_hopper(q) {
            let dq = tiles(HOPPER_TILE, HOPPER_WALK) + RING_BYTES + BARRIER_BYTES;
            // Of dkv a step brings lse and delta of its queries too, and how far they stand from a prompt.
            let of_query = if constants.shared { 12 } else { 8 };
            return Self::Hopper(SharedBytes { dq, dkv: dq + STAGES * HOPPER_WALK * of_query });
        }
        let dq = tiles(MMA_TILE, MMA_WALK);
        // Lse, delta and the bounds.
        let of_query = if constants.shared { 24 } else { 16 };
        Self::Mma(SharedBytes { dq, dkv: dq + 2 * MMA_WALK * of_query })
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

const BWD_CONSTANTS: &[&str] = &["HEAD_WIDTH", "SHARED", "DKV_BYTES", "DQ_BYTES"];

static FWD_MMA_TEXT: KernelText =
    cuda_text!("attention_fwd_mma", ATTENTION, MMA).with_constants(&[&[("BR", MMA_TILE as u32)]]);
static BWD_MMA_TEXT: KernelText = cuda_text!("attention_bwd_mma", ATTENTION, MMA)
    .with_constants(&[&[("OWN", MMA_TILE as u32), ("WALK", MMA_WALK as u32)]]);

pub(super) static ATTENTION_FWD_MMA: KernelSpec = KernelSpec {
    name: "attention_fwd_mma",
    text: &FWD_MMA_TEXT,
    constants: &["HEAD_WIDTH", "SHARED", "BC", "SHARED_BYTES"],
    requires: Requires::Sm(TENSOR_CORES),
    ..ATTENTION_FWD
};

pub(super) static ATTENTION_BWD_DKV_MMA: KernelSpec = KernelSpec {
    name: "attention_bwd_dkv_mma",
    text: &BWD_MMA_TEXT,
    constants: BWD_CONSTANTS,
    requires: Requires::Sm(TENSOR_CORES),
    ..ATTENTION_BWD_DKV
};

pub(super) static ATTENTION_BWD_DQ_MMA: KernelSpec = KernelSpec {
    name: "attention_bwd_dq_mma",
    text: &BWD_MMA_TEXT,
    constants: BWD_CONSTANTS,
    requires: Requires::Sm(TENSOR_CORES),
    ..ATTENTION_BWD_DQ
};

static FWD_WGMMA_TEXT: KernelText = cuda_text!("attention_fwd_wgmma", ATTENTION, MMA, WGMMA)
    .with_constants(&[&[
        ("BR", HOPPER_TILE as u32),
        ("BC", HOPPER_TILE as u32),
        ("STAGES", STAGES as u32),
    ]]);
static BWD_WGMMA_TEXT: KernelText = cuda_text!("attention_bwd_wgmma", ATTENTION, MMA, WGMMA)
    .with_constants(&[&[
        ("OWN", HOPPER_TILE as u32),
        ("WALK", HOPPER_WALK as u32),
        ("STAGES", STAGES as u32),
    ]]);
/// Threads of a block: the producer's warpgroup, and two that multiply.
const HOPPER_BLOCK: [u32; 3] = [384, 1, 1];

pub(super) static ATTENTION_FWD_WGMMA: KernelSpec = KernelSpec {
    name: "attention_fwd_wgmma",
    text: &FWD_WGMMA_TEXT,
    constants: &["HEAD_WIDTH", "SHARED", "SHARED_BYTES"],
    block: HOPPER_BLOCK,
    requires: Requires::Hopper,
    ..ATTENTION_FWD
};

pub(super) static ATTENTION_BWD_DKV_WGMMA: KernelSpec = KernelSpec {
    name: "attention_bwd_dkv_wgmma",
    text: &BWD_WGMMA_TEXT,
    constants: BWD_CONSTANTS,
    block: HOPPER_BLOCK,
    requires: Requires::Hopper,
    ..ATTENTION_BWD_DKV
};

pub(super) static ATTENTION_BWD_DQ_WGMMA: KernelSpec = KernelSpec {
    name: "attention_bwd_dq_wgmma",
    text: &BWD_WGMMA_TEXT,
    constants: BWD_CONSTANTS,
    block: HOPPER_BLOCK,
    requires: Requires::Hopper,
    ..ATTENTION_BWD_DQ
};
