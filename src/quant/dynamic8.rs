//! The 8-bit dynamic type that NF4's scales and the moments of 8-bit AdamW are quantized to (Dettmers,
//! 2015, <https://arxiv.org/abs/1511.04561>), bit for bit as bitsandbytes computes it on the CPU.

/// The steps that bitsandbytes cuts [-1, 1] into to look codes up.
const STEPS: usize = 65_536;

/// bitsandbytes' `create_dynamic_map(signed=True, max_exponent_bits=7, total_bits=8)`: 256 values
/// in ascending order, from -0.9929688 to 1, with 0 at index 127.
///
/// For every power of ten from 1e-6 to 1, the middles of 1, 2, 4 ... 64 equal parts of [0.1, 1]
/// times that power, with both signs; then 0 and 1.
pub fn dynamic_map() -> [f32; 256] {
    map(|exponent| 1 << exponent, &[1.0, -1.0])
}

/// The same of `signed=False`, from 0 to 1: twice as many parts of each power of ten, without signs.
pub fn unsigned_dynamic_map() -> [f32; 256] {
    map(|exponent| 2 << exponent, &[1.0])
}

fn map(parts: impl Fn(i32) -> usize, signs: &[f32]) -> [f32; 256] {
    let mut map = [0.0; 256];
    let mut filled = 0;
    for exponent in 0..7 {
        let scale = 10f64.powi(exponent - 6) as f32;
        let parts = parts(exponent);
        for part in 0..parts {
            let middle = (boundary(part, parts) + boundary(part + 1, parts)) / 2.0;
            for sign in signs {
                map[filled] = sign * (scale * middle);
                filled += 1;
            }
        }
    }
    // 254 values are in place; the zero after them is the first of the last two.
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
        codes.extend(block.iter().map(|x| table[step_of(x * inverse)]));
    }
    (codes, absmax)
}

/// The step in which `unit` lies, from 0 to 65,535: the index into [`step_codes`].
#[inline(always)]
pub fn step_of(unit: f32) -> usize {
    let unit = unit.clamp(-1.0, 1.0);
    let step = (unit + 1.0) * 0.5 * (STEPS - 1) as f32 + 0.5;
    (step as usize).min(STEPS - 1)
}

/// The code of every step: how many midpoints between neighbouring codes lie below it.
pub fn step_codes(map: &[f32; 256]) -> Vec<u8> {
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

/// The first step of every code, as [`step_codes`] has them: a step's code is the number of codes after
/// the first that have begun by then. The first code of a map that begins above -1 begins at step 0.
pub fn first_steps(codes: &[u8]) -> [f32; 256] {
    std::array::from_fn(|code| codes.partition_point(|&of_step| usize::from(of_step) < code) as f32)
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
        assert_eq!(hash(&map), 0xd677_f22a_9666_5bc4);
        let map = unsigned_dynamic_map();
        assert!(map.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!((map[0], map[1], map[255]), (0.0, 3.250_000_3e-7, 1.0));
        assert_eq!(hash(&map), 0x4381_1b16_730a_873e);
    }

    /// FNV-1a over the bits of all values; what is expected is from bitsandbytes 0.50.2.
    fn hash(map: &[f32; 256]) -> u64 {
        map.iter().flat_map(|x| x.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    #[test]
    fn counting_the_codes_that_have_begun_is_looking_up_the_step() {
        for map in [dynamic_map(), unsigned_dynamic_map()] {
            let codes = step_codes(&map);
            let first = first_steps(&codes);
            for (step, &code) in codes.iter().enumerate() {
                let begun = first[1..].iter().filter(|&&first| first <= step as f32).count();
                assert_eq!(begun, usize::from(code), "step {step}");
            }
        }
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
