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
// Twin      kernels-cuda/sum_splits.cu. Reference: src/ops/matmul/split.rs

struct Params {
    count: u32,
    splits: u32,
    alpha: f32,
}

@group(0) @binding(0) var<storage, read> parts: array<f32>; // [splits, count]
@group(0) @binding(1) var<storage, read_write> out: array<u32>; // [count]
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn sum_splits(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the word this thread owns
    let first = (block_number(block, grid) * 256u + thread) * per_word(DT_OUT);
    if (first >= params.count) {
        return;
    }
    // [2] add the parts of each element in order
    var value: array<f32, 2>;
    for (var j = 0u; j < per_word(DT_OUT); j++) {
        var sum = 0.0;
        for (var split = 0u; split < params.splits; split++) {
            sum += parts[split * params.count + first + j];
        }
        value[j] = params.alpha * sum;
        if (ACCUMULATE == 1u) {
            value[j] += unpack(out[word_of(first, DT_OUT)], first + j, DT_OUT);
        }
    }
    // [3] write
    out[word_of(first, DT_OUT)] = pack(value[0], value[1], DT_OUT);
}
