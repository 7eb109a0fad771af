// Causal attention by the plain formula, forward and backward; attention_fwd says who sees whom.
//
//   scores             s = scale query . key                   also dp = dout . v, with scale 1
//   softmax            p = softmax(s) over the seen keys, else 0
//   softmax_bwd        ds = p (dp - sum_j p dp) scale          over dp
//   weighted_sum       out[t,h] = sum_j weights[h,t,j] value[j]         also dq, from ds and k
//   weighted_sum_bwd   dvalue[j] = sum_h,t weights[h,t,j] dout[t,h]     dv from p, dk from ds and q
//
// Tensors   query, out, dout [T, NH, HD], key, value, dvalue [S, NKV, HD]: f32 | bf16 | f16;
//           weights, p, scores, ds f32 [NH, T, S]; bounds u32 [S, 2] or [S, 4]; sums in f32
// Mapping   scores: a thread owns a pair; softmax: a row of S keys; weighted sums: a word of the output
// Launch    grid ceil(results / 128) split over x and y, block 128; HD is even for 16-bit types
// Cost      2 HD FLOPs per pair of all T x S, seen or not, and NH T S floats of memory: the fallback,
//           bound by memory bandwidth
// Numerics  one order of sums: deterministic; all writes, no adds
// Twin      kernels-wgsl/attention_eager.wgsl. Reference: src/ops/attention/eager.rs.
//           Paper: arXiv:1706.03762

extern "C" __global__ void __launch_bounds__(128)
attention_eager_scores(const void* query, const void* key, float* scores, Params params) {
    // [1] the head, query and key of this thread
    u32 number = block_number() * 128 + threadIdx.x;
    if (number >= params.heads * params.tokens * params.keys) return;
    u32 j = number % params.keys;
    u32 t = number / params.keys % params.tokens;
    u32 h = number / params.keys / params.tokens;
    // [2] their inner product
    u32 first = (t * params.heads + h) * HEAD_WIDTH;
    u32 second = (j * params.kv_heads + h / (params.heads / params.kv_heads)) * HEAD_WIDTH;
    float sum = 0.0f;
    for (u32 d = 0; d < HEAD_WIDTH; d++) {
        sum += load<DT_QUERY>(query, first + d) * load<DT_KEY>(key, second + d);
    }
    scores[number] = sum * params.scale;
}

extern "C" __global__ void __launch_bounds__(128)
attention_eager_softmax(const u32* bounds, float* p, Params params) {
    // [1] the row of this thread and the keys that it sees
    u32 number = block_number() * 128 + threadIdx.x;
    if (number >= params.heads * params.tokens) return;
    u32 row = number * params.keys;
    u32 i = number % params.tokens + params.q_offset;
    Seen seen = seen_by(bounds + BOUNDS * i, i, params.window);
    // [2] largest score, sum of exponentials
    float largest = p[row + i];
    for (u32 j = seen.lowest; j <= i; j++) {
        if (sees(seen, j)) largest = fmaxf(largest, p[row + j]);
    }
    float sum = 0.0f;
    for (u32 j = seen.lowest; j <= i; j++) {
        if (sees(seen, j)) sum += expf(p[row + j] - largest);
    }
    // [3] weights
    for (u32 j = 0; j < params.keys; j++) {
        p[row + j] = sees(seen, j) ? expf(p[row + j] - largest) / sum : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(128)
attention_eager_softmax_bwd(const float* p, float* ds, Params params) {
    // [1] the row of this thread
    u32 number = block_number() * 128 + threadIdx.x;
    if (number >= params.heads * params.tokens) return;
    u32 row = number * params.keys;
    // [2] what all its scores have in common
    float delta = 0.0f;
    for (u32 j = row; j < row + params.keys; j++) delta += p[j] * ds[j];
    // [3] the gradient of the scores
    for (u32 j = row; j < row + params.keys; j++) ds[j] = p[j] * (ds[j] - delta) * params.scale;
}

extern "C" __global__ void __launch_bounds__(128)
attention_eager_weighted_sum(const float* weights, const void* value, void* out, Params params) {
    // [1] the word of the output that this thread owns
    u32 first = (block_number() * 128 + threadIdx.x) * per_word(DT_OUT);
    u32 h = first / HEAD_WIDTH % params.heads;
    u32 t = first / HEAD_WIDTH / params.heads;
    if (t >= params.tokens) return;
    u32 kv_head = h / (params.heads / params.kv_heads);
    // [2] the weighted sum over the keys
    u32 row = (h * params.tokens + t) * params.keys;
    float sums[2] = {};
    for (u32 j = 0; j < params.keys; j++) {
        u32 start = (j * params.kv_heads + kv_head) * HEAD_WIDTH + first % HEAD_WIDTH;
        for (u32 lane = 0; lane < per_word(DT_OUT); lane++) {
            sums[lane] += weights[row + j] * load<DT_VALUE>(value, start + lane);
        }
    }
    // [3] write
    for (u32 lane = 0; lane < per_word(DT_OUT); lane++) store<DT_OUT>(out, first + lane, sums[lane]);
}

extern "C" __global__ void __launch_bounds__(128)
attention_eager_weighted_sum_bwd(const float* weights, const void* dout, void* dvalue, Params params) {
    // [1] the word of the gradient that this thread owns
    u32 first = (block_number() * 128 + threadIdx.x) * per_word(DT_DVALUE);
    u32 kv_head = first / HEAD_WIDTH % params.kv_heads;
    u32 j = first / HEAD_WIDTH / params.kv_heads;
    if (j >= params.keys) return;
    u32 group = params.heads / params.kv_heads;
    // [2] the weighted sum over the group's heads and the queries
    float sums[2] = {};
    for (u32 h = kv_head * group; h < (kv_head + 1) * group; h++) {
        for (u32 t = 0; t < params.tokens; t++) {
            float weight = weights[(h * params.tokens + t) * params.keys + j];
            u32 start = (t * params.heads + h) * HEAD_WIDTH + first % HEAD_WIDTH;
            for (u32 lane = 0; lane < per_word(DT_DVALUE); lane++) {
                sums[lane] += weight * load<DT_DOUT>(dout, start + lane);
            }
        }
    }
    // [3] write
    for (u32 lane = 0; lane < per_word(DT_DVALUE); lane++) {
        store<DT_DVALUE>(dvalue, first + lane, sums[lane]);
    }
}
