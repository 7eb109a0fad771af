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
// Twin      kernels-wgsl/gather_rows.wgsl. Reference: src/ops/gather_rows.rs

struct Params {
    u32 rows;
    u32 columns;
};

constexpr u32 NONE = 0xffffffff;

extern "C" __global__ void __launch_bounds__(256)
gather_rows(const void* x, const u32* index, void* y, Params params) {
    // [1] the word this thread owns
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_Y);
    if (first >= params.rows * params.columns) return;
    // [2] fetch it
    u32 origin = index[first / params.columns];
    for (u32 lane = 0; lane < per_word(DT_Y); lane++) {
        u32 i = origin * params.columns + first % params.columns + lane;
        float value = origin == NONE ? 0.0f : load<DT_X>(x, i);
        // [3] write
        store<DT_Y>(y, first + lane, value);
    }
}

extern "C" __global__ void __launch_bounds__(256)
gather_rows_bwd(const void* dy, const u32* starts, const u32* places, void* dx, Params params) {
    // [1] the word this thread owns
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_DX);
    if (first >= params.rows * params.columns) return;
    // [2] the sum over the places that its row went to
    u32 row = first / params.columns;
    float sums[2] = {};
    for (u32 n = starts[row]; n < starts[row + 1]; n++) {
        for (u32 lane = 0; lane < per_word(DT_DX); lane++) {
            sums[lane] += load<DT_DY>(dy, places[n] * params.columns + first % params.columns + lane);
        }
    }
    // [3] write
    for (u32 lane = 0; lane < per_word(DT_DX); lane++) store<DT_DX>(dx, first + lane, sums[lane]);
}
