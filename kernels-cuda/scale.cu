// Multiplication by a number.
//
//   y[i] = x[i] * factor        backward: dx = dy * factor
//
// Tensors   x, y [count]: f32 | bf16 | f16
// Mapping   a thread owns one word of y: 1 element of f32, 2 of a 16-bit type
// Launch    grid ceil(words / 256) split over x and y, block 256; the host checks count
// Cost      2 passes over x, 1 FLOP per element: bound by memory bandwidth
// Numerics  one rounding of an f32 product; elementwise tolerance
// Twin      kernels-wgsl/scale.wgsl. Reference: src/ops/scale.rs

struct Params {
    u32 count;
    float factor;
};

extern "C" __global__ void __launch_bounds__(256)
scale(const void* x, void* y, Params params) {
    // [1] the elements this thread owns: a word of y, cut at the end
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_Y);
    for (u32 lane = 0; lane < per_word(DT_Y) && first + lane < params.count; lane++) {
        // [2] multiply
        u32 i = first + lane;
        float value = load<DT_X>(x, i) * params.factor;
        // [3] write
        store<DT_Y>(y, i, value);
    }
}
