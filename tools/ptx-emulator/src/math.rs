//! Exact rounding, and the approximate functions of the hardware computed well inside their error bounds.
//!
//! Everything here is plain arithmetic, so results are the same bits on every machine.

use crate::isa::{FloatMode, Round};

/// The sum as a double whose last bit is set when it is inexact: rounding that to f32, f16 or bf16 in any mode gives
/// the same result as rounding the exact sum ("round to odd", Boldo and Melquiond 2008).
pub(crate) fn sum_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if !sum.is_finite() {
        return sum;
    }
    // Knuth's two-sum: `error` is exact.
    let shadow = sum - a;
    let error = (a - (sum - shadow)) + (b - shadow);
    to_odd(sum, error)
}

/// `value + remainder` rounded to odd, where `value` is the nearest double.
fn to_odd(value: f64, remainder: f64) -> f64 {
    let bits = value.to_bits();
    if remainder == 0.0 || remainder.is_nan() || bits & 1 == 1 || value.is_infinite() {
        return value;
    }
    let away = (remainder > 0.0) == (value > 0.0);
    f64::from_bits(if away { bits + 1 } else { bits - 1 })
}

/// `a * b + c` for f32 operands, rounded to odd in f64 (the product is exact there).
pub(crate) fn fma_to_odd(a: f32, b: f32, c: f32) -> f64 {
    sum_to_odd(f64::from(a) * f64::from(b), f64::from(c))
}

/// The quotient of two f32, rounded to odd in f64.
pub(crate) fn div_to_odd(a: f32, b: f32) -> f64 {
    let (a, b) = (f64::from(a), f64::from(b));
    let quotient = a / b;
    if !quotient.is_finite() || quotient == 0.0 {
        return quotient;
    }
    let remainder = (-quotient).mul_add(b, a);
    to_odd(quotient, if b < 0.0 { -remainder } else { remainder })
}

/// Rounds to an integral value.
pub(crate) fn round_integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::NearestAway => x.round(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

/// [`round_integral`] of f32.
#[inline(always)]
pub(crate) fn round_integral_f32(x: f32, round: Round) -> f32 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::NearestAway => x.round(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

/// A binary format narrower than f64: significant bits, exponent of the smallest normal number, largest finite value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    precision: i32,
    min_exponent: i32,
    max: f64,
}

pub(crate) const F32: Format = Format { precision: 24, min_exponent: -126, max: f32::MAX as f64 };
pub(crate) const F16: Format = Format { precision: 11, min_exponent: -14, max: 65504.0 };
pub(crate) const BF16: Format =
    Format { precision: 8, min_exponent: -126, max: 3.389_531_389_251_535_5e38 };
pub(crate) const TF32: Format =
    Format { precision: 11, min_exponent: -126, max: 3.401_162_134_214_653e38 };

fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// Rounds `x` to `format`, still as f64.
pub(crate) fn round_to(x: f64, format: Format, round: Round) -> f64 {
    if !x.is_finite() || x == 0.0 {
        return x;
    }
    let exponent = ((x.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(format.min_exponent);
    let ulp = exponent - (format.precision - 1);
    // Scaling by powers of two is exact in both directions.
    let scaled = x * power_of_two(-ulp / 2) * power_of_two(-ulp - -ulp / 2);
    let rounded =
        round_integral(scaled, round) * power_of_two(ulp / 2) * power_of_two(ulp - ulp / 2);
    if rounded.abs() <= format.max {
        return rounded.copysign(x);
    }
    let to_infinity = match round {
        Round::Nearest | Round::NearestAway => true,
        Round::Zero => false,
        Round::Down => x < 0.0,
        Round::Up => x > 0.0,
    };
    if to_infinity { f64::INFINITY.copysign(x) } else { format.max.copysign(x) }
}

/// Flushes a subnormal to zero.
#[inline(always)]
pub(crate) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 1 << 31) } else { x }
}

/// Operand as `.ftz` sees it.
#[inline(always)]
pub(crate) fn flush_if(x: f32, ftz: bool) -> f32 {
    if ftz { flush(x) } else { x }
}

/// Clamps to [0, 1]; NaN becomes 0.
pub(crate) fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// [`saturate`] before rounding.
pub(crate) fn saturate_f64(x: f64) -> f64 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// Rounds to f32 in a direction: the nearest value, or its neighbour on the right side.
fn directed(x: f64, round: Round) -> f32 {
    let nearest = x as f32;
    let (too_high, too_low) = (f64::from(nearest) > x, f64::from(nearest) < x);
    match round {
        Round::Down if too_high => nearest.next_down(),
        Round::Up if too_low => nearest.next_up(),
        Round::Zero if too_high && x > 0.0 => nearest.next_down(),
        Round::Zero if too_low && x < 0.0 => nearest.next_up(),
        Round::NearestAway => round_to(x, F32, round) as f32,
        _ => nearest,
    }
}

/// Rounds a value that was computed to odd, with the flags of an instruction.
pub(crate) fn finish_f32(x: f64, mode: FloatMode) -> f32 {
    let rounded = match mode.round {
        Round::Nearest => x as f32,
        round => directed(x, round),
    };
    let flushed = flush_if(rounded, mode.ftz);
    if mode.sat { saturate(flushed) } else { flushed }
}

/// PTX `min`: the other operand when one is NaN; -0 is below +0.
#[inline(always)]
pub(crate) fn min_f32(a: f32, b: f32) -> f32 {
    let lesser = if a < b || (a == b && a.is_sign_negative()) { a } else { b };
    if b.is_nan() { a } else { lesser }
}

/// PTX `max`: the other operand when one is NaN; +0 is above -0.
#[inline(always)]
pub(crate) fn max_f32(a: f32, b: f32) -> f32 {
    let greater = if a > b || (a == b && a.is_sign_positive()) { a } else { b };
    if b.is_nan() { a } else { greater }
}

/// 2^x to about 1e-13 (`ex2.approx` allows 2^-22), then rounded.
#[inline(always)]
pub(crate) fn exp2_f32(x: f32) -> f32 {
    // Above 128 the result is infinite, below -150 it is zero; the clamp keeps the scale representable.
    let wide = f64::from(x.clamp(-160.0, 160.0));
    let whole = wide.round_ties_even();
    let t = (wide - whole) * std::f64::consts::LN_2;
    // Taylor series of e^t, |t| <= ln(2) / 2.
    let mut sum = 1.0 / 39_916_800.0;
    for factor in
        [3_628_800.0, 362_880.0, 40_320.0, 5_040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0]
    {
        sum = sum * t + 1.0 / factor;
    }
    let scale = f64::from_bits(((whole as i64 + 1023) as u64) << 52);
    let result = (sum * scale) as f32;
    if x.is_nan() { x } else { result }
}

/// log2(x) to about 1e-12 (`lg2.approx` allows 2^-22), then rounded.
#[inline(always)]
pub(crate) fn log2_f32(x: f32) -> f32 {
    let bits = f64::from(x).to_bits();
    // x = m * 2^e with m in [sqrt(1/2), sqrt(2)).
    let shifted = bits.wrapping_sub(0x3fe6_a09e_667f_3bcd);
    let exponent = (shifted as i64 >> 52) as f64;
    let m = f64::from_bits(bits.wrapping_sub(shifted & 0xfff0_0000_0000_0000));
    // ln(m) = 2 atanh(s), s = (m - 1) / (m + 1).
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut sum = 1.0 / 17.0;
    for denominator in [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = sum * square + 1.0 / denominator;
    }
    let result = (exponent + 2.0 * s * sum * std::f64::consts::LOG2_E) as f32;
    if x == 0.0 {
        f32::NEG_INFINITY
    } else if x.is_nan() || x < 0.0 {
        f32::NAN
    } else if x.is_infinite() {
        x
    } else {
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A spread of bit patterns over all exponents and both signs.
    fn samples() -> impl Iterator<Item = f32> {
        (0..40_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9)))
    }

    #[test]
    fn rounding_to_odd_agrees_with_hardware_fma() {
        let values: Vec<f32> = samples().collect();
        for i in 0..values.len() - 2 {
            let (a, b, c) = (values[i], values[i + 1], values[i + 2]);
            let (exact, ours) =
                (a.mul_add(b, c), finish_f32(fma_to_odd(a, b, c), FloatMode::PLAIN));
            assert!(
                exact.to_bits() == ours.to_bits() || exact.is_nan() && ours.is_nan(),
                "{a} {b} {c}"
            );
        }
    }

    #[test]
    fn directed_rounding_brackets_the_exact_sum() {
        let mode = |round| FloatMode { round, ..FloatMode::PLAIN };
        let (a, b) = (1.0f32, 2f32.powi(-40));
        let sum = |round| finish_f32(fma_to_odd(a, 1.0, b), mode(round));
        assert_eq!(sum(Round::Down), 1.0);
        assert_eq!(sum(Round::Up), 1.0 + f32::EPSILON);
        assert_eq!(sum(Round::Zero), 1.0);
        let quotient = |round| finish_f32(div_to_odd(1.0, -3.0), mode(round));
        assert!(quotient(Round::Down) < quotient(Round::Up));
        assert_eq!(quotient(Round::Nearest), 1.0 / -3.0);
    }

    #[test]
    fn narrow_formats_agree_with_the_half_crate() {
        for x in samples() {
            let ours = round_to(f64::from(x), F16, Round::Nearest);
            assert!(x.is_nan() || ours == half::f16::from_f32(x).to_f64(), "{x}");
            let ours = round_to(f64::from(x), BF16, Round::Nearest);
            assert!(x.is_nan() || ours == half::bf16::from_f32(x).to_f64(), "{x}");
            let same = round_to(f64::from(x), F32, Round::Nearest);
            assert!(x.is_nan() || same == f64::from(x), "{x}");
            let wide = f64::from(x) * (1.0 + 1e-9);
            for round in [Round::Down, Round::Up, Round::Zero] {
                assert!(
                    x.is_nan() || f64::from(directed(wide, round)) == round_to(wide, F32, round),
                    "{x}"
                );
            }
        }
    }

    #[test]
    fn approximations_are_within_one_unit() {
        for i in -2000..2000 {
            let x = i as f32 * 0.0719;
            let (exact, ours) = (f64::from(x).exp2() as f32, exp2_f32(x));
            assert!(exact.to_bits().abs_diff(ours.to_bits()) <= 1, "2^{x}: {ours} for {exact}");
        }
        for x in samples().filter(|x| *x > 0.0 && x.is_finite()) {
            let (exact, ours) = (f64::from(x).log2() as f32, log2_f32(x));
            assert!((exact - ours).abs() <= exact.abs() * 1.2e-7, "log2 {x}: {ours} for {exact}");
        }
        assert_eq!((exp2_f32(f32::NEG_INFINITY), exp2_f32(f32::INFINITY)), (0.0, f32::INFINITY));
        assert!(exp2_f32(f32::NAN).is_nan() && log2_f32(-1.0).is_nan());
        assert_eq!((log2_f32(0.0), log2_f32(f32::INFINITY)), (f32::NEG_INFINITY, f32::INFINITY));
    }

    #[test]
    fn minimum_and_maximum_follow_ptx() {
        assert_eq!((min_f32(f32::NAN, 2.0), max_f32(2.0, f32::NAN)), (2.0, 2.0));
        assert!(min_f32(0.0, -0.0).is_sign_negative() && max_f32(-0.0, 0.0).is_sign_positive());
        assert_eq!((min_f32(1.0, 2.0), max_f32(1.0, 2.0)), (1.0, 2.0));
    }
}
