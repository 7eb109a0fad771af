//! Floating-point arithmetic and conversions.

use half::{bf16, f16};

use super::registers::Registers;
use crate::isa::*;
use crate::math;
use crate::ptx::ast::Type;

fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

#[inline(always)]
fn plain(r: &mut Registers, mask: u32, d: Slot, a: Slot, b: Slot, op: impl Fn(f32, f32) -> f32) {
    r.map2(mask, d, a, b, |a, b| op(f32::from_bits(a), f32::from_bits(b)).to_bits());
}

/// f32 arithmetic without flags, rounding to nearest.
#[inline(always)]
pub(super) fn binary(r: &mut Registers, mask: u32, op: FloatOp, d: Slot, a: Slot, b: Slot) {
    match op {
        FloatOp::Add => plain(r, mask, d, a, b, |a, b| a + b),
        FloatOp::Sub => plain(r, mask, d, a, b, |a, b| a - b),
        FloatOp::Mul => plain(r, mask, d, a, b, |a, b| a * b),
        FloatOp::Div => plain(r, mask, d, a, b, |a, b| a / b),
        FloatOp::Min => plain(r, mask, d, a, b, math::min_f32),
        FloatOp::Max => plain(r, mask, d, a, b, math::max_f32),
        FloatOp::MinNan => plain(r, mask, d, a, b, |a, b| {
            if a.is_nan() {
                a
            } else if b.is_nan() {
                b
            } else {
                math::min_f32(a, b)
            }
        }),
        FloatOp::MaxNan => plain(r, mask, d, a, b, |a, b| {
            if a.is_nan() {
                a
            } else if b.is_nan() {
                b
            } else {
                math::max_f32(a, b)
            }
        }),
        FloatOp::CopySign => plain(r, mask, d, a, b, |a, b| b.copysign(a)),
    }
}

/// One f32 operation with flags.
#[inline(always)]
fn with_mode(op: FloatOp, mode: FloatMode, a: f32, b: f32) -> f32 {
    let (a, b) = (math::flush_if(a, mode.ftz), math::flush_if(b, mode.ftz));
    if mode.round == Round::Nearest {
        let value = match op {
            FloatOp::Add => a + b,
            FloatOp::Sub => a - b,
            FloatOp::Mul => a * b,
            FloatOp::Div => a / b,
            FloatOp::Min => math::min_f32(a, b),
            FloatOp::Max => math::max_f32(a, b),
            FloatOp::MinNan | FloatOp::MaxNan if a.is_nan() || b.is_nan() => f32::NAN,
            FloatOp::MinNan => math::min_f32(a, b),
            FloatOp::MaxNan => math::max_f32(a, b),
            FloatOp::CopySign => b.copysign(a),
        };
        let value = math::flush_if(value, mode.ftz);
        return if mode.sat { math::saturate(value) } else { value };
    }
    let exact = match op {
        FloatOp::Sub => math::sum_to_odd(f64::from(a), -f64::from(b)),
        FloatOp::Mul => f64::from(a) * f64::from(b),
        FloatOp::Div => math::div_to_odd(a, b),
        _ => math::sum_to_odd(f64::from(a), f64::from(b)),
    };
    math::finish_f32(exact, mode)
}

#[inline(always)]
pub(super) fn binary_mode(
    r: &mut Registers,
    mask: u32,
    op: FloatOp,
    mode: FloatMode,
    d: Slot,
    a: Slot,
    b: Slot,
) {
    plain(r, mask, d, a, b, |a, b| with_mode(op, mode, a, b));
}

#[inline(always)]
pub(super) fn fma(r: &mut Registers, mask: u32, d: Slot, operands: [Slot; 3]) {
    r.map3(mask, d, operands, |a, b, c| f(a).mul_add(f(b), f(c)).to_bits());
}

#[inline(always)]
pub(super) fn fma_mode(
    r: &mut Registers,
    mask: u32,
    mode: FloatMode,
    d: Slot,
    operands: [Slot; 3],
) {
    r.map3(mask, d, operands, |a, b, c| {
        let [a, b, c] = [a, b, c].map(|x| math::flush_if(f(x), mode.ftz));
        let value = match mode.round {
            Round::Nearest => {
                let value = math::flush_if(a.mul_add(b, c), mode.ftz);
                if mode.sat { math::saturate(value) } else { value }
            }
            _ => math::finish_f32(math::fma_to_odd(a, b, c), mode),
        };
        value.to_bits()
    });
}

#[inline(always)]
pub(super) fn unary(r: &mut Registers, mask: u32, op: FloatUnary, ftz: bool, d: Slot, a: Slot) {
    match op {
        FloatUnary::Neg if !ftz => return r.map1(mask, d, a, |a| a ^ 1 << 31),
        FloatUnary::Abs if !ftz => return r.map1(mask, d, a, |a| a & !(1 << 31)),
        _ => {}
    }
    let function: fn(f32) -> f32 = match op {
        FloatUnary::Neg => |x| -x,
        FloatUnary::Abs => f32::abs,
        FloatUnary::Sqrt => f32::sqrt,
        FloatUnary::Rcp => |x| 1.0 / x,
        FloatUnary::Rsqrt => |x| (1.0 / f64::from(x).sqrt()) as f32,
        FloatUnary::Ex2 => {
            let mut out = [0; 32];
            for (out, a) in out.iter_mut().zip(r.r(a)) {
                *out = math::flush_if(math::exp2_f32(math::flush_if(f(*a), ftz)), ftz).to_bits();
            }
            return r.write32(d, mask, &out);
        }
        FloatUnary::Lg2 => {
            return r.map1(mask, d, a, |a| math::log2_f32(math::flush_if(f(a), ftz)).to_bits());
        }
        FloatUnary::Sin => |x| f64::from(x).sin() as f32,
        FloatUnary::Cos => |x| f64::from(x).cos() as f32,
        FloatUnary::Tanh => |x| f64::from(x).tanh() as f32,
    };
    r.map1(mask, d, a, |a| math::flush_if(function(math::flush_if(f(a), ftz)), ftz).to_bits());
}

pub(super) fn binary64(r: &mut Registers, mask: u32, op: FloatOp, d: Slot, a: Slot, b: Slot) {
    r.wide_map2(mask, d, a, b, |a, b| {
        let (a, b) = (f64::from_bits(a), f64::from_bits(b));
        let value = match op {
            FloatOp::Add => a + b,
            FloatOp::Sub => a - b,
            FloatOp::Mul => a * b,
            FloatOp::Div => a / b,
            FloatOp::Min | FloatOp::MinNan => a.min(b),
            FloatOp::Max | FloatOp::MaxNan => a.max(b),
            FloatOp::CopySign => b.copysign(a),
        };
        value.to_bits()
    });
}

pub(super) fn unary64(r: &mut Registers, mask: u32, op: FloatUnary, d: Slot, a: Slot) {
    r.wide_map1(mask, d, a, |a| {
        let x = f64::from_bits(a);
        let value = match op {
            FloatUnary::Neg => -x,
            FloatUnary::Abs => x.abs(),
            FloatUnary::Sqrt => x.sqrt(),
            FloatUnary::Rcp => 1.0 / x,
            FloatUnary::Rsqrt => 1.0 / x.sqrt(),
            FloatUnary::Ex2 => x.exp2(),
            FloatUnary::Lg2 => x.log2(),
            FloatUnary::Sin => x.sin(),
            FloatUnary::Cos => x.cos(),
            FloatUnary::Tanh => x.tanh(),
        };
        value.to_bits()
    });
}

#[inline(always)]
pub(super) fn holds<T: PartialOrd>(cmp: Cmp, a: T, b: T) -> bool {
    let unordered = a.partial_cmp(&b).is_none();
    match cmp {
        Cmp::Eq => a == b,
        Cmp::Ne => a != b && !unordered,
        Cmp::Lt => a < b,
        Cmp::Le => a <= b,
        Cmp::Gt => a > b,
        Cmp::Ge => a >= b,
        Cmp::Equ => a == b || unordered,
        Cmp::Neu => a != b,
        Cmp::Ltu => a < b || unordered,
        Cmp::Leu => a <= b || unordered,
        Cmp::Gtu => a > b || unordered,
        Cmp::Geu => a >= b || unordered,
        Cmp::Num => !unordered,
        Cmp::Nan => unordered,
    }
}

pub(super) fn compare(
    r: &mut Registers,
    mask: u32,
    cmp: Cmp,
    ftz: bool,
    d: Slot,
    a: Slot,
    b: Slot,
) {
    r.compare32(mask, d, a, b, |a, b| {
        holds(cmp, math::flush_if(f(a), ftz), math::flush_if(f(b), ftz))
    });
}

/// A half to f32 and back.
fn widen_half(format: HalfFormat, bits: u16) -> f32 {
    match format {
        HalfFormat::F16 => f16::from_bits(bits).to_f32(),
        HalfFormat::Bf16 => bf16::from_bits(bits).to_f32(),
    }
}

/// Rounds a double (rounded to odd, or exact) to a half.
fn narrow_half(format: HalfFormat, x: f64, round: Round) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    match format {
        HalfFormat::F16 => f16::from_f64(math::round_to(x, math::F16, round)).to_bits(),
        HalfFormat::Bf16 => bf16::from_f64(math::round_to(x, math::BF16, round)).to_bits(),
    }
}

fn half_op(op: HalfOp, kind: HalfKind, a: u16, b: u16, c: u16) -> u16 {
    let load = |bits| flush_half(kind, widen_half(kind.format, bits));
    let (x, y) = (load(a), load(b));
    let exact = match op {
        HalfOp::Unary(FloatUnary::Neg) => return a ^ 0x8000,
        HalfOp::Unary(FloatUnary::Abs) => return a & 0x7fff,
        HalfOp::Unary(FloatUnary::Ex2) => f64::from(math::exp2_f32(x)),
        HalfOp::Unary(FloatUnary::Tanh) => f64::from(x).tanh(),
        HalfOp::Unary(FloatUnary::Sqrt) => f64::from(x).sqrt(),
        HalfOp::Unary(FloatUnary::Rcp) => 1.0 / f64::from(x),
        HalfOp::Unary(FloatUnary::Rsqrt) => 1.0 / f64::from(x).sqrt(),
        HalfOp::Unary(FloatUnary::Lg2) => f64::from(math::log2_f32(x)),
        HalfOp::Unary(FloatUnary::Sin) => f64::from(x).sin(),
        HalfOp::Unary(FloatUnary::Cos) => f64::from(x).cos(),
        HalfOp::Binary(FloatOp::Add) => math::sum_to_odd(f64::from(x), f64::from(y)),
        HalfOp::Binary(FloatOp::Sub) => math::sum_to_odd(f64::from(x), -f64::from(y)),
        HalfOp::Binary(FloatOp::Mul) => f64::from(x) * f64::from(y),
        HalfOp::Binary(FloatOp::Div) => math::div_to_odd(x, y),
        HalfOp::Binary(FloatOp::CopySign) => return b & 0x7fff | a & 0x8000,
        HalfOp::Binary(op) => f64::from(with_mode(op, FloatMode::PLAIN, x, y)),
        HalfOp::Fma => math::fma_to_odd(x, y, load(c)),
    };
    let exact = if kind.relu && exact < 0.0 { 0.0 } else { exact };
    let exact = if kind.sat { math::saturate_f64(exact) } else { exact };
    let rounded = narrow_half(kind.format, exact, Round::Nearest);
    let subnormal = kind.ftz && kind.format == HalfFormat::F16 && rounded & 0x7c00 == 0;
    if subnormal { rounded & 0x8000 } else { rounded }
}

/// `.ftz` on halves concerns f16: below its smallest normal number.
fn flush_half(kind: HalfKind, x: f32) -> f32 {
    if kind.ftz && kind.format == HalfFormat::F16 && x.abs() < 6.103_515_6e-5 {
        0f32.copysign(x)
    } else {
        x
    }
}

pub(super) fn half(
    r: &mut Registers,
    mask: u32,
    op: HalfOp,
    kind: HalfKind,
    d: Slot,
    operands: [Slot; 3],
) {
    r.map3(mask, d, operands, |a, b, c| {
        let low = half_op(op, kind, a as u16, b as u16, c as u16);
        let high = if kind.packed {
            half_op(op, kind, (a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16)
        } else {
            0
        };
        u32::from(high) << 16 | u32::from(low)
    });
}

/// `x` to bf16, to nearest: the common conversion, without a detour.
#[inline(always)]
fn bf16_nearest(bits: u32) -> u32 {
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff } else { rounded }
}

/// A floating-point source as f64 (exact).
fn to_f64(from: Type, bits: u64) -> f64 {
    match from {
        Type::F16 => f16::from_bits(bits as u16).to_f64(),
        Type::Bf16 => bf16::from_bits(bits as u16).to_f64(),
        Type::F32 => f64::from(f32::from_bits(bits as u32)),
        _ => f64::from_bits(bits),
    }
}

/// An integer source, sign- or zero-extended from its type.
fn to_integer(from: Type, bits: u64) -> i128 {
    match from {
        Type::S8 => i128::from(bits as i8),
        Type::S16 => i128::from(bits as i16),
        Type::S32 => i128::from(bits as i32),
        Type::S64 => i128::from(bits as i64),
        _ => i128::from(bits & (u64::MAX >> (64 - 8 * from.bytes()))),
    }
}

fn integer_range(to: Type) -> (i128, i128) {
    let bits = 8 * to.bytes();
    if to.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// Any conversion of one value.
pub(super) fn convert_value(convert: Convert, bits: u64) -> u64 {
    let Convert { to, from, mode, .. } = convert;
    if from.is_integer() {
        let value = to_integer(from, bits);
        if to.is_integer() {
            let (low, high) = integer_range(to);
            let value = if mode.sat { value.clamp(low, high) } else { value };
            return value as u64 & (u64::MAX >> (64 - 8 * to.bytes()));
        }
        // An integer of 64 bits may need rounding before f64 can hold it.
        let high = (value >> 32 << 32) as f64;
        let exact = math::sum_to_odd(high, (value & 0xffff_ffff) as f64);
        return match to {
            Type::F64 => (value as f64).to_bits(),
            _ => from_f64(convert, exact),
        };
    }
    let value = to_f64(from, bits);
    let value =
        if mode.ftz && from == Type::F32 { f64::from(math::flush(value as f32)) } else { value };
    if to.is_integer() {
        // NaN converts to 0, everything else is clamped to the range.
        let (low, high) = integer_range(to);
        let rounded = math::round_integral(value, mode.round);
        let integer = if value.is_nan() { 0 } else { (rounded as i128).clamp(low, high) };
        return integer as u64 & (u64::MAX >> (64 - 8 * to.bytes()));
    }
    let value = if convert.integral { math::round_integral(value, mode.round) } else { value };
    from_f64(convert, value)
}

fn from_f64(convert: Convert, value: f64) -> u64 {
    let Convert { to, mode, .. } = convert;
    let value = if convert.relu && value < 0.0 { 0.0 } else { value };
    let value = if mode.sat { math::saturate_f64(value) } else { value };
    let clamp = |max: f64| if convert.satfinite { value.clamp(-max, max) } else { value };
    match to {
        Type::F64 => value.to_bits(),
        Type::F32 => {
            let plain = FloatMode { sat: false, ..mode };
            let out = math::finish_f32(value, plain);
            u64::from(if out.is_nan() { 0x7fff_ffff } else { out.to_bits() })
        }
        Type::Tf32 => u64::from((math::round_to(value, math::TF32, mode.round) as f32).to_bits()),
        Type::F16 => u64::from(narrow_half(HalfFormat::F16, clamp(65504.0), mode.round)),
        _ => {
            u64::from(narrow_half(HalfFormat::Bf16, clamp(3.389_531_389_251_535_5e38), mode.round))
        }
    }
}

/// Conversion of a register; source and target may be in different files.
#[inline(always)]
pub(super) fn convert(r: &mut Registers, mask: u32, convert: Convert, d: Slot, a: Slot) {
    let plain = convert.mode == FloatMode::PLAIN
        && !convert.integral
        && !convert.relu
        && !convert.satfinite;
    let mode = convert.mode;
    let whole = !mode.ftz && !mode.sat && !convert.relu;
    match (convert.to, convert.from) {
        (Type::F32, Type::F32) if whole && convert.integral => {
            return r.map1(mask, d, a, |a| (math::round_integral_f32(f(a), mode.round)).to_bits());
        }
        (Type::S32, Type::F32) if whole => {
            return r
                .map1(mask, d, a, |a| math::round_integral_f32(f(a), mode.round) as i32 as u32);
        }
        (Type::F32, Type::F32) if convert.mode == FloatMode { sat: true, ..FloatMode::PLAIN } => {
            return r.map1(mask, d, a, |a| math::saturate(f(a)).to_bits());
        }
        (Type::F32, Type::S32) if plain => {
            return r.map1(mask, d, a, |a| (a as i32 as f32).to_bits());
        }
        (Type::F32, Type::U32) if plain => return r.map1(mask, d, a, |a| (a as f32).to_bits()),
        (Type::Bf16, Type::F32) if plain => return r.map1(mask, d, a, bf16_nearest),
        (Type::F32, Type::Bf16) if plain => return r.map1(mask, d, a, |a| a << 16),
        _ => {}
    }
    convert_slowly(r, mask, convert, d, a);
}

fn convert_slowly(r: &mut Registers, mask: u32, convert: Convert, d: Slot, a: Slot) {
    let source =
        |l: usize| if convert.from.bytes() == 8 { r.x(a)[l] } else { u64::from(r.r(a)[l]) };
    let mut out = [0; 32];
    for (l, value) in out.iter_mut().enumerate().filter(|(l, _)| mask >> l & 1 != 0) {
        *value = convert_value(convert, source(l));
    }
    if convert.to.bytes() == 8 {
        r.write64(d, mask, &out);
    } else {
        // Narrow signed results sit zero-extended, wider ones as they are.
        r.write32(d, mask, &out.map(|v| v as u32));
    }
}

#[inline(always)]
pub(super) fn convert_pair(
    r: &mut Registers,
    mask: u32,
    convert: Convert,
    d: Slot,
    a: Slot,
    b: Slot,
) {
    let plain = convert.mode == FloatMode::PLAIN && !convert.relu && !convert.satfinite;
    if plain && convert.to == Type::Bf16 {
        return r.map2(mask, d, a, b, |a, b| bf16_nearest(a) << 16 | bf16_nearest(b));
    }
    r.map2(mask, d, a, b, |a, b| {
        (convert_value(convert, u64::from(a)) << 16 | convert_value(convert, u64::from(b))) as u32
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simple(to: Type, from: Type, round: Round) -> Convert {
        let mode = FloatMode { round, ..FloatMode::PLAIN };
        Convert { to, from, mode, integral: false, relu: false, satfinite: false }
    }

    #[test]
    fn floats_to_integers_clamp() {
        let s32 = simple(Type::S32, Type::F32, Round::Zero);
        let value = |x: f32| convert_value(s32, u64::from(x.to_bits())) as i32;
        assert_eq!(
            [value(-1.9), value(3e9), value(f32::NAN), value(-3e9)],
            [-1, i32::MAX, 0, i32::MIN]
        );
        let u8 = simple(Type::U8, Type::F32, Round::Nearest);
        assert_eq!(convert_value(u8, u64::from(2.5f32.to_bits())), 2);
    }

    #[test]
    fn big_integers_round_once() {
        let to_f32 = simple(Type::F32, Type::U64, Round::Nearest);
        for value in
            [u64::MAX, (1 << 62) + (1 << 38) + 1, (1 << 53) + 1, 16_777_217, 1 << 24 | 1 << 63]
        {
            assert_eq!(convert_value(to_f32, value) as u32, (value as f32).to_bits(), "{value}");
        }
        let down = simple(Type::F32, Type::S64, Round::Down);
        assert_eq!(
            f32::from_bits(convert_value(down, (-16_777_217i64) as u64) as u32),
            -16_777_218.0
        );
    }

    #[test]
    fn bf16_agrees_with_the_half_crate() {
        for i in 0..100_000u32 {
            let bits = i.wrapping_mul(0x9e37_79b9);
            let expected = bf16::from_f32(f32::from_bits(bits));
            assert!(
                expected.is_nan() || bf16_nearest(bits) == u32::from(expected.to_bits()),
                "{bits:#x}"
            );
        }
        assert_eq!(bf16_nearest(f32::NAN.to_bits()), 0x7fff);
    }

    #[test]
    fn half_arithmetic_rounds_once() {
        let kind = HalfKind {
            format: HalfFormat::Bf16,
            packed: false,
            ftz: false,
            sat: false,
            relu: false,
        };
        let b = |x: f32| bf16::from_f32(x).to_bits();
        // 1 + 2^-8 is halfway between two bf16 values and goes to the even one, unless anything is added to it.
        let sum = |c| half_op(HalfOp::Fma, kind, b(2f32.powi(-8)), b(1.0), c);
        assert_eq!(sum(b(1.0)), b(1.0));
        let above = half_op(
            HalfOp::Fma,
            kind,
            b(1.0 + 2f32.powi(-7)),
            b(1.0 + 2f32.powi(-7)),
            b(2f32.powi(-8)),
        );
        // (1 + 2^-7)^2 + 2^-8 is 2^-14 above such a halfway point.
        assert_eq!(above, b(1.0 + 3.0 * 2f32.powi(-7)));
        assert_eq!(half_op(HalfOp::Binary(FloatOp::Mul), kind, b(-3.0), b(2.0), 0), b(-6.0));
    }
}
