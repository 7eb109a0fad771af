//! Tensor maps: what a bulk tensor copy needs to know of its tensor.
//!
//! The driver's 128 bytes are opaque, so the emulator has its own. The rules are those of `cuTensorMapEncodeTiled`
//! (CUDA driver API, "Tensor Map Object Management") without interleaving and element strides, and zero fill.

use crate::device::DevicePtr;
use crate::fault::Error;

/// How the 16-byte chunks of a box are permuted in shared memory, so that neither rows nor columns collide in banks.
/// The permutation is a function of the shared address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Swizzle {
    /// In order.
    #[default]
    None,
    /// Address bit 4 is xored with bit 7; rows of the box have at most 32 bytes.
    B32,
    /// Bits 4-5 are xored with bits 7-8; rows have at most 64 bytes.
    B64,
    /// Bits 4-6 are xored with bits 7-9; rows have at most 128 bytes.
    B128,
}

impl Swizzle {
    /// Bytes of a row in which chunks are permuted; 16 where none are.
    pub(crate) fn span(self) -> u32 {
        16 << self as u32
    }

    /// Where the byte at `address` of the plain layout is.
    pub(crate) fn apply(self, address: u64) -> u64 {
        let mask = u64::from(self.span() / 16 - 1);
        address ^ (address >> 7 & mask) << 4
    }
}

/// A tensor in global memory and the box that one copy moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMap {
    /// The first element; a multiple of 16.
    pub address: DevicePtr,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub element_bytes: u32,
    /// Elements per dimension, innermost first; 1 to 5 dimensions.
    pub dims: Vec<u64>,
    /// Bytes from one index to the next, of dimensions 1 and on (elements of dimension 0 are neighbours).
    pub strides: Vec<u64>,
    /// Elements of the box per dimension, 1 to 256.
    pub box_dims: Vec<u32>,
    /// Layout of the box in shared memory.
    pub swizzle: Swizzle,
}

const MAGIC: [u8; 8] = *b"PTXEMU\0\x01";

impl TensorMap {
    /// Bytes of the box.
    pub(crate) fn box_bytes(&self) -> u64 {
        self.box_dims.iter().map(|d| u64::from(*d)).product::<u64>() * u64::from(self.element_bytes)
    }

    fn check(&self) -> Result<(), String> {
        let rank = self.dims.len();
        if !(1..=5).contains(&rank) {
            return Err(format!("{rank} dimensions; 1 to 5 are possible"));
        }
        if self.strides.len() != rank - 1 || self.box_dims.len() != rank {
            return Err(format!(
                "{} strides and {} box dimensions for {rank} dimensions; {} and {rank} are expected",
                self.strides.len(),
                self.box_dims.len(),
                rank - 1
            ));
        }
        if !matches!(self.element_bytes, 1 | 2 | 4 | 8) {
            return Err(format!(
                "elements of {} bytes; 1, 2, 4, 8 are possible",
                self.element_bytes
            ));
        }
        if !self.address.0.is_multiple_of(16) {
            return Err(format!("the address {:#x} is not a multiple of 16", self.address.0));
        }
        if let Some(dim) = self.dims.iter().find(|d| !(1..=1 << 32).contains(*d)) {
            return Err(format!("a dimension of {dim} elements; 1 to 2^32 are possible"));
        }
        if let Some(stride) = self.strides.iter().find(|s| !s.is_multiple_of(16) || **s >= 1 << 40)
        {
            return Err(format!(
                "a stride of {stride} bytes; multiples of 16 below 2^40 are possible"
            ));
        }
        if let Some(dim) = self.box_dims.iter().find(|d| !(1..=256).contains(*d)) {
            return Err(format!("a box dimension of {dim} elements; 1 to 256 are possible"));
        }
        let row = self.box_dims[0] * self.element_bytes;
        if !row.is_multiple_of(16) {
            return Err(format!("rows of {row} bytes in the box; multiples of 16 are possible"));
        }
        if self.swizzle != Swizzle::None && row > self.swizzle.span() {
            return Err(format!(
                "rows of {row} bytes in the box; at most {} are possible with swizzle {:?}",
                self.swizzle.span(),
                self.swizzle
            ));
        }
        Ok(())
    }

    /// The bytes that a kernel takes by value (`const __grid_constant__`), at an address that is a multiple of 64.
    ///
    /// # Errors
    /// A rule of `cuTensorMapEncodeTiled` is broken.
    pub fn encode(&self) -> Result<[u8; 128], Error> {
        self.check().map_err(|rule| Error::Invalid(format!("tensor map: {rule}")))?;
        let mut bytes = [0; 128];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.address.0.to_le_bytes());
        bytes[16] = self.dims.len() as u8;
        bytes[17] = self.element_bytes as u8;
        bytes[18] = self.swizzle as u8;
        for (index, dim) in self.dims.iter().enumerate() {
            bytes[24 + 8 * index..][..8].copy_from_slice(&dim.to_le_bytes());
        }
        for (index, stride) in self.strides.iter().enumerate() {
            bytes[64 + 8 * index..][..8].copy_from_slice(&stride.to_le_bytes());
        }
        for (index, dim) in self.box_dims.iter().enumerate() {
            bytes[96 + 4 * index..][..4].copy_from_slice(&dim.to_le_bytes());
        }
        let sum = checksum(&bytes).to_le_bytes();
        bytes[120..].copy_from_slice(&sum);
        Ok(bytes)
    }

    /// The map that [`TensorMap::encode`] made; `None` for other bytes.
    pub(crate) fn decode(bytes: &[u8; 128]) -> Option<Self> {
        let word = |at: usize| bytes[at..].first_chunk().copied().map(u64::from_le_bytes);
        let sum = word(120)?;
        let mut rest = *bytes;
        rest[120..].fill(0);
        if bytes[..8] != MAGIC || sum != checksum(&rest) {
            return None;
        }
        let rank = usize::from(bytes[16]);
        let map = Self {
            address: DevicePtr(word(8)?),
            element_bytes: u32::from(bytes[17]),
            dims: (0..rank).map(|i| word(24 + 8 * i)).collect::<Option<_>>()?,
            strides: (1..rank).map(|i| word(56 + 8 * i)).collect::<Option<_>>()?,
            box_dims: (0..rank)
                .map(|i| word(96 + 4 * i).map(|w| w as u32))
                .collect::<Option<_>>()?,
            swizzle: [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128]
                .get(usize::from(bytes[18]))
                .copied()?,
        };
        map.check().is_ok().then_some(map)
    }
}

/// FNV-1a: tells maps from bytes that are none.
fn checksum(bytes: &[u8; 128]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> TensorMap {
        TensorMap {
            address: DevicePtr(0x7f00_0000_0100),
            element_bytes: 2,
            dims: vec![100, 33, 7],
            strides: vec![208, 6864],
            box_dims: vec![64, 32, 1],
            swizzle: Swizzle::B128,
        }
    }

    #[test]
    fn maps_come_back_and_other_bytes_are_none() {
        let bytes = map().encode().unwrap();
        assert_eq!(TensorMap::decode(&bytes), Some(map()));
        for at in 0..128 {
            let mut wrong = bytes;
            wrong[at] ^= 4;
            assert_eq!(TensorMap::decode(&wrong), None, "byte {at}");
        }
        assert_eq!(TensorMap::decode(&[0; 128]), None);
    }

    #[test]
    fn rules_are_named() {
        let broken = |change: &dyn Fn(&mut TensorMap)| {
            let mut map = map();
            change(&mut map);
            map.encode().unwrap_err().to_string()
        };
        assert!(broken(&|m| m.address.0 += 8).contains("not a multiple of 16"));
        assert!(broken(&|m| m.strides[0] = 200).contains("a stride of 200 bytes"));
        assert!(broken(&|m| m.box_dims[1] = 257).contains("257"));
        assert!(broken(&|m| m.box_dims[0] = 128).contains("at most 128"));
        assert!(broken(&|m| m.box_dims[0] = 4).contains("rows of 8 bytes"));
        assert!(broken(&|m| m.dims[2] = 0).contains("dimension of 0"));
        assert!(broken(&|m| m.dims.push(1)).contains("2 strides"));
        assert!(broken(&|m| m.element_bytes = 3).contains("3 bytes"));
    }

    #[test]
    fn swizzles_permute_chunks_within_their_span() {
        assert_eq!(Swizzle::B128.apply(128 * 3 + 16 * 5 + 2), 128 * 3 + 16 * 6 + 2);
        assert_eq!(Swizzle::B64.apply(128 * 3 + 16), 128 * 3 + 16 * 2);
        assert_eq!(Swizzle::B32.apply(128 * 3), 128 * 3 + 16);
        assert_eq!(Swizzle::None.apply(1000), 1000);
    }
}
