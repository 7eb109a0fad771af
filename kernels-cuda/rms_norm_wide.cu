// RMSNorm over wide rows, forward and backward: a row is read once, 16 bytes at a time, and stays in registers.
//
//   rstd[t] = 1 / sqrt(mean_c x[t,c]^2 + eps)
//   fwd      y[t,c]  = x[t,c] * rstd[t] * w[c],  w[c] = weight[c] + offset (0, or Gemma's 1)
//   bwd_dx   dx[t,c] = rstd[t] * (g - x[t,c] * rstd[t] * mean_c(g * x * rstd)),  g = dy[t,c] * w[c]
//
// Tensors   x, y, dy, dx [rows, columns], weight [columns]: f32 | bf16 | f16; rstd [rows]: f32
// Mapping   a block owns a row, a thread CHUNKS chunks of 8 elements, 256 chunks apart:
//
//             row   [ thread 0 | thread 1 | ... | thread 255 | thread 0 | ... ]
//                        8          8                 8           8
//
// Launch    grid rows; block 256; columns are a multiple of 8, at most 2048 CHUNKS (the host checks)
// Cost      fwd 2, bwd_dx 3 times the bytes of the rows, about 4 FLOPs per element: bound by memory bandwidth.
//           All loads of a row are on their way before the first is used
// Numerics  sums in f32, in a fixed order: deterministic; all writes, no adds
// Versions  rms_norm, this one; not yet measured on a device
// Portable  kernels-cuda/rms_norm.cu. Reference: src/ops/rms_norm.rs.
//           Paper: arXiv:1910.07467

// The sum of `value` over the block: by warps, then over their 8 sums in order.
__device__ __forceinline__ float block_sum(float value) {
    __shared__ float of_warps[8]; // [8]
    for (u32 lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffff, value, lanes);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.0f;
    for (u32 warp = 0; warp < 8; warp++) sum += of_warps[warp];
    return sum;
}

// The number of the thread's j-th chunk in a row.
__device__ __forceinline__ u32 chunk_of(u32 j) { return j * 256 + threadIdx.x; }

extern "C" __global__ void __launch_bounds__(256)
rms_norm_fwd_wide(const void* x, const void* weight, void* y, float* rstd, Params params) {
    u32 row = block_number();
    if (row >= params.rows) return;
    u32 chunks = params.columns / 8;
    // [1] the row, and its sum of squares
    float values[CHUNKS][8] = {};
#pragma unroll
    for (u32 j = 0; j < CHUNKS; j++) {
        if (chunk_of(j) < chunks) load_chunk<DT_X>(values[j], x, row * chunks + chunk_of(j));
    }
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < CHUNKS * 8; i++) sum += values[i / 8][i % 8] * values[i / 8][i % 8];
    float r = 1.0f / sqrtf(block_sum(sum) / float(params.columns) + params.eps);
    if (threadIdx.x == 0) rstd[row] = r;
    // [2] normalise and scale
#pragma unroll
    for (u32 j = 0; j < CHUNKS; j++) {
        if (chunk_of(j) >= chunks) break;
        float w[8];
        load_chunk<DT_WEIGHT>(w, weight, chunk_of(j));
        for (u32 i = 0; i < 8; i++) values[j][i] *= r * (w[i] + params.offset);
        store_chunk<DT_Y>(y, row * chunks + chunk_of(j), values[j]);
    }
}

extern "C" __global__ void __launch_bounds__(256)
rms_norm_bwd_dx_wide(const void* dy, const void* x, const void* weight, const float* rstd, void* dx,
                     Params params) {
    u32 row = block_number();
    if (row >= params.rows) return;
    u32 chunks = params.columns / 8;
    float r = rstd[row];
    // [1] n = x * rstd and g = dy * w, and the mean of their products
    float n[CHUNKS][8] = {}, g[CHUNKS][8] = {};
#pragma unroll
    for (u32 j = 0; j < CHUNKS; j++) {
        if (chunk_of(j) >= chunks) break;
        load_chunk<DT_X>(n[j], x, row * chunks + chunk_of(j));
        load_chunk<DT_DY>(g[j], dy, row * chunks + chunk_of(j));
    }
    float sum = 0.0f;
#pragma unroll
    for (u32 j = 0; j < CHUNKS; j++) {
        if (chunk_of(j) >= chunks) break;
        float w[8];
        load_chunk<DT_WEIGHT>(w, weight, chunk_of(j));
        for (u32 i = 0; i < 8; i++) {
            n[j][i] *= r;
            g[j][i] *= w[i] + params.offset;
            sum += n[j][i] * g[j][i];
        }
    }
    float mean = block_sum(sum) / float(params.columns);
    // [2] dx
#pragma unroll
    for (u32 j = 0; j < CHUNKS; j++) {
        if (chunk_of(j) >= chunks) break;
        for (u32 i = 0; i < 8; i++) g[j][i] = r * (g[j][i] - n[j][i] * mean);
        store_chunk<DT_DX>(dx, row * chunks + chunk_of(j), g[j]);
    }
}
