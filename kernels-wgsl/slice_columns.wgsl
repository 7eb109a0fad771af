// Some columns of a matrix, and their gradient back among the others.
//
//   fwd   y[t, c]  = x[t, first + c]                                    0 <= c < width
//   bwd   dx[t, c] = dx[t, c] (0 unless accumulate) + dy[t, c - first]  in the slice
//         dx[t, c] = dx[t, c] (0 unless accumulate)                     beside it
//
// Tensors   x, dx [rows, columns]; y, dy [rows, width]: f32 | bf16 | f16
// Mapping   a thread owns one word of what it writes: 1 element of f32, 2 of a 16-bit type
// Launch    grid ceil(words / 256) split over x and y, block 256; in 16 bits columns, first and width are
//           even (the host checks)
// Cost      fwd 2 passes over the slice, bwd 1 over the slice and 1 over dx (2 to accumulate): bound by memory
//           bandwidth
// Numerics  copies; where accumulate is set, one rounding of an f32 sum, exact where dx was 0
// Twin      kernels-cuda/slice_columns.cu. Reference: src/ops/slice_columns.rs

struct Params {
    rows: u32,
    columns: u32,
    first: u32,
    width: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> x: array<u32>; // [rows, columns]
@group(0) @binding(1) var<storage, read_write> y: array<u32>; // [rows, width]

@group(0) @binding(0) var<storage, read> dy: array<u32>; // [rows, width]
@group(0) @binding(1) var<storage, read_write> dx: array<u32>; // [rows, columns]

@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn slice_columns_fwd(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the word of y this thread owns
    let i = (block_number(block, grid) * 256u + thread) * per_word(DT_Y);
    if (i >= params.rows * params.width) {
        return;
    }
    let source = i / params.width * params.columns + params.first + i % params.width;
    var value: array<f32, 2>;
    for (var lane = 0u; lane < per_word(DT_Y); lane++) {
        // [2] copy
        value[lane] = unpack(x[word_of(source + lane, DT_X)], source + lane, DT_X);
    }
    // [3] write
    y[word_of(i, DT_Y)] = pack(value[0], value[1], DT_Y);
}

@compute @workgroup_size(256)
fn slice_columns_bwd(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the word of dx this thread owns
    let i = (block_number(block, grid) * 256u + thread) * per_word(DT_DX);
    if (i >= params.rows * params.columns) {
        return;
    }
    let c = i % params.columns;
    let inside = c >= params.first && c < params.first + params.width;
    let source = i / params.columns * params.width + c - params.first;
    var value: array<f32, 2>;
    for (var lane = 0u; lane < per_word(DT_DX); lane++) {
        // [2] what is there, and the slice
        if (params.accumulate != 0u) {
            value[lane] = unpack(dx[word_of(i + lane, DT_DX)], i + lane, DT_DX);
        }
        if (inside) {
            value[lane] += unpack(dy[word_of(source + lane, DT_DY)], source + lane, DT_DY);
        }
    }
    // [3] write
    dx[word_of(i, DT_DX)] = pack(value[0], value[1], DT_DX);
}
