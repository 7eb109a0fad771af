//! How byte-level tokenizers split text before merging, by the names that llama.cpp has for it
//! (`tokenizer.ggml.pre`).

/// Llama 3's pattern.
pub const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen's pattern: the same with single digits.
pub const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's, from Nemo on.
pub const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4o's, which Phi-4-mini has.
pub const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Where a text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// By GPT-2's pattern.
    Gpt2,
    /// Around each digit, then by GPT-2's pattern.
    Digits,
    /// By this pattern.
    Pattern(&'static str),
}

/// A way of splitting, with what else its name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splitting {
    /// Where a text is cut.
    pub split: Split,
    /// Whether a piece that is a token is not merged from its parts.
    pub ignore_merges: bool,
    /// Whether Hugging Face's tokenizer normalizes to NFC first.
    pub nfc: bool,
    /// Whether a text begins with the token of beginning, where no key says so.
    pub begins: bool,
}

const fn splitting(split: Split, ignore_merges: bool, nfc: bool, begins: bool) -> Splitting {
    Splitting { split, ignore_merges, nfc, begins }
}

/// Each way with its names, the one that is written first.
const SPLITTINGS: [(&[&str], Splitting); 7] = [
    (&["gpt-2", "phi-2", "mpt", "olmo", "jais"], splitting(Split::Gpt2, false, false, false)),
    (
        &["smollm", "starcoder", "refact", "command-r", "codeshell"],
        splitting(Split::Digits, false, false, false),
    ),
    (
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0"],
        splitting(Split::Pattern(LLAMA3), true, false, true),
    ),
    (&["smaug-bpe", "dbrx"], splitting(Split::Pattern(LLAMA3), false, false, false)),
    (
        &["qwen2", "deepseek-r1-qwen", "megrez", "kormo"],
        splitting(Split::Pattern(QWEN2), false, true, false),
    ),
    (&["tekken"], splitting(Split::Pattern(TEKKEN), true, false, true)),
    (&["gpt-4o", "llama4", "kanana2"], splitting(Split::Pattern(O200K), false, false, false)),
];

/// The way of splitting that llama.cpp calls so.
pub fn of_name(name: &str) -> Option<Splitting> {
    SPLITTINGS.iter().find(|(names, _)| names.contains(&name)).map(|(_, splitting)| *splitting)
}

/// What llama.cpp calls a way of splitting.
pub fn name_of(split: Split, ignore_merges: bool) -> Option<&'static str> {
    let same = |splitting: &Splitting| {
        splitting.split == split && splitting.ignore_merges == ignore_merges
    };
    SPLITTINGS
        .iter()
        .find(|(_, splitting)| same(splitting))
        .and_then(|(names, _)| names.first().copied())
}

/// The way that has this pattern.
pub fn of_pattern(pattern: &str) -> Option<Split> {
    let known = [LLAMA3, QWEN2, TEKKEN, O200K];
    known.into_iter().find(|known| *known == pattern).map(Split::Pattern)
}

/// All names.
pub fn names() -> Vec<&'static str> {
    SPLITTINGS.iter().flat_map(|(names, _)| names.iter().copied()).collect()
}
