//! Decoding runs of NF4 elements to f32 on the CPU.

use super::nf4::CODEBOOK;
use crate::dtype::DType;

/// The buffers of an NF4 weight, in host memory.
#[derive(Clone, Copy)]
pub struct Nf4View<'a> {
    /// Two codes to a byte, the even element in the high half.
    pub codes: &'a [u8],
    /// 8-bit scales, with double quantization.
    pub scales: &'a [u8],
    /// Levels, then the scales or what decodes them: see [`crate::ops::Nf4Tensor`].
    pub tables: &'a [f32],
    /// Whether the scales are quantized.
    pub nested: bool,
    /// Elements that share a scale.
    pub blocksize: usize,
    /// Scales that share a scale.
    pub nested_blocksize: usize,
    /// What decoded elements are rounded to.
    pub dtype: DType,
}

impl Nf4View<'_> {
    /// The scale of a block. Rust never fuses the product into the sum.
    fn scale(&self, block: usize) -> f32 {
        if !self.nested {
            return self.tables[16 + block];
        }
        let nested_absmax = self.tables[273 + block / self.nested_blocksize];
        let product = self.tables[16 + usize::from(self.scales[block])] * nested_absmax;
        product + self.tables[272]
    }

    /// Decodes the elements from `start` on, as many as `out` takes.
    pub fn decode(&self, start: usize, out: &mut [f32]) {
        let mut at = start;
        let mut rest = out;
        while !rest.is_empty() {
            let block = at / self.blocksize;
            let count = ((block + 1) * self.blocksize - at).min(rest.len());
            let (run, tail) = rest.split_at_mut(count);
            decode_run(self.codes, at, self.scale(block), self.dtype, run);
            at += count;
            rest = tail;
        }
    }
}

/// Elements `at..` of one block: an odd first one, then 16 at a time, then the rest.
fn decode_run(codes: &[u8], at: usize, scale: f32, dtype: DType, out: &mut [f32]) {
    let odd = (at % 2).min(out.len());
    let fast = fast_run(codes, at + odd, scale, dtype, &mut out[odd..]);
    for i in (0..odd).chain(odd + fast..out.len()) {
        let byte = codes[(at + i) / 2];
        let code = if (at + i).is_multiple_of(2) { byte >> 4 } else { byte & 15 };
        out[i] = dtype.round(CODEBOOK[usize::from(code)] * scale);
    }
}

/// Decodes whole groups of 16 elements with AVX-512, where there is one; returns how many elements.
fn fast_run(codes: &[u8], at: usize, scale: f32, dtype: DType, out: &mut [f32]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        let codes = &codes[at / 2..];
        // SAFETY: the processor has the feature.
        return unsafe { avx512::groups(codes, scale, dtype, out) };
    }
    let _ = (codes, at, scale, dtype, out);
    0
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{CODEBOOK, DType};
    use std::arch::x86_64::*;

    /// The 16 levels fill one register, so decoding is a permutation of it by the codes.
    #[target_feature(enable = "avx512f")]
    pub fn groups(codes: &[u8], scale: f32, dtype: DType, out: &mut [f32]) -> usize {
        // SAFETY: 16 floats are read from an array of 16.
        let levels = unsafe { _mm512_loadu_ps(CODEBOOK.as_ptr()) };
        let scale = _mm512_set1_ps(scale);
        let low_half = _mm_set1_epi8(15);
        let (groups, _) = out.as_chunks_mut::<16>();
        for (bytes, out) in codes.as_chunks::<8>().0.iter().zip(groups.iter_mut()) {
            let bytes = _mm_set_epi64x(0, i64::from_le_bytes(*bytes));
            let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), low_half);
            let low = _mm_and_si128(bytes, low_half);
            let index = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(high, low));
            let value = _mm512_mul_ps(_mm512_permutexvar_ps(index, levels), scale);
            let value = match dtype {
                DType::BF16 => round_bf16(value),
                DType::F16 => _mm512_cvtph_ps(_mm512_cvtps_ph::<0>(value)),
                _ => value,
            };
            // SAFETY: 16 floats are written to an array of 16.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), value) };
        }
        16 * groups.len().min(codes.len() / 8)
    }

    /// Round to nearest even; decoded weights are finite.
    #[target_feature(enable = "avx512f")]
    fn round_bf16(value: __m512) -> __m512 {
        let bits = _mm512_castps_si512(value);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let up = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), odd);
        let kept = _mm512_set1_epi32(0xffff_0000u32 as i32);
        _mm512_castsi512_ps(_mm512_and_si512(_mm512_add_epi32(bits, up), kept))
    }
}
