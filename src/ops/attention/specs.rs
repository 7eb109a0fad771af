//! The portable kernels of flash attention.

use super::params::{ATTENTION, CONSTANTS};
use super::{cpu, reference};
use crate::kernels::{Binding, Constants, KernelSpec, KernelText, Kind, Requires};
use crate::{kernel_text, with_element};

/// Queries and keys of a tile, which have the same number.
pub const TILE: usize = 32;
/// Threads of a block.
pub const THREADS: u32 = 128;

const TILES: Constants = &[("BR", TILE as u32), ("BC", TILE as u32)];

static FWD_TEXT: KernelText =
    kernel_text!("attention_fwd").with_headers(&[ATTENTION]).with_constants(&[TILES]);
static BWD_TEXT: KernelText =
    kernel_text!("attention_bwd").with_headers(&[ATTENTION]).with_constants(&[TILES]);

pub static ATTENTION_FWD: KernelSpec = KernelSpec {
    name: "attention_fwd",
    text: &FWD_TEXT,
    bindings: &[
        Binding::read("q", Kind::Float),
        Binding::read("k", Kind::Float),
        Binding::read("v", Kind::Float),
        Binding::read("bounds", Kind::U32),
        Binding::write("out", Kind::Float),
        Binding::update("stats", Kind::F32),
    ],
    constants: CONSTANTS,
    block: [THREADS, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference::fwd,
    reference_f64: reference::fwd,
    cpu: |call| with_element!(call.dtype(0), T => cpu::fwd::<T>(call)),
};

pub static ATTENTION_BWD_DELTA: KernelSpec = KernelSpec {
    name: "attention_bwd_delta",
    text: &BWD_TEXT,
    bindings: &[
        Binding::read("out", Kind::Float),
        Binding::read("dout", Kind::Float),
        Binding::update("stats", Kind::F32),
    ],
    constants: CONSTANTS,
    block: [THREADS, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference::bwd_delta,
    reference_f64: reference::bwd_delta,
    cpu: |call| with_element!(call.dtype(0), T => cpu::bwd_delta::<T>(call)),
};

pub static ATTENTION_BWD_DKV: KernelSpec = KernelSpec {
    name: "attention_bwd_dkv",
    text: &BWD_TEXT,
    bindings: &[
        Binding::read("q", Kind::Float),
        Binding::read("k", Kind::Float),
        Binding::read("v", Kind::Float),
        Binding::read("dout", Kind::Float),
        Binding::read("stats", Kind::F32),
        Binding::read("bounds", Kind::U32),
        Binding::write("dk", Kind::Float),
        Binding::write("dv", Kind::Float),
    ],
    constants: CONSTANTS,
    block: [THREADS, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference::bwd_dkv,
    reference_f64: reference::bwd_dkv,
    cpu: |call| with_element!(call.dtype(0), T => cpu::bwd_dkv::<T>(call)),
};

pub static ATTENTION_BWD_DQ: KernelSpec = KernelSpec {
    name: "attention_bwd_dq",
    text: &BWD_TEXT,
    bindings: &[
        Binding::read("q", Kind::Float),
        Binding::read("k", Kind::Float),
        Binding::read("v", Kind::Float),
        Binding::read("dout", Kind::Float),
        Binding::read("stats", Kind::F32),
        Binding::read("bounds", Kind::U32),
        Binding::write("dq", Kind::Float),
    ],
    constants: CONSTANTS,
    block: [THREADS, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference::bwd_dq,
    reference_f64: reference::bwd_dq,
    cpu: |call| with_element!(call.dtype(0), T => cpu::bwd_dq::<T>(call)),
};
