//! The float types that weights are stored in, by their names in files, and their bytes as numbers: the
//! three that this crate computes with, and those that are cast to f32 when they are read (float64, and
//! the two of 8 bits).

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

use crate::DType;

/// Bytes that are looked at together.
const PIECE: usize = 1 << 16;

/// The type that PyTorch calls `name` (`float32`, `bfloat16`, `float16`, or with `torch.` before
/// it), if it is one of the three.
pub fn from_torch_name(name: &str) -> Option<DType> {
    match name.strip_prefix("torch.").unwrap_or(name) {
        "float32" | "float" => Some(DType::F32),
        "bfloat16" => Some(DType::BF16),
        "float16" | "half" => Some(DType::F16),
        _ => None,
    }
}

/// The type that safetensors calls `dtype`, if it is one of the three.
pub fn from_safetensors(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::F16 => Some(DType::F16),
        _ => None,
    }
}

/// The type that a model is computed in whose weights PyTorch calls `name`: one of the three, or, for a
/// type that weights are only stored in, the narrowest of the three that is not much less exact.
pub fn computed_in(name: &str) -> Option<DType> {
    match name.strip_prefix("torch.").unwrap_or(name) {
        "float64" | "double" => Some(DType::F32),
        "float8_e4m3fn" | "float8_e5m2" => Some(DType::BF16),
        other => from_torch_name(other),
    }
}

/// Whether weights may be stored as `dtype`.
pub fn is_float(dtype: Dtype) -> bool {
    from_safetensors(dtype).is_some()
        || matches!(dtype, Dtype::F64 | Dtype::F8_E4M3 | Dtype::F8_E5M2)
}

/// Little-endian `bytes` of a float type as f32: exactly, but for float64, which is rounded. `None` where
/// [`is_float`] says no.
pub fn decode(bytes: &[u8], dtype: Dtype) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F64 => {
            let wide = bytes.as_chunks::<8>().0.iter();
            wide.map(|bytes| f64::from_le_bytes(*bytes) as f32).collect()
        }
        Dtype::F8_E4M3 => bytes.iter().map(|byte| e4m3(*byte)).collect(),
        // The upper half of a half.
        Dtype::F8_E5M2 => {
            bytes.iter().map(|byte| f16::from_bits(u16::from(*byte) << 8).to_f32()).collect()
        }
        _ => widen(bytes, from_safetensors(dtype)?).collect(),
    })
}

/// Sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities, and one NaN of each sign (PyTorch's
/// `float8_e4m3fn`).
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let size = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if byte & 128 == 0 { size } else { -size }
}

/// What safetensors calls `dtype`.
pub fn to_safetensors(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::BF16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::U32 => Dtype::U32,
        DType::U8 => Dtype::U8,
    }
}

/// Little-endian `bytes` of `dtype` as f32, exactly; an incomplete last element is left out, and
/// bytes of an integer type give nothing.
pub fn widen(bytes: &[u8], dtype: DType) -> impl Iterator<Item = f32> + '_ {
    let bytes = if dtype.is_float() { bytes } else { &[] };
    bytes.chunks_exact(dtype.size()).map(move |b| match dtype {
        DType::BF16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        DType::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
        _ => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
    })
}

/// The index of the first element of `bytes`, little-endian and of a float `dtype`, that is NaN or
/// infinite: its exponent has all bits set.
pub fn first_non_finite(bytes: &[u8], dtype: DType) -> Option<usize> {
    let (exponent, size) = match dtype {
        DType::F32 => (0x7F80_0000, 4),
        DType::BF16 => (0x7F80, 2),
        DType::F16 => (0x7C00, 2),
        DType::U32 | DType::U8 => return None,
    };
    let is_bad = |b: &[u8]| match size {
        2 => u32::from(u16::from_le_bytes([b[0], b[1]])) & exponent == exponent,
        _ => u32::from_le_bytes([b[0], b[1], b[2], b[3]]) & exponent == exponent,
    };
    // Whole pieces without an early end, which the compiler turns into wide instructions.
    let holds_one = |piece: &[u8]| piece.chunks_exact(size).fold(false, |bad, b| bad | is_bad(b));
    let piece = bytes.par_chunks(PIECE).position_first(holds_one)? * PIECE;
    let at = bytes[piece..].chunks_exact(size).position(is_bad)?;
    Some(piece / size + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::f32_to_bytes;

    #[test]
    fn the_first_number_that_is_not_finite_is_found() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let mut values = vec![dtype.round(60_000.0); 100_000];
            assert_eq!(first_non_finite(&f32_to_bytes(&values, dtype), dtype), None);
            for (at, bad) in [(99_999, f32::NAN), (70_001, f32::NEG_INFINITY), (0, f32::INFINITY)] {
                values[at] = bad;
                assert_eq!(first_non_finite(&f32_to_bytes(&values, dtype), dtype), Some(at));
            }
        }
        assert_eq!(first_non_finite(&[255; 8], DType::U8), None);
    }

    #[test]
    fn bytes_round_trip_through_every_type() {
        // Exact in all three types.
        let values = [0.0, -0.0, 1.0, -2.5, 0.15625, 240.0];
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let bytes = f32_to_bytes(&values, dtype);
            assert!(widen(&bytes, dtype).eq(values));
            assert_eq!(from_torch_name(dtype.name()), Some(dtype));
            assert_eq!(from_safetensors(to_safetensors(dtype)), Some(dtype));
        }
        assert_eq!(widen(&[1, 2, 3], DType::U8).count(), 0);
    }

    #[test]
    fn types_that_are_only_stored_are_cast() {
        let bytes = [1.0f64, 1e-300, f64::from(f32::MAX) * 2.0].map(f64::to_le_bytes).concat();
        assert_eq!(decode(&bytes, Dtype::F64).unwrap(), [1.0, 0.0, f32::INFINITY]);
        // 1, the largest, the smallest normal, the smallest, and their negatives.
        let (e4m3, e5m2) = ([0x38, 0x7E, 0x08, 0x01], [0x3C, 0x7B, 0x04, 0x01]);
        let values = [1.0, 448.0, 2f32.powi(-6), 2f32.powi(-9)];
        assert_eq!(decode(&e4m3, Dtype::F8_E4M3).unwrap(), values);
        assert_eq!(decode(&e4m3.map(|x| x | 128), Dtype::F8_E4M3).unwrap(), values.map(|x| -x));
        let values = [1.0, 57344.0, 2f32.powi(-14), 2f32.powi(-16)];
        assert_eq!(decode(&e5m2, Dtype::F8_E5M2).unwrap(), values);
        assert!(decode(&[0x7F, 0xFF], Dtype::F8_E4M3).unwrap().iter().all(|x| x.is_nan()));
        assert!(decode(&[0x7C, 0x7F], Dtype::F8_E5M2).unwrap()[0].is_infinite());
        assert_eq!(decode(&[0], Dtype::I8), None);
    }
}
