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
// Tensors   stats [rows, width] = (m, l, z), and for details (m, l, z, s, a, q, t) (softmax.cu): f32; targets u32
//           [rows], IGNORE for none; all that is written [rows]: f32
// Mapping   a thread owns a row
// Launch    grid ceil(rows / 256), split over x and y; block 256; details: width is 7 (the host's)
// Cost      up to 48 bytes a row: nothing beside the logits
// Numerics  exact zeros in rows without target; the entropy's two terms are not below 0: no cancellation
// Twin      kernels-wgsl/token_logprobs.wgsl. Reference: src/ops/token_logprobs.rs

struct Params {
    u32 rows;
    u32 width;
    u32 vocabulary;
};

constexpr u32 IGNORE = 0xffffffff;

extern "C" __global__ void __launch_bounds__(256)
token_logprobs_fwd(const float* stats, const u32* targets, float* logprobs, Params params) {
    u32 row = block_number() * 256 + threadIdx.x;
    if (row >= params.rows) return;
    u32 i = row * params.width;
    logprobs[row] = targets[row] == IGNORE ? 0.0f : stats[i + 2] - stats[i] - logf(stats[i + 1]);
}

extern "C" __global__ void __launch_bounds__(256)
token_logprobs_details(const float* stats, const u32* targets, float* entropy, float* is_most_likely,
                       float* log_sum_squares, float* mean_logit, Params params) {
    u32 row = block_number() * 256 + threadIdx.x;
    if (row >= params.rows) return;
    u32 i = row * params.width;
    if (targets[row] == IGNORE) {
        entropy[row] = 0.0f;
        is_most_likely[row] = 0.0f;
        log_sum_squares[row] = 0.0f;
        mean_logit[row] = 0.0f;
    } else {
        entropy[row] = logf(stats[i + 1]) - stats[i + 3] / stats[i + 1];
        is_most_likely[row] = float(targets[row]) == stats[i + 4] ? 1.0f : 0.0f;
        log_sum_squares[row] = logf(stats[i + 5]) - 2.0f * logf(stats[i + 1]);
        mean_logit[row] = stats[i + 6] / float(params.vocabulary);
    }
}
