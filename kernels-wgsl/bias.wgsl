// The bias of a linear layer, and the column sums that are its gradient.
//
//   add_bias      y[t,n]  = x[t,n] + bias[n]         backward: dx = dy
//   column_sums   sums[n] = sum_t x[t,n]  (+ sums[n] if accumulate)     dbias, of x = dy
//
// Tensors   x, y [rows, columns], bias [columns]: f32 | bf16 | f16; sums [columns]: f32
// Mapping   add_bias: a thread owns one word of y
//           column_sums: a block owns 16 columns; of its 256 threads, 16 share a column and each walks
//           down every 16th row; their sums are then added by halving, so the order is fixed
// Launch    add_bias: grid ceil(words / 256) split over x and y; column_sums: grid ceil(columns / 16);
//           block 256, 1 KiB workgroup memory; 16-bit rows have an even width (the host checks)
// Cost      one pass over x (and one over y): bound by memory bandwidth
// Numerics  sums in f32 in a fixed order: deterministic; elementwise and reduction tolerances
// Twin      kernels-cuda/bias.cu. Reference: src/ops/bias.rs

struct Params {
    rows: u32,
    columns: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> x: array<u32>; // [rows, columns]
@group(0) @binding(1) var<storage, read> bias: array<u32>; // [columns]
@group(0) @binding(2) var<storage, read_write> y: array<u32>; // [rows, columns]
@group(0) @binding(1) var<storage, read_write> sums: array<f32>; // [columns]
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> partial: array<f32, 256>; // [16 rows, 16 columns]

@compute @workgroup_size(256)
fn add_bias(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the elements this thread owns: a word of y, cut at the end
    let first = (block_number(block, grid) * 256u + thread) * per_word(DT_Y);
    var value: array<f32, 2>;
    for (var lane = 0u; lane < per_word(DT_Y) && first + lane < params.rows * params.columns; lane++) {
        // [2] add
        let i = first + lane;
        let n = i % params.columns;
        value[lane] = unpack(x[word_of(i, DT_X)], i, DT_X)
            + unpack(bias[word_of(n, DT_BIAS)], n, DT_BIAS);
    }
    // [3] write
    if (first < params.rows * params.columns) {
        y[word_of(first, DT_Y)] = pack(value[0], value[1], DT_Y);
    }
}

@compute @workgroup_size(256)
fn column_sums(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] down every 16th row of a column
    let n = block_number(block, grid) * 16u + thread % 16u;
    var sum = 0.0;
    if (n < params.columns) {
        for (var t = thread / 16u; t < params.rows; t += 16u) {
            let i = t * params.columns + n;
            sum += unpack(x[word_of(i, DT_X)], i, DT_X);
        }
    }
    partial[thread] = sum;
    workgroupBarrier();
    // [2] add the 16 sums of the column
    for (var half = 128u; half >= 16u; half = half / 2u) {
        if (thread < half) {
            partial[thread] += partial[thread + half];
        }
        workgroupBarrier();
    }
    // [3] write
    if (thread < 16u && n < params.columns) {
        if (params.accumulate == 1u) {
            sums[n] += partial[thread];
        } else {
            sums[n] = partial[thread];
        }
    }
}
