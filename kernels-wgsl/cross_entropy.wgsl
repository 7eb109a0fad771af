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
//           and y; block 256, 2 KiB workgroup memory; 16-bit rows have an even width (the host checks)
// Cost      stats reads the logits, bwd reads and writes them: bound by memory bandwidth
// Numerics  online softmax with f32 statistics, MASK finite; rows without loss are not read and get
//           exact zeros; sums in a fixed order: deterministic
// Twin      kernels-cuda/cross_entropy.cu. Reference: src/ops/cross_entropy.rs. Paper: arXiv:2410.10989

struct Params {
    rows: u32,
    columns: u32,
    first_column: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<u32>; // [rows, columns]
@group(0) @binding(1) var<storage, read> targets: array<u32>; // [rows]
@group(0) @binding(2) var<storage, read_write> stats: array<f32>; // [rows, 3]

@group(0) @binding(0) var<storage, read> done_stats: array<f32>; // [rows, 3]
@group(0) @binding(2) var<storage, read_write> losses: array<f32>; // [rows]

@group(0) @binding(2) var<storage, read> bwd_state: array<f32>; // [16]
@group(0) @binding(3) var<storage, read_write> dlogits: array<u32>; // [rows, columns]

@group(0) @binding(0) var<storage, read> all_losses: array<f32>; // [rows]
@group(0) @binding(1) var<storage, read> step_state: array<f32>; // [16]
@group(0) @binding(2) var<storage, read_write> scaled_loss: array<f32>; // [1]

@group(0) @binding(0) var<storage, read> factor: array<f32>; // [1]
@group(0) @binding(1) var<storage, read_write> y: array<u32>; // [columns]

@group(1) @binding(0) var<uniform> params: Params;

const IGNORE: u32 = 0xffffffffu;
const MASK: f32 = -1e30;

var<workgroup> largest: array<f32, 256>; // [256]
var<workgroup> partial: array<f32, 256>; // [256]

@compute @workgroup_size(256)
fn cross_entropy_stats(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = block_number(block, grid);
    if (row >= params.rows || targets[row] == IGNORE) {
        return;
    }
    // [1] each thread's own maximum and sum, in one pass
    var m = MASK;
    var l = 0.0;
    for (var c = thread; c < params.columns; c += 256u) {
        let i = row * params.columns + c;
        let z = unpack(logits[word_of(i, DT_LOGITS)], i, DT_LOGITS);
        if (z > m) {
            l *= exp(m - z);
            m = z;
        }
        l += exp(z - m);
    }
    // [2] join them by halving: the order is fixed
    largest[thread] = m;
    partial[thread] = l;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half = half / 2u) {
        if (thread < half) {
            let joint = max(largest[thread], largest[thread + half]);
            partial[thread] = partial[thread] * exp(largest[thread] - joint)
                + partial[thread + half] * exp(largest[thread + half] - joint);
            largest[thread] = joint;
        }
        workgroupBarrier();
    }
    // [3] join with earlier slices
    if (thread == 0u) {
        if (params.first_column == 0u) {
            stats[row * 3u] = MASK;
            stats[row * 3u + 1u] = 0.0;
            stats[row * 3u + 2u] = MASK;
        }
        let joint = max(stats[row * 3u], largest[0]);
        stats[row * 3u + 1u] = stats[row * 3u + 1u] * exp(stats[row * 3u] - joint)
            + partial[0] * exp(largest[0] - joint);
        stats[row * 3u] = joint;
        let column = targets[row] - params.first_column;
        if (column < params.columns) {
            let i = row * params.columns + column;
            stats[row * 3u + 2u] = unpack(logits[word_of(i, DT_LOGITS)], i, DT_LOGITS);
        }
    }
}

@compute @workgroup_size(256)
fn cross_entropy_losses(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = block_number(block, grid) * 256u + thread;
    if (row >= params.rows) {
        return;
    }
    if (targets[row] == IGNORE) {
        losses[row] = 0.0;
    } else {
        losses[row] = done_stats[row * 3u] + log(done_stats[row * 3u + 1u]) - done_stats[row * 3u + 2u];
    }
}

@compute @workgroup_size(256)
fn cross_entropy_bwd(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = block_number(block, grid);
    if (row >= params.rows) {
        return;
    }
    // [1] what the row's logits have in common
    let seen = targets[row] != IGNORE;
    let target_column = targets[row] - params.first_column;
    let scale = bwd_state[INV_TOKENS] * bwd_state[LOSS_SCALE];
    // [2] a word at a time
    let step = per_word(DT_LOGITS);
    for (var c = thread * step; c < params.columns; c += 256u * step) {
        let i = row * params.columns + c;
        let word = dlogits[word_of(i, DT_LOGITS)];
        var d: array<f32, 2>;
        for (var lane = 0u; lane < step && seen; lane++) {
            let z = unpack(word, i + lane, DT_LOGITS);
            let p = exp(z - done_stats[row * 3u]) / done_stats[row * 3u + 1u];
            d[lane] = scale * (p - select(0.0, 1.0, c + lane == target_column));
        }
        dlogits[word_of(i, DT_LOGITS)] = pack(d[0], d[1], DT_LOGITS);
    }
}

@compute @workgroup_size(256)
fn cross_entropy_total(@builtin(local_invocation_index) thread: u32) {
    // [1] each thread's share
    var sum = 0.0;
    for (var row = thread; row < params.rows; row += 256u) {
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
    if (first >= params.columns || factor[0] == 1.0) {
        return;
    }
    // [2] scale
    let word = y[word_of(first, DT_Y)];
    let low = unpack(word, first, DT_Y) * factor[0];
    let high = unpack(word, first + 1u, DT_Y) * factor[0];
    y[word_of(first, DT_Y)] = pack(low, high, DT_Y);
}
