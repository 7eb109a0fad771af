//! Changes to an input, as its mistakes and its enemies make them.

/// Random numbers (splitmix64; Steele, Lea and Flood, 2014).
pub struct Rng(u64);

impl Rng {
    /// Of one input: the run's seed, the target's name and the input's number.
    pub fn new(seed: u64, target: &str, number: u64) -> Self {
        // FNV-1a.
        let mut hash = 0xCBF2_9CE4_8422_2325_u64;
        for byte in target.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        let mut rng = Self(seed ^ hash.rotate_left(17));
        rng.0 = rng.word() ^ number;
        rng
    }

    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.word() % end as u64) as usize }
    }

    /// One of several.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Numbers at which arithmetic ends, and other texts that mean something to a reader.
const WORDS: &[&str] = &[
    "0",
    "1",
    "-1",
    "255",
    "256",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "1e999",
    "-0.0",
    "0.1",
    "NaN",
    "Infinity",
    "null",
    "true",
    "false",
    "\"\"",
    "{}",
    "[]",
    "[[]]",
    "{\"a\": 1}",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "..",
    "/dev/zero",
    "\u{feff}",
    "\u{202e}",
    "é",
    "\r\n",
];

/// The largest input that is made of smaller seeds.
const LARGEST: usize = 1 << 18;

/// An input: one of the seeds with some changes, of which `words` are those that this kind of file is made of.
pub fn mutate(rng: &mut Rng, seeds: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
    let mut input = rng.one(seeds).clone();
    let largest = LARGEST.max(input.len());
    let changes = 1 + rng.below(4) * rng.below(3);
    for _ in 0..changes {
        change(rng, &mut input, seeds, words);
        input.truncate(largest);
    }
    input
}

/// A stretch of the input, mostly short.
fn stretch(rng: &mut Rng, length: usize) -> std::ops::Range<usize> {
    let start = rng.below(length + 1);
    let longest = if rng.below(4) == 0 { length } else { 16 };
    start..length.min(start + rng.below(longest + 1))
}

fn change(rng: &mut Rng, input: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[&str]) {
    let length = input.len();
    let at = rng.below(length + 1);
    match rng.below(14) {
        0 if length > 0 => input[at.min(length - 1)] ^= 1 << rng.below(8),
        1 if length > 0 => input[at.min(length - 1)] = rng.below(256) as u8,
        2 => drop(input.drain(stretch(rng, length))),
        3 => {
            let copy = input[stretch(rng, length)].to_vec();
            input.splice(at..at, copy);
        }
        // Many times over: depth, and lengths.
        4 => {
            let copy = input[stretch(rng, length)].to_vec();
            let times = 1 << rng.below(13);
            let times = times.min(LARGEST / copy.len().max(1));
            input.splice(at..at, copy.repeat(times));
        }
        5 => input.truncate(at),
        6 => {
            let other = rng.one(seeds);
            let part = other[stretch(rng, other.len())].to_vec();
            input.splice(stretch(rng, length), part);
        }
        7 => {
            let word = *rng.one(WORDS);
            input.splice(at..at, word.bytes());
        }
        8 | 9 => {
            // A number becomes another one.
            let numbers = |byte: &u8| byte.is_ascii_digit();
            let Some(start) = input[at.min(length)..].iter().position(numbers) else { return };
            let start = at + start;
            let digits = input[start..].iter().take_while(|byte| numbers(byte)).count();
            let word = *rng.one(&WORDS[..20]);
            input.splice(start..start + digits, word.bytes());
        }
        10 | 11 if !words.is_empty() => {
            let word = *rng.one(words);
            input.splice(stretch(rng, length), word.bytes());
        }
        12 => {
            // A value in quotes or brackets becomes another kind of value.
            let Some(start) =
                input[at.min(length)..].iter().position(|byte| b"\"[{:".contains(byte))
            else {
                return;
            };
            let start = at + start + 1;
            let ends = |byte: &u8| b"\"]},\n".contains(byte);
            let end = input[start..].iter().position(ends).map_or(input.len(), |end| start + end);
            let word = *rng.one(WORDS);
            input.splice(start..end, word.bytes());
        }
        _ => {
            let open = *rng.one(&["[", "{\"a\":", "(", "\"", "{{", "{% if 1 %}", "- ", "not "]);
            let times = 1 << rng.below(15);
            input.splice(at..at, open.repeat(times).into_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_a_function_of_seed_target_and_number_and_differ() {
        let seeds = [br#"{"a": 17, "b": [1, "x"]}"#.to_vec()];
        let input =
            |seed, target, number| mutate(&mut Rng::new(seed, target, number), &seeds, &["word"]);
        assert_eq!(input(1, "a", 5), input(1, "a", 5));
        let all: std::collections::BTreeSet<Vec<u8>> =
            (0..1000).map(|n| input(1, "a", n)).collect();
        assert!(all.len() > 800, "{}", all.len());
        assert!(all.iter().all(|input| input.len() <= LARGEST));
        assert!((0..50).any(|n| input(1, "a", n) != input(2, "a", n)));
    }
}
