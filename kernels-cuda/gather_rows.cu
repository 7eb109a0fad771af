// Picks rows, and puts their gradients back.
//
//   y[r,c] = x[index[r],c], or 0 where index[r] is NONE
//   backward: the same over dy, with the inverse index (the row that row t went to, or NONE)
//
// Tensors   x [any, columns], y [rows, columns]: one dtype, f32 | bf16 | f16; index u32 [rows]
// Mapping   a thread owns one word of y: 1 element of f32, 2 of a 16-bit type
// Launch    grid ceil(words / 256) split over x and y, block 256; 16-bit rows have an even width (the
//           host checks)
// Cost      2 passes over y: bound by memory bandwidth
// Numerics  a copy: exact, deterministic; all writes, no adds
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
