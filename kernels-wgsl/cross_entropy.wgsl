// Cross-entropy, from the statistics of the logits' softmax (softmax.wgsl).
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
//           1 KiB workgroup memory
// Cost      up to 20 bytes a row; scale reads and writes y where the factor is not 1: bound by memory
//           bandwidth
// Numerics  exact zeros in rows without loss; sums in a fixed order: deterministic
// Twin      kernels-cuda/cross_entropy.cu. Reference: src/ops/cross_entropy.rs. Paper: arXiv:2410.10989

struct Params {
    count: u32,
}

@group(0) @binding(0) var<storage, read> stats: array<f32>; // [count, 3]
@group(0) @binding(1) var<storage, read> targets: array<u32>; // [count]
@group(0) @binding(2) var<storage, read_write> losses: array<f32>; // [count]

@group(0) @binding(0) var<storage, read> all_losses: array<f32>; // [count]
@group(0) @binding(1) var<storage, read> step_state: array<f32>; // [16]
@group(0) @binding(2) var<storage, read_write> scaled_loss: array<f32>; // [1]

@group(0) @binding(0) var<storage, read> factor: array<f32>; // [1]
@group(0) @binding(1) var<storage, read_write> y: array<u32>; // [count]

@group(1) @binding(0) var<uniform> params: Params;

const IGNORE: u32 = 0xffffffffu;

var<workgroup> partial: array<f32, 256>; // [256]

@compute @workgroup_size(256)
fn cross_entropy_losses(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = block_number(block, grid) * 256u + thread;
    if (row >= params.count) {
        return;
    }
    if (targets[row] == IGNORE) {
        losses[row] = 0.0;
    } else {
        losses[row] = stats[row * 3u] + log(stats[row * 3u + 1u]) - stats[row * 3u + 2u];
    }
}

@compute @workgroup_size(256)
fn cross_entropy_total(@builtin(local_invocation_index) thread: u32) {
    // [1] each thread's share
    var sum = 0.0;
    for (var row = thread; row < params.count; row += 256u) {
        sum += all_losses[row];
    }
    // [2] join them by halving: the order is fixed
    partial[thread] = sum;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half = half / 2u) {
        if (thread < half) {
            partial[thread] += partial[thread + half];
        }
        workgroupBarrier();
    }
    if (thread == 0u) {
        scaled_loss[0] = partial[0] * step_state[INV_TOKENS] * step_state[LOSS_SCALE];
    }
}

@compute @workgroup_size(256)
fn cross_entropy_scale(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the word this thread owns; nothing to do for the 1 that training passes
    let first = (block_number(block, grid) * 256u + thread) * per_word(DT_Y);
    if (first >= params.count || factor[0] == 1.0) {
        return;
    }
    // [2] scale
    let word = y[word_of(first, DT_Y)];
    let low = unpack(word, first, DT_Y) * factor[0];
    let high = unpack(word, first + 1u, DT_Y) * factor[0];
    y[word_of(first, DT_Y)] = pack(low, high, DT_Y);
}
