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
// Launch    grid ceil(count / 256) split over x and y, muon_norm 1; block 256; muon_norm 1 KiB
//           workgroup memory; the host checks shapes
// Cost      16, 8, 8 and 12 bytes and up to 6 FLOPs per element: bound by memory bandwidth, and small
//           beside the products
// Numerics  the sum goes by halving, in a fixed order: deterministic. Where SKIP is set the update is 0,
//           and neither momentum nor param is written
// Twin      kernels-cuda/muon.cu. Reference: src/ops/muon.rs

struct MomentumParams {
    count: u32,
    one_minus_momentum: f32,
}

struct NormParams {
    count: u32,
    eps: f32,
}

struct NormalizeParams {
    count: u32,
}

struct ScaleParams {
    count: u32,
    factor: f32,
}

struct ApplyParams {
    count: u32,
    lr_ratio: f32,
    weight_decay: f32,
}

@group(0) @binding(0) var<storage, read> grad: array<f32>; // [count]
@group(0) @binding(1) var<storage, read> state: array<f32>; // [16]
@group(0) @binding(2) var<storage, read_write> momentum: array<f32>; // [count]
@group(0) @binding(3) var<storage, read_write> new_update: array<f32>; // [count]
@group(1) @binding(0) var<uniform> momentum_params: MomentumParams;

@group(0) @binding(0) var<storage, read> partials: array<f32>; // [chunks]
@group(0) @binding(1) var<storage, read_write> new_norm: array<f32>; // [1]
@group(1) @binding(0) var<uniform> norm_params: NormParams;

@group(0) @binding(0) var<storage, read> norm: array<f32>; // [1]
@group(0) @binding(1) var<storage, read_write> x: array<f32>; // [count]
@group(1) @binding(0) var<uniform> normalize_params: NormalizeParams;

@group(0) @binding(0) var<storage, read> source: array<f32>; // [count]
@group(0) @binding(1) var<storage, read_write> out: array<f32>; // [count]
@group(1) @binding(0) var<uniform> scale_params: ScaleParams;

@group(0) @binding(0) var<storage, read> update: array<f32>; // [count]
@group(0) @binding(2) var<storage, read_write> param: array<f32>; // [count]
@group(1) @binding(0) var<uniform> apply_params: ApplyParams;

var<workgroup> sums: array<f32, 256>; // [256]

@compute @workgroup_size(256)
fn muon_momentum(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the element this thread owns
    let i = block_number(block, grid) * 256u + thread;
    if (i >= momentum_params.count) {
        return;
    }
    if (state[SKIP] != 0.0) {
        new_update[i] = 0.0;
        return;
    }
    // [2] momentum, and the look ahead
    let g = grad[i] * state[CLIP];
    let m = momentum[i] + momentum_params.one_minus_momentum * (g - momentum[i]);
    momentum[i] = m;
    new_update[i] = m - momentum_params.one_minus_momentum * (m - g);
}

@compute @workgroup_size(256)
fn muon_norm(@builtin(local_invocation_index) thread: u32) {
    // [1] the sum of all partial sums
    var sum = 0.0;
    for (var i = thread; i < norm_params.count; i += 256u) {
        sum += partials[i];
    }
    sums[thread] = sum;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half /= 2u) {
        if (thread < half) {
            sums[thread] += sums[thread + half];
        }
        workgroupBarrier();
    }
    // [2] its root
    if (thread == 0u) {
        new_norm[0] = max(sqrt(sums[0]), norm_params.eps);
    }
}

@compute @workgroup_size(256)
fn muon_normalize(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the element this thread owns
    let i = block_number(block, grid) * 256u + thread;
    if (i < normalize_params.count) {
        x[i] = x[i] / norm[0];
    }
}

@compute @workgroup_size(256)
fn muon_scale(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the element this thread owns
    let i = block_number(block, grid) * 256u + thread;
    if (i < scale_params.count) {
        out[i] = scale_params.factor * source[i];
    }
}

@compute @workgroup_size(256)
fn muon_apply(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the element this thread owns
    let i = block_number(block, grid) * 256u + thread;
    if (i >= apply_params.count || state[SKIP] != 0.0) {
        return;
    }
    // [2] decay and step
    let keep = 1.0 - state[LEARNING_RATE] * apply_params.weight_decay;
    param[i] = param[i] * keep - state[LEARNING_RATE] * apply_params.lr_ratio * update[i];
}
