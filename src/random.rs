//! Random numbers without state: every draw is a function of a key and a counter.
//!
//! The generator is Threefry-4x32 with 20 rounds (Salmon, Moraes, Dror, Shaw, "Parallel random
//! numbers: as easy as 1, 2, 3", SC 2011). It needs only 32-bit additions, rotations and xors, so
//! the same bits come out of Rust, CUDA and WGSL. Because nothing is carried from one draw to the
//! next, resuming a run needs the seed and the step, and no saved generator.

/// Rotation distances of the eight rounds that repeat (Random123, `threefry.h`, 4x32).
const ROTATIONS: [[u32; 2]; 8] =
    [[10, 26], [11, 21], [13, 27], [23, 5], [6, 20], [17, 11], [25, 10], [18, 20]];

/// The constant that closes the key schedule (Threefish's `C240`, its low word's upper half).
const KEY_PARITY: u32 = 0x1BD1_1BDA;

/// Threefry-4x32-20: 128 random bits from a 128-bit `key` and a 128-bit counter `ctr`.
pub fn threefry4x32(key: [u32; 4], ctr: [u32; 4]) -> [u32; 4] {
    threefry4x32_lanes(key, ctr.map(|word| [word])).map(|[word]| word)
}

/// The same for N counters at once, word by word, so that they go through vector registers side by side.
#[inline(always)]
pub fn threefry4x32_lanes<const N: usize>(key: [u32; 4], ctr: [[u32; N]; 4]) -> [[u32; N]; 4] {
    let parity = key.iter().fold(KEY_PARITY, |acc, word| acc ^ word);
    let schedule = [key[0], key[1], key[2], key[3], parity];
    let mut x = ctr;
    let inject = |x: &mut [[u32; N]; 4], first: usize| {
        for (word, lanes) in x.iter_mut().enumerate() {
            let last = if word == 3 { first as u32 } else { 0 };
            let k = schedule[(first + word) % 5].wrapping_add(last);
            lanes.iter_mut().for_each(|lane| *lane = lane.wrapping_add(k));
        }
    };
    inject(&mut x, 0);
    for group in 0..5 {
        // Even rounds mix (0,1) and (2,3), odd rounds (0,3) and (2,1).
        for pair in 0..2 {
            let round = group % 2 * 4 + pair * 2;
            mix(&mut x, [1, 3], ROTATIONS[round]);
            mix(&mut x, [3, 1], ROTATIONS[round + 1]);
        }
        inject(&mut x, group + 1);
    }
    x
}

/// A round: adds words `a` and `b` to 0 and 2, and turns them.
#[inline(always)]
fn mix<const N: usize>(x: &mut [[u32; N]; 4], [a, b]: [usize; 2], [r0, r1]: [u32; 2]) {
    for lane in 0..N {
        x[0][lane] = x[0][lane].wrapping_add(x[a][lane]);
        x[a][lane] = x[a][lane].rotate_left(r0) ^ x[0][lane];
        x[2][lane] = x[2][lane].wrapping_add(x[b][lane]);
        x[b][lane] = x[b][lane].rotate_left(r1) ^ x[2][lane];
    }
}

/// A 32-bit name for a place that draws random numbers (FNV-1a of its path), such as
/// `"data.shuffle"` or a module's path: never a call counter, so that adding a place elsewhere
/// changes nothing here.
pub fn site(path: &str) -> u32 {
    path.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A sequence of draws for one seed, site and index (an epoch, a step, a file ...).
///
/// Two generators made from the same three values give the same sequence.
#[derive(Debug, Clone)]
pub struct Rng {
    key: [u32; 4],
    block: u64,
    words: [u32; 4],
    used: usize,
}

impl Rng {
    /// The sequence of `seed` at the site named `path` (see [`site`]), number `index`.
    pub fn new(seed: u64, path: &str, index: u32) -> Self {
        let key = [seed as u32, (seed >> 32) as u32, site(path), index];
        Self { key, block: 0, words: [0; 4], used: 4 }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            let ctr = [self.block as u32, (self.block >> 32) as u32, 0, 0];
            self.words = threefry4x32(self.key, ctr);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-24.
    pub fn next_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// Normal with mean 0 and standard deviation 1 (Box and Muller, 1958).
    pub fn next_normal(&mut self) -> f64 {
        let (u, v) = (1.0 - f64::from(self.next_f32()), f64::from(self.next_f32()));
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Uniform in `0..bound`, without bias (Lemire, "Fast random integer generation in an
    /// interval", 2019). A `bound` of 0 gives 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        let mut product = u64::from(self.next_u32()) * u64::from(bound);
        if (product as u32) < bound {
            let threshold = bound.wrapping_neg() % bound;
            while (product as u32) < threshold {
                product = u64::from(self.next_u32()) * u64::from(bound);
            }
        }
        (product >> 32) as u32
    }

    /// Puts `items` in random order (Fisher-Yates, from the end). At most 2^32 - 1 items.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u32 + 1) as usize;
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that Random123 publishes for `threefry4x32 20` (`kat_vectors`).
    #[test]
    fn threefry_gives_the_published_known_answers() {
        let cases = [
            ([0; 4], [0; 4], [0x9C6C_A96A, 0xE17E_AE66, 0xFC10_ECD4, 0x5256_A7D8]),
            ([!0; 4], [!0; 4], [0x2A88_1696, 0x5701_2287, 0xF6C7_446E, 0xA16A_6732]),
            (
                [0xA409_3822, 0x299F_31D0, 0x082E_FA98, 0xEC4E_6C89],
                [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344],
                [0x59CD_1DBB, 0xB887_9579, 0x86B5_D00C, 0xAC8B_6D84],
            ),
        ];
        for (key, ctr, expected) in cases {
            assert_eq!(threefry4x32(key, ctr), expected, "key {key:08x?} ctr {ctr:08x?}");
        }
    }

    #[test]
    fn below_stays_in_range_and_reaches_every_value() {
        let mut rng = Rng::new(7, "test.below", 0);
        let mut counts = [0u32; 5];
        for _ in 0..5000 {
            counts[rng.below(5) as usize] += 1;
        }
        // Binomial(5000, 1/5): standard deviation 28, so 150 is more than five of them.
        assert!(counts.iter().all(|&count| count.abs_diff(1000) < 150), "{counts:?}");
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.below(1), 0);
    }

    #[test]
    fn shuffle_is_a_permutation_that_depends_on_seed_site_and_index_alone() {
        let order = |seed, path, index| {
            let mut items: Vec<u32> = (0..100).collect();
            Rng::new(seed, path, index).shuffle(&mut items);
            items
        };
        let first = order(1, "a", 0);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<u32>>());
        assert_eq!(first, order(1, "a", 0));
        for other in [order(2, "a", 0), order(1, "b", 0), order(1, "a", 1), order(1 << 32, "a", 0)]
        {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn floats_fill_the_half_open_unit_interval() {
        let mut rng = Rng::new(3, "test.f32", 0);
        let draws: Vec<f32> = (0..4000).map(|_| rng.next_f32()).collect();
        assert!(draws.iter().all(|x| (0.0..1.0).contains(x)));
        let mean = draws.iter().sum::<f32>() / 4000.0;
        assert!((mean - 0.5).abs() < 0.025, "mean {mean}");
    }
}
