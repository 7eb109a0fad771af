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
// Twin      kernels-cuda/attention_eager.cu. Reference: src/ops/attention/eager.rs.
//           Paper: arXiv:1706.03762

@group(0) @binding(0) var<storage, read> query: array<u32>; // [T, NH, HD]
@group(0) @binding(1) var<storage, read> key: array<u32>; // [S, NKV, HD]
@group(0) @binding(2) var<storage, read_write> scores: array<f32>; // [NH, T, S]

@group(0) @binding(0) var<storage, read> bounds: array<u32>; // [S, BOUNDS]
@group(0) @binding(1) var<storage, read_write> p: array<f32>; // [NH, T, S]

@group(0) @binding(0) var<storage, read> bwd_p: array<f32>; // [NH, T, S]
@group(0) @binding(1) var<storage, read_write> ds: array<f32>; // [NH, T, S]

@group(0) @binding(0) var<storage, read> weights: array<f32>; // [NH, T, S]
@group(0) @binding(1) var<storage, read> value: array<u32>; // [S, NKV, HD]
@group(0) @binding(2) var<storage, read_write> out: array<u32>; // [T, NH, HD]

@group(0) @binding(1) var<storage, read> dout: array<u32>; // [T, NH, HD]
@group(0) @binding(2) var<storage, read_write> dvalue: array<u32>; // [S, NKV, HD]

@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(128)
fn attention_eager_scores(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the head, query and key of this thread
    let number = block_number(block, grid) * 128u + thread;
    if (number >= params.heads * params.tokens * params.keys) {
        return;
    }
    let j = number % params.keys;
    let t = number / params.keys % params.tokens;
    let h = number / params.keys / params.tokens;
    // [2] their inner product
    let first = (t * params.heads + h) * HEAD_WIDTH;
    let second = (j * params.kv_heads + h / (params.heads / params.kv_heads)) * HEAD_WIDTH;
    var sum = 0.0;
    for (var d = 0u; d < HEAD_WIDTH; d++) {
        sum += unpack(query[word_of(first + d, DT_QUERY)], first + d, DT_QUERY)
            * unpack(key[word_of(second + d, DT_KEY)], second + d, DT_KEY);
    }
    scores[number] = sum * params.scale;
}

@compute @workgroup_size(128)
fn attention_eager_softmax(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the row of this thread and the keys that it sees
    let number = block_number(block, grid) * 128u + thread;
    if (number >= params.heads * params.tokens) {
        return;
    }
    let row = number * params.keys;
    let i = number % params.tokens + params.q_offset;
    let seen = seen_by(i, params.window);
    // [2] largest score, sum of exponentials
    var largest = p[row + i];
    for (var j = seen.lowest; j <= i; j++) {
        if (sees(seen, j)) {
            largest = max(largest, p[row + j]);
        }
    }
    var sum = 0.0;
    for (var j = seen.lowest; j <= i; j++) {
        if (sees(seen, j)) {
            sum += exp(p[row + j] - largest);
        }
    }
    // [3] weights
    for (var j = 0u; j < params.keys; j++) {
        if (sees(seen, j)) {
            p[row + j] = exp(p[row + j] - largest) / sum;
        } else {
            p[row + j] = 0.0;
        }
    }
}

@compute @workgroup_size(128)
fn attention_eager_softmax_bwd(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the row of this thread
    let number = block_number(block, grid) * 128u + thread;
    if (number >= params.heads * params.tokens) {
        return;
    }
    let row = number * params.keys;
    // [2] what all its scores have in common
    var delta = 0.0;
    for (var j = row; j < row + params.keys; j++) {
        delta += bwd_p[j] * ds[j];
    }
    // [3] the gradient of the scores
    for (var j = row; j < row + params.keys; j++) {
        ds[j] = bwd_p[j] * (ds[j] - delta) * params.scale;
    }
}

@compute @workgroup_size(128)
fn attention_eager_weighted_sum(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the word of the output that this thread owns
    let first = (block_number(block, grid) * 128u + thread) * per_word(DT_OUT);
    let h = first / HEAD_WIDTH % params.heads;
    let t = first / HEAD_WIDTH / params.heads;
    if (t >= params.tokens) {
        return;
    }
    let kv_head = h / (params.heads / params.kv_heads);
    // [2] the weighted sum over the keys
    let row = (h * params.tokens + t) * params.keys;
    var sums: array<f32, 2>;
    for (var j = 0u; j < params.keys; j++) {
        let start = (j * params.kv_heads + kv_head) * HEAD_WIDTH + first % HEAD_WIDTH;
        for (var lane = 0u; lane < per_word(DT_OUT); lane++) {
            let i = start + lane;
            sums[lane] += weights[row + j] * unpack(value[word_of(i, DT_VALUE)], i, DT_VALUE);
        }
    }
    // [3] write
    out[word_of(first, DT_OUT)] = pack(sums[0], sums[1], DT_OUT);
}

@compute @workgroup_size(128)
fn attention_eager_weighted_sum_bwd(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the word of the gradient that this thread owns
    let first = (block_number(block, grid) * 128u + thread) * per_word(DT_DVALUE);
    let kv_head = first / HEAD_WIDTH % params.kv_heads;
    let j = first / HEAD_WIDTH / params.kv_heads;
    if (j >= params.keys) {
        return;
    }
    let group = params.heads / params.kv_heads;
    // [2] the weighted sum over the group's heads and the queries
    var sums: array<f32, 2>;
    for (var h = kv_head * group; h < (kv_head + 1u) * group; h++) {
        for (var t = 0u; t < params.tokens; t++) {
            let weight = weights[(h * params.tokens + t) * params.keys + j];
            let start = (t * params.heads + h) * HEAD_WIDTH + first % HEAD_WIDTH;
            for (var lane = 0u; lane < per_word(DT_DVALUE); lane++) {
                let i = start + lane;
                sums[lane] += weight * unpack(dout[word_of(i, DT_DOUT)], i, DT_DOUT);
            }
        }
    }
    // [3] write
    dvalue[word_of(first, DT_DVALUE)] = pack(sums[0], sums[1], DT_DVALUE);
}
