//! What the CPU's functions hold while they run, beyond the buffers of their calls: a device that only counts
//! asks, for a plan.

use super::cpu::product_scratch;
use super::matmul::Layout;
use crate::backend::KernelCall;
use crate::dtype::DType;
use crate::kernels::Access;

/// Bytes that the CPU's function of this call holds at most while it runs: those that threads keep for the
/// next call, and those that are allocated each time. Products and attention hold what is worth counting.
pub fn scratch_of(call: &KernelCall) -> [u64; 2] {
    let stem = call.spec.text.stem;
    if stem.starts_with("attention") {
        return [0, attention(call)];
    }
    let nf4 = call.spec.name.starts_with("nf4_matmul");
    if !nf4 && !stem.starts_with("matmul") {
        return [0; 2];
    }
    // All parameters of products begin with their sizes.
    let size = |index: usize| {
        let bytes = call.params.get(4 * index..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes) as usize)
    };
    let (Some(m), Some(n), Some(k)) = (size(0), size(1), size(2)) else { return [0; 2] };
    let (Some(a), Some(out)) = (call.views.first(), call.views.last()) else { return [0; 2] };
    let b = if nf4 { a.dtype() } else { call.views[1].dtype() };
    let is_weight = call.constants.contains(&("LAYOUT", Layout::NT as u32));
    product_scratch([m, n, k], [a.dtype(), b, out.dtype()], nf4, is_weight)
}

/// 16-bit inputs are widened, and results of all tiles come together before they are written.
fn attention(call: &KernelCall) -> u64 {
    let views = call.views.iter().zip(call.spec.bindings);
    let floats = views.filter(|(view, _)| view.dtype().is_float());
    let held = floats.map(|(view, binding)| match binding.access {
        Access::Read if view.dtype() == DType::F32 => 0,
        _ => 4 * view.len as u64,
    });
    held.sum()
}
