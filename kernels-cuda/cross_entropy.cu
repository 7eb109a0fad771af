// Cross-entropy, from the statistics of the logits' softmax (softmax.cu).
//
//   losses     loss[r] = m + ln l - z
//   total      scaled_loss = INV_TOKENS LOSS_SCALE sum_r loss[r]
//   scale      y *= factor[0]: gradients taken in the forward meet the gradient of the loss
//   The gradient of the logits is softmax_bwd's
//
// Tensors   stats [count, 3] = (m, l, z); targets u32 [count], IGNORE for no loss; losses [count],
//           step_state [16], scaled_loss, factor [1]: f32; y [count]: f32 | bf16 | f16
// Mapping   losses: a thread owns a row; total: one block strides over all rows; scale: a thread owns a word
// Launch    grid losses ceil(count / 256); total 1; scale ceil(words / 256); split over x and y; block 256,
//           1 KiB shared memory
// Cost      up to 20 bytes a row; scale reads and writes y where the factor is not 1: bound by memory
//           bandwidth
// Numerics  exact zeros in rows without loss; sums in a fixed order: deterministic
// Twin      kernels-wgsl/cross_entropy.wgsl. Reference: src/ops/cross_entropy.rs. Paper: arXiv:2410.10989

struct Params {
    u32 count;
};

constexpr u32 IGNORE = 0xffffffff;

extern "C" __global__ void __launch_bounds__(256)
cross_entropy_losses(const float* stats, const u32* targets, float* losses, Params params) {
    u32 row = block_number() * 256 + threadIdx.x;
    if (row >= params.count) return;
    if (targets[row] == IGNORE) {
        losses[row] = 0.0f;
    } else {
        losses[row] = stats[row * 3] + logf(stats[row * 3 + 1]) - stats[row * 3 + 2];
    }
}

extern "C" __global__ void __launch_bounds__(256)
cross_entropy_total(const float* losses, const float* step_state, float* scaled_loss, Params params) {
    __shared__ float partial[256]; // [256]
    u32 thread = threadIdx.x;
    // [1] each thread's share
    float sum = 0.0f;
    for (u32 row = thread; row < params.count; row += 256) sum += losses[row];
    // [2] join them by halving: the order is fixed
    partial[thread] = sum;
    __syncthreads();
    for (u32 half = 128; half > 0; half /= 2) {
        if (thread < half) partial[thread] += partial[thread + half];
        __syncthreads();
    }
    if (thread == 0) scaled_loss[0] = partial[0] * step_state[INV_TOKENS] * step_state[LOSS_SCALE];
}

extern "C" __global__ void __launch_bounds__(256)
cross_entropy_scale(const float* factor, void* y, Params params) {
    // [1] the word this thread owns; nothing to do for the 1 that training passes
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_Y);
    if (first >= params.count || factor[0] == 1.0f) return;
    // [2] scale
    for (u32 i = first; i < first + per_word(DT_Y) && i < params.count; i++) {
        store<DT_Y>(y, i, load<DT_Y>(y, i) * factor[0]);
    }
}
