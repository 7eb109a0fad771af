//! VDPBF16PS: bf16 pairs to f32 sums in the ordinary vector registers, for processors with AVX512_BF16 and
//! without AMX (AMD since Zen 4). Reads the same panels as [`super::amx`].

use super::depth::{Depth, LINES, Sums, TILE_LEN, sums_at};
use std::arch::x86_64::*;

/// Rows at a time: with two registers of sums each, they leave room for two of B.
const ROWS: usize = 8;

/// As [`super::amx::Tiles::multiply`].
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn multiply(depth: &Depth, a: &[u16], b: &[u16], add: bool, sums: &mut Sums) {
    let (a0, a1) = a.split_at(a.len() / 2);
    let (b0, b1) = b.split_at(b.len() / 2);
    for first in (0..2 * LINES).step_by(ROWS) {
        let a = if first < LINES { a0 } else { a1 };
        let mut tile = [[_mm512_setzero_ps(); 2]; ROWS];
        for step in 0..depth.tiles {
            for (j, i) in
                depth.products.iter().enumerate().flat_map(|(j, &n)| (0..n).map(move |i| (j, i)))
            {
                let a = &a[(step * depth.planes[0] + i) * TILE_LEN..][..TILE_LEN];
                let at = (step * depth.planes[1] + j) * TILE_LEN;
                let [b0, b1] = [b0, b1].map(|b| &b[at..][..TILE_LEN]);
                for pair in 0..TILE_LEN / 32 {
                    let [b0, b1] = [b0, b1].map(|b| load(&b[32 * pair..]));
                    for (row, sums) in tile.iter_mut().enumerate() {
                        let at = (first % LINES + row) * 32 + 2 * pair;
                        let bits = u32::from(a[at]) | u32::from(a[at + 1]) << 16;
                        // SAFETY: both types are 512 bits.
                        let a: __m512bh =
                            unsafe { std::mem::transmute(_mm512_set1_epi32(bits as i32)) };
                        sums[0] = _mm512_dpbf16_ps(sums[0], a, b0);
                        sums[1] = _mm512_dpbf16_ps(sums[1], a, b1);
                    }
                }
            }
        }
        for (row, found) in tile.into_iter().enumerate() {
            for (half, found) in found.into_iter().enumerate() {
                let out = &mut sums[sums_at(first + row, half)..][..LINES];
                // SAFETY: 16 floats are read and written.
                unsafe {
                    let earlier =
                        if add { _mm512_loadu_ps(out.as_ptr()) } else { _mm512_setzero_ps() };
                    _mm512_storeu_ps(out.as_mut_ptr(), _mm512_add_ps(earlier, found));
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn load(values: &[u16]) -> __m512bh {
    let values = &values[..32];
    // SAFETY: 64 bytes are read from 64, and both types are 512 bits.
    unsafe { std::mem::transmute(_mm512_loadu_si512(values.as_ptr().cast())) }
}
