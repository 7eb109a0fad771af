//! The ops: one file each, with the contract, the reference, the CPU version, the launch and the
//! backward. Their kernels are in `kernels-wgsl/` and `kernels-cuda/`, under the same name.
//!
//! Only this module sees both the tape and the backend.

mod adamw;
mod adamw_8bit;
mod add;
mod attention;
mod bias;
mod binding_slices;
pub(crate) mod cases;
mod cast;
mod cpu;
mod cross_entropy;
mod dora;
mod dropout;
mod embedding;
mod fill;
mod gated;
mod gather_rows;
mod geglu;
mod grad_norm;
mod grad_target;
mod host;
#[cfg(test)]
mod kept;
mod lora;
mod matmul;
mod muon;
mod neftune;
mod nf4;
mod output_layer;
mod random_normal;
mod rms_norm;
mod rope;
mod rows;
mod scale;
mod scratch;
mod simd;
mod slice_columns;
mod softmax;
pub mod step_state;
mod swiglu;
mod token_logprobs;
mod vector;
pub(crate) mod verify;
mod wide_loads;

pub use adamw::{AdamW, adamw};
pub use adamw_8bit::{AdamW8bit, Moments8bit, adamw_8bit, dynamic_tables};
pub use add::add;
pub use attention::{AttentionLayout, Implementation, attention};
pub use bias::add_bias;
pub use cast::cast;
pub(crate) use cast::cast_into;
pub use cross_entropy::{CrossEntropy, linear_cross_entropy};
pub use dora::{dora_norm, dora_norm_of_embedding, row_squares, scale_columns};
pub use dropout::{Dropout, dropout};
pub use embedding::embedding;
pub use fill::{fill, zeros};
pub use gather_rows::{RowSelection, gather_rows};
pub use geglu::geglu;
pub use grad_norm::grad_norm;
pub use lora::lora;
pub use matmul::matmul;
pub use muon::{Muon, muon};
pub use neftune::{Neftune, neftune};
pub use nf4::{Nf4Tensor, nf4_dequantize, nf4_matmul};
pub use output_layer::{Head, IGNORE, LowRank, target_ids};
pub use random_normal::random_normal;
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use rows::{take_row, write_rows};
pub use scale::scale;
pub(crate) use scratch::scratch_of;
pub use slice_columns::slice_columns;
pub use step_state::{StepState, StepValues};
pub use swiglu::swiglu;
pub use token_logprobs::{LogprobOptions, TokenDetails, TokenLogprobs, token_logprobs};

use crate::kernels::KernelSpec;

/// Every kernel of the crate.
pub fn kernels() -> Vec<&'static KernelSpec> {
    [
        adamw::KERNELS,
        adamw_8bit::KERNELS,
        add::KERNELS,
        attention::KERNELS,
        bias::KERNELS,
        dora::KERNELS,
        cast::KERNELS,
        cross_entropy::KERNELS,
        dropout::KERNELS,
        embedding::KERNELS,
        fill::KERNELS,
        gather_rows::KERNELS,
        geglu::KERNELS,
        grad_norm::KERNELS,
        matmul::KERNELS,
        muon::KERNELS,
        neftune::KERNELS,
        nf4::KERNELS,
        random_normal::KERNELS,
        rms_norm::KERNELS,
        rope::KERNELS,
        rows::KERNELS,
        scale::KERNELS,
        slice_columns::KERNELS,
        softmax::KERNELS,
        swiglu::KERNELS,
        token_logprobs::KERNELS,
    ]
    .concat()
}
