// Cross-entropy over rows of logits, which may come in slices of the vocabulary.
//
//   stats[r] = (m, l, z)   m = max logits, l = sum e^(logit - m), z = logit of the target
//   losses     loss[r] = m + ln l - z
//   bwd        dlogits = INV_TOKENS LOSS_SCALE (e^(logit - m) / l - [column is the target]), in place
//   total      scaled_loss = INV_TOKENS LOSS_SCALE sum_r loss[r]
//   scale      y *= factor[0]: gradients taken in the forward meet the gradient of the loss
//
// Tensors   logits [rows, columns], y: f32 | bf16 | f16; targets u32 [rows], IGNORE for no loss; stats
//           [rows, 3], losses [rows], step_state [16], scaled_loss, factor [1]: f32
// Mapping   stats, bwd: a block owns a row, its threads stride over it, bwd by words; losses: a thread
//           owns a row; total: one block strides over all rows; scale: a thread owns a word
// Launch    grid stats, bwd rows; losses ceil(rows / 256); total 1; scale ceil(words / 256); split over x
//           and y; block 256, 2 KiB shared memory; 16-bit rows have an even width (the host checks)
// Cost      stats reads the logits, bwd reads and writes them: bound by memory bandwidth
// Numerics  online softmax with f32 statistics, MASK finite; rows without loss are not read and get
//           exact zeros; sums in a fixed order: deterministic
// Twin      kernels-wgsl/cross_entropy.wgsl. Reference: src/ops/cross_entropy.rs. Paper: arXiv:2410.10989

struct Params {
    u32 rows;
    u32 columns;
    u32 first_column;
};

constexpr u32 IGNORE = 0xffffffff;
constexpr float MASK = -1e30f;

extern "C" __global__ void __launch_bounds__(256)
cross_entropy_stats(const void* logits, const u32* targets, float* stats, Params params) {
    __shared__ float largest[256]; // [256]
    __shared__ float partial[256]; // [256]
    u32 thread = threadIdx.x;
    u32 row = block_number();
    if (row >= params.rows || targets[row] == IGNORE) return;
    // [1] each thread's own maximum and sum, in one pass
    float m = MASK;
    float l = 0.0f;
    for (u32 c = thread; c < params.columns; c += 256) {
        float z = load<DT_LOGITS>(logits, row * params.columns + c);
        if (z > m) {
            l *= expf(m - z);
            m = z;
        }
        l += expf(z - m);
    }
    // [2] join them by halving: the order is fixed
    largest[thread] = m;
    partial[thread] = l;
    __syncthreads();
    for (u32 half = 128; half > 0; half /= 2) {
        if (thread < half) {
            float joint = fmaxf(largest[thread], largest[thread + half]);
            partial[thread] = partial[thread] * expf(largest[thread] - joint)
                + partial[thread + half] * expf(largest[thread + half] - joint);
            largest[thread] = joint;
        }
        __syncthreads();
    }
    // [3] join with earlier slices
    if (thread == 0) {
        if (params.first_column == 0) {
            stats[row * 3] = MASK;
            stats[row * 3 + 1] = 0.0f;
            stats[row * 3 + 2] = MASK;
        }
        float joint = fmaxf(stats[row * 3], largest[0]);
        stats[row * 3 + 1] = stats[row * 3 + 1] * expf(stats[row * 3] - joint)
            + partial[0] * expf(largest[0] - joint);
        stats[row * 3] = joint;
        u32 column = targets[row] - params.first_column;
        if (column < params.columns) {
            stats[row * 3 + 2] = load<DT_LOGITS>(logits, row * params.columns + column);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
cross_entropy_losses(const float* stats, const u32* targets, float* losses, Params params) {
    u32 row = block_number() * 256 + threadIdx.x;
    if (row >= params.rows) return;
    if (targets[row] == IGNORE) {
        losses[row] = 0.0f;
    } else {
        losses[row] = stats[row * 3] + logf(stats[row * 3 + 1]) - stats[row * 3 + 2];
    }
}

extern "C" __global__ void __launch_bounds__(256)
cross_entropy_bwd(const float* stats, const u32* targets, const float* step_state, void* logits,
                  Params params) {
    u32 row = block_number();
    if (row >= params.rows) return;
    // [1] what the row's logits have in common
    bool seen = targets[row] != IGNORE;
    u32 target_column = targets[row] - params.first_column;
    float scale = step_state[INV_TOKENS] * step_state[LOSS_SCALE];
    // [2] a word at a time
    constexpr u32 step = per_word(DT_LOGITS);
    for (u32 c = threadIdx.x * step; c < params.columns; c += 256 * step) {
        for (u32 lane = 0; lane < step; lane++) {
            u32 i = row * params.columns + c + lane;
            float d = 0.0f;
            if (seen) {
                float p = expf(load<DT_LOGITS>(logits, i) - stats[row * 3]) / stats[row * 3 + 1];
                d = scale * (p - (c + lane == target_column ? 1.0f : 0.0f));
            }
            store<DT_LOGITS>(logits, i, d);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
cross_entropy_total(const float* losses, const float* step_state, float* scaled_loss, Params params) {
    __shared__ float partial[256]; // [256]
    u32 thread = threadIdx.x;
    // [1] each thread's share
    float sum = 0.0f;
    for (u32 row = thread; row < params.rows; row += 256) sum += losses[row];
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
    if (first >= params.columns || factor[0] == 1.0f) return;
    // [2] scale
    for (u32 i = first; i < first + per_word(DT_Y) && i < params.columns; i++) {
        store<DT_Y>(y, i, load<DT_Y>(y, i) * factor[0]);
    }
}
