//! Floats to blocks, as llama.cpp's reference quantizers make them (`quantize_row_*_ref` of
//! `ggml-quants.c`): the same codes, scale for scale.

use half::f16;
use rayon::prelude::*;

use super::blocks::{Kind, SUPER, scale_and_min};

/// Groups whose largest element is smaller than this are zero.
const TINY: f32 = 1e-15;

impl Kind {
    /// The blocks of `values`, which fill whole ones. Floats are rounded to the type; `None` for a kind
    /// that is only read.
    pub fn encode(self, values: &[f32]) -> Option<Vec<u8>> {
        if let Some(dtype) = self.dtype() {
            return Some(crate::dtype::f32_to_bytes(values, dtype));
        }
        let encode: fn(&[f32], &mut [u8]) = match self {
            Self::Q5_0 => q5_0,
            Self::Q5_1 => q5_1,
            Self::Q8_0 => q8_0,
            Self::Q4_K => q4_k,
            Self::Q5_K => q5_k,
            Self::Q6_K => q6_k,
            _ => return None,
        };
        let (width, size) = self.block();
        let mut bytes = vec![0; self.size(values.len())];
        let blocks = bytes.par_chunks_exact_mut(size).zip(values.par_chunks_exact(width));
        blocks.for_each(|(block, values)| encode(values, block));
        Some(bytes)
    }
}

fn put_half(block: &mut [u8], at: usize, x: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// 1 / x, and 0 of 0.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// The element of the largest size, the first of several.
fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(0f32, |max, &x| if x.abs() > max.abs() { x } else { max })
}

fn q8_0(values: &[f32], block: &mut [u8]) {
    let d = extreme(values).abs() / 127.0;
    let inverse = inverse(d);
    put_half(block, 0, d);
    // Halves away from zero, as C's roundf.
    block[2..].iter_mut().zip(values).for_each(|(q, x)| *q = (x * inverse).round() as i8 as u8);
}

fn q5_0(values: &[f32], block: &mut [u8]) {
    let d = extreme(values) / -16.0;
    let inverse = inverse(d);
    put_half(block, 0, d);
    let code = |x: f32| ((x * inverse + 16.5) as i8).min(31) as u8;
    let mut fifth = 0u32;
    for i in 0..16 {
        let (low, high) = (code(values[i]), code(values[i + 16]));
        block[6 + i] = low & 15 | high << 4;
        fifth |= u32::from(low >> 4) << i | u32::from(high >> 4) << (i + 16);
    }
    block[2..6].copy_from_slice(&fifth.to_le_bytes());
}

fn q5_1(values: &[f32], block: &mut [u8]) {
    let (min, max) = values.iter().fold((f32::MAX, f32::MIN), |(min, max), &x| {
        (if x < min { x } else { min }, if x > max { x } else { max })
    });
    let d = (max - min) / 31.0;
    let inverse = inverse(d);
    put_half(block, 0, d);
    put_half(block, 2, min);
    let code = |x: f32| ((x - min) * inverse + 0.5) as u8;
    let mut fifth = 0u32;
    for i in 0..16 {
        let (low, high) = (code(values[i]), code(values[i + 16]));
        block[8 + i] = low & 15 | high << 4;
        fifth |= u32::from(low >> 4 & 1) << i | u32::from(high >> 4 & 1) << (i + 16);
    }
    block[4..8].copy_from_slice(&fifth.to_le_bytes());
}

/// To the nearest whole number, halves to even.
fn nearest(x: f32) -> i32 {
    x.round_ties_even() as i32
}

/// Codes 0..=`most` of 32 elements, as scale * code - minimum.
struct Affine {
    codes: [u8; 32],
    scale: f32,
    /// What is subtracted; not negative.
    min: f32,
}

/// Weighted least squares over `steps` + 1 grids, the first of which spans `most` + `first` codes.
fn affine(values: &[f32], most: u8, first: f32, steps: u32) -> Affine {
    let squares = values.iter().fold(0f32, |sum, x| sum + x * x);
    let mean = (squares / 32.0).sqrt();
    let weights: Vec<f32> = values.iter().map(|x| mean + x.abs()).collect();
    let pairs = || values.iter().copied().zip(weights.iter().copied());
    let (mut min, mut max) = (values[0], values[0]);
    let (mut sum_w, mut sum_x) = (weights[0], weights[0] * values[0]);
    for (x, w) in pairs().skip(1) {
        min = if x < min { x } else { min };
        max = if x > max { x } else { max };
        sum_w += w;
        sum_x += w * x;
    }
    min = min.min(0.0);
    if max == min {
        return Affine { codes: [0; 32], scale: 0.0, min: -min };
    }
    let codes = |per: f32, min: f32| -> [u8; 32] {
        std::array::from_fn(|i| nearest(per * (values[i] - min)).clamp(0, i32::from(most)) as u8)
    };
    let error = |codes: &[u8; 32], scale: f32, min: f32| {
        pairs().zip(codes).fold(0f32, |sum, ((x, w), &q)| {
            let difference = scale * f32::from(q) + min - x;
            sum + w * (difference * difference)
        })
    };
    let per = f32::from(most) / (max - min);
    let mut best = Affine { codes: codes(per, min), scale: 1.0 / per, min };
    let mut least = error(&best.codes, best.scale, min);
    for step in 0..=steps {
        // Grids go from the best minimum so far.
        let per = (first + 0.1 * step as f32 + f32::from(most)) / (max - best.min);
        let codes = codes(per, best.min);
        let (mut sum_q, mut sum_q2, mut sum_xq) = (0f32, 0f32, 0f32);
        for ((x, w), &q) in pairs().zip(&codes) {
            let q = f32::from(q);
            sum_q += w * q;
            sum_q2 += w * q * q;
            sum_xq += w * q * x;
        }
        let determinant = sum_w * sum_q2 - sum_q * sum_q;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (sum_w * sum_xq - sum_x * sum_q) / determinant;
        let mut min = (sum_q2 * sum_x - sum_q * sum_xq) / determinant;
        if min > 0.0 {
            (min, scale) = (0.0, sum_xq / sum_q2);
        }
        let found = error(&codes, scale, min);
        if found < least {
            (least, best) = (found, Affine { codes, scale, min });
        }
    }
    Affine { min: -best.min, ..best }
}

/// The first 16 bytes of Q4_K and Q5_K, and the codes.
fn with_minima(values: &[f32], block: &mut [u8], most: u8, first: f32, steps: u32) -> [u8; SUPER] {
    let groups: Vec<Affine> =
        values.chunks_exact(32).map(|values| affine(values, most, first, steps)).collect();
    let largest = |of: fn(&Affine) -> f32| groups.iter().map(of).fold(0f32, f32::max);
    let (scale, min) = (largest(|group| group.scale), largest(|group| group.min));
    let per = |max: f32| if max > 0.0 { 63.0 / max } else { 0.0 };
    let (per_scale, per_min) = (per(scale), per(min));
    for (i, group) in groups.iter().enumerate() {
        let scale = nearest(per_scale * group.scale).min(63) as u8;
        let min = nearest(per_min * group.min).min(63) as u8;
        match i < 4 {
            true => (block[4 + i], block[8 + i]) = (scale, min),
            false => {
                block[8 + i] = scale & 15 | min << 4;
                block[i] |= scale >> 4 << 6;
                block[4 + i] |= min >> 4 << 6;
            }
        }
    }
    put_half(block, 0, scale / 63.0);
    put_half(block, 2, min / 63.0);
    let mut codes = [0; SUPER];
    for (i, group) in groups.iter().enumerate() {
        let (scale, min) = scale_and_min(i, &block[4..16]);
        let scale = half(block, 0) * f32::from(scale);
        let min = half(block, 2) * f32::from(min);
        for (at, code) in codes[32 * i..32 * (i + 1)].iter_mut().enumerate() {
            *code = match scale == 0.0 {
                true => group.codes[at],
                false => {
                    nearest((values[32 * i + at] + min) / scale).clamp(0, i32::from(most)) as u8
                }
            };
        }
    }
    codes
}

fn q4_k(values: &[f32], block: &mut [u8]) {
    let codes = with_minima(values, block, 15, -1.0, 20);
    for (bytes, codes) in block[16..].chunks_exact_mut(32).zip(codes.chunks_exact(64)) {
        bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = codes[i] | codes[i + 32] << 4);
    }
}

fn q5_k(values: &[f32], block: &mut [u8]) {
    let codes = with_minima(values, block, 31, -0.5, 15);
    for (at, code) in codes.iter().enumerate() {
        let (group, i) = (at / 32, at % 32);
        block[16 + i] |= (code >> 4) << group;
        block[48 + group / 2 * 32 + i] |= (code & 15) << (group % 2 * 4);
    }
}

/// Codes 0..64 of 16 elements, as scale * (code - 32), by least squares weighted with the elements'
/// squares over 19 grids.
fn symmetric(values: &[f32]) -> ([u8; 16], f32) {
    let max = extreme(values);
    if max.abs() < TINY {
        return ([0; 16], 0.0);
    }
    let codes = |per: f32| values.iter().map(move |x| nearest(per * x).clamp(-32, 31));
    let sums = |per: f32| {
        codes(per).zip(values).fold((0f32, 0f32), |(xq, q2), (q, &x)| {
            let (w, q) = (x * x, q as f32);
            (xq + w * x * q, q2 + w * q * q)
        })
    };
    let per = -32.0 / max;
    let (sum_xq, sum_q2) = sums(per);
    let mut scale = if sum_q2 != 0.0 { sum_xq / sum_q2 } else { 0.0 };
    let (mut best, mut chosen) = (scale * sum_xq, per);
    for step in (-9..=9).filter(|step| *step != 0) {
        let per = -(32.0 + 0.1 * step as f32) / max;
        let (sum_xq, sum_q2) = sums(per);
        if sum_q2 > 0.0 && sum_xq * sum_xq > best * sum_q2 {
            scale = sum_xq / sum_q2;
            (best, chosen) = (scale * sum_xq, per);
        }
    }
    let mut found = [0; 16];
    found.iter_mut().zip(codes(chosen)).for_each(|(code, q)| *code = (q + 32) as u8);
    (found, scale)
}

fn q6_k(values: &[f32], block: &mut [u8]) {
    let groups: Vec<([u8; 16], f32)> = values.chunks_exact(16).map(symmetric).collect();
    let scales: Vec<f32> = groups.iter().map(|(_, scale)| *scale).collect();
    let max = extreme(&scales);
    if max.abs() < TINY {
        return;
    }
    let per = -128.0 / max;
    put_half(block, 208, 1.0 / per);
    let d = half(block, 208);
    for (i, (codes, scale)) in groups.iter().enumerate() {
        let step = nearest(per * scale).min(127) as i8;
        block[192 + i] = step as u8;
        let scale = d * f32::from(step);
        for (j, code) in codes.iter().enumerate() {
            let at = 16 * i + j;
            let code = match scale == 0.0 {
                true => *code,
                false => (nearest(values[at] / scale).clamp(-32, 31) + 32) as u8,
            };
            let (side, quarter, k) = (at / 128, at % 128 / 32, at % 32);
            block[side * 64 + quarter % 2 * 32 + k] |= (code & 15) << (quarter / 2 * 4);
            block[128 + side * 32 + k] |= code >> 4 << (quarter * 2);
        }
    }
}
