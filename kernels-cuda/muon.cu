// Muon of one matrix: what goes on around the products of its Newton-Schulz iterations.
//
//   muon_momentum    g = grad * CLIP;  momentum += (1 - mu) (g - momentum)
//                    update = momentum - (1 - mu) (momentum - g)                 Nesterov
//   muon_norm        norm = max(sqrt(sum of partials), eps)                      partials of sum_squares
//   muon_normalize   x = x / norm
//   muon_scale       out = factor * source                the term that a product is then added to
//   muon_apply       param = param (1 - LEARNING_RATE weight_decay) - LEARNING_RATE lr_ratio update
//
// Tensors   grad, momentum, update, x, source, out, param [count]; partials [chunks of 4096]; norm [1];
//           state [16] (the step state): f32
// Mapping   a thread owns one element; muon_norm: one block owns everything
// Launch    grid ceil(count / 256) split over x and y, muon_norm 1; block 256; muon_norm 1 KiB shared
//           memory; the host checks shapes
// Cost      16, 8, 8 and 12 bytes and up to 6 FLOPs per element: bound by memory bandwidth, and small
//           beside the products
// Numerics  the sum goes by halving, in a fixed order: deterministic. Where SKIP is set the update is 0,
//           and neither momentum nor param is written
// Twin      kernels-wgsl/muon.wgsl. Reference: src/ops/muon.rs

struct MomentumParams {
    u32 count;
    float one_minus_momentum;
};

struct NormParams {
    u32 count;
    float eps;
};

struct NormalizeParams {
    u32 count;
};

struct ScaleParams {
    u32 count;
    float factor;
};

struct ApplyParams {
    u32 count;
    float lr_ratio;
    float weight_decay;
};

extern "C" __global__ void __launch_bounds__(256)
muon_momentum(const float* grad, const float* state, float* momentum, float* new_update,
              MomentumParams params) {
    // [1] the element this thread owns
    u32 i = block_number() * 256 + threadIdx.x;
    if (i >= params.count) return;
    if (state[SKIP] != 0.0f) {
        new_update[i] = 0.0f;
        return;
    }
    // [2] momentum, and the look ahead
    float g = grad[i] * state[CLIP];
    float m = momentum[i] + params.one_minus_momentum * (g - momentum[i]);
    momentum[i] = m;
    new_update[i] = m - params.one_minus_momentum * (m - g);
}

extern "C" __global__ void __launch_bounds__(256)
muon_norm(const float* partials, float* new_norm, NormParams params) {
    __shared__ float sums[256]; // [256]
    // [1] the sum of all partial sums
    u32 thread = threadIdx.x;
    float sum = 0.0f;
    for (u32 i = thread; i < params.count; i += 256) sum += partials[i];
    sums[thread] = sum;
    __syncthreads();
    for (u32 half = 128; half > 0; half /= 2) {
        if (thread < half) sums[thread] += sums[thread + half];
        __syncthreads();
    }
    // [2] its root
    if (thread == 0) new_norm[0] = fmaxf(sqrtf(sums[0]), params.eps);
}

extern "C" __global__ void __launch_bounds__(256)
muon_normalize(const float* norm, float* x, NormalizeParams params) {
    // [1] the element this thread owns
    u32 i = block_number() * 256 + threadIdx.x;
    if (i < params.count) x[i] = x[i] / norm[0];
}

extern "C" __global__ void __launch_bounds__(256)
muon_scale(const float* source, float* out, ScaleParams params) {
    // [1] the element this thread owns
    u32 i = block_number() * 256 + threadIdx.x;
    if (i < params.count) out[i] = params.factor * source[i];
}

extern "C" __global__ void __launch_bounds__(256)
muon_apply(const float* update, const float* state, float* param, ApplyParams params) {
    // [1] the element this thread owns
    u32 i = block_number() * 256 + threadIdx.x;
    if (i >= params.count || state[SKIP] != 0.0f) return;
    // [2] decay and step
    float keep = 1.0f - state[LEARNING_RATE] * params.weight_decay;
    param[i] = param[i] * keep - state[LEARNING_RATE] * params.lr_ratio * update[i];
}
