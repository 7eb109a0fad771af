//! Loops over f32 rows that the compiler can keep in vector registers: softmax and dot products.
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

/// The products of two rows, in `LANES` partial sums that the compiler keeps in vector registers, and the
/// sum of those beyond the last whole group.
#[inline(always)]
fn partial_sums<A: Element, B: Element, const LANES: usize>(
    a: &[A],
    b: &[B],
) -> ([f32; LANES], f32) {
    let mut sums = [0.0f32; LANES];
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane].to_f32() * b[lane].to_f32();
        }
    }
    (sums, a_tail.iter().zip(b_tail).map(|(a, b)| a.to_f32() * b.to_f32()).sum())
}

/// Dot product.
#[inline(always)]
pub fn dot<A: Element, B: Element>(a: &[A], b: &[B]) -> f32 {
    let (sums, tail) = partial_sums::<A, B, LANES>(a, b);
    sums.iter().sum::<f32>() + tail
}

/// Dot product for long rows: twice as many sums, so that none waits for the one before, added in halves.
#[inline(always)]
pub fn dot_wide<A: Element, B: Element>(a: &[A], b: &[B]) -> f32 {
    let (mut sums, tail) = partial_sums::<A, B, { 2 * LANES }>(a, b);
    let mut half = LANES;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0] + tail
}

/// The sum of (value - shift) e^(value - shift).
#[inline(always)]
pub fn sum_weighted_exp<T: Element>(values: &[T], shift: f32) -> f32 {
    sum_of(values, |value| {
        let above = value - shift;
        above * exp(above)
    })
}

/// The sum of (e^(value - shift))^2.
#[inline(always)]
pub fn sum_squared_exp<T: Element>(values: &[T], shift: f32) -> f32 {
    sum_of(values, |value| {
        let power = exp(value - shift);
        power * power
    })
}

/// The sum, of values of both signs that may cancel.
#[inline(always)]
pub fn sum<T: Element>(values: &[T]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (chunks, tail) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(value.to_f32());
        }
    }
    lanes.iter().sum::<f64>() + tail.iter().map(|value| f64::from(value.to_f32())).sum::<f64>()
}

/// The sum of a term of each value.
#[inline(always)]
fn sum_of<T: Element>(values: &[T], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += term(value.to_f32());
        }
    }
    lanes.iter().sum::<f32>() + tail.iter().map(|value| term(value.to_f32())).sum::<f32>()
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
