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
// Twin      kernels-cuda/grad_norm.cu. Reference: src/ops/grad_norm.rs

struct SumParams {
    count: u32,
    first: u32,
}

struct FinishParams {
    count: u32,
    max_norm: f32,
}

@group(0) @binding(0) var<storage, read> grad: array<f32>; // [count]
@group(0) @binding(1) var<storage, read_write> partials: array<f32>; // [blocks]
@group(1) @binding(0) var<uniform> sum_params: SumParams;

@group(0) @binding(0) var<storage, read> all_partials: array<f32>; // [blocks]
@group(0) @binding(1) var<storage, read_write> state: array<f32>; // [16]
@group(1) @binding(0) var<uniform> finish_params: FinishParams;

var<workgroup> partial: array<f32, 256>; // [256]

// The sum of `value` over the block, by halving: the order is fixed.
fn block_sum(value: f32, thread: u32) -> f32 {
    partial[thread] = value;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half = half / 2u) {
        if (thread < half) {
            partial[thread] += partial[thread + half];
        }
        workgroupBarrier();
    }
    return partial[0];
}

@compute @workgroup_size(256)
fn sum_squares(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] this block's chunk
    let number = block_number(block, grid);
    let start = number * 4096u;
    if (start >= sum_params.count) {
        return;
    }
    // [2] its squares
    var sum = 0.0;
    for (var i = start + thread; i < min(start + 4096u, sum_params.count); i += 256u) {
        sum += grad[i] * grad[i];
    }
    let total = block_sum(sum, thread);
    if (thread == 0u) {
        partials[sum_params.first + number] = total;
    }
}

@compute @workgroup_size(256)
fn grad_norm_finish(@builtin(local_invocation_index) thread: u32) {
    // [1] the sum of all partial sums
    var sum = 0.0;
    for (var i = thread; i < finish_params.count; i += 256u) {
        sum += all_partials[i];
    }
    let total = block_sum(sum, thread);
    if (thread != 0u) {
        return;
    }
    // [2] norm, clip factor, skip flag; an exponent of all ones is an infinity or a NaN
    let norm = sqrt(total) / state[LOSS_SCALE];
    let coefficient = finish_params.max_norm / (norm + 1e-6);
    let clip = select(1.0, coefficient, finish_params.max_norm > 0.0 && coefficient < 1.0);
    let finite = (bitcast<u32>(norm) & 0x7f800000u) != 0x7f800000u;
    state[GRAD_NORM] = norm;
    state[CLIP] = clip / state[LOSS_SCALE];
    state[SKIP] = select(1.0, 0.0, finite);
}
