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
// Twin      kernels-cuda/adamw.cu. Reference: src/ops/adamw.rs. Paper: arXiv:1711.05101

struct Params {
    count: u32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
    lr_ratio: f32,
}

@group(0) @binding(0) var<storage, read> grad: array<f32>; // [count]
@group(0) @binding(1) var<storage, read> state: array<f32>; // [16]
@group(0) @binding(2) var<storage, read_write> param: array<f32>; // [count]
@group(0) @binding(3) var<storage, read_write> m: array<f32>; // [count]
@group(0) @binding(4) var<storage, read_write> v: array<f32>; // [count]
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn adamw(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the element this thread owns
    let i = block_number(block, grid) * 256u + thread;
    if (i >= params.count || state[SKIP] != 0.0) {
        return;
    }
    // [2] the moments
    let g = grad[i] * state[CLIP];
    let m_new = params.beta1 * m[i] + (1.0 - params.beta1) * g;
    let v_new = params.beta2 * v[i] + (1.0 - params.beta2) * g * g;
    m[i] = m_new;
    v[i] = v_new;
    // [3] decay and step
    let root = sqrt(v_new / state[BIAS_CORRECTION2]) + params.eps;
    let lr = state[LEARNING_RATE] * params.lr_ratio;
    let step_size = lr / state[BIAS_CORRECTION1];
    param[i] = param[i] * (1.0 - lr * params.weight_decay) - step_size * m_new / root;
}
