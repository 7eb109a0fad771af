// Every element of a tensor set to one value.
//
//   out[i] = value
//
// Tensors   out [count], f32 | bf16 | f16
// Mapping   a thread owns one word: 1 element of f32, 2 of a 16-bit type
// Launch    grid ceil(words / 256) split over x and y, block 256; the host checks count
// Cost      count elements written: bound by memory bandwidth
// Numerics  value rounded once; exact
// Twin      kernels-wgsl/fill.wgsl. Reference: src/ops/fill.rs

struct Params {
    u32 count;
    float value;
};

extern "C" __global__ void __launch_bounds__(256)
fill(void* out, Params params) {
    // [1] the word this thread owns
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_OUT);
    // [2] write
    for (u32 lane = 0; lane < per_word(DT_OUT) && first + lane < params.count; lane++) {
        store<DT_OUT>(out, first + lane, params.value);
    }
}
