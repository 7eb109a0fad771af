// What every kernel of attention has: its parameters, and who sees whom.
// Twin: kernels-cuda/attention.cuh

struct Params {
    tokens: u32, // T
    keys: u32, // S
    heads: u32, // NH
    kv_heads: u32, // NKV
    q_offset: u32,
    window: u32, // 2^32 - 1 without one
    scale: f32,
}

// A score that nothing beats; finite, so that MASK - MASK is.
const MASK: f32 = -1e30;

// The first key that key index i sees, of a sequence that starts at `first`; the last one is i itself.
fn lowest_key(first: u32, i: u32, window: u32) -> u32 {
    return select(first, max(first, i + 1u - window), i >= window);
}
