// Addition of two tensors of one shape.
//
//   add        out[i] = a[i] + b[i]        backward: da = dout, db = dout
//   add_into   y[i] += x[i]                for gradients that meet; dtypes may differ
//
// Tensors   a, b, out, x, y [count], f32 | bf16 | f16, sums in f32
// Mapping   a thread owns one word of the output: 1 element of f32, 2 of a 16-bit type
// Launch    grid ceil(words / 256) split over x and y, block 256; the host checks count and shapes
// Cost      3 x count elements moved, count FLOPs: bound by memory bandwidth
// Numerics  one rounding per element; deterministic; elementwise tolerance
// Twin      kernels-wgsl/add.wgsl. Reference: src/ops/add.rs

struct Params {
    u32 count;
};

extern "C" __global__ void __launch_bounds__(256)
add(const void* a, const void* b, void* out, Params params) {
    // [1] the elements this thread owns: a word of the output, cut at the end
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_OUT);
    for (u32 lane = 0; lane < per_word(DT_OUT) && first + lane < params.count; lane++) {
        // [2] add
        u32 i = first + lane;
        float sum = load<DT_A>(a, i) + load<DT_B>(b, i);
        // [3] write
        store<DT_OUT>(out, i, sum);
    }
}

extern "C" __global__ void __launch_bounds__(256)
add_into(const void* x, void* y, Params params) {
    // [1] the elements this thread owns: a word of y, cut at the end
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_Y);
    for (u32 lane = 0; lane < per_word(DT_Y) && first + lane < params.count; lane++) {
        // [2] add
        u32 i = first + lane;
        float sum = load<DT_Y>(y, i) + load<DT_X>(x, i);
        // [3] write
        store<DT_Y>(y, i, sum);
    }
}
