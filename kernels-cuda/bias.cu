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
//           block 256, 1 KiB shared memory; 16-bit rows have an even width (the host checks)
// Cost      one pass over x (and one over y): bound by memory bandwidth
// Numerics  sums in f32 in a fixed order: deterministic; elementwise and reduction tolerances
// Twin      kernels-wgsl/bias.wgsl. Reference: src/ops/bias.rs

struct Params {
    u32 rows;
    u32 columns;
    u32 accumulate;
};

extern "C" __global__ void __launch_bounds__(256)
add_bias(const void* x, const void* bias, void* y, Params params) {
    // [1] the elements this thread owns: a word of y, cut at the end
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_Y);
    for (u32 lane = 0; lane < per_word(DT_Y) && first + lane < params.rows * params.columns; lane++) {
        // [2] add
        u32 i = first + lane;
        float value = load<DT_X>(x, i) + load<DT_BIAS>(bias, i % params.columns);
        // [3] write
        store<DT_Y>(y, i, value);
    }
}

extern "C" __global__ void __launch_bounds__(256)
column_sums(const void* x, float* sums, Params params) {
    __shared__ float partial[256]; // [16 rows, 16 columns]
    u32 thread = threadIdx.x;
    // [1] down every 16th row of a column
    u32 n = block_number() * 16 + thread % 16;
    float sum = 0.0f;
    if (n < params.columns) {
        for (u32 t = thread / 16; t < params.rows; t += 16) {
            sum += load<DT_X>(x, t * params.columns + n);
        }
    }
    partial[thread] = sum;
    __syncthreads();
    // [2] add the 16 sums of the column
    for (u32 half = 128; half >= 16; half /= 2) {
        if (thread < half) partial[thread] += partial[thread + half];
        __syncthreads();
    }
    // [3] write
    if (thread < 16 && n < params.columns) {
        if (params.accumulate) {
            sums[n] += partial[thread];
        } else {
            sums[n] = partial[thread];
        }
    }
}
