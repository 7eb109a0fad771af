//! XXH64, <https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>: a fast checksum. It tells damage,
//! and is no protection from those who mean harm.

const PRIMES: [u64; 5] = [
    0x9E37_79B1_85EB_CA87,
    0xC2B2_AE3D_27D4_EB4F,
    0x1656_67B1_9E37_79F9,
    0x85EB_CA77_C2B2_AE63,
    0x27D4_EB2F_1656_67C5,
];

/// Bytes that are taken in at once: a word for each accumulator.
const STRIPE: usize = 32;

/// A checksum over bytes that come piece by piece.
#[derive(Clone, Debug)]
pub struct Checksum {
    accumulators: [u64; 4],
    /// The begin of a stripe.
    held: Vec<u8>,
    len: u64,
}

impl Default for Checksum {
    fn default() -> Self {
        let [p1, p2, ..] = PRIMES;
        let accumulators = [p1.wrapping_add(p2), p2, 0, 0u64.wrapping_sub(p1)];
        Self { accumulators, held: Vec::with_capacity(STRIPE), len: 0 }
    }
}

/// The checksum of `bytes`.
pub fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = Checksum::default();
    sum.add(bytes);
    sum.finish()
}

impl Checksum {
    /// Takes in more bytes.
    pub fn add(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        if !self.held.is_empty() {
            let (more, rest) = bytes.split_at(bytes.len().min(STRIPE - self.held.len()));
            self.held.extend_from_slice(more);
            bytes = rest;
            if self.held.len() < STRIPE {
                return;
            }
            let stripe = std::mem::take(&mut self.held);
            self.stripe(&stripe);
        }
        let stripes = bytes.chunks_exact(STRIPE);
        self.held.extend_from_slice(stripes.remainder());
        stripes.for_each(|stripe| self.stripe(stripe));
    }

    /// The checksum of all bytes so far.
    pub fn finish(&self) -> u64 {
        let [p1, p2, p3, p4, p5] = PRIMES;
        let [a, b, c, d] = self.accumulators;
        let mut hash = match self.len >= STRIPE as u64 {
            false => p5,
            true => {
                let turned = a.rotate_left(1).wrapping_add(b.rotate_left(7));
                let turned = turned.wrapping_add(c.rotate_left(12)).wrapping_add(d.rotate_left(18));
                self.accumulators.iter().fold(turned, |hash, &accumulator| {
                    (hash ^ round(0, accumulator)).wrapping_mul(p1).wrapping_add(p4)
                })
            }
        };
        hash = hash.wrapping_add(self.len);
        let words = self.held.chunks_exact(8);
        let rest = words.remainder();
        for word in words {
            hash =
                (hash ^ round(0, word_of(word))).rotate_left(27).wrapping_mul(p1).wrapping_add(p4);
        }
        let halves = rest.chunks_exact(4);
        let bytes = halves.remainder();
        for half in halves {
            let half = word_of(half).wrapping_mul(p1);
            hash = (hash ^ half).rotate_left(23).wrapping_mul(p2).wrapping_add(p3);
        }
        for &byte in bytes {
            hash = (hash ^ u64::from(byte).wrapping_mul(p5)).rotate_left(11).wrapping_mul(p1);
        }
        hash = (hash ^ (hash >> 33)).wrapping_mul(p2);
        hash = (hash ^ (hash >> 29)).wrapping_mul(p3);
        hash ^ (hash >> 32)
    }

    fn stripe(&mut self, stripe: &[u8]) {
        for (accumulator, word) in self.accumulators.iter_mut().zip(stripe.chunks_exact(8)) {
            *accumulator = round(*accumulator, word_of(word));
        }
    }
}

fn round(accumulator: u64, word: u64) -> u64 {
    let [p1, p2, ..] = PRIMES;
    accumulator.wrapping_add(word.wrapping_mul(p2)).rotate_left(31).wrapping_mul(p1)
}

/// Up to eight bytes, little-endian.
fn word_of(bytes: &[u8]) -> u64 {
    if let Ok(word) = bytes.try_into() {
        return u64::from_le_bytes(word);
    }
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_reference() {
        // Computed with xxHash's own implementation; the first two are in its documentation.
        for (text, expected) in [
            ("", 0xEF46_DB37_51D8_E999),
            ("abc", 0x44BC_2CF5_AD77_0999),
            ("Nobody inspects the spammish repetition", 0xFBCE_A83C_8A37_8BF1),
            (
                "xxhash is a fast checksum, not a cryptographic one: 64 bits of it.",
                0x7930_45D4_EE30_128E,
            ),
        ] {
            assert_eq!(checksum(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn pieces_do_not_matter() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| ((i * i) >> 3) as u8).collect();
        for size in [1, 7, 31, 32, 33, 100] {
            let mut sum = Checksum::default();
            bytes.chunks(size).for_each(|piece| sum.add(piece));
            assert_eq!(sum.finish(), checksum(&bytes), "{size}");
        }
        assert_ne!(checksum(&bytes), checksum(&bytes[1..]));
    }
}
