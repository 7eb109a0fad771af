//! The ops: one file each, with the contract, the reference, the CPU version, the launch and the
//! backward. Their kernels are in `kernels-wgsl/` and `kernels-cuda/`, under the same name.
//!
//! Only this module sees both the tape and the backend.

mod add;
mod cases;
mod host;
mod matmul;
mod rms_norm;
mod rope;
pub mod step_state;
mod swiglu;
mod vector;
mod verify;

pub use add::{accumulate, add};
pub use cases::{Case, Input, Rule, Values, bench_cases, cases};
pub use matmul::matmul;
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use swiglu::swiglu;
pub use verify::{Comparison, gradcheck_case, verify};

use crate::kernels::KernelSpec;

/// Every kernel of the crate.
pub fn kernels() -> Vec<&'static KernelSpec> {
    [add::KERNELS, matmul::KERNELS, rms_norm::KERNELS, rope::KERNELS, swiglu::KERNELS].concat()
}
