// Conversion between float dtypes.
//
//   y[i] = x[i], rounded to y's dtype        backward: dx = dy, rounded to dx's dtype
//
// Tensors   x, y [count], f32 | bf16 | f16 each
// Mapping   a thread owns one word of y: 1 element of f32, 2 of a 16-bit type
// Launch    grid ceil(words / 256) split over x and y, block 256; the host checks count
// Cost      count elements read and written: bound by memory bandwidth
// Numerics  one rounding to nearest even
// Twin      kernels-wgsl/cast.wgsl. Reference: src/ops/cast.rs

struct Params {
    u32 count;
};

extern "C" __global__ void __launch_bounds__(256)
convert(const void* x, void* y, Params params) {
    // [1] the elements this thread owns: a word of y, cut at the end
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_Y);
    for (u32 lane = 0; lane < per_word(DT_Y) && first + lane < params.count; lane++) {
        // [2] widen
        u32 i = first + lane;
        float value = load<DT_X>(x, i);
        // [3] round and write
        store<DT_Y>(y, i, value);
    }
}
