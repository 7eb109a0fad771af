//! Element types: how numbers are stored. Arithmetic is f32 on every backend, f64 in the reference.

use bytemuck::Pod;
use half::{bf16, f16};

/// How one element of a buffer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// bfloat16: f32's exponent, 8 bits of significand.
    BF16,
    /// IEEE half precision.
    F16,
    /// Indices, positions, bounds.
    U32,
    /// Packed NF4 codes and 8-bit scales.
    U8,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::BF16 | Self::F16 => 2,
            Self::U8 => 1,
        }
    }

    /// The value of a kernel's `DT_*` constants; `common.wgsl` and `common.cuh` name them.
    pub const fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::BF16 => 1,
            Self::F16 => 2,
            Self::U32 => 3,
            Self::U8 => 4,
        }
    }

    /// Whether this is one of the three floating-point types.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::BF16 | Self::F16)
    }

    /// How many bf16 numbers add up to an element of this float type, to its last bit: what a product on
    /// bf16 units works on.
    pub(crate) const fn bf16_planes(self) -> usize {
        match self {
            Self::BF16 => 1,
            Self::F16 => 2,
            _ => 3,
        }
    }

    /// The name used in configs and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::BF16 => "bfloat16",
            Self::F16 => "float16",
            Self::U32 => "uint32",
            Self::U8 => "uint8",
        }
    }

    /// `value` as this type can hold it (round to nearest even); integers are left as they are.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::BF16 => bf16::from_f32(value).to_f32(),
            Self::F16 => f16::from_f32(value).to_f32(),
            _ => value,
        }
    }
}

/// A float type that memory holds and that arithmetic widens to f32.
pub trait Element: Pod + Send + Sync {
    /// The dtype of this type.
    const DTYPE: DType;
    /// Widens, exactly.
    fn to_f32(self) -> f32;
    /// Rounds to nearest even.
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    // Branch-free, so that loops over rows vectorise. A NaN's top significand bit is forced on, as
    // the rounding carry could otherwise turn it into an infinity.
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet = (bits >> 16) | 0x40;
        bf16::from_bits(if value.is_nan() { quiet } else { rounded } as u16)
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
}

/// Runs `$body` with `$t` naming the Rust type of the float dtype `$dtype`.
///
/// ```ignore
/// with_element!(call.dtype(0), T => add_rows::<T>(call))
/// ```
#[macro_export]
macro_rules! with_element {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::dtype::DType::BF16 => {
                type $t = half::bf16;
                $body
            }
            $crate::dtype::DType::F16 => {
                type $t = half::f16;
                $body
            }
            _ => {
                type $t = f32;
                $body
            }
        }
    };
}

/// Host f32 values as the bytes of `dtype` (a float type).
pub fn f32_to_bytes(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::BF16 => {
            bytemuck::cast_slice(&values.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>())
                .to_vec()
        }
        DType::F16 => {
            bytemuck::cast_slice(&values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>())
                .to_vec()
        }
        _ => bytemuck::cast_slice(values).to_vec(),
    }
}

/// The bytes of `dtype` (a float type) as f32 values.
pub fn bytes_to_f32(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let half_words = || {
        bytes.chunks_exact(2).map(|pair| u16::from_le_bytes(pair.try_into().unwrap_or_default()))
    };
    match dtype {
        DType::BF16 => half_words().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        DType::F16 => half_words().map(|bits| f16::from_bits(bits).to_f32()).collect(),
        _ => bytemuck::allocation::pod_collect_to_vec(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounding_equals_the_half_crate() {
        for i in 0..200_000u32 {
            let value = f32::from_bits(i.wrapping_mul(21_474).wrapping_add(0x3f00_0000));
            let ours = <bf16 as Element>::from_f32(value);
            let theirs = bf16::from_f32(value);
            assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{value:e}");
        }
    }
}
