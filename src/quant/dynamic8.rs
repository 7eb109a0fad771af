//! The 8-bit dynamic type that NF4's scales are quantized to (Dettmers, 2015,
//! <https://arxiv.org/abs/1511.04561>), bit for bit as bitsandbytes computes it on the CPU.

/// The steps that bitsandbytes cuts [-1, 1] into to look codes up.
const STEPS: usize = 65_536;

/// bitsandbytes' `create_dynamic_map(signed=True, max_exponent_bits=7, total_bits=8)`: 256 values
/// in ascending order, from -0.9929688 to 1, with 0 at index 127.
///
/// For every power of ten from 1e-6 to 1, the middles of 1, 2, 4 ... 64 equal parts of [0.1, 1]
/// times that power, with both signs; then 0 and 1.
pub fn dynamic_map() -> [f32; 256] {
    let mut map = [0.0; 256];
    let mut filled = 0;
    for exponent in 0..7 {
        let scale = 10f64.powi(exponent - 6) as f32;
        let parts = 1usize << exponent;
        for part in 0..parts {
            let middle = (boundary(part, parts) + boundary(part + 1, parts)) / 2.0;
            map[filled] = scale * middle;
            map[filled + 1] = -(scale * middle);
            filled += 2;
        }
    }
    // 127 values of each sign are in place; the zero after them is the first of the last two.
    map[filled + 1] = 1.0;
    map.sort_by(f32::total_cmp);
    map
}

/// Point `i` of `parts + 1` from 0.1 to 1, with the rounding of `torch.linspace`, which steps from
/// whichever end is nearer and fuses the product into the sum.
fn boundary(i: usize, parts: usize) -> f32 {
    let (start, end) = (0.1f32, 1.0f32);
    let step = (end - start) / parts as f32;
    match i < parts.div_ceil(2) {
        true => step.mul_add(i as f32, start),
        false => (-step).mul_add((parts - i) as f32, end),
    }
}

/// Values as 8-bit codes of [`dynamic_map`], each block of `blocksize` divided by its largest
/// magnitude. Returns the codes and the magnitudes, one for each block.
///
/// The code is that of the nearest of 65,536 steps over [-1, 1], as in bitsandbytes; a block of
/// zeros has code 0 throughout, which a magnitude of 0 decodes to 0.
pub fn quantize(values: &[f32], map: &[f32; 256], blocksize: usize) -> (Vec<u8>, Vec<f32>) {
    let table = step_codes(map);
    let mut codes = Vec::with_capacity(values.len());
    let mut absmax = Vec::with_capacity(values.len().div_ceil(blocksize));
    for block in values.chunks(blocksize) {
        let largest = block.iter().fold(0f32, |max, x| max.max(x.abs()));
        absmax.push(largest);
        if largest == 0.0 {
            codes.resize(codes.len() + block.len(), 0);
            continue;
        }
        let inverse = 1.0 / largest;
        codes.extend(block.iter().map(|x| {
            let unit = (x * inverse).clamp(-1.0, 1.0);
            let step = (unit + 1.0) * 0.5 * (STEPS - 1) as f32 + 0.5;
            table[(step as usize).min(STEPS - 1)]
        }));
    }
    (codes, absmax)
}

/// The code of every step: how many midpoints between neighbouring codes lie below it.
fn step_codes(map: &[f32; 256]) -> Vec<u8> {
    let mut code = 0;
    let of_step = |i: usize| {
        let value = -1.0 + (2.0 * i as f32) / (STEPS - 1) as f32;
        while code < 255 && 0.5 * (map[code] + map[code + 1]) < value {
            code += 1;
        }
        code as u8
    };
    (0..STEPS).map(of_step).collect()
}

/// One value: `map[code] * absmax + offset`, the product rounded before the sum (never an FMA).
#[inline]
pub fn decode(code: u8, map: &[f32; 256], absmax: f32, offset: f32) -> f32 {
    let product = map[code as usize] * absmax;
    product + offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_the_one_of_bitsandbytes() {
        let map = dynamic_map();
        assert!(map.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!((map[0], map[127], map[255]), (-0.992_968_74, 0.0, 1.0));
        assert_eq!((map[126], map[128]), (-5.500_000_4e-7, 5.500_000_4e-7));
        // FNV-1a over the bits of all values, from bitsandbytes 0.50.2.
        let hash =
            map.iter().flat_map(|x| x.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
                (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
            });
        assert_eq!(hash, 0xd677_f22a_9666_5bc4);
    }

    #[test]
    fn codes_are_the_nearest_up_to_one_step() {
        let map = dynamic_map();
        let values: Vec<f32> = (0..600).map(|i| ((i * 37) % 601) as f32 / 300.0 - 1.0).collect();
        let (codes, absmax) = quantize(&values, &map, 256);
        assert_eq!((codes.len(), absmax.len()), (600, 3));
        for (i, (x, &code)) in values.iter().zip(&codes).enumerate() {
            let scale = absmax[i / 256];
            let error = |c: u8| (decode(c, &map, scale, 0.0) - x).abs();
            let best = (0..=255).map(error).fold(f32::INFINITY, f32::min);
            assert!(error(code) <= best + 2.0 * scale / 65_535.0, "{x}");
        }
        assert_eq!(quantize(&[0.0; 3], &map, 256), (vec![0; 3], vec![0.0]));
    }
}
