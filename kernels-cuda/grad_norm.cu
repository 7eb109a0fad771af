// The global gradient norm, in two steps, and what the optimizer makes of it.
//
//   sum_squares        partials[first + b] = sum over chunk b of grad^2, chunks of 4096
//   grad_norm_finish   norm = sqrt(sum of partials) / LOSS_SCALE
//                      CLIP = min(1, max_norm / (norm + 1e-6)) / LOSS_SCALE   (max_norm 0: no clipping)
//                      SKIP = 1 where the norm is not finite
//
// Tensors   grad [count], partials [blocks of all tensors], state [16] (the step state): f32
// Mapping   sum_squares: a block owns a chunk; finish: one block owns everything
// Launch    grid ceil(count / 4096) split over x and y, and 1; block 256, 1 KiB shared memory
// Cost      4 bytes and 2 FLOPs per element: bound by memory bandwidth
// Numerics  sums by halving, in a fixed order: deterministic
// Twin      kernels-wgsl/grad_norm.wgsl. Reference: src/ops/grad_norm.rs

struct SumParams {
    u32 count;
    u32 first;
};

struct FinishParams {
    u32 count;
    float max_norm;
};

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
sum_squares(const float* grad, float* partials, SumParams params) {
    // [1] this block's chunk
    u32 number = block_number();
    u32 start = number * 4096;
    if (start >= params.count) return;
    // [2] its squares
    float sum = 0.0f;
    for (u32 i = start + threadIdx.x; i < min(start + 4096, params.count); i += 256) {
        sum += grad[i] * grad[i];
    }
    float total = block_sum(sum);
    if (threadIdx.x == 0) partials[params.first + number] = total;
}

extern "C" __global__ void __launch_bounds__(256)
grad_norm_finish(const float* partials, float* state, FinishParams params) {
    // [1] the sum of all partial sums
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < params.count; i += 256) {
        sum += partials[i];
    }
    float total = block_sum(sum);
    if (threadIdx.x != 0) return;
    // [2] norm, clip factor, skip flag; an exponent of all ones is an infinity or a NaN
    float norm = sqrtf(total) / state[LOSS_SCALE];
    float coefficient = params.max_norm / (norm + 1e-6f);
    float clip = params.max_norm > 0.0f && coefficient < 1.0f ? coefficient : 1.0f;
    bool finite = (__float_as_uint(norm) & 0x7f800000u) != 0x7f800000u;
    state[GRAD_NORM] = norm;
    state[CLIP] = clip / state[LOSS_SCALE];
    state[SKIP] = finite ? 0.0f : 1.0f;
}
