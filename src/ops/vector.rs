//! Loops over f32 rows that the compiler can keep in vector registers: the host side of softmax.
//!
//! Sums and maxima run in a fixed number of lanes, so their order depends on lengths alone.

use crate::dtype::Element;

const LANES: usize = 16;

/// e^x within two units in the last place, without branches or calls so that loops over it
/// vectorise. Below -87 the result stays at e^-87 (about 1.6e-38), above 88 at e^88.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor polynomial, 2^n by the exponent bits. Adding
/// 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// The largest of `values` and `start`.
#[inline(always)]
pub fn max<T: Element>(values: &[T], start: f32) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let mut lanes = [start; LANES];
    let chunks = values.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(value.to_f32(), *lane);
        }
    }
    let tail = tail.iter().map(|value| value.to_f32());
    lanes.into_iter().chain(tail).fold(start, |a, b| larger(b, a))
}

/// Replaces each value by e^(value - shift) and returns their sum.
#[inline(always)]
pub fn exp_in_place(values: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let mut chunks = values.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *value = exp(*value - shift);
            *lane += *value;
        }
    }
    let mut sum: f32 = lanes.iter().sum();
    for value in chunks.into_remainder() {
        *value = exp(*value - shift);
        sum += *value;
    }
    sum
}

/// The sum of e^(value - shift).
#[inline(always)]
pub fn sum_exp<T: Element>(values: &[T], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += exp(value.to_f32() - shift);
        }
    }
    lanes.iter().sum::<f32>() + tail.iter().map(|value| exp(value.to_f32() - shift)).sum::<f32>()
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in 0..=1_000_000 {
            let x = -86.9 + 174.8 * (i as f32 / 1e6);
            let exact = f64::from(x).exp();
            let error = (f64::from(super::exp(x)) - exact).abs() / exact;
            assert!(error <= 2.0 * 2f64.powi(-23), "e^{x}: relative error {error:e}");
        }
        assert_eq!(super::exp(0.0), 1.0);
        assert!(super::exp(f32::NAN).is_nan());
    }
}
