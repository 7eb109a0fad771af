// Log-probabilities of the targets, and what else is told of each token's distribution, from the statistics
// of its logits' softmax.
//
//   fwd       logprob[r] = z - m - ln l
//   details   entropy[r] = ln l - s / l, in nats: the mean of -(logit - m - ln l)
//             is_most_likely[r] = [target is a]
//             log_sum_squares[r] = ln q - 2 ln l: the logarithm of the sum of p^2
//             mean_logit[r] = t / vocabulary
//   The backward is softmax_bwd on the logits: dlogits = dout[r] ([column is the target] - p)
//
// Tensors   stats [rows, width] = (m, l, z), and for details (m, l, z, s, a, q, t) (softmax.wgsl): f32; targets
//           u32 [rows], IGNORE for none; all that is written [rows]: f32
// Mapping   a thread owns a row
// Launch    grid ceil(rows / 256), split over x and y; block 256; details: width is 7 (the host's)
// Cost      up to 48 bytes a row: nothing beside the logits
// Numerics  exact zeros in rows without target; the entropy's two terms are not below 0: no cancellation
// Twin      kernels-cuda/token_logprobs.cu. Reference: src/ops/token_logprobs.rs

struct Params {
    rows: u32,
    width: u32,
    vocabulary: u32,
}

@group(0) @binding(0) var<storage, read> stats: array<f32>; // [rows, width]
@group(0) @binding(1) var<storage, read> targets: array<u32>; // [rows]
@group(0) @binding(2) var<storage, read_write> logprobs: array<f32>; // [rows]

@group(0) @binding(2) var<storage, read_write> entropy: array<f32>; // [rows]
@group(0) @binding(3) var<storage, read_write> is_most_likely: array<f32>; // [rows]
@group(0) @binding(4) var<storage, read_write> log_sum_squares: array<f32>; // [rows]
@group(0) @binding(5) var<storage, read_write> mean_logit: array<f32>; // [rows]

@group(1) @binding(0) var<uniform> params: Params;

const IGNORE: u32 = 0xffffffffu;

@compute @workgroup_size(256)
fn token_logprobs_fwd(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = block_number(block, grid) * 256u + thread;
    if (row >= params.rows) {
        return;
    }
    let i = row * params.width;
    if (targets[row] == IGNORE) {
        logprobs[row] = 0.0;
    } else {
        logprobs[row] = stats[i + 2u] - stats[i] - log(stats[i + 1u]);
    }
}

@compute @workgroup_size(256)
fn token_logprobs_details(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = block_number(block, grid) * 256u + thread;
    if (row >= params.rows) {
        return;
    }
    let i = row * params.width;
    if (targets[row] == IGNORE) {
        entropy[row] = 0.0;
        is_most_likely[row] = 0.0;
        log_sum_squares[row] = 0.0;
        mean_logit[row] = 0.0;
    } else {
        entropy[row] = log(stats[i + 1u]) - stats[i + 3u] / stats[i + 1u];
        is_most_likely[row] = select(0.0, 1.0, f32(targets[row]) == stats[i + 4u]);
        log_sum_squares[row] = log(stats[i + 5u]) - 2.0 * log(stats[i + 1u]);
        mean_logit[row] = stats[i + 6u] / f32(params.vocabulary);
    }
}
