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
// Paper     Jain et al., "NEFTune: noisy embeddings improve instruction finetuning", 2023

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

// The 4 adjacent columns of a row that a thread owns.
struct Quad {
    u32 t;
    u32 column; // the first of them
};

__device__ __forceinline__ Quad quad_of_thread(const Params& params) {
    u32 quads = (params.columns + 3) / 4; // of a row
    u32 number = block_number() * 256 + threadIdx.x;
    return {number / quads, number % quads * 4};
}

// The random words of a quad.
__device__ __forceinline__ void draw(u32 (&words)[4], Quad quad, const u32* ordinals, const u32* positions,
                                     const float* step_state, const Params& params) {
    uint4 key = {params.seed_low, params.seed_high, params.site, u32(step_state[STEP])};
    uint4 drawn = threefry(key, {ordinals[quad.t], positions[quad.t], quad.column / 4, 0});
    words[0] = drawn.x, words[1] = drawn.y, words[2] = drawn.z, words[3] = drawn.w;
}

extern "C" __global__ void __launch_bounds__(256)
dropout(const void* x, const u32* ordinals, const u32* positions, const float* step_state, void* y,
        Params params) {
    // [1] the 4 columns this thread owns
    Quad quad = quad_of_thread(params);
    if (quad.t >= params.rows) return;
    // [2] their random words
    u32 words[4];
    draw(words, quad, ordinals, positions, step_state, params);
    // [3] keep or drop, and write
#pragma unroll
    for (u32 lane = 0; lane < 4; lane++) {
        if (quad.column + lane < params.columns) {
            u32 i = quad.t * params.columns + quad.column + lane;
            float value = words[lane] >= params.threshold ? load<DT_X>(x, i) * params.scale : 0.0f;
            if (params.accumulate) value += load<DT_Y>(y, i);
            store<DT_Y>(y, i, value);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
neftune(const void* x, const u32* ordinals, const u32* positions, const float* step_state, void* y,
        const u32* bounds, Params params) {
    // [1] the 4 columns this thread owns
    Quad quad = quad_of_thread(params);
    if (quad.t >= params.rows) return;
    // [2] their random words
    u32 words[4];
    draw(words, quad, ordinals, positions, step_state, params);
    // [3] the largest noise of this example
    float magnitude = params.scale / sqrtf(float(bounds[2 * quad.t + 1] - bounds[2 * quad.t]));
    // [4] add, and write
#pragma unroll
    for (u32 lane = 0; lane < 4; lane++) {
        if (quad.column + lane < params.columns) {
            u32 i = quad.t * params.columns + quad.column + lane;
            float unit = float(words[lane] >> 8) * 0x1p-23f - 1.0f;
            store<DT_Y>(y, i, load<DT_X>(x, i) + unit * magnitude);
        }
    }
}
