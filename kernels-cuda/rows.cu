// A run of elements copied from one tensor to another.
//
//   target_rows[to + i] = source[first + i]   for i < count
//
// Tensors   source, target_rows: f32 | bf16 | f16, both of one dtype
// Mapping   a thread owns one word of the target: 1 element of f32, 2 of a 16-bit type
// Launch    grid ceil(words / 256) split over x and y, block 256; the host checks the ranges, and that
//           first, to and count are whole words
// Cost      count elements read and written: bound by memory bandwidth
// Numerics  exact
// Twin      kernels-wgsl/rows.wgsl. Reference: src/ops/rows.rs

struct Params {
    u32 first;
    u32 to;
    u32 count;
};

extern "C" __global__ void __launch_bounds__(256)
copy_rows(const u32* source, u32* target_rows, Params params) {
    // [1] the word this thread owns
    u32 i = (block_number() * 256 + threadIdx.x) * per_word(DT_SOURCE);
    // [2] copy it
    if (i < params.count) {
        target_rows[(params.to + i) / per_word(DT_TARGET_ROWS)] = source[(params.first + i) / per_word(DT_SOURCE)];
    }
}
