//! Integer arithmetic, bit fields, comparisons.

use super::registers::Registers;
use crate::isa::{Cmp, IntOp, IntUnary, Slot};

#[inline(always)]
pub(super) fn binary32(r: &mut Registers, mask: u32, op: IntOp, d: Slot, a: Slot, b: Slot) {
    match op {
        IntOp::Add => r.map2(mask, d, a, b, u32::wrapping_add),
        IntOp::Sub => r.map2(mask, d, a, b, u32::wrapping_sub),
        IntOp::Mul => r.map2(mask, d, a, b, u32::wrapping_mul),
        IntOp::MulHiS => {
            r.map2(mask, d, a, b, |a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32)
        }
        IntOp::MulHiU => r.map2(mask, d, a, b, |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        // PTX leaves division by zero open; all ones is what the hardware's routine gives.
        IntOp::DivS => r.map2(mask, d, a, b, |a, b| match b {
            0 => u32::MAX,
            _ => (a as i32).wrapping_div(b as i32) as u32,
        }),
        IntOp::DivU => r.map2(mask, d, a, b, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
        IntOp::RemS => r.map2(mask, d, a, b, |a, b| match b {
            0 => a,
            _ => (a as i32).wrapping_rem(b as i32) as u32,
        }),
        IntOp::RemU => r.map2(mask, d, a, b, |a, b| a.checked_rem(b).unwrap_or(a)),
        IntOp::MinS => r.map2(mask, d, a, b, |a, b| (a as i32).min(b as i32) as u32),
        IntOp::MinU => r.map2(mask, d, a, b, u32::min),
        IntOp::MaxS => r.map2(mask, d, a, b, |a, b| (a as i32).max(b as i32) as u32),
        IntOp::MaxU => r.map2(mask, d, a, b, u32::max),
        IntOp::And => r.map2(mask, d, a, b, |a, b| a & b),
        IntOp::Or => r.map2(mask, d, a, b, |a, b| a | b),
        IntOp::Xor => r.map2(mask, d, a, b, |a, b| a ^ b),
        // Shift amounts beyond the width are clamped to it.
        IntOp::Shl => r.map2(mask, d, a, b, |a, b| if b < 32 { a << (b & 31) } else { 0 }),
        IntOp::ShrU => r.map2(mask, d, a, b, |a, b| if b < 32 { a >> (b & 31) } else { 0 }),
        IntOp::ShrS => r.map2(mask, d, a, b, |a, b| ((a as i32) >> b.min(31)) as u32),
        IntOp::AddSat => r.map2(mask, d, a, b, |a, b| (a as i32).saturating_add(b as i32) as u32),
        IntOp::SubSat => r.map2(mask, d, a, b, |a, b| (a as i32).saturating_sub(b as i32) as u32),
    }
}

#[inline(always)]
pub(super) fn binary64(r: &mut Registers, mask: u32, op: IntOp, d: Slot, a: Slot, b: Slot) {
    match op {
        IntOp::Add => r.wide_map2(mask, d, a, b, u64::wrapping_add),
        IntOp::Sub => r.wide_map2(mask, d, a, b, u64::wrapping_sub),
        IntOp::Mul => r.wide_map2(mask, d, a, b, u64::wrapping_mul),
        IntOp::MulHiS => r.wide_map2(mask, d, a, b, |a, b| {
            ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
        }),
        IntOp::MulHiU => {
            r.wide_map2(mask, d, a, b, |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64)
        }
        IntOp::DivS => r.wide_map2(mask, d, a, b, |a, b| match b {
            0 => u64::MAX,
            _ => (a as i64).wrapping_div(b as i64) as u64,
        }),
        IntOp::DivU => r.wide_map2(mask, d, a, b, |a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        IntOp::RemS => r.wide_map2(mask, d, a, b, |a, b| match b {
            0 => a,
            _ => (a as i64).wrapping_rem(b as i64) as u64,
        }),
        IntOp::RemU => r.wide_map2(mask, d, a, b, |a, b| a.checked_rem(b).unwrap_or(a)),
        IntOp::MinS => r.wide_map2(mask, d, a, b, |a, b| (a as i64).min(b as i64) as u64),
        IntOp::MinU => r.wide_map2(mask, d, a, b, u64::min),
        IntOp::MaxS => r.wide_map2(mask, d, a, b, |a, b| (a as i64).max(b as i64) as u64),
        IntOp::MaxU => r.wide_map2(mask, d, a, b, u64::max),
        IntOp::And => r.wide_map2(mask, d, a, b, |a, b| a & b),
        IntOp::Or => r.wide_map2(mask, d, a, b, |a, b| a | b),
        IntOp::Xor => r.wide_map2(mask, d, a, b, |a, b| a ^ b),
        IntOp::Shl | IntOp::ShrU | IntOp::ShrS => shift64(r, mask, op, d, a, b),
        IntOp::AddSat => {
            r.wide_map2(mask, d, a, b, |a, b| (a as i64).saturating_add(b as i64) as u64)
        }
        IntOp::SubSat => {
            r.wide_map2(mask, d, a, b, |a, b| (a as i64).saturating_sub(b as i64) as u64)
        }
    }
}

/// Shifts of 64 bits by a 32-bit amount.
#[inline(always)]
fn shift64(r: &mut Registers, mask: u32, op: IntOp, d: Slot, a: Slot, b: Slot) {
    let mut out = [0; 32];
    let (a, b) = (r.x(a), r.r(b));
    match op {
        IntOp::Shl => {
            (0..32).for_each(|l| out[l] = if b[l] < 64 { a[l] << (b[l] & 63) } else { 0 })
        }
        IntOp::ShrU => {
            (0..32).for_each(|l| out[l] = if b[l] < 64 { a[l] >> (b[l] & 63) } else { 0 })
        }
        _ => (0..32).for_each(|l| out[l] = ((a[l] as i64) >> b[l].min(63)) as u64),
    }
    r.write64(d, mask, &out);
}

/// Position of the highest bit that matters, or all ones.
fn find_high(a: u64, width: u32, signed: bool, as_shift: bool) -> u32 {
    let negative = signed && a >> (width - 1) & 1 != 0;
    let bits = if negative { !a & (u64::MAX >> (64 - width)) } else { a };
    if bits == 0 {
        return u32::MAX;
    }
    let position = 63 - bits.leading_zeros();
    if as_shift { width - 1 - position } else { position }
}

pub(super) fn unary32(r: &mut Registers, mask: u32, op: IntUnary, d: Slot, a: Slot) {
    let high = |signed, shift| move |a: u32| find_high(u64::from(a), 32, signed, shift);
    match op {
        IntUnary::Not => r.map1(mask, d, a, |a| !a),
        IntUnary::Neg => r.map1(mask, d, a, u32::wrapping_neg),
        IntUnary::Abs => r.map1(mask, d, a, |a| (a as i32).wrapping_abs() as u32),
        IntUnary::Sext8 => r.map1(mask, d, a, |a| a as i8 as u32),
        IntUnary::Sext16 => r.map1(mask, d, a, |a| a as i16 as u32),
        IntUnary::Zext8 => r.map1(mask, d, a, |a| a & 0xff),
        IntUnary::Zext16 => r.map1(mask, d, a, |a| a & 0xffff),
        IntUnary::Brev => r.map1(mask, d, a, u32::reverse_bits),
        IntUnary::Popc => r.map1(mask, d, a, u32::count_ones),
        IntUnary::Clz => r.map1(mask, d, a, u32::leading_zeros),
        IntUnary::BfindU => r.map1(mask, d, a, high(false, false)),
        IntUnary::BfindS => r.map1(mask, d, a, high(true, false)),
        IntUnary::BfindShiftU => r.map1(mask, d, a, high(false, true)),
        IntUnary::BfindShiftS => r.map1(mask, d, a, high(true, true)),
    }
}

pub(super) fn unary64(r: &mut Registers, mask: u32, op: IntUnary, d: Slot, a: Slot) {
    let count: fn(u64) -> u32 = match op {
        IntUnary::Not => return r.wide_map1(mask, d, a, |a| !a),
        IntUnary::Neg => return r.wide_map1(mask, d, a, u64::wrapping_neg),
        IntUnary::Abs => return r.wide_map1(mask, d, a, |a| (a as i64).wrapping_abs() as u64),
        IntUnary::Brev => return r.wide_map1(mask, d, a, u64::reverse_bits),
        IntUnary::Sext8 => return r.wide_map1(mask, d, a, |a| a as i8 as u64),
        IntUnary::Sext16 => return r.wide_map1(mask, d, a, |a| a as i16 as u64),
        IntUnary::Zext8 => return r.wide_map1(mask, d, a, |a| a & 0xff),
        IntUnary::Zext16 => return r.wide_map1(mask, d, a, |a| a & 0xffff),
        IntUnary::Popc => u64::count_ones,
        IntUnary::Clz => u64::leading_zeros,
        IntUnary::BfindU => |a| find_high(a, 64, false, false),
        IntUnary::BfindS => |a| find_high(a, 64, true, false),
        IntUnary::BfindShiftU => |a| find_high(a, 64, false, true),
        IntUnary::BfindShiftS => |a| find_high(a, 64, true, true),
    };
    let mut out = [0; 32];
    out.iter_mut().zip(r.x(a)).for_each(|(out, a)| *out = count(*a));
    r.write32(d, mask, &out);
}

/// Addition through the carry flags of predicate slot 0; subtraction adds the complement.
pub(super) struct Carry {
    pub take: bool,
    pub set: bool,
    pub subtract: bool,
}

pub(super) fn carry32(r: &mut Registers, mask: u32, kind: Carry, d: Slot, a: Slot, b: Slot) {
    let carried = if kind.take { r.p(0) } else { 0 };
    let (mut out, mut flags) = ([0; 32], 0);
    for (l, value) in out.iter_mut().enumerate() {
        let carry = u64::from(carried >> l & 1);
        let (a, b) = (u64::from(r.r(a)[l]), u64::from(r.r(b)[l]));
        let sum = if kind.subtract { a.wrapping_sub(b).wrapping_sub(carry) } else { a + b + carry };
        *value = sum as u32;
        flags |= ((sum >> 32 & 1) as u32) << l;
    }
    r.write32(d, mask, &out);
    if kind.set {
        r.set_p(0, mask, flags);
    }
}

pub(super) fn carry64(r: &mut Registers, mask: u32, kind: Carry, d: Slot, a: Slot, b: Slot) {
    let carried = if kind.take { r.p(0) } else { 0 };
    let (mut out, mut flags) = ([0; 32], 0);
    for (l, value) in out.iter_mut().enumerate() {
        let carry = u128::from(carried >> l & 1);
        let (a, b) = (u128::from(r.x(a)[l]), u128::from(r.x(b)[l]));
        let sum = if kind.subtract { a.wrapping_sub(b).wrapping_sub(carry) } else { a + b + carry };
        *value = sum as u64;
        flags |= ((sum >> 64 & 1) as u32) << l;
    }
    r.write64(d, mask, &out);
    if kind.set {
        r.set_p(0, mask, flags);
    }
}

/// `bfe`: `length` bits from `start`, filled with the sign bit of the field (of `a` where the field ends beyond it).
pub(super) fn extract_bits(a: u64, start: u32, length: u32, width: u32, signed: bool) -> u64 {
    let (start, length) = (start & 0xff, length & 0xff);
    if length == 0 {
        return 0;
    }
    let sign_at = (start + length - 1).min(width - 1);
    let sign = signed && a >> sign_at & 1 != 0;
    let shifted = if start < 64 { a >> start } else { 0 };
    let kept = length.min(width.saturating_sub(start));
    let field = if kept >= 64 { shifted } else { shifted & ((1 << kept) - 1) };
    if sign && kept < 64 { field | u64::MAX << kept } else { field }
}

/// `bfi`: the low `length` bits of `a` at `start` of `b`.
pub(super) fn insert_bits(a: u64, b: u64, start: u32, length: u32, width: u32) -> u64 {
    let (start, length) = (start & 0xff, length & 0xff);
    if start >= width || length == 0 {
        return b;
    }
    let field = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    b & !(field << start) | (a & field) << start
}

/// Any function of three bits, bitwise.
#[inline(always)]
pub(super) fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let mut out = 0;
    for case in 0..8 {
        let pick = |x: u32, bit: u32| if case & bit != 0 { x } else { !x };
        if table >> case & 1 != 0 {
            out |= pick(a, 4) & pick(b, 2) & pick(c, 1);
        }
    }
    out
}

/// Bytes of `b:a` by the nibbles of the selector; the top bit of a nibble replicates the sign.
pub(super) fn permute_bytes(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let pick = |i: usize| {
        let nibble = selector >> (4 * i) & 0xf;
        let byte = bytes[(nibble & 7) as usize];
        if nibble & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte }
    };
    u32::from_le_bytes(std::array::from_fn(pick))
}

pub(super) fn funnel_shift(lo: u32, hi: u32, amount: u32, left: bool, clamp: bool) -> u32 {
    let amount = if clamp { amount.min(32) } else { amount & 31 };
    let joined = u64::from(hi) << 32 | u64::from(lo);
    if left { (joined << amount >> 32) as u32 } else { (joined >> amount) as u32 }
}

pub(super) fn dot_bytes(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    let widen =
        |byte: u8, signed: bool| if signed { i32::from(byte as i8) } else { i32::from(byte) };
    let products = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
    products
        .fold(c, |sum, (x, y)| sum.wrapping_add((widen(x, a_signed) * widen(y, b_signed)) as u32))
}

#[inline(always)]
pub(super) fn compare32(
    r: &mut Registers,
    mask: u32,
    cmp: Cmp,
    signed: bool,
    d: Slot,
    a: Slot,
    b: Slot,
) {
    match (cmp, signed) {
        (Cmp::Eq | Cmp::Equ, _) => r.compare32(mask, d, a, b, |a, b| a == b),
        (Cmp::Ne | Cmp::Neu, _) => r.compare32(mask, d, a, b, |a, b| a != b),
        (Cmp::Lt | Cmp::Ltu, true) => r.compare32(mask, d, a, b, |a, b| (a as i32) < b as i32),
        (Cmp::Le | Cmp::Leu, true) => r.compare32(mask, d, a, b, |a, b| a as i32 <= b as i32),
        (Cmp::Gt | Cmp::Gtu, true) => r.compare32(mask, d, a, b, |a, b| a as i32 > b as i32),
        (Cmp::Ge | Cmp::Geu, true) => r.compare32(mask, d, a, b, |a, b| a as i32 >= b as i32),
        (Cmp::Lt | Cmp::Ltu, false) => r.compare32(mask, d, a, b, |a, b| a < b),
        (Cmp::Le | Cmp::Leu, false) => r.compare32(mask, d, a, b, |a, b| a <= b),
        (Cmp::Gt | Cmp::Gtu, false) => r.compare32(mask, d, a, b, |a, b| a > b),
        (Cmp::Ge | Cmp::Geu, false) => r.compare32(mask, d, a, b, |a, b| a >= b),
        (Cmp::Num | Cmp::Nan, _) => r.set_p(d, mask, if cmp == Cmp::Num { u32::MAX } else { 0 }),
    }
}

pub(super) fn compare64(
    r: &mut Registers,
    mask: u32,
    cmp: Cmp,
    signed: bool,
    d: Slot,
    a: Slot,
    b: Slot,
) {
    // Flipping the sign bit turns signed order into unsigned order.
    let flip = if signed { 1 << 63 } else { 0 };
    match cmp {
        Cmp::Eq | Cmp::Equ => r.compare64(mask, d, a, b, |a, b| a == b),
        Cmp::Ne | Cmp::Neu => r.compare64(mask, d, a, b, |a, b| a != b),
        Cmp::Lt | Cmp::Ltu => r.compare64(mask, d, a, b, |a, b| a ^ flip < b ^ flip),
        Cmp::Le | Cmp::Leu => r.compare64(mask, d, a, b, |a, b| a ^ flip <= b ^ flip),
        Cmp::Gt | Cmp::Gtu => r.compare64(mask, d, a, b, |a, b| a ^ flip > b ^ flip),
        Cmp::Ge | Cmp::Geu => r.compare64(mask, d, a, b, |a, b| a ^ flip >= b ^ flip),
        Cmp::Num | Cmp::Nan => r.set_p(d, mask, if cmp == Cmp::Num { u32::MAX } else { 0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_fields() {
        assert_eq!(extract_bits(0xabcd, 4, 8, 32, false), 0xbc);
        assert_eq!(extract_bits(0x80, 4, 4, 32, true) as u32, 0xffff_fff8);
        assert_eq!(extract_bits(0x8000_0000, 28, 16, 32, true) as u32, 0xffff_fff8);
        assert_eq!(insert_bits(0xff, 0x1111_1111, 8, 4, 32), 0x1111_1f11);
        assert_eq!(find_high(0xffff_fffe, 32, true, false), 0);
        assert_eq!(find_high(0x10, 32, false, true), 27);
    }

    #[test]
    fn logic_and_permutation() {
        let (a, b, c) = (0xf0f0_1234, 0xcccc_5678, 0xaaaa_9abc);
        assert_eq!(lop3(a, b, c, 0x80), a & b & c);
        assert_eq!(lop3(a, b, c, 0x96), a ^ b ^ c);
        assert_eq!(lop3(a, b, c, 0xca), a & b | !a & c);
        assert_eq!(permute_bytes(0x3322_1100, 0x7766_5544, 0x6240), 0x6622_4400);
        assert_eq!(permute_bytes(0x0000_0080, 0, 0x0008), 0x8080_80ff);
        assert_eq!(funnel_shift(0x8000_0001, 0x1, 1, true, false), 0x3);
        assert_eq!(dot_bytes(0xff01_0203, 0x0101_0101, 10, true, true), 15);
    }
}
