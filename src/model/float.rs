//! The three float types that weights are stored in, by their names in files, and their bytes as
//! numbers.

use half::{bf16, f16};
use safetensors::Dtype;

use crate::DType;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::f32_to_bytes;

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
}
