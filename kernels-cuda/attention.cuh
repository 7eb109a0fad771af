// What every kernel of attention has: its parameters, and who sees whom.
// Twin: kernels-wgsl/attention.wgsl

struct Params {
    u32 tokens;   // T
    u32 keys;     // S
    u32 heads;    // NH
    u32 kv_heads; // NKV
    u32 q_offset;
    u32 window;   // 2^32 - 1 without one
    float scale;
};

// A score that nothing beats; finite, so that MASK - MASK is.
constexpr float MASK = -1e30f;

// The first key that key index i sees, of a sequence that starts at `first`; the last one is i itself.
__device__ __forceinline__ u32 lowest_key(u32 first, u32 i, u32 window) {
    return i >= window ? max(first, i + 1 - window) : first;
}
