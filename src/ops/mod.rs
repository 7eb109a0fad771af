//! The ops: one file each, with the contract, the reference, the CPU version, the launch and the
//! backward. Their kernels are in `kernels-wgsl/` and `kernels-cuda/`, under the same name.
//!
//! Only this module sees both the tape and the backend.

mod add;
mod attention;
mod attention_eager;
mod cases;
mod cross_entropy;
mod gather_rows;
mod host;
mod matmul;
mod rms_norm;
mod rope;
pub mod step_state;
mod swiglu;
mod vector;
mod verify;

pub use add::{accumulate, add};
pub use attention::{AttentionLayout, Implementation, attention};
pub use cases::{Case, Input, Rule, Values, bench_cases, cases};
pub use cross_entropy::{CrossEntropy, IGNORE, linear_cross_entropy};
pub use gather_rows::{RowSelection, gather_rows};
pub use matmul::matmul;
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use swiglu::swiglu;
pub use verify::{Comparison, gradcheck_case, verify};

use crate::kernels::KernelSpec;

/// Every kernel of the crate.
pub fn kernels() -> Vec<&'static KernelSpec> {
    [
        add::KERNELS,
        attention::KERNELS,
        attention_eager::KERNELS,
        cross_entropy::KERNELS,
        gather_rows::KERNELS,
        matmul::KERNELS,
        rms_norm::KERNELS,
        rope::KERNELS,
        swiglu::KERNELS,
    ]
    .concat()
}
