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
// Twin      kernels-wgsl/slice_columns.wgsl. Reference: src/ops/slice_columns.rs

struct Params {
    u32 rows;
    u32 columns;
    u32 first;
    u32 width;
    u32 accumulate;
};

extern "C" __global__ void __launch_bounds__(256)
slice_columns_fwd(const void* x, void* y, Params params) {
    // [1] the word of y this thread owns
    u32 i = (block_number() * 256 + threadIdx.x) * per_word(DT_Y);
    if (i >= params.rows * params.width) return;
    u32 source = i / params.width * params.columns + params.first + i % params.width;
    for (u32 lane = 0; lane < per_word(DT_Y); lane++) {
        // [2] copy
        float value = load<DT_X>(x, source + lane);
        // [3] write
        store<DT_Y>(y, i + lane, value);
    }
}

extern "C" __global__ void __launch_bounds__(256)
slice_columns_bwd(const void* dy, void* dx, Params params) {
    // [1] the word of dx this thread owns
    u32 i = (block_number() * 256 + threadIdx.x) * per_word(DT_DX);
    if (i >= params.rows * params.columns) return;
    u32 c = i % params.columns;
    bool inside = c >= params.first && c < params.first + params.width;
    u32 source = i / params.columns * params.width + c - params.first;
    for (u32 lane = 0; lane < per_word(DT_DX); lane++) {
        // [2] what is there, and the slice
        float value = params.accumulate != 0 ? load<DT_DX>(dx, i + lane) : 0.0f;
        if (inside) value += load<DT_DY>(dy, source + lane);
        // [3] write
        store<DT_DX>(dx, i + lane, value);
    }
}
