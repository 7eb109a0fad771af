// DoRA: a magnitude for each row of a weight, in the place of the row's norm.
//
//   row_squares     squares[n] = sum_k w[n,k]^2
//   dora_norm       inverse[n] = 1 / sqrt(squares[n] + sum_j b[n,j] (2 s aw[j,n] + s^2 aab[j,n]))
//                   which is 1 / |w[n] + s b[n] a|, with aw = a w^T and aab = a a^T b^T
//   scale_columns   y[t,n] = x[t,n] magnitude[n] inverse[n]      backward: dx from dy in the same way
//   magnitude_bwd   dmagnitude[n] = inverse[n] sum_t dy[t,n] x[t,n]  (+ dmagnitude[n] if accumulate)
//
// Tensors   w, x, y, dy [rows, columns]: f32 | bf16 | f16; lora_b [columns, rank], aw, aab [rank, columns],
//           squares, inverse, magnitude [columns]: f32
// Mapping   row_squares: a block owns a row; dora_norm: a thread owns a row of the weight;
//           scale_columns: a thread owns one word of y
//           magnitude_bwd: a block owns 16 columns; of its 256 threads, 16 share a column and each walks
//           down every 16th row; their sums are then added by halving, so the order is fixed
// Launch    grids rows, ceil(columns / 256), ceil(words / 256), ceil(columns / 16), split over x and y;
//           block 256, 1 KiB workgroup memory; 16-bit rows have an even width (the host checks)
// Cost      one pass over w, over x (and y), over dy and x: bound by memory bandwidth
// Numerics  sums in f32 in a fixed order: deterministic; no gradient through the norm
// Twin      kernels-cuda/dora.cu. Reference: src/ops/dora.rs. Paper: arXiv:2402.09353

struct Params {
    rows: u32,
    columns: u32,
    accumulate: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> w: array<u32>; // [rows, columns]
@group(0) @binding(1) var<storage, read_write> squares: array<f32>; // [rows]

@group(0) @binding(0) var<storage, read> norm_squares: array<f32>; // [columns]
@group(0) @binding(1) var<storage, read> lora_b: array<f32>; // [columns, rank]
@group(0) @binding(2) var<storage, read> aw: array<f32>; // [rank, columns]
@group(0) @binding(3) var<storage, read> aab: array<f32>; // [rank, columns]
@group(0) @binding(4) var<storage, read_write> inverse: array<f32>; // [columns]

@group(0) @binding(0) var<storage, read> x: array<u32>; // [rows, columns]
@group(0) @binding(1) var<storage, read> magnitude: array<f32>; // [columns]
@group(0) @binding(2) var<storage, read> column_inverse: array<f32>; // [columns]
@group(0) @binding(3) var<storage, read_write> y: array<u32>; // [rows, columns]

@group(0) @binding(0) var<storage, read> dy: array<u32>; // [rows, columns]
@group(0) @binding(1) var<storage, read> bwd_x: array<u32>; // [rows, columns]
@group(0) @binding(2) var<storage, read> bwd_inverse: array<f32>; // [columns]
@group(0) @binding(3) var<storage, read_write> dmagnitude: array<f32>; // [columns]

@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> partial: array<f32, 256>; // [256], or [16 rows, 16 columns]

@compute @workgroup_size(256)
fn row_squares(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = block_number(block, grid);
    if (row >= params.rows) {
        return;
    }
    // [1] every 256th element of a row
    var sum = 0.0;
    for (var c = thread; c < params.columns; c += 256u) {
        let i = row * params.columns + c;
        let value = unpack(w[word_of(i, DT_W)], i, DT_W);
        sum += value * value;
    }
    partial[thread] = sum;
    workgroupBarrier();
    // [2] add the 256 sums
    for (var half = 128u; half > 0u; half = half / 2u) {
        if (thread < half) {
            partial[thread] += partial[thread + half];
        }
        workgroupBarrier();
    }
    // [3] write
    if (thread == 0u) {
        squares[row] = partial[0];
    }
}

@compute @workgroup_size(256)
fn dora_norm(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the row of the weight that this thread owns
    let n = block_number(block, grid) * 256u + thread;
    if (n >= params.columns) {
        return;
    }
    // [2] its square with the update
    let scale = params.scale;
    var square = norm_squares[n];
    for (var j = 0u; j < params.rows; j++) {
        let i = j * params.columns + n;
        square += lora_b[n * params.rows + j] * (2.0 * scale * aw[i] + scale * scale * aab[i]);
    }
    // [3] write
    inverse[n] = 1.0 / sqrt(square);
}

@compute @workgroup_size(256)
fn scale_columns(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the elements this thread owns: a word of y, cut at the end
    let first = (block_number(block, grid) * 256u + thread) * per_word(DT_Y);
    var value: array<f32, 2>;
    for (var lane = 0u; lane < per_word(DT_Y) && first + lane < params.rows * params.columns; lane++) {
        // [2] multiply
        let i = first + lane;
        let n = i % params.columns;
        value[lane] = unpack(x[word_of(i, DT_X)], i, DT_X) * (magnitude[n] * column_inverse[n]);
    }
    // [3] write
    if (first < params.rows * params.columns) {
        y[word_of(first, DT_Y)] = pack(value[0], value[1], DT_Y);
    }
}

@compute @workgroup_size(256)
fn magnitude_bwd(
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
            sum += unpack(dy[word_of(i, DT_DY)], i, DT_DY)
                * unpack(bwd_x[word_of(i, DT_BWD_X)], i, DT_BWD_X);
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
        let whole = partial[thread] * bwd_inverse[n];
        if (params.accumulate == 1u) {
            dmagnitude[n] += whole;
        } else {
            dmagnitude[n] = whole;
        }
    }
}
