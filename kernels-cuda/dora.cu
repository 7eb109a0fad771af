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
//           block 256, 1 KiB shared memory; 16-bit rows have an even width (the host checks)
// Cost      one pass over w, over x (and y), over dy and x: bound by memory bandwidth
// Numerics  sums in f32 in a fixed order: deterministic; no gradient through the norm
// Twin      kernels-wgsl/dora.wgsl. Reference: src/ops/dora.rs. Paper: arXiv:2402.09353

struct Params {
    u32 rows;
    u32 columns;
    u32 accumulate;
    float scale;
};

extern "C" __global__ void __launch_bounds__(256)
row_squares(const void* w, float* squares, Params params) {
    __shared__ float partial[256]; // [256]
    u32 thread = threadIdx.x;
    u32 row = block_number();
    if (row >= params.rows) return;
    // [1] every 256th element of a row
    float sum = 0.0f;
    for (u32 c = thread; c < params.columns; c += 256) {
        float value = load<DT_W>(w, row * params.columns + c);
        sum += value * value;
    }
    partial[thread] = sum;
    __syncthreads();
    // [2] add the 256 sums
    for (u32 half = 128; half > 0; half /= 2) {
        if (thread < half) partial[thread] += partial[thread + half];
        __syncthreads();
    }
    // [3] write
    if (thread == 0) squares[row] = partial[0];
}

extern "C" __global__ void __launch_bounds__(256)
dora_norm(const float* norm_squares, const float* lora_b, const float* aw, const float* aab,
          float* inverse, Params params) {
    // [1] the row of the weight that this thread owns
    u32 n = block_number() * 256 + threadIdx.x;
    if (n >= params.columns) return;
    // [2] its square with the update
    float scale = params.scale;
    float square = norm_squares[n];
    for (u32 j = 0; j < params.rows; j++) {
        u32 i = j * params.columns + n;
        square += lora_b[n * params.rows + j] * (2.0f * scale * aw[i] + scale * scale * aab[i]);
    }
    // [3] write
    inverse[n] = 1.0f / sqrtf(square);
}

extern "C" __global__ void __launch_bounds__(256)
scale_columns(const void* x, const float* magnitude, const float* column_inverse, void* y,
              Params params) {
    // [1] the elements this thread owns: a word of y, cut at the end
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_Y);
    for (u32 lane = 0; lane < per_word(DT_Y) && first + lane < params.rows * params.columns; lane++) {
        // [2] multiply
        u32 i = first + lane;
        u32 n = i % params.columns;
        float value = load<DT_X>(x, i) * (magnitude[n] * column_inverse[n]);
        // [3] write
        store<DT_Y>(y, i, value);
    }
}

extern "C" __global__ void __launch_bounds__(256)
magnitude_bwd(const void* dy, const void* bwd_x, const float* bwd_inverse, float* dmagnitude,
              Params params) {
    __shared__ float partial[256]; // [16 rows, 16 columns]
    u32 thread = threadIdx.x;
    // [1] down every 16th row of a column
    u32 n = block_number() * 16 + thread % 16;
    float sum = 0.0f;
    if (n < params.columns) {
        for (u32 t = thread / 16; t < params.rows; t += 16) {
            u32 i = t * params.columns + n;
            sum += load<DT_DY>(dy, i) * load<DT_BWD_X>(bwd_x, i);
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
        float whole = partial[thread] * bwd_inverse[n];
        if (params.accumulate) {
            dmagnitude[n] += whole;
        } else {
            dmagnitude[n] = whole;
        }
    }
}
