//! Operands of `wgmma` in shared memory: descriptors, layouts, decoding.
//!
//! Descriptors are those of the PTX ISA, "Matrix Descriptor Format" of `wgmma`. The layouts were checked against the
//! canonical ones that CUTLASS documents (include/cute/atom/mma_traits_sm90_gmma.hpp, `make_gmma_desc`), in units of
//! 16-byte chunks T and with the swizzle on absolute addresses:
//!
//! ```text
//! K major,  no swizzle : ((8,m),(T,2)) : ((1T,SBO),(1,LBO))
//! K major,  swizzle W  : ((8,m),(T,2)) : ((WT,SBO),(1,  T))          W = 2, 4, 8 chunks (32B, 64B, 128B)
//! MN major, no swizzle : ((T,1,m),(8,k)) : ((1,T,SBO),(1T,LBO))
//! MN major, swizzle W  : ((T,W,m),(8,k)) : ((1,T,LBO),(WT,SBO))
//! ```

use std::ops::Range;

use half::f16;

use crate::fault::{FaultKind, RawFault, Step};
use crate::isa::HalfFormat;
use crate::memory::{Shared, Swizzle, Writes};

/// Elements of a 16-byte chunk.
const CHUNK: usize = 8;

/// A matrix in shared memory, 16 elements of k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    start: u32,
    leading: u32,
    stride: u32,
    swizzle: Swizzle,
    /// Elements of one k are neighbours, not those of one row or column.
    mn_major: bool,
}

impl Layout {
    /// Reads a descriptor.
    pub fn new(descriptor: u64, mn_major: bool) -> Step<Self> {
        let bad = |detail: String| {
            let detail = format!("matrix descriptor {descriptor:#018x}: {detail}");
            Err(RawFault::new(FaultKind::BadOperand, 0, detail))
        };
        let field = |at: u32, bits: u32| (descriptor >> at & ((1 << bits) - 1)) as u32;
        let swizzle = [Swizzle::None, Swizzle::B128, Swizzle::B64, Swizzle::B32];
        let layout = Self {
            start: field(0, 14) << 4,
            leading: field(16, 14) << 4,
            stride: field(32, 14) << 4,
            swizzle: swizzle[field(62, 2) as usize],
            mn_major,
        };
        if field(49, 3) != 0 {
            return bad("a base offset other than 0 is not emulated".into());
        }
        if descriptor & !0xc00e_3fff_3fff_3fff != 0 {
            return bad("bits that belong to no field are set".into());
        }
        let span = layout.swizzle.span();
        if layout.swizzle != Swizzle::None {
            let pattern = 8 * span;
            if layout.start & (pattern - span) != 0 {
                return bad(format!(
                    "with base offset 0 the swizzle pattern must start at a multiple of {pattern}, but the matrix \
                     starts at {:#x}",
                    layout.start
                ));
            }
            if !layout.stride.is_multiple_of(pattern)
                || (mn_major && !layout.leading.is_multiple_of(pattern))
            {
                return bad(format!(
                    "a stride that is no multiple of {pattern}, the swizzle pattern, is not emulated"
                ));
            }
        }
        Ok(layout)
    }

    /// Address of chunk `chunk` (of k) of row `line`, or of chunk `chunk` (of rows) at k = `line`.
    fn address(&self, line: u32, chunk: u32) -> u64 {
        let (span, width) = (self.swizzle.span(), self.swizzle.span() / 16);
        let (inner, outer) = (line % 8, line / 8);
        let plain = match (self.mn_major, self.swizzle) {
            (false, Swizzle::None) => outer * self.stride + inner * 16 + chunk * self.leading,
            (false, _) => outer * self.stride + inner * span + chunk * 16,
            (true, Swizzle::None) => outer * self.leading + inner * 16 + chunk * self.stride,
            (true, _) => {
                outer * self.stride
                    + inner * span
                    + chunk % width * 16
                    + chunk / width * self.leading
            }
        };
        self.swizzle.apply(u64::from(self.start + plain))
    }

    /// The shared memory of rows or columns `range` (multiples of 8), whole swizzle patterns at a time.
    pub fn ranges(&self, range: Range<u32>) -> Vec<Range<u32>> {
        let span = self.swizzle.span();
        let groups = range.start / 8..range.end.div_ceil(8);
        let mut ranges: Vec<Range<u32>> = Vec::new();
        let mut add = |at: u32| {
            let start = (self.start + at) & !(span - 1);
            match ranges.last_mut() {
                Some(last) if (last.start..=last.end).contains(&start) => {
                    last.end = last.end.max(start + 8 * span);
                }
                _ => ranges.push(start..start + 8 * span),
            }
        };
        let width = span / 16;
        for group in groups {
            match (self.mn_major, self.swizzle) {
                (false, Swizzle::None) => {
                    (0..2).for_each(|c| add(group * self.stride + c * self.leading))
                }
                (false, _) => add(group * self.stride),
                (true, Swizzle::None) => {
                    (0..2).for_each(|c| add(group * self.stride + c * self.leading))
                }
                (true, _) if group % width != 0 && group != range.start / 8 => {}
                (true, _) => {
                    (0..2).for_each(|k| add(group / width * self.leading + k * self.stride))
                }
            }
        }
        ranges
    }

    /// Decodes rows or columns `range` (multiples of 8); calls `put(row - range.start, k, value)`. What wrote them is
    /// added to `writes`.
    #[inline(always)]
    pub fn decode(
        &self,
        shared: &Shared,
        range: Range<u32>,
        input: HalfFormat,
        writes: &mut Writes,
        mut put: impl FnMut(usize, usize, f32),
    ) -> Step {
        let (lines, chunks) = match self.mn_major {
            false => (range.clone(), 0..2),
            true => (0..16, range.start / 8..range.end / 8),
        };
        for line in lines {
            for chunk in chunks.clone() {
                let at = self.address(line, chunk);
                shared.survey(0, at..at + 16, writes)?;
                let bytes = shared.bulk_bytes(&(at as u32..at as u32 + 16));
                for i in 0..CHUNK {
                    let bits = u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
                    let value = widen(input, bits);
                    match self.mn_major {
                        false => {
                            put((line - range.start) as usize, chunk as usize * CHUNK + i, value)
                        }
                        true => {
                            put((chunk - chunks.start) as usize * CHUNK + i, line as usize, value)
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// A half as f32, exactly.
#[inline(always)]
pub(super) fn widen(input: HalfFormat, bits: u16) -> f32 {
    match input {
        HalfFormat::Bf16 => f32::from_bits(u32::from(bits) << 16),
        HalfFormat::F16 => f16::from_bits(bits).to_f32(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(start: u64, leading: u64, stride: u64, mode: u64) -> u64 {
        start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | mode << 62
    }

    #[test]
    fn k_major_rows_are_spans_and_k_advances_inside_them() {
        let layout = Layout::new(descriptor(1024 + 32, 16, 1024, 1), false).unwrap();
        // Row 9, second chunk of k 16..32: chunk 3 of row 1 of the second pattern, xored with 1.
        assert_eq!(layout.address(9, 1), 2048 + 128 + 16 * 2);
        assert!(layout.ranges(0..64).iter().eq([&(1024..1024 + 8 * 1024)]));
        let plain = Layout::new(descriptor(256, 128, 256, 0), false).unwrap();
        assert_eq!(plain.address(9, 1), 256 + 256 + 16 + 128);
        assert!(plain.ranges(8..16).iter().eq([&(512..768)]));
    }

    #[test]
    fn mn_major_patterns_are_64_wide_and_8_deep() {
        let layout = Layout::new(descriptor(0, 8192, 1024, 1), true).unwrap();
        // k = 9, elements 72..80: second pattern in k, second in mn, row 1, chunk 1 xored with 1.
        assert_eq!(layout.address(9, 9), 8192 + 1024 + 128);
        assert_eq!(layout.ranges(0..128), [0..2048, 8192..8192 + 2048]);
        assert!(layout.ranges(16..32).iter().eq([&(0..2048)]));
    }

    #[test]
    fn bad_descriptors_are_refused() {
        let message = |d| Layout::new(d, false).unwrap_err().detail;
        assert!(message(descriptor(1024 + 128, 16, 1024, 1)).contains("multiple of 1024"));
        assert!(message(descriptor(0, 16, 1024, 1) | 1 << 49).contains("base offset"));
        assert!(message(1 << 15).contains("belong to no field"));
    }
}
