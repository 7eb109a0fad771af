//! Products whose K is split among blocks: when, and how the parts are added.
//!
//! A product with few output tiles and a long K (a LoRA factor's gradient is [16, 4096] with one k per
//! token) would leave most of a GPU idle. Its K is cut, the blocks of each cut write sums of their own into
//! [splits, M, N], and a second kernel adds them in order. The cut depends on the sizes alone, never on
//! the device: the same bits on every GPU of a kind.

use super::layout::THREADS;
use crate::backend::KernelCall;
use crate::dtype::{DType, Element};
use crate::error::Result;
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::ops::cpu::Scale;
use crate::ops::host::{rows_per_task, words};
use crate::tensor::Tensor;
use crate::{kernel_text, with_element};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// A cut is at a multiple of this many k, so that no version cuts a slab in two.
pub(crate) const GRANULE: usize = 64;
/// Blocks that keep the largest GPUs busy: two for each of 132 multiprocessors, twice over.
const BLOCKS: usize = 512;

/// The k that a block works through, for tiles of `tile` rows and columns; all of them where splitting
/// does not pay.
///
/// For each element a split moves 8 bytes (its sum is written and read again). A block that goes through
/// 16 k for each row of its tile, 1024 for a whole tile of 64, reads 64 bytes of bf16 for each.
pub(super) fn depth([m, n, k]: [usize; 3], tile: usize) -> usize {
    let tiles = m.div_ceil(tile) * n.div_ceil(tile);
    let least = (16 * m.min(n).min(tile)).max(256);
    match (BLOCKS / tiles.max(1)).min(k / least) {
        0 | 1 => k,
        splits => k.div_ceil(splits).next_multiple_of(GRANULE),
    }
}

/// Memory for the sums of the splits, f32 [splits, M, N]; `None` for a product in one piece. At most 4
/// bytes for each element of [`BLOCKS`] tiles: 8 MiB where they are of 64 x 64.
pub(super) fn parts([m, n, k]: [usize; 3], depth: usize, out: &Tensor) -> Result<Option<Tensor>> {
    if depth >= k || m * n == 0 {
        return Ok(None);
    }
    Tensor::empty(out.device(), &[k.div_ceil(depth), m, n], DType::F32).map(Some)
}

/// out = alpha · the sum of `parts` over the splits, plus what `out` held before if `accumulate`.
pub(super) fn sum(parts: &Tensor, alpha: f32, accumulate: bool, out: &Tensor) -> Result<()> {
    KernelCall::new(&SUM_SPLITS, &[parts.view(), out.view()])
        .constant("ACCUMULATE", u32::from(accumulate))
        .params(Params { count: out.len() as u32, splits: parts.dim(0) as u32, alpha })
        .launch(out.device(), grid_1d(words(out), THREADS))
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    count: u32,
    splits: u32,
    alpha: f32,
}

static TEXT: KernelText = kernel_text!("sum_splits");

pub(super) static SUM_SPLITS: KernelSpec = KernelSpec {
    name: "sum_splits",
    text: &TEXT,
    bindings: &[Binding::read("parts", Kind::F32), Binding::update("out", Kind::Float)],
    constants: &["ACCUMULATE"],
    block: [THREADS as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference,
    reference_f64: reference,
    cpu: |call| with_element!(call.dtype(1), T => cpu::<T>(call)),
};

fn reference<F: Real>(call: &mut RefCall<F>) {
    let Params { count, splits, alpha } = call.params();
    let accumulate = call.constant("ACCUMULATE") == 1;
    let (parts, out) = (call.input(0), call.output(1));
    for i in 0..count as usize {
        let mut sum = F::ZERO;
        for split in 0..splits as usize {
            sum += parts[split * count as usize + i];
        }
        let value = F::from_f64(f64::from(alpha)) * sum;
        out[i] = if accumulate { out[i] + value } else { value };
    }
}

fn cpu<T: Element>(call: &mut HostCall) {
    let Params { count, splits, alpha } = call.params();
    let scale = Scale { alpha, accumulate: call.constant("ACCUMULATE") == 1 };
    let (parts, out) = (call.input::<f32>(0), call.output::<T>(1));
    let task = rows_per_task(splits as usize);
    out.par_chunks_mut(task).enumerate().for_each(|(number, out)| {
        for (i, out) in out.iter_mut().enumerate() {
            let of_element = parts[number * task + i..].iter().step_by(count as usize);
            scale.apply(out, of_element.sum());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LoRA's products in an 8B model, 16,384 tokens: its gradients, the two ways down to the rank, and a
    /// product of few tokens with a small projection; then what stays whole.
    #[test]
    fn few_tiles_with_a_long_k_are_split() {
        for (sizes, tile, expected) in [
            ([16, 4096, 16384], 64, 2048),
            ([4096, 16, 16384], 64, 2048),
            ([16384, 16, 4096], 64, 2048),
            ([16, 14336, 16384], 64, 8192),
            ([512, 1024, 4096], 64, 1024),
            ([1, 4096, 4096], 64, 512),
            ([64, 64, 100_000], 64, 1088),
            ([16384, 4096, 16], 64, 16),
            ([16384, 4096, 4096], 128, 4096),
            ([512, 576, 576], 64, 576),
            ([8, 8, 0], 64, 0),
        ] {
            assert_eq!(depth(sizes, tile), expected, "{sizes:?}");
        }
    }

    /// The memory plan sees what the splits take.
    #[test]
    fn the_sums_of_splits_count_as_memory() -> Result<()> {
        use crate::backend::{Backend, Device, cpu::Cpu, dry::Dry};
        use crate::ops::matmul::{Layout, matmul_into};
        let mut capabilities = Cpu::new().capabilities().clone();
        for many_blocks in [false, true] {
            capabilities.many_blocks = many_blocks;
            let device = Device::new(Dry::new(capabilities.clone()));
            let tensor = |shape: [usize; 2]| Tensor::empty(&device, &shape, DType::F32);
            let (a, b, out) = (tensor([8192, 16])?, tensor([8192, 256])?, tensor([16, 256])?);
            let before = device.memory().peak;
            matmul_into(Layout::TN, &a, &b, 1.0, false, &out)?;
            let (after, splits) = (device.memory().peak, 8192 / 256);
            assert_eq!(after - before, if many_blocks { 4 * splits * 16 * 256 } else { 0 });
        }
        Ok(())
    }
}
