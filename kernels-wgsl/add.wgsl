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
// Twin      kernels-cuda/add.cu. Reference: src/ops/add.rs

struct Params {
    count: u32,
}

@group(0) @binding(0) var<storage, read> a: array<u32>; // [count]
@group(0) @binding(1) var<storage, read> b: array<u32>; // [count]
@group(0) @binding(2) var<storage, read_write> out: array<u32>; // [count]
@group(0) @binding(0) var<storage, read> x: array<u32>; // [count]
@group(0) @binding(1) var<storage, read_write> y: array<u32>; // [count]
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn add(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the elements this thread owns: a word of the output, cut at the end
    let first = (block_number(block, grid) * 256u + thread) * per_word(DT_OUT);
    var sum: array<f32, 2>;
    for (var lane = 0u; lane < per_word(DT_OUT) && first + lane < params.count; lane++) {
        // [2] add
        let i = first + lane;
        sum[lane] = unpack(a[word_of(i, DT_A)], i, DT_A) + unpack(b[word_of(i, DT_B)], i, DT_B);
    }
    // [3] write
    if (first < params.count) {
        out[word_of(first, DT_OUT)] = pack(sum[0], sum[1], DT_OUT);
    }
}

@compute @workgroup_size(256)
fn add_into(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the elements this thread owns: a word of y, cut at the end
    let first = (block_number(block, grid) * 256u + thread) * per_word(DT_Y);
    var sum: array<f32, 2>;
    for (var lane = 0u; lane < per_word(DT_Y) && first + lane < params.count; lane++) {
        // [2] add
        let i = first + lane;
        sum[lane] = unpack(y[word_of(i, DT_Y)], i, DT_Y) + unpack(x[word_of(i, DT_X)], i, DT_X);
    }
    // [3] write
    if (first < params.count) {
        y[word_of(first, DT_Y)] = pack(sum[0], sum[1], DT_Y);
    }
}
