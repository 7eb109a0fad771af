//! SwiGLU (Shazeer, 2020, arXiv:2002.05202): out = silu(gate) * up with silu(g) = g / (1 + e^-g), the
//! gated middle of the MLP.

use super::gated::{self, Gate, Kernels, gated};
use crate::error::Result;
use crate::kernels::{KernelSpec, KernelText, Real};
use crate::tape::Tape;
use crate::tensor::Tensor;
use crate::{cuda_text, kernel_text};

/// silu(gate) * up, element by element; both [T, F] and of one dtype, as is the result. The backward
/// computes silu again, so only the two inputs are kept; the result can be computed again from them.
///
/// # Errors
/// What the device reports.
pub fn swiglu(tape: &Tape, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gated(&SWIGLU, tape, gate, up)
}

/// g / (1 + e^-g).
struct Silu;

impl Gate for Silu {
    #[inline(always)]
    fn exponent<F: Real>(g: F) -> F {
        g
    }

    #[inline(always)]
    fn derivative<F: Real>(scale: F, g: F, s: F) -> F {
        scale * s * (F::ONE + g * (F::ONE - s))
    }
}

static TEXT: KernelText = kernel_text!("swiglu");

static WIDE_TEXT: KernelText = cuda_text!("swiglu_wide");

static SWIGLU: Kernels = Kernels {
    name: "swiglu",
    fwd: [&SWIGLU_FWD, &SWIGLU_FWD_WIDE],
    bwd: [&SWIGLU_BWD, &SWIGLU_BWD_WIDE],
};

pub(super) const KERNELS: &[&KernelSpec] =
    &[&SWIGLU_FWD, &SWIGLU_BWD, &SWIGLU_FWD_WIDE, &SWIGLU_BWD_WIDE];

static SWIGLU_FWD: KernelSpec = gated::fwd::<Silu>("swiglu_fwd", &TEXT);

static SWIGLU_BWD: KernelSpec = gated::bwd::<Silu>("swiglu_bwd", &TEXT);

static SWIGLU_FWD_WIDE: KernelSpec = gated::wide(&SWIGLU_FWD, "swiglu_fwd_wide", &WIDE_TEXT);

static SWIGLU_BWD_WIDE: KernelSpec = gated::wide(&SWIGLU_BWD, "swiglu_bwd_wide", &WIDE_TEXT);
