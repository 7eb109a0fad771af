//! NF4 on the host: the codebook, quantizing and decoding, bit for bit as bitsandbytes.

use std::ops::Range;

use super::dynamic8;
use crate::{DType, Error, Result};

/// Elements that share a scale.
pub const BLOCKSIZE: usize = 64;

/// Scales that share a scale of their own, with double quantization.
pub const NESTED_BLOCKSIZE: usize = 256;

/// The 16 values of NF4: quantiles of the normal distribution scaled to [-1, 1], with an exact 0.
#[allow(clippy::excessive_precision, reason = "the digits that bitsandbytes prints")]
pub const CODEBOOK: [f32; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

/// The middles between neighbouring codes. A value above `THRESHOLDS[i]` has a code above `i`; one
/// that equals it keeps the lower code. (The constants in bitsandbytes' CUDA kernels differ from
/// these, which its CPU and other backends use, by at most one unit in the last place.)
pub const THRESHOLDS: [f32; 15] = {
    let mut middles = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        middles[i] = (CODEBOOK[i] + CODEBOOK[i + 1]) / 2.0;
        i += 1;
    }
    middles
};

/// The smallest magnitude that is divided by; it keeps blocks of zeros at code 7, which is 0.
const TINY: f32 = 1e-38;

/// A weight matrix in NF4.
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4Weight {
    /// [rows, columns]: [out, in] of a linear layer.
    pub shape: [usize; 2],
    /// Two codes to a byte over the flattened matrix, the even element in the high half;
    /// `ceil(rows * columns / 2)` bytes.
    pub codes: Vec<u8>,
    /// The scale of each block of `blocksize` elements; blocks run over the flattened matrix and
    /// may cross rows.
    pub absmax: Absmax,
    /// Elements in a block.
    pub blocksize: usize,
}

/// The scales of the blocks.
#[derive(Clone, Debug, PartialEq)]
pub enum Absmax {
    /// As they are, one for each block.
    F32(Vec<f32>),
    /// Quantized to 8 bits (double quantization): `map[code] * absmax[i / blocksize] + offset`.
    Nested {
        /// One code for each block.
        codes: Vec<u8>,
        /// The values of the codes.
        map: Box<[f32; 256]>,
        /// One for each `blocksize` codes.
        absmax: Vec<f32>,
        /// The mean of the scales.
        offset: f32,
        /// Codes that share an `absmax`.
        blocksize: usize,
    },
}

impl Absmax {
    /// How many blocks there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Nested { codes, .. } => codes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The scale of block `i`.
    ///
    /// Panics: `i` is not below [`Absmax::len`].
    #[inline]
    pub fn get(&self, i: usize) -> f32 {
        match self {
            Self::F32(values) => values[i],
            Self::Nested { codes, map, absmax, offset, blocksize } => {
                dynamic8::decode(codes[i], map, absmax[i / blocksize], *offset)
            }
        }
    }

    /// All scales.
    pub fn to_f32(&self) -> Vec<f32> {
        (0..self.len()).map(|i| self.get(i)).collect()
    }

    /// The scales quantized to 8 bits: their mean is taken off, the rest becomes
    /// [`dynamic8`] codes in blocks of 256.
    ///
    /// The mean is summed in f64. bitsandbytes sums in f32, in an order that depends on the device,
    /// so its offset can differ in the last bits, and with it a code here and there.
    pub fn double_quantize(self) -> Self {
        let Self::F32(values) = self else { return self };
        let sum: f64 = values.iter().map(|&x| f64::from(x)).sum();
        let offset = (sum / values.len().max(1) as f64) as f32;
        let map = Box::new(dynamic8::dynamic_map());
        let centred: Vec<f32> = values.iter().map(|x| x - offset).collect();
        let (codes, absmax) = dynamic8::quantize(&centred, &map, NESTED_BLOCKSIZE);
        Self::Nested { codes, map, absmax, offset, blocksize: NESTED_BLOCKSIZE }
    }
}

/// The code of a value already divided by its block's scale.
#[inline]
pub fn code(unit: f32) -> u8 {
    THRESHOLDS.iter().map(|&threshold| u8::from(unit > threshold)).sum()
}

/// Quantizes one block of an even place in the flattened matrix: writes `ceil(len / 2)` bytes of
/// codes and returns the scale. A missing last element counts as 0.
///
/// Panics: `codes` is shorter than that.
pub fn quantize_block(values: &[f32], codes: &mut [u8]) -> f32 {
    let absmax = values.iter().fold(0f32, |max, x| max.max(x.abs()));
    let inverse = 1.0 / absmax.max(TINY);
    for (i, pair) in values.chunks(2).enumerate() {
        let low = pair.get(1).map_or(0.0, |x| x * inverse);
        codes[i] = code(pair[0] * inverse) << 4 | code(low);
    }
    absmax
}

impl Nf4Weight {
    /// Quantizes a matrix of `shape`, given row by row. The scales are left in f32; see
    /// [`Absmax::double_quantize`].
    ///
    /// Errors: a count that does not fit the shape, a value that is not finite.
    pub fn quantize(values: &[f32], shape: [usize; 2]) -> Result<Self> {
        if values.len() != shape[0] * shape[1] {
            return Err(Error::internal(
                "nf4 quantize",
                format!("{} values for shape {shape:?}", values.len()),
            ));
        }
        if let Some(i) = values.iter().position(|x| !x.is_finite()) {
            return Err(Error::input(format!(
                "element {i} is {}, which NF4 cannot hold; every weight must be finite",
                values[i]
            )));
        }
        let mut codes = vec![0; values.len().div_ceil(2)];
        let absmax = values
            .chunks(BLOCKSIZE)
            .zip(codes.chunks_mut(BLOCKSIZE / 2))
            .map(|(block, codes)| quantize_block(block, codes))
            .collect();
        Ok(Self { shape, codes, absmax: Absmax::F32(absmax), blocksize: BLOCKSIZE })
    }

    /// The same with its scales quantized to 8 bits.
    pub fn double_quantize(self) -> Self {
        Self { absmax: self.absmax.double_quantize(), ..self }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements `range` of the flattened matrix, decoded and rounded to `dtype`, as f32: so that a
    /// large matrix can be decoded in parts.
    ///
    /// Panics: a range beyond the matrix.
    pub fn decode(&self, range: Range<usize>, dtype: DType) -> impl Iterator<Item = f32> + '_ {
        assert!(range.end <= self.len(), "range {range:?} of {} elements", self.len());
        // The scale of the block at hand, so that nested ones are decoded once.
        let mut current = (usize::MAX, 0.0);
        range.map(move |i| {
            let block = i / self.blocksize;
            if current.0 != block {
                current = (block, self.absmax.get(block));
            }
            let byte = self.codes[i / 2];
            let code = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
            dtype.round(CODEBOOK[code as usize] * current.1)
        })
    }

    /// The whole matrix decoded and rounded to `dtype`, as f32, [rows, columns].
    pub fn dequantize(&self, dtype: DType) -> Vec<f32> {
        self.decode(0..self.len(), dtype).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tie_goes_down() {
        for (i, threshold) in THRESHOLDS.into_iter().enumerate() {
            assert_eq!(code(threshold) as usize, i);
            assert_eq!(code(threshold.next_up()) as usize, i + 1);
        }
    }

    #[test]
    fn codes_are_packed_high_half_first_and_zeros_stay_zero() {
        let mut values = [0.0; 130];
        (values[0], values[1], values[128]) = (-2.0, 1.0, 3.0);
        let weight = Nf4Weight::quantize(&values, [2, 65]).unwrap();
        assert_eq!(weight.codes.len(), 65);
        // -1 is code 0; 0.5 lies between the thresholds of codes 12 and 13.
        assert_eq!((weight.codes[0], weight.codes[1], weight.codes[64]), (12, 0x77, 0xf7));
        assert_eq!(weight.absmax, Absmax::F32(vec![2.0, 0.0, 3.0]));
        let decoded = weight.dequantize(DType::F32);
        assert_eq!((decoded[0], decoded[2], decoded[128]), (-2.0, 0.0, 3.0));
        assert_eq!(decoded[1], CODEBOOK[12] * 2.0);
    }

    #[test]
    fn an_odd_count_is_padded_with_zero() {
        let weight = Nf4Weight::quantize(&[1.0, 0.0, -1.0], [1, 3]).unwrap();
        assert_eq!(weight.codes, [0xf7, 0x07]);
        assert_eq!(weight.dequantize(DType::F32), [1.0, 0.0, -1.0]);
    }

    #[test]
    fn every_value_takes_the_nearest_code() {
        let values: Vec<f32> = (0..256).map(|i| (i as f32 * 0.37).sin()).collect();
        let weight = Nf4Weight::quantize(&values, [4, 64]).unwrap();
        let decoded = weight.dequantize(DType::F32);
        for (i, (x, y)) in values.iter().zip(&decoded).enumerate() {
            let scale = weight.absmax.get(i / 64);
            let best = CODEBOOK.map(|c| (c * scale - x).abs()).into_iter().fold(1.0, f32::min);
            assert!((x - y).abs() <= best + 1e-6, "{i}: {x} became {y}");
        }
    }

    #[test]
    fn double_quantization_keeps_scales_within_the_type() {
        let values: Vec<f32> = (0..64 * 300).map(|i| (i as f32 * 0.011).sin() * 0.02).collect();
        let plain = Nf4Weight::quantize(&values, [300, 64]).unwrap();
        let nested = plain.clone().double_quantize();
        let Absmax::Nested { codes, absmax, offset, .. } = &nested.absmax else {
            panic!("not nested")
        };
        assert_eq!((codes.len(), absmax.len()), (300, 2));
        let (before, after) = (plain.absmax.to_f32(), nested.absmax.to_f32());
        let mean = before.iter().sum::<f32>() / 300.0;
        assert!((offset - mean).abs() < 1e-6);
        for (i, (x, y)) in before.iter().zip(&after).enumerate() {
            // Neighbouring codes of the top decade are 0.0141 apart.
            assert!((x - y).abs() <= 0.0071 * absmax[i / 256] + 1e-6, "{x} became {y}");
        }
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let message = Nf4Weight::quantize(&[1.0, f32::NAN], [1, 2]).unwrap_err().to_string();
        assert!(message.contains("element 1 is NaN"), "{message}");
    }
}
