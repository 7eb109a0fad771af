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
// Twin      kernels-cuda/random_normal.cu. Reference: src/ops/random_normal.rs, src/random.rs

struct Params {
    count: u32,
    first: u32, // i of the first element
    seed_low: u32,
    seed_high: u32,
    site: u32,
    scale: f32, // the standard deviation, over that of 2 S
}

@group(0) @binding(0) var<storage, read_write> out: array<u32>; // [count]
@group(1) @binding(0) var<uniform> params: Params;

fn normal(i: u32) -> f32 {
    let key = vec4<u32>(params.seed_low, params.seed_high, params.site, 0u);
    let words = threefry(key, vec4<u32>(params.first + i, 0u, 0u, 0u));
    let halves = (words & vec4<u32>(0xffffu)) + (words >> vec4<u32>(16u));
    let sum = halves.x + halves.y + halves.z + halves.w;
    return f32(i32(2u * sum) - 524280) * params.scale;
}

@compute @workgroup_size(256)
fn random_normal(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the word this thread owns
    let first = (block_number(block, grid) * 256u + thread) * per_word(DT_OUT);
    // [2] draw and write
    if (first < params.count) {
        out[word_of(first, DT_OUT)] = pack(normal(first), normal(first + 1u), DT_OUT);
    }
}
