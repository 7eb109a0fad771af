// The second half of a matrix product whose K was split among blocks: the sums of its parts.
//
//   out[i] = alpha * sum_s parts[s,i]     (+ out[i] with ACCUMULATE)
//
// Tensors   parts [splits, count] f32, count = M N of the product; out [count] f32 | bf16 | f16
// Mapping   a thread owns one word of out: 1 element of f32, 2 of a 16-bit type
// Launch    grid ceil(words / 256) split over x and y, block 256; a 16-bit out has an even N (the host
//           checks)
// Cost      4 splits count bytes read, count elements written: bound by memory bandwidth, mostly that of
//           the L2 cache, since parts have just been written and are 8 MiB at most with tiles of 64 x 64
// Numerics  one f32 sum per element in order of the splits, one rounding: deterministic; part of the
//           product's reduction tolerance
// Twin      kernels-wgsl/sum_splits.wgsl. Reference: src/ops/matmul/split.rs

struct Params {
    u32 count;
    u32 splits;
    float alpha;
};

extern "C" __global__ void __launch_bounds__(256)
sum_splits(const float* parts, void* out, Params params) {
    // [1] the word this thread owns
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_OUT);
    if (first >= params.count) return;
    // [2] add the parts of each element in order
    float value[2] = {};
#pragma unroll
    for (u32 j = 0; j < per_word(DT_OUT); j++) {
        float sum = 0.0f;
#pragma unroll 4
        for (u32 split = 0; split < params.splits; split++) sum += parts[split * params.count + first + j];
        value[j] = params.alpha * sum;
        if (ACCUMULATE) value[j] += load<DT_OUT>(out, first + j);
    }
    // [3] write
#pragma unroll
    for (u32 j = 0; j < per_word(DT_OUT); j++) store<DT_OUT>(out, first + j, value[j]);
}
