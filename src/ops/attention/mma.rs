//! The versions of the flash kernels: portable, and on tensor cores.

use super::{ATTENTION_BWD_DKV, ATTENTION_BWD_DQ, ATTENTION_FWD, Params, TILE};
use crate::DType;
use crate::backend::{KernelCall, View};
use crate::cuda_text;
use crate::error::Result;
use crate::kernels::{KernelSpec, KernelText, Requires};
use crate::ops::matmul::mma::{CAPABILITY, is_on};
use crate::tensor::Tensor;

/// Queries or keys that a block owns on tensor cores.
const MMA_TILE: usize = 64;
/// The widest heads: of the forward, and of the backward, where dk and dv share the registers.
const MAX_WIDTH: [usize; 2] = [256, 128];

/// One of the kernels that walk over tiles, chosen for queries [T, NH, HD].
pub(super) struct Version {
    spec: &'static KernelSpec,
    tile: usize,
    shared_bytes: usize,
    /// How many keys the forward takes at a time, where the host decides it.
    keys: Option<usize>,
}

impl Version {
    /// The forward.
    pub fn fwd(q: &Tensor) -> Self {
        let width = q.columns();
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
        Self { spec: &ATTENTION_FWD_MMA, tile: MMA_TILE, shared_bytes, keys: Some(keys) }
    }

    /// The gradients of keys and values.
    pub fn bwd_dkv(q: &Tensor) -> Self {
        // A step brings lse, delta and the bounds of its 32 queries too.
        Self::bwd(q, &ATTENTION_BWD_DKV, &ATTENTION_BWD_DKV_MMA, 2 * 32 * 16)
    }

    /// The gradient of queries.
    pub fn bwd_dq(q: &Tensor) -> Self {
        Self::bwd(q, &ATTENTION_BWD_DQ, &ATTENTION_BWD_DQ_MMA, 0)
    }

    fn bwd(
        q: &Tensor,
        portable: &'static KernelSpec,
        fast: &'static KernelSpec,
        more: usize,
    ) -> Self {
        // p and ds rounded to f16 err by more than three times what f16 itself does.
        if !fits(q, MAX_WIDTH[1]) || q.dtype() == DType::F16 {
            return Self::portable(portable);
        }
        // Two tiles that the block owns, and two stages of two tiles half as long.
        let shared_bytes = 8 * MMA_TILE * q.columns() + more;
        Self { spec: fast, tile: MMA_TILE, shared_bytes, keys: None }
    }

    fn portable(spec: &'static KernelSpec) -> Self {
        Self { spec, tile: TILE, shared_bytes: 0, keys: None }
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
        call.launch(q.device(), [tiles, heads, 1])
    }
}

fn fits(q: &Tensor, max_width: usize) -> bool {
    let width = q.columns();
    is_on(q.device()) && q.dtype() != DType::F32 && width <= max_width && width.is_multiple_of(16)
}

static FWD_TEXT: KernelText = cuda_text!("attention_fwd_mma");
static BWD_TEXT: KernelText = cuda_text!("attention_bwd_mma");

pub(super) static ATTENTION_FWD_MMA: KernelSpec = KernelSpec {
    name: "attention_fwd_mma",
    text: &FWD_TEXT,
    constants: &["HEAD_WIDTH", "KEYS"],
    requires: Requires::Sm(CAPABILITY),
    ..ATTENTION_FWD
};

pub(super) static ATTENTION_BWD_DKV_MMA: KernelSpec = KernelSpec {
    name: "attention_bwd_dkv_mma",
    text: &BWD_TEXT,
    requires: Requires::Sm(CAPABILITY),
    ..ATTENTION_BWD_DKV
};

pub(super) static ATTENTION_BWD_DQ_MMA: KernelSpec = KernelSpec {
    name: "attention_bwd_dq_mma",
    text: &BWD_TEXT,
    requires: Requires::Sm(CAPABILITY),
    ..ATTENTION_BWD_DQ
};
