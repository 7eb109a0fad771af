// Every element of a tensor set to one value.
//
//   out[i] = value
//
// Tensors   out [count], f32 | bf16 | f16
// Mapping   a thread owns one word: 1 element of f32, 2 of a 16-bit type
// Launch    grid ceil(words / 256) split over x and y, block 256; the host checks count
// Cost      count elements written: bound by memory bandwidth
// Numerics  value rounded once; exact
// Twin      kernels-cuda/fill.cu. Reference: src/ops/fill.rs

struct Params {
    count: u32,
    value: f32,
}

@group(0) @binding(0) var<storage, read_write> out: array<u32>; // [count]
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn fill(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the word this thread owns
    let first = (block_number(block, grid) * 256u + thread) * per_word(DT_OUT);
    // [2] write
    if (first < params.count) {
        out[word_of(first, DT_OUT)] = pack(params.value, params.value, DT_OUT);
    }
}
