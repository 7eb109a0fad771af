// Multiplication by a number.
//
//   y[i] = x[i] * factor        backward: dx = dy * factor
//
// Tensors   x, y [count]: f32 | bf16 | f16
// Mapping   a thread owns one word of y: 1 element of f32, 2 of a 16-bit type
// Launch    grid ceil(words / 256) split over x and y, block 256; the host checks count
// Cost      2 passes over x, 1 FLOP per element: bound by memory bandwidth
// Numerics  one rounding of an f32 product; elementwise tolerance
// Twin      kernels-cuda/scale.cu. Reference: src/ops/scale.rs

struct Params {
    count: u32,
    factor: f32,
}

@group(0) @binding(0) var<storage, read> x: array<u32>; // [count]
@group(0) @binding(1) var<storage, read_write> y: array<u32>; // [count]
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn scale(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the elements this thread owns: a word of y, cut at the end
    let first = (block_number(block, grid) * 256u + thread) * per_word(DT_Y);
    var value: array<f32, 2>;
    for (var lane = 0u; lane < per_word(DT_Y) && first + lane < params.count; lane++) {
        // [2] multiply
        let i = first + lane;
        value[lane] = unpack(x[word_of(i, DT_X)], i, DT_X) * params.factor;
    }
    // [3] write
    if (first < params.count) {
        y[word_of(first, DT_Y)] = pack(value[0], value[1], DT_Y);
    }
}
