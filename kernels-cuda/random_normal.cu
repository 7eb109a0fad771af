// Random weights, nearly normal.
//
//   out[i] = scale (2 S[i] - 8 * 65535), S[i] = the sum of the 8 16-bit halves of
//            Threefry-4x32-20(key, counter), key = (seed low, seed high, site, 0), counter = (i, 0, 0, 0)
//
// Eight uniform numbers sum to nearly a normal one (Irwin and Hall's distribution: an excess kurtosis of
// -0.15, nothing past 4.9 standard deviations), in integers, so that no device's logarithm or cosine tells.
//
// Tensors   out [count], f32 | bf16 | f16
// Mapping   a thread owns one word: 1 element of f32, 2 of a 16-bit type
// Launch    grid ceil(words / 256) split over x and y, block 256; the host checks count
// Cost      count elements written, about 140 integer operations for each: bound by integer arithmetic
// Numerics  exact but for one rounding of the product and one to the dtype: the same bits on every device;
//           elementwise tolerance
// Twin      kernels-wgsl/random_normal.wgsl. Reference: src/ops/random_normal.rs, src/random.rs

struct Params {
    u32 count;
    u32 first; // i of the first element
    u32 seed_low;
    u32 seed_high;
    u32 site;
    float scale; // the standard deviation, over that of 2 S
};

__device__ __forceinline__ float normal(u32 i, const Params& params) {
    uint4 key = {params.seed_low, params.seed_high, params.site, 0};
    uint4 words = threefry(key, {params.first + i, 0, 0, 0});
    auto halves = [](u32 word) { return (word & 0xffff) + (word >> 16); };
    u32 sum = halves(words.x) + halves(words.y) + halves(words.z) + halves(words.w);
    return float(int(2 * sum) - 524280) * params.scale;
}

extern "C" __global__ void __launch_bounds__(256)
random_normal(void* out, Params params) {
    // [1] the word this thread owns
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_OUT);
    // [2] draw and write
    for (u32 lane = 0; lane < per_word(DT_OUT) && first + lane < params.count; lane++) {
        store<DT_OUT>(out, first + lane, normal(first + lane, params));
    }
}
