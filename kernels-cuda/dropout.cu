// Noise drawn from a counter: dropout, forward and backward, and NEFTune's noise on embeddings.
//
//   word   = word c % 4 of Threefry-4x32-20(key, counter)
//            key = (seed low, seed high, site, step), counter = (ordinals[t], positions[t], c / 4, 0)
//
//   dropout   y[t,c] = word >= p 2^32 ? x[t,c] / (1 - p) : 0     (+ y[t,c] if accumulate)
//             backward: the same kernel on dy
//   neftune   y[t,c] = x[t,c] + u alpha / sqrt(L[t] C), u = word / 2^31 - 1 uniform in [-1, 1),
//             L[t] = bounds[t].end - bounds[t].start; backward: dx = dy
//
// The noise is a function of where an element is, never of when it is computed.
//
// Tensors   x, y [rows, columns]: f32 | bf16 | f16, each its own (neftune: one); ordinals, positions
//           [rows] u32; bounds [rows, 2] u32; step_state [16] f32, of which the step is read
// Mapping   a thread owns 4 adjacent columns of a row, which share one draw of 4 words
// Launch    grid ceil(rows * ceil(columns / 4) / 256) split over x and y, block 256; 16-bit rows have an
//           even width (the host checks)
// Cost      one pass over x and y, about 30 integer operations per element: bound by memory bandwidth
// Numerics  one rounding per element; the same bits on every device; elementwise tolerance
// Twin      kernels-wgsl/dropout.wgsl. Reference: src/ops/dropout.rs, neftune.rs, src/random.rs
// Papers    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; Jain et al., "NEFTune:
//           noisy embeddings improve instruction finetuning", 2023

struct Params {
    u32 rows;
    u32 columns;
    u32 seed_low;
    u32 seed_high;
    u32 site;
    u32 threshold; // p 2^32
    float scale;   // 1 / (1 - p); neftune: alpha / sqrt(C)
    u32 accumulate;
};

__device__ __forceinline__ u32 rotate(u32 word, u32 by) { return (word << by) | (word >> (32 - by)); }

// One round on (v.x, a), (v.z, b): even rounds pair x with y and z with w, odd ones x with w and z with y.
__device__ __forceinline__ uint4 mix_even(uint4 v, u32 r0, u32 r1) {
    u32 s0 = v.x + v.y, s1 = v.z + v.w;
    return {s0, rotate(v.y, r0) ^ s0, s1, rotate(v.w, r1) ^ s1};
}

__device__ __forceinline__ uint4 mix_odd(uint4 v, u32 r0, u32 r1) {
    u32 s0 = v.x + v.w, s1 = v.z + v.y;
    return {s0, rotate(v.y, r1) ^ s1, s1, rotate(v.w, r0) ^ s0};
}

// Threefry-4x32 with 20 rounds: 5 groups of 4, a key injected after each.
__device__ __forceinline__ uint4 threefry(uint4 key, uint4 counter) {
    u32 parity = 0x1bd11bdau ^ key.x ^ key.y ^ key.z ^ key.w;
    u32 schedule[5] = {key.x, key.y, key.z, key.w, parity};
    uint4 v = {counter.x + key.x, counter.y + key.y, counter.z + key.z, counter.w + key.w};
#pragma unroll
    for (u32 group = 1; group <= 5; group++) {
        if (group % 2 == 1) {
            v = mix_even(v, 10, 26);
            v = mix_odd(v, 11, 21);
            v = mix_even(v, 13, 27);
            v = mix_odd(v, 23, 5);
        } else {
            v = mix_even(v, 6, 20);
            v = mix_odd(v, 17, 11);
            v = mix_even(v, 25, 10);
            v = mix_odd(v, 18, 20);
        }
        v.x += schedule[group % 5];
        v.y += schedule[(group + 1) % 5];
        v.z += schedule[(group + 2) % 5];
        v.w += schedule[(group + 3) % 5] + group;
    }
    return v;
}

extern "C" __global__ void __launch_bounds__(256)
dropout(const void* x, const u32* ordinals, const u32* positions, const float* step_state, void* y,
        Params params) {
    // [1] the 4 columns this thread owns
    u32 quads = (params.columns + 3) / 4; // of a row
    u32 number = block_number() * 256 + threadIdx.x;
    u32 t = number / quads;
    u32 quad = number % quads;
    if (t >= params.rows) return;
    // [2] their random words
    uint4 key = {params.seed_low, params.seed_high, params.site, u32(step_state[STEP])};
    uint4 draw = threefry(key, {ordinals[t], positions[t], quad, 0});
    u32 bits[4] = {draw.x, draw.y, draw.z, draw.w};
    // [3] keep or drop, and write
#pragma unroll
    for (u32 lane = 0; lane < 4; lane++) {
        if (quad * 4 + lane < params.columns) {
            u32 i = t * params.columns + quad * 4 + lane;
            float value = bits[lane] >= params.threshold ? load<DT_X>(x, i) * params.scale : 0.0f;
            if (params.accumulate) value += load<DT_Y>(y, i);
            store<DT_Y>(y, i, value);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
neftune(const void* x, const u32* ordinals, const u32* positions, const float* step_state, void* y,
        const u32* bounds, Params params) {
    // [1] the 4 columns this thread owns
    u32 quads = (params.columns + 3) / 4; // of a row
    u32 number = block_number() * 256 + threadIdx.x;
    u32 t = number / quads;
    u32 quad = number % quads;
    if (t >= params.rows) return;
    // [2] their random words
    uint4 key = {params.seed_low, params.seed_high, params.site, u32(step_state[STEP])};
    uint4 draw = threefry(key, {ordinals[t], positions[t], quad, 0});
    u32 bits[4] = {draw.x, draw.y, draw.z, draw.w};
    // [3] the largest noise of this example
    float magnitude = params.scale / sqrtf(float(bounds[2 * t + 1] - bounds[2 * t]));
    // [4] add, and write
#pragma unroll
    for (u32 lane = 0; lane < 4; lane++) {
        if (quad * 4 + lane < params.columns) {
            u32 i = t * params.columns + quad * 4 + lane;
            float unit = float(bits[lane] >> 8) * 0x1p-23f - 1.0f;
            store<DT_Y>(y, i, load<DT_X>(x, i) + unit * magnitude);
        }
    }
}
