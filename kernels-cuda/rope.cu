// Rotary position embedding, half-rotated: columns i and i + half of a head are a point in the plane.
//
//   y[t,h,i]        = x[t,h,i] * cos - x[t,h,i+half] * sin      cos, sin at [positions[t], i]
//   y[t,h,i+half]   = x[t,h,i+half] * cos + x[t,h,i] * sin
//   y[t,h,c]        = x[t,h,c]                                  c >= 2 half, the columns that stand still
//   backward        the same with dy for x and direction -1, which turns back
//
// Tensors   x, y [T, H, 2 (half + still)]: f32 | bf16 | f16; positions u32 [T]; tables f32 [P, half]
// Mapping   a thread owns one word of the first half of what turns of a head, or of what stands still, and
//           its partner in the second
//
//             head   [ .. w .. | .. w .. | .. v .. | .. v .. ]      w, v: 1 column of f32, 2 of a 16-bit type
//                      first      second    first     second
//
// Launch    grid ceil(T * H * (half + still) / (256 * columns per word)) split over x and y, block 256;
//           half and still are even for 16-bit types and positions are below P (the host checks, the caller knows)
// Cost      2 passes over x, 3 FLOPs per element: bound by memory bandwidth
// Numerics  one rounding of an f32 result; deterministic; elementwise tolerance
// Twin      kernels-wgsl/rope.wgsl. Reference: src/ops/rope.rs. Paper: arXiv:2104.09864

struct Params {
    u32 tokens;
    u32 heads;
    u32 half;
    u32 still;
    float direction;
};

extern "C" __global__ void __launch_bounds__(256)
rope(const void* x, const u32* positions, const float* cos_table, const float* sin_table, void* y,
     Params params) {
    // [1] the head and the columns this thread owns
    constexpr u32 step = per_word(DT_Y);
    u32 width = 2 * (params.half + params.still);
    u32 words = width / 2 / step;
    u32 number = block_number() * 256 + threadIdx.x;
    u32 head = number / words;
    if (head >= params.tokens * params.heads) return;
    u32 i = (number % words) * step;
    if (i >= params.half) {
        u32 first = head * width + params.half + i;
        for (u32 lane = 0; lane < step; lane++) {
            store<DT_Y>(y, first + lane, load<DT_X>(x, first + lane));
            store<DT_Y>(y, first + params.still + lane, load<DT_X>(x, first + params.still + lane));
        }
        return;
    }
    u32 first = head * width + i;
    u32 second = first + params.half;
    // [2] turn
    u32 angle = positions[head / params.heads] * params.half + i;
    for (u32 lane = 0; lane < step; lane++) {
        float c = cos_table[angle + lane];
        float s = sin_table[angle + lane] * params.direction;
        float a = load<DT_X>(x, first + lane);
        float b = load<DT_X>(x, second + lane);
        // [3] write both
        store<DT_Y>(y, first + lane, a * c - b * s);
        store<DT_Y>(y, second + lane, b * c + a * s);
    }
}
