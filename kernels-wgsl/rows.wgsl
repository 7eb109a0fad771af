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
// Twin      kernels-cuda/rows.cu. Reference: src/ops/rows.rs

struct Params {
    first: u32,
    to: u32,
    count: u32,
}

@group(0) @binding(0) var<storage, read> source: array<u32>; // [..]
@group(0) @binding(1) var<storage, read_write> target_rows: array<u32>; // [..]
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn copy_rows(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the word this thread owns
    let i = (block_number(block, grid) * 256u + thread) * per_word(DT_SOURCE);
    // [2] copy it
    if (i < params.count) {
        target_rows[word_of(params.to + i, DT_TARGET_ROWS)] = source[word_of(params.first + i, DT_SOURCE)];
    }
}
