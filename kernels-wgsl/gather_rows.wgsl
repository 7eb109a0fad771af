// Picks rows, and puts their gradients back.
//
//   gather_rows      y[r,c] = x[index[r],c], or 0 where index[r] is NONE
//   backward         the same over dy, with the inverse index (the row that row t went to, or NONE)
//   gather_rows_bwd  dx[t,c] = sum of dy[places[n],c], starts[t] <= n < starts[t+1]: the backward where
//                    rows went to several places
//
// Tensors   x [any, columns], y [rows, columns]: one dtype, f32 | bf16 | f16; index u32 [rows];
//           dy [any, columns], dx [rows, columns], starts u32 [rows + 1], places u32 [any]; sums in f32
// Mapping   a thread owns one word of y or dx: 1 element of f32, 2 of a 16-bit type
// Launch    grid ceil(words / 256) split over x and y, block 256; 16-bit rows have an even width (the
//           host checks)
// Cost      2 passes over y: bound by memory bandwidth
// Numerics  a copy: exact; sums in the order of places: deterministic; all writes, no adds
// Twin      kernels-cuda/gather_rows.cu. Reference: src/ops/gather_rows.rs

struct Params {
    rows: u32,
    columns: u32,
}

@group(0) @binding(0) var<storage, read> x: array<u32>; // [any, columns]
@group(0) @binding(1) var<storage, read> index: array<u32>; // [rows]
@group(0) @binding(2) var<storage, read_write> y: array<u32>; // [rows, columns]

@group(0) @binding(0) var<storage, read> dy: array<u32>; // [any, columns]
@group(0) @binding(1) var<storage, read> starts: array<u32>; // [rows + 1]
@group(0) @binding(2) var<storage, read> places: array<u32>; // [any]
@group(0) @binding(3) var<storage, read_write> dx: array<u32>; // [rows, columns]

@group(1) @binding(0) var<uniform> params: Params;

const NONE: u32 = 0xffffffffu;

@compute @workgroup_size(256)
fn gather_rows(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the word this thread owns
    let first = (block_number(block, grid) * 256u + thread) * per_word(DT_Y);
    if (first >= params.rows * params.columns) {
        return;
    }
    // [2] fetch it
    let origin = index[first / params.columns];
    var value: array<f32, 2>;
    if (origin != NONE) {
        for (var lane = 0u; lane < per_word(DT_Y); lane++) {
            let i = origin * params.columns + first % params.columns + lane;
            value[lane] = unpack(x[word_of(i, DT_X)], i, DT_X);
        }
    }
    // [3] write
    y[word_of(first, DT_Y)] = pack(value[0], value[1], DT_Y);
}

@compute @workgroup_size(256)
fn gather_rows_bwd(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the word this thread owns
    let first = (block_number(block, grid) * 256u + thread) * per_word(DT_DX);
    if (first >= params.rows * params.columns) {
        return;
    }
    // [2] the sum over the places that its row went to
    let row = first / params.columns;
    var sums: array<f32, 2>;
    for (var n = starts[row]; n < starts[row + 1u]; n++) {
        for (var lane = 0u; lane < per_word(DT_DX); lane++) {
            let i = places[n] * params.columns + first % params.columns + lane;
            sums[lane] += unpack(dy[word_of(i, DT_DY)], i, DT_DY);
        }
    }
    // [3] write
    dx[word_of(first, DT_DX)] = pack(sums[0], sums[1], DT_DX);
}
