// RMSNorm over rows, forward and backward.
//
//   rstd[t] = 1 / sqrt(mean_c x[t,c]^2 + eps)
//   fwd      y[t,c]  = x[t,c] * rstd[t] * w[c],  w[c] = weight[c] + offset (0, or Gemma's 1)
//   bwd_dx   dx[t,c] = rstd[t] * (g - x[t,c] * rstd[t] * mean_c(g * x * rstd)),  g = dy[t,c] * w[c]
//   bwd_dw   dw[c]   = sum_t dy[t,c] * x[t,c] * rstd[t]
//
// Tensors   x, y, dy, dx [rows, columns], weight [columns]: f32 | bf16 | f16; rstd [rows], dw [columns]: f32
// Mapping   fwd, bwd_dx: a block owns a row, its threads stride over the row's words
//           bwd_dw: a thread owns a column and walks down the rows, so the sum has a fixed order
// Launch    fwd, bwd_dx: grid rows; bwd_dw: grid ceil(columns / 256); block 256, 1 KiB shared memory;
//           16-bit rows have an even width (the host checks)
// Cost      fwd 2, bwd_dx 3 passes over the rows, about 4 FLOPs per element: bound by memory bandwidth
// Numerics  sums in f32, in a fixed order: deterministic; all writes, no adds
// Versions  this one, rms_norm_wide
// Twin      kernels-wgsl/rms_norm.wgsl. Reference: src/ops/rms_norm.rs. Paper: arXiv:1910.07467

// The sum of `value` over the block, by halving: the order is fixed.
__device__ __forceinline__ float block_sum(float value) {
    __shared__ float partial[256]; // [256]
    u32 thread = threadIdx.x;
    partial[thread] = value;
    __syncthreads();
    for (u32 half = 128; half > 0; half /= 2) {
        if (thread < half) partial[thread] += partial[thread + half];
        __syncthreads();
    }
    return partial[0];
}

extern "C" __global__ void __launch_bounds__(256)
rms_norm_fwd(const void* x, const void* weight, void* y, float* rstd, Params params) {
    u32 row = block_number();
    if (row >= params.rows) return;
    u32 start = row * params.columns;
    // [1] sum of squares
    float sum = 0.0f;
    for (u32 c = threadIdx.x; c < params.columns; c += 256) {
        float value = load<DT_X>(x, start + c);
        sum += value * value;
    }
    float r = 1.0f / sqrtf(block_sum(sum) / float(params.columns) + params.eps);
    if (threadIdx.x == 0) rstd[row] = r;
    // [2] normalise and scale, a word at a time
    constexpr u32 step = per_word(DT_Y);
    for (u32 c = threadIdx.x * step; c < params.columns; c += 256 * step) {
        for (u32 lane = 0; lane < step; lane++) {
            u32 i = start + c + lane;
            store<DT_Y>(y, i, load<DT_X>(x, i) * r * (load<DT_WEIGHT>(weight, c + lane) + params.offset));
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
rms_norm_bwd_dx(const void* dy, const void* x, const void* weight, const float* rstd, void* dx,
                Params params) {
    u32 row = block_number();
    if (row >= params.rows) return;
    u32 start = row * params.columns;
    float r = rstd[row];
    // [1] mean of g * n, where g = dy * w and n = x * rstd
    float sum = 0.0f;
    for (u32 c = threadIdx.x; c < params.columns; c += 256) {
        float g = load<DT_DY>(dy, start + c) * (load<DT_WEIGHT>(weight, c) + params.offset);
        sum += g * load<DT_X>(x, start + c) * r;
    }
    float mean = block_sum(sum) / float(params.columns);
    // [2] dx, a word at a time
    constexpr u32 step = per_word(DT_DX);
    for (u32 c = threadIdx.x * step; c < params.columns; c += 256 * step) {
        for (u32 lane = 0; lane < step; lane++) {
            u32 i = start + c + lane;
            float g = load<DT_DY>(dy, i) * (load<DT_WEIGHT>(weight, c + lane) + params.offset);
            store<DT_DX>(dx, i, r * (g - load<DT_X>(x, i) * r * mean));
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
rms_norm_bwd_dw(const void* dy, const void* x, const float* rstd, float* dw, Params params) {
    // [1] the column this thread owns
    u32 c = block_number() * 256 + threadIdx.x;
    if (c >= params.columns) return;
    // [2] down the rows
    float sum = 0.0f;
    for (u32 row = 0; row < params.rows; row++) {
        u32 i = row * params.columns + c;
        sum += load<DT_DY>(dy, i) * load<DT_X>(x, i) * rstd[row];
    }
    dw[c] = sum;
}
