// AdamW, one fused pass.
//
//   g = grad * CLIP
//   m = beta1 m + (1 - beta1) g
//   v = beta2 v + (1 - beta2) g^2
//   lr = LEARNING_RATE lr_ratio
//   param = param (1 - lr weight_decay) - lr / BIAS_CORRECTION1 * m / (sqrt(v / BIAS_CORRECTION2) + eps)
//
// Tensors   grad, param, m, v [count], f32; state [16], f32 (the step state)
// Mapping   a thread owns one element
// Launch    grid ceil(count / 256) split over x and y, block 256; the host checks lengths
// Cost      28 bytes and about 14 FLOPs per element: bound by memory bandwidth
// Numerics  nothing is written where SKIP is set; deterministic; cases compare the change
// Twin      kernels-wgsl/adamw.wgsl. Reference: src/ops/adamw.rs. Paper: arXiv:1711.05101

struct Params {
    u32 count;
    float beta1;
    float beta2;
    float eps;
    float weight_decay;
    float lr_ratio;
};

extern "C" __global__ void __launch_bounds__(256)
adamw(const float* grad, const float* state, float* param, float* m, float* v, Params params) {
    // [1] the element this thread owns
    u32 i = block_number() * 256 + threadIdx.x;
    if (i >= params.count || state[SKIP] != 0.0f) return;
    // [2] the moments
    float g = grad[i] * state[CLIP];
    float m_new = params.beta1 * m[i] + (1.0f - params.beta1) * g;
    float v_new = params.beta2 * v[i] + (1.0f - params.beta2) * g * g;
    m[i] = m_new;
    v[i] = v_new;
    // [3] decay and step
    float root = sqrtf(v_new / state[BIAS_CORRECTION2]) + params.eps;
    float lr = state[LEARNING_RATE] * params.lr_ratio;
    float step_size = lr / state[BIAS_CORRECTION1];
    param[i] = param[i] * (1.0f - lr * params.weight_decay) - step_size * m_new / root;
}
