//! How the elements of a tensor are stored: floats, or blocks of small numbers with scales in common.
//!
//! Facts of `ggml-common.h` and `ggml-quants.c`; the arithmetic is theirs, operation by operation, so
//! that decoded values are llama.cpp's to the bit. Below, `d`, `m`, `dmin` are halves, `q` the numbers.
//!
//! | kind | elements | bytes of a block | an element |
//! |---|---|---|---|
//! | `Q4_0` | 32 | d, 16 of nibbles | d (q - 8) |
//! | `Q4_1` | 32 | d, m, 16 of nibbles | d q + m |
//! | `Q5_0` | 32 | d, 4 of fifth bits, 16 of nibbles | d (q - 16) |
//! | `Q5_1` | 32 | d, m, 4 of fifth bits, 16 of nibbles | d q + m |
//! | `Q8_0` | 32 | d, 32 | d q |
//! | `Q4_K` | 256 | d, dmin, 12 of 6-bit scales and minima, 128 of nibbles | d s q - dmin t, for each 32 |
//! | `Q5_K` | 256 | the same, with 32 of fifth bits before the nibbles | the same |
//! | `Q6_K` | 256 | 128 of nibbles, 64 of upper bits, 16 of scales, d | d s (q - 32), for each 16 |

use half::f16;
use rayon::prelude::*;

use crate::dtype::DType;
use crate::model::widen;

/// Elements of a block of the `K` kinds.
pub const SUPER: usize = 256;

/// Blocks that a thread decodes at a time.
const BATCH: usize = 1024;

/// How the elements of a tensor are stored, by ggml's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, missing_docs)]
pub enum Kind {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    BF16 = 30,
}

/// Every kind, with ggml's name.
const KINDS: [(Kind, &str); 11] = [
    (Kind::F32, "F32"),
    (Kind::F16, "F16"),
    (Kind::BF16, "BF16"),
    (Kind::Q8_0, "Q8_0"),
    (Kind::Q4_0, "Q4_0"),
    (Kind::Q4_1, "Q4_1"),
    (Kind::Q5_0, "Q5_0"),
    (Kind::Q5_1, "Q5_1"),
    (Kind::Q4_K, "Q4_K"),
    (Kind::Q5_K, "Q5_K"),
    (Kind::Q6_K, "Q6_K"),
];

/// ggml's names of the kinds that are not read here, by number.
const OTHERS: [(u32, &str); 20] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (39, "MXFP4"),
];

impl Kind {
    /// The kind with this number, or a message that names it.
    pub fn of_number(number: u32) -> Result<Self, String> {
        if let Some((kind, _)) = KINDS.iter().find(|(kind, _)| *kind as u32 == number) {
            return Ok(*kind);
        }
        let name = OTHERS.iter().find(|(other, _)| *other == number).map(|(_, name)| *name);
        let known = KINDS.map(|(_, name)| name).join(", ");
        Err(format!(
            "is stored as {}, which is not supported; supported are {known}",
            name.map_or_else(|| format!("type {number}"), str::to_string)
        ))
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    /// The kind that stores `dtype`.
    pub fn of(dtype: DType) -> Self {
        match dtype {
            DType::F16 => Self::F16,
            DType::BF16 => Self::BF16,
            _ => Self::F32,
        }
    }

    /// The float type, where it is one.
    pub fn dtype(self) -> Option<DType> {
        match self {
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::BF16 => Some(DType::BF16),
            _ => None,
        }
    }

    /// Elements and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q4_K => (SUPER, 144),
            Self::Q5_K => (SUPER, 176),
            Self::Q6_K => (SUPER, 210),
        }
    }

    /// The bytes of so many elements, which are whole blocks.
    pub fn size(self, elements: usize) -> usize {
        let (width, bytes) = self.block();
        elements / width * bytes
    }

    /// The elements in whole blocks `bytes`.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        if let Some(dtype) = self.dtype() {
            return widen(bytes, dtype).collect();
        }
        let (width, size) = self.block();
        let mut values = vec![0f32; bytes.len() / size * width];
        let batches = values.par_chunks_mut(width * BATCH).zip(bytes.par_chunks(size * BATCH));
        batches.for_each(|(values, bytes)| {
            for (values, block) in values.chunks_exact_mut(width).zip(bytes.chunks_exact(size)) {
                self.decode_block(block, values);
            }
        });
        values
    }

    fn decode_block(self, block: &[u8], values: &mut [f32]) {
        match self {
            Self::Q4_0 => simple(values, &block[2..], None, |q| (q - 8.0) * half(block, 0)),
            Self::Q4_1 => {
                simple(values, &block[4..], None, |q| q * half(block, 0) + half(block, 2))
            }
            Self::Q5_0 => {
                simple(values, &block[6..], Some(&block[2..6]), |q| (q - 16.0) * half(block, 0));
            }
            Self::Q5_1 => simple(values, &block[8..], Some(&block[4..8]), |q| {
                q * half(block, 0) + half(block, 2)
            }),
            Self::Q8_0 => {
                let d = half(block, 0);
                let codes = block[2..].iter();
                values.iter_mut().zip(codes).for_each(|(x, q)| *x = f32::from(*q as i8) * d);
            }
            Self::Q4_K => with_minima(values, block, &[0; 32], &block[16..]),
            Self::Q5_K => with_minima(values, block, &block[16..48], &block[48..]),
            Self::Q6_K => q6_k(values, block),
            Self::F32 | Self::F16 | Self::BF16 => {}
        }
    }
}

/// The half at a place.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// 32 elements: the lower nibbles are the first 16, the upper ones the others; `fifth` has a bit for each.
fn simple(values: &mut [f32], codes: &[u8], fifth: Option<&[u8]>, value: impl Fn(f32) -> f32) {
    let fifth =
        fifth.map_or(0, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    for (i, byte) in codes.iter().enumerate() {
        for (at, code) in [(i, byte & 15), (i + 16, byte >> 4)] {
            let upper = (fifth >> at & 1) << 4;
            values[at] = value((u32::from(code) | upper) as f32);
        }
    }
}

/// The scale and the minimum of the `index`-th 32 elements, of 6 bits each, among 12 bytes.
pub(super) fn scale_and_min(index: usize, packed: &[u8]) -> (u8, u8) {
    match index < 4 {
        true => (packed[index] & 63, packed[index + 4] & 63),
        false => (
            packed[index + 4] & 15 | packed[index - 4] >> 6 << 4,
            packed[index + 4] >> 4 | packed[index] >> 6 << 4,
        ),
    }
}

/// 256 elements, 64 in each 32 bytes of nibbles: lower ones, then upper ones.
fn with_minima(values: &mut [f32], block: &[u8], fifth: &[u8], codes: &[u8]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    for (group, values) in values.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(group, &block[4..16]);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let codes = &codes[group / 2 * 32..];
        for (i, x) in values.iter_mut().enumerate() {
            let code = codes[i] >> (group % 2 * 4) & 15 | (fifth[i] >> group & 1) << 4;
            *x = scale * f32::from(code) - min;
        }
    }
}

/// 256 elements in two halves of 128: quarter 0 and 2 are the lower and upper nibbles of 32 bytes, 1 and
/// 3 those of the next 32; each of 32 bytes of upper bits has two for each quarter.
fn q6_k(values: &mut [f32], block: &[u8]) {
    let (low, high, scales, d) =
        (&block[..128], &block[128..192], &block[192..208], half(block, 208));
    for (at, x) in values.iter_mut().enumerate() {
        let (side, quarter, i) = (at / 128, at % 128 / 32, at % 32);
        let low = low[side * 64 + quarter % 2 * 32 + i] >> (quarter / 2 * 4) & 15;
        let code = low | (high[side * 32 + i] >> (quarter * 2) & 3) << 4;
        let scale = d * f32::from(scales[at / 16] as i8);
        *x = scale * f32::from(code as i8 - 32);
    }
}
