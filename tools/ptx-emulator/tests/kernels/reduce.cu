// Reductions: warp shuffles, a vote, and shared memory between warps.

__device__ float warp_sum(float v) {
    for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}

__device__ float warp_max(float v) {
    for (int offset = 16; offset > 0; offset >>= 1) v = fmaxf(v, __shfl_down_sync(0xffffffffu, v, offset));
    return __shfl_sync(0xffffffffu, v, 0);
}

__device__ float block_sum(float v, float* partial) {
    unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    v = warp_sum(v);
    if (lane == 0) partial[warp] = v;
    __syncthreads();
    float total = 0.0f;
    for (unsigned w = 0; w < blockDim.x >> 5; ++w) total += partial[w];
    __syncthreads();
    return total;
}

__device__ float block_max(float v, float* partial) {
    unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    v = warp_max(v);
    if (lane == 0) partial[warp] = v;
    __syncthreads();
    float top = partial[0];
    for (unsigned w = 1; w < blockDim.x >> 5; ++w) top = fmaxf(top, partial[w]);
    __syncthreads();
    return top;
}

// out[block] = sum over the block's slice of x
extern "C" __global__ void block_reduce(const float* x, float* out, unsigned n) {
    __shared__ float partial[32];
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    float total = block_sum(i < n ? x[i] : 0.0f, partial);
    if (threadIdx.x == 0) out[blockIdx.x] = total;
}

// One block per row: y = softmax(x)
extern "C" __global__ void softmax_row(const float* x, float* y, unsigned columns) {
    __shared__ float partial[32];
    const float* row = x + (size_t)blockIdx.x * columns;
    float top = __int_as_float(0xff800000);
    for (unsigned c = threadIdx.x; c < columns; c += blockDim.x) top = fmaxf(top, row[c]);
    top = block_max(top, partial);
    float sum = 0.0f;
    for (unsigned c = threadIdx.x; c < columns; c += blockDim.x) sum += expf(row[c] - top);
    sum = block_sum(sum, partial);
    for (unsigned c = threadIdx.x; c < columns; c += blockDim.x)
        y[(size_t)blockIdx.x * columns + c] = expf(row[c] - top) / sum;
}

// One block per row: y = x / sqrt(mean(x^2) + eps) * w
extern "C" __global__ void rmsnorm(const float* x, const float* w, float* y, unsigned columns, float eps) {
    __shared__ float partial[32];
    const float* row = x + (size_t)blockIdx.x * columns;
    float sum = 0.0f;
    for (unsigned c = threadIdx.x; c < columns; c += blockDim.x) sum += row[c] * row[c];
    float rstd = rsqrtf(block_sum(sum, partial) / columns + eps);
    for (unsigned c = threadIdx.x; c < columns; c += blockDim.x)
        y[(size_t)blockIdx.x * columns + c] = row[c] * rstd * w[c];
}

// Votes and integer reductions of one warp: out = [ballot, any, all, redux sum, min, max, or, match]
extern "C" __global__ void votes(const unsigned* x, unsigned* out) {
    unsigned v = x[threadIdx.x];
    unsigned ballot = __ballot_sync(0xffffffffu, v & 1);
    unsigned any = __any_sync(0xffffffffu, v == 7);
    unsigned all = __all_sync(0xffffffffu, v < 1000);
    unsigned sum = __reduce_add_sync(0xffffffffu, v);
    unsigned low = __reduce_min_sync(0xffffffffu, v);
    unsigned high = __reduce_max_sync(0xffffffffu, v);
    unsigned bits = __reduce_or_sync(0xffffffffu, v);
    unsigned same = __match_any_sync(0xffffffffu, v & 3);
    unsigned up = __shfl_up_sync(0xffffffffu, v, 3, 8);
    unsigned half = 0;
    if (threadIdx.x < 16) half = __shfl_xor_sync(0x0000ffffu, v, 5) + __popc(__activemask());
    unsigned results[10] = {ballot, any, all, sum, low, high, bits, same, up, half};
#pragma unroll
    for (int k = 0; k < 10; ++k) out[k * 32 + threadIdx.x] = results[k];
}
