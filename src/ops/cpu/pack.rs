//! Packing operands for bf16 products of f32 accuracy.
//!
//! A number is packed as a sum of bf16 numbers, its planes: each rounds what the ones before leave over,
//! so one plane holds bf16, two hold f16, three hold all 24 bits of an f32. A panel is 16 lines of an
//! operand (rows of A, columns of B), padded with zeros:
//!
//!   a panel       [tiles of k, planes, tile]
//!   a tile of A   [16 rows, 32 of k]
//!   a tile of B   [16 pairs of k, 16 columns, 2]

use super::depth::{LINES, TILE_K, TILE_LEN};
use super::matrix::{Elements, Matrix};
use super::scratch::with_scratch;
use half::bf16;
use std::arch::x86_64::*;
use std::ops::Range;

/// Panels that are packed together where the operand must be decoded first.
const DECODED_PANELS: usize = 4;

/// Which operand a panel is for.
#[derive(Clone, Copy, PartialEq)]
pub enum Side {
    /// The left one, packed by rows.
    A,
    /// The right one, packed by columns.
    B,
}

/// Whether the processor can pack.
pub fn available() -> bool {
    crate::ops::simd::has_avx512() && is_x86_feature_detected!("avx512bf16")
}

/// Packs the lines `lines` at the values `k` of k into `panels`, which are as many as the lines need or
/// more. The rows of `operand` are its lines: rows of A, columns of B.
pub fn pack(
    operand: Matrix<Elements>,
    side: Side,
    planes: usize,
    lines: Range<usize>,
    k: Range<usize>,
    panels: &mut [u16],
) {
    let Matrix { elements, row_stride, column_stride } = operand;
    match elements {
        Elements::F32(elements) => {
            let operand = Matrix { elements, row_stride, column_stride };
            pack_lines(operand, side, planes, lines, k, panels);
        }
        Elements::BF16(elements) => {
            let operand = Matrix { elements, row_stride, column_stride };
            pack_lines(operand, side, planes, lines, k, panels);
        }
        Elements::F16(_) | Elements::Nf4(_) => {
            // Widened to f32 first, as they lie.
            let group = |first: usize| first..(first + DECODED_PANELS * LINES).min(lines.end);
            let panel = k.len().div_ceil(TILE_K) * planes * TILE_LEN;
            let groups = panels.chunks_mut(DECODED_PANELS * panel);
            let firsts = lines.clone().step_by(DECODED_PANELS * LINES);
            for (lines, panels) in firsts.map(group).zip(groups) {
                with_scratch(lines.len() * k.len(), |scratch| {
                    let part = operand.part(lines.clone(), k.clone(), scratch);
                    pack_lines(part, side, planes, 0..lines.len(), 0..k.len(), panels);
                });
            }
        }
    }
}

/// [`pack`] of elements that need no decoding.
pub fn pack_lines<T: Load>(
    operand: Matrix<&[T]>,
    side: Side,
    planes: usize,
    lines: Range<usize>,
    k: Range<usize>,
    panels: &mut [u16],
) {
    let panel = k.len().div_ceil(TILE_K) * planes * TILE_LEN;
    for (number, panel) in panels.chunks_exact_mut(panel).enumerate() {
        let first = lines.start + number * LINES;
        let lines = first.min(lines.end)..(first + LINES).min(lines.end).max(first.min(lines.end));
        // SAFETY: whoever packs has asked for the features.
        unsafe {
            match planes {
                1 => pack_panel::<T, 1>(operand, side, lines, k.clone(), panel),
                2 => pack_panel::<T, 2>(operand, side, lines, k.clone(), panel),
                _ => pack_panel::<T, 3>(operand, side, lines, k.clone(), panel),
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_panel<T: Load, const PLANES: usize>(
    operand: Matrix<&[T]>,
    side: Side,
    lines: Range<usize>,
    k: Range<usize>,
    panel: &mut [u16],
) {
    let along_k = operand.column_stride == 1;
    let start = lines.start * operand.row_stride + k.start * operand.column_stride;
    for (tile, out) in panel.chunks_exact_mut(PLANES * TILE_LEN).enumerate() {
        let depth = TILE_K.min(k.len() - tile * TILE_K);
        let mut registers = [[_mm512_setzero_si512(); LINES]; PLANES];
        for i in 0..LINES {
            // 32 values: of a line, or of 16 lines at a pair of k.
            let planes: [__m512i; PLANES] = if along_k {
                if i >= lines.len() {
                    break;
                }
                let at = start + i * operand.row_stride + tile * TILE_K;
                let counts = [depth.min(16), depth.saturating_sub(16)];
                // SAFETY: this function has the same features.
                unsafe { T::load(operand.elements, [at, at + 16], counts) }
            } else {
                if 2 * i >= depth {
                    break;
                }
                let at = start + (tile * TILE_K + 2 * i) * operand.column_stride;
                let second = if 2 * i + 1 < depth { lines.len() } else { 0 };
                let at = [at, at + operand.column_stride];
                // SAFETY: this function has the same features.
                let planes: [__m512i; PLANES] =
                    unsafe { T::load(operand.elements, at, [lines.len(), second]) };
                planes.map(|halves| interleave(halves))
            };
            for plane in 0..PLANES {
                registers[plane][i] = planes[plane];
            }
        }
        for (registers, out) in registers.iter_mut().zip(out.as_chunks_mut::<TILE_LEN>().0) {
            if along_k == (side == Side::B) {
                transpose(registers);
            }
            for (register, out) in registers.iter().zip(out.as_chunks_mut::<32>().0) {
                // SAFETY: 64 bytes are written to 32 numbers of 2 bytes.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), *register) };
            }
        }
    }
}

/// Elements that can be loaded as planes.
pub trait Load: Copy + Sync {
    /// The planes of `counts[0]` elements from `at[0]` on, in the lower halves, and of `counts[1]` from
    /// `at[1]` on, in the upper halves; up to 16 each, padded with zeros.
    ///
    /// # Safety
    /// The processor has the features.
    unsafe fn load<const PLANES: usize>(
        elements: &[Self],
        at: [usize; 2],
        counts: [usize; 2],
    ) -> [__m512i; PLANES];
}

impl Load for f32 {
    // SAFETY: as the trait says.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn load<const PLANES: usize>(
        elements: &[Self],
        at: [usize; 2],
        counts: [usize; 2],
    ) -> [__m512i; PLANES] {
        let half = |at: usize, count: usize| match count {
            0 => _mm512_setzero_ps(),
            _ => {
                let run = &elements[at..at + count];
                // SAFETY: the mask reads the elements of the run alone.
                unsafe { _mm512_maskz_loadu_ps(mask(count), run.as_ptr()) }
            }
        };
        let (mut low, mut high) = (half(at[0], counts[0]), half(at[1], counts[1]));
        let mut planes = [_mm512_setzero_si512(); PLANES];
        for (number, plane) in planes.iter_mut().enumerate() {
            // SAFETY: both types are 512 bits.
            *plane =
                unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) };
            if number + 1 < PLANES {
                low = _mm512_sub_ps(low, widen(_mm512_castsi512_si256(*plane)));
                high = _mm512_sub_ps(high, widen(_mm512_extracti64x4_epi64::<1>(*plane)));
            }
        }
        planes
    }
}

impl Load for bf16 {
    // SAFETY: as the trait says.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn load<const PLANES: usize>(
        elements: &[Self],
        at: [usize; 2],
        counts: [usize; 2],
    ) -> [__m512i; PLANES] {
        let half = |at: usize, count: usize| match count {
            0 => _mm256_setzero_si256(),
            _ => {
                let run = &elements[at..at + count];
                // SAFETY: the mask reads the elements of the run alone.
                unsafe { _mm256_maskz_loadu_epi16(mask(count), run.as_ptr().cast()) }
            }
        };
        let mut planes = [_mm512_setzero_si512(); PLANES];
        let low = _mm512_castsi256_si512(half(at[0], counts[0]));
        planes[0] = _mm512_inserti64x4::<1>(low, half(at[1], counts[1]));
        planes
    }
}

/// The lowest `count` bits.
fn mask(count: usize) -> u16 {
    (u32::MAX >> (32 - count as u32)) as u16
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widen(bits: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
}

/// 16 and 16 numbers of 16 bits -> 16 pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn interleave(halves: __m512i) -> __m512i {
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 16 {
            order[2 * i] = i as u16;
            order[2 * i + 1] = i as u16 + 16;
            i += 1;
        }
        order
    };
    // SAFETY: 64 bytes are read from 64.
    let order = unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) };
    _mm512_permutexvar_epi16(order, halves)
}

/// Exchanges rows and columns of a 16 x 16 matrix of 32-bit words.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: &mut [__m512i; 16]) {
    // Within groups of 4 rows, 4 x 4 blocks are transposed ...
    let mut half = *rows;
    for i in 0..8 {
        half[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        half[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut crossed = half;
    for i in (0..16).step_by(4) {
        crossed[i] = _mm512_unpacklo_epi64(half[i], half[i + 2]);
        crossed[i + 1] = _mm512_unpackhi_epi64(half[i], half[i + 2]);
        crossed[i + 2] = _mm512_unpacklo_epi64(half[i + 1], half[i + 3]);
        crossed[i + 3] = _mm512_unpackhi_epi64(half[i + 1], half[i + 3]);
    }
    // ... then the blocks change places.
    for i in 0..4 {
        let [a, b, c, d] = [crossed[i], crossed[4 + i], crossed[8 + i], crossed[12 + i]];
        let (even_ab, odd_ab) =
            (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (even_cd, odd_cd) =
            (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        rows[i] = _mm512_shuffle_i32x4::<0x88>(even_ab, even_cd);
        rows[4 + i] = _mm512_shuffle_i32x4::<0x88>(odd_ab, odd_cd);
        rows[8 + i] = _mm512_shuffle_i32x4::<0xdd>(even_ab, even_cd);
        rows[12 + i] = _mm512_shuffle_i32x4::<0xdd>(odd_ab, odd_cd);
    }
}
