//! Register files of a frame, and loops over the lanes of a warp.
//!
//! The loops are written so that the compiler turns each into a few vector instructions; they are inlined into the
//! interpreter's copy for each instruction set (see `exec::step`).

use crate::isa::Slot;

/// A full warp.
pub(crate) const FULL: u32 = u32::MAX;

/// One 32-bit register of all lanes.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Lanes32(pub [u32; 32]);

/// One 64-bit register of all lanes.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Lanes64(pub [u64; 32]);

#[derive(Debug, Default, Clone)]
pub(crate) struct Registers {
    pub narrow: Vec<Lanes32>,
    pub wide: Vec<Lanes64>,
    pub predicates: Vec<u32>,
}

impl Registers {
    pub fn new(narrow: usize, wide: usize, predicates: usize) -> Self {
        Self {
            narrow: vec![Lanes32([0; 32]); narrow],
            wide: vec![Lanes64([0; 32]); wide],
            predicates: vec![0; predicates],
        }
    }

    #[inline(always)]
    pub fn r(&self, slot: Slot) -> &[u32; 32] {
        &self.narrow[slot as usize].0
    }

    #[inline(always)]
    pub fn x(&self, slot: Slot) -> &[u64; 32] {
        &self.wide[slot as usize].0
    }

    #[inline(always)]
    pub fn p(&self, slot: Slot) -> u32 {
        self.predicates[slot as usize]
    }

    /// Sets a predicate in the lanes of `mask`.
    #[inline(always)]
    pub fn set_p(&mut self, slot: Slot, mask: u32, value: u32) {
        let p = &mut self.predicates[slot as usize];
        *p = *p & !mask | value & mask;
    }

    #[inline(always)]
    pub fn write32(&mut self, d: Slot, mask: u32, values: &[u32; 32]) {
        let d = &mut self.narrow[d as usize].0;
        if mask == FULL {
            *d = *values;
        } else {
            for l in 0..32 {
                d[l] = if mask >> l & 1 != 0 { values[l] } else { d[l] };
            }
        }
    }

    #[inline(always)]
    pub fn write64(&mut self, d: Slot, mask: u32, values: &[u64; 32]) {
        let d = &mut self.wide[d as usize].0;
        if mask == FULL {
            *d = *values;
        } else {
            for l in 0..32 {
                d[l] = if mask >> l & 1 != 0 { values[l] } else { d[l] };
            }
        }
    }

    #[inline(always)]
    pub fn map1(&mut self, mask: u32, d: Slot, a: Slot, f: impl Fn(u32) -> u32) {
        let mut out = [0; 32];
        let a = self.r(a);
        for l in 0..32 {
            out[l] = f(a[l]);
        }
        self.write32(d, mask, &out);
    }

    #[inline(always)]
    pub fn map2(&mut self, mask: u32, d: Slot, a: Slot, b: Slot, f: impl Fn(u32, u32) -> u32) {
        let mut out = [0; 32];
        let (a, b) = (self.r(a), self.r(b));
        for l in 0..32 {
            out[l] = f(a[l], b[l]);
        }
        self.write32(d, mask, &out);
    }

    #[inline(always)]
    pub fn map3(
        &mut self,
        mask: u32,
        d: Slot,
        [a, b, c]: [Slot; 3],
        f: impl Fn(u32, u32, u32) -> u32,
    ) {
        let mut out = [0; 32];
        let (a, b, c) = (self.r(a), self.r(b), self.r(c));
        for l in 0..32 {
            out[l] = f(a[l], b[l], c[l]);
        }
        self.write32(d, mask, &out);
    }

    #[inline(always)]
    pub fn wide_map1(&mut self, mask: u32, d: Slot, a: Slot, f: impl Fn(u64) -> u64) {
        let mut out = [0; 32];
        let a = self.x(a);
        for l in 0..32 {
            out[l] = f(a[l]);
        }
        self.write64(d, mask, &out);
    }

    #[inline(always)]
    pub fn wide_map2(&mut self, mask: u32, d: Slot, a: Slot, b: Slot, f: impl Fn(u64, u64) -> u64) {
        let mut out = [0; 32];
        let (a, b) = (self.x(a), self.x(b));
        for l in 0..32 {
            out[l] = f(a[l], b[l]);
        }
        self.write64(d, mask, &out);
    }

    #[inline(always)]
    pub fn wide_map3(
        &mut self,
        mask: u32,
        d: Slot,
        [a, b, c]: [Slot; 3],
        f: impl Fn(u64, u64, u64) -> u64,
    ) {
        let mut out = [0; 32];
        let (a, b, c) = (self.x(a), self.x(b), self.x(c));
        for l in 0..32 {
            out[l] = f(a[l], b[l], c[l]);
        }
        self.write64(d, mask, &out);
    }

    /// Mask of the lanes where `f` holds.
    #[inline(always)]
    pub fn compare32(
        &mut self,
        mask: u32,
        d: Slot,
        a: Slot,
        b: Slot,
        f: impl Fn(u32, u32) -> bool,
    ) {
        let (a, b) = (self.r(a), self.r(b));
        let mut held = [0u32; 32];
        for l in 0..32 {
            held[l] = u32::from(f(a[l], b[l])) << l;
        }
        self.set_p(d, mask, held.iter().fold(0, |all, bit| all | bit));
    }

    #[inline(always)]
    pub fn compare64(
        &mut self,
        mask: u32,
        d: Slot,
        a: Slot,
        b: Slot,
        f: impl Fn(u64, u64) -> bool,
    ) {
        let (a, b) = (self.x(a), self.x(b));
        let mut held = 0;
        for l in 0..32 {
            held |= u32::from(f(a[l], b[l])) << l;
        }
        self.set_p(d, mask, held);
    }
}
