//! Random weights, made where they are used: a large model's would take longer to make on the host and
//! to upload than a training step.

use super::binding_slices::in_slices;
use super::host::{rows_per_task, words};
use super::simd::vectorized;
use crate::backend::KernelCall;
use crate::dtype::Element;
use crate::error::Result;
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::random::threefry4x32_lanes;
use crate::tensor::Tensor;
use crate::{kernel_text, with_element};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// Overwrites the elements of a float tensor with independent numbers of mean 0 and this standard
/// deviation, nearly normal: each the sum of eight uniform ones. They are a function of `seed`, `site` (a
/// name for what is made, see [`crate::random::site`]) and the element's number.
pub fn random_normal(tensor: &Tensor, std: f32, seed: u64, site: u32) -> Result<()> {
    // Of 2 S - 8 * 65535, S the sum of 8 uniform 16-bit numbers: 4 * 8 (65536^2 - 1) / 12.
    let std_of_sum = (8.0 / 3.0 * (65536.0f64.powi(2) - 1.0)).sqrt();
    in_slices([tensor], |first, [part]| {
        let params = Params {
            count: part.len() as u32,
            first: first as u32,
            seed_low: seed as u32,
            seed_high: (seed >> 32) as u32,
            site,
            scale: (f64::from(std) / std_of_sum) as f32,
        };
        KernelCall::new(&RANDOM_NORMAL, &[part.view()])
            .params(params)
            .launch(part.device(), grid_1d(words(part), BLOCK))
    })
}

const BLOCK: usize = 256;
/// Elements that the CPU draws at once.
const LANES: usize = 16;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    count: u32,
    first: u32,
    seed_low: u32,
    seed_high: u32,
    site: u32,
    scale: f32,
}

impl Params {
    /// 2 S - 8 * 65535 of the N elements from number `i` on.
    #[inline(always)]
    fn centred_sums<const N: usize>(&self, i: usize) -> [i32; N] {
        let key = [self.seed_low, self.seed_high, self.site, 0];
        let number = |lane| self.first.wrapping_add((i + lane) as u32);
        let counters = [std::array::from_fn(number), [0; N], [0; N], [0; N]];
        let words = threefry4x32_lanes(key, counters);
        let halves = |word: u32| (word & 0xffff) + (word >> 16);
        std::array::from_fn(|lane| {
            let sum: u32 = words.iter().map(|word| halves(word[lane])).sum();
            (2 * sum) as i32 - 524_280
        })
    }
}

static TEXT: KernelText = kernel_text!("random_normal");

pub(super) const KERNELS: &[&KernelSpec] = &[&RANDOM_NORMAL];

static RANDOM_NORMAL: KernelSpec = KernelSpec {
    name: "random_normal",
    text: &TEXT,
    bindings: &[Binding::write("out", Kind::Float)],
    constants: &[],
    block: [BLOCK as u32, 1, 1],
    requires: Requires::Portable,
    reference_f32: reference,
    reference_f64: reference,
    cpu: |call| with_element!(call.dtype(0), T => cpu::<T>(call)),
};

fn reference<F: Real>(call: &mut RefCall<F>) {
    let params: Params = call.params();
    for (i, out) in call.output(0).iter_mut().enumerate() {
        let [sum] = params.centred_sums(i);
        *out = F::from_f64(f64::from(sum)) * F::from_f64(f64::from(params.scale));
    }
}

fn cpu<T: Element>(call: &mut HostCall) {
    let params: Params = call.params();
    let task = rows_per_task(1);
    call.output::<T>(0).par_chunks_mut(task).enumerate().for_each(|(number, out)| {
        vectorized(
            #[inline(always)]
            || {
                for (n, out) in out.chunks_mut(LANES).enumerate() {
                    let sums: [i32; LANES] = params.centred_sums(number * task + n * LANES);
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = T::from_f32(sum as f32 * params.scale);
                    }
                }
            },
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::backend::Device;
    use crate::backend::cpu::Cpu;

    #[test]
    fn the_numbers_are_nearly_normal_and_each_site_has_its_own() -> Result<()> {
        let device = Device::new(Cpu::poisoned());
        let draw = |site| -> Result<Vec<f32>> {
            let tensor = Tensor::empty(&device, &[100, 400], DType::F32)?;
            random_normal(&tensor, 0.5, 1 << 40, site)?;
            tensor.read_f32()
        };
        let values = draw(1)?;
        let mean_of = |power: i32| {
            let powers = values.iter().map(|&value| f64::from(value / 0.5).powi(power));
            powers.sum::<f64>() / values.len() as f64
        };
        // Of 40,000: standard errors of 0.005, 0.007 and 0.05.
        assert!(mean_of(1).abs() < 0.025, "mean {}", mean_of(1));
        assert!((mean_of(2) - 1.0).abs() < 0.035, "variance {}", mean_of(2));
        assert!((mean_of(4) - 2.85).abs() < 0.25, "fourth moment {}", mean_of(4));
        let other = draw(2)?;
        let products: f64 = values.iter().zip(&other).map(|(a, b)| f64::from(a * b)).sum();
        assert!((products / (0.25 * values.len() as f64)).abs() < 0.025, "correlated sites");
        Ok(())
    }
}
