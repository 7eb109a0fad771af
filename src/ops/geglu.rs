//! GeGLU (Shazeer, 2020, arXiv:2002.05202): out = gelu(gate) * up, the gated middle of Gemma's MLP.
//! GELU (Hendrycks and Gimpel, 2016, arXiv:1606.08415) by its tanh formula, `gelu_pytorch_tanh`.

use super::gated::{self, Gate, Kernels, gated};
use crate::error::Result;
use crate::kernels::{KernelSpec, KernelText, Real};
use crate::tape::Tape;
use crate::tensor::Tensor;
use crate::{cuda_text, kernel_text};

/// gelu(gate) * up, element by element; both [T, F] and of one dtype, as is the result. The backward
/// computes gelu again, so only the two inputs are kept; the result can be computed again from them.
///
/// # Errors
/// What the device reports.
pub fn geglu(tape: &Tape, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gated(&GEGLU, tape, gate, up)
}

/// g (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (g + 0.044715 g^3). (1 + tanh(u)) / 2 is the logistic
/// function of 2 u, which is how it is computed: nothing cancels.
struct GeluTanh;

/// 2 sqrt(2 / pi).
const TWO_ROOT: f64 = 1.595_769_121_605_730_8;
/// Of the cube.
const CUBIC: f64 = 0.044_715;

impl Gate for GeluTanh {
    #[inline(always)]
    fn exponent<F: Real>(g: F) -> F {
        F::from_f64(TWO_ROOT) * (g + F::from_f64(CUBIC) * g * g * g)
    }

    #[inline(always)]
    fn derivative<F: Real>(scale: F, g: F, s: F) -> F {
        let slope =
            F::from_f64(TWO_ROOT) * (F::ONE + F::from_f64(3.0) * F::from_f64(CUBIC) * g * g);
        scale * (s + g * s * (F::ONE - s) * slope)
    }
}

static TEXT: KernelText = kernel_text!("geglu");

static WIDE_TEXT: KernelText = cuda_text!("geglu_wide");

static GEGLU: Kernels = Kernels {
    name: "geglu",
    fwd: [&GEGLU_FWD, &GEGLU_FWD_WIDE],
    bwd: [&GEGLU_BWD, &GEGLU_BWD_WIDE],
};

pub(super) const KERNELS: &[&KernelSpec] =
    &[&GEGLU_FWD, &GEGLU_BWD, &GEGLU_FWD_WIDE, &GEGLU_BWD_WIDE];

static GEGLU_FWD: KernelSpec = gated::fwd::<GeluTanh>("geglu_fwd", &TEXT);

static GEGLU_BWD: KernelSpec = gated::bwd::<GeluTanh>("geglu_bwd", &TEXT);

static GEGLU_FWD_WIDE: KernelSpec = gated::wide(&GEGLU_FWD, "geglu_fwd_wide", &WIDE_TEXT);

static GEGLU_BWD_WIDE: KernelSpec = gated::wide(&GEGLU_BWD, "geglu_bwd_wide", &WIDE_TEXT);
