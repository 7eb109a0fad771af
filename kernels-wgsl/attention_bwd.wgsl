// Causal attention over packed sequences, backward (FlashAttention-2): weights are computed again from
// lse, tile by tile.
//
//   p = e^(s - lse), s = scale * q . k          for the pairs that attention_fwd sees, else 0
//   delta[t,h] = sum_d dout[t,h,d] out[t,h,d]   dp = dout . v,  ds = p (dp - delta) scale
//   dv[j] = sum p dout[t]   dk[j] = sum ds q[t]   over queries t that see j, and the G heads of a group
//   dq[t] = sum_j ds k[j]
//
// Tensors   q, out, dout, dq [T, NH, HD], k, v, dk, dv [T, NKV, HD]: f32 | bf16 | f16; bounds u32
//           [T, 2] or [T, 4] (attention.wgsl); stats f32 [T, NH, 2]: lse, delta; sums in f32
// Mapping   delta: a thread owns a (token, head)
//           dkv: a block owns 32 keys of a kv-head, walks over the group's heads and their queries (of a
//           shared prompt: those of all sequences after it)
//           dq: a block owns 32 queries of a head, walks over their keys
//           threads own 4 rows and a pair of columns of every 32 x 32 tile, as in attention_fwd:
//
//             dkv:  s, dp [queries, keys] -> transposed: p, ds [keys, queries] x dout, q [queries, d]
//             dq:   s, dp [queries, keys] ->                 ds [queries, keys] x k      [keys, d]
//
// Launch    grid delta ceil(T NH / 128), dkv (ceil(T / 32), NKV), dq (ceil(T / 32), NH); block 128,
//           12.4 KiB workgroup memory; HD <= 256, even for 16-bit types (the host checks)
// Cost      dkv 8, dq 6 HD FLOPs per visible pair: bound by arithmetic. Two passes compute s and dp
//           twice; that buys sums without atomics
// Numerics  all writes, no adds; one order of sums: deterministic; 3 x the naive error
// Versions  this one, attention_bwd_mma, attention_bwd_wgmma
// Twin      kernels-cuda/attention_bwd.cu. Reference: src/ops/attention/reference.rs.
//           Paper: arXiv:2307.08691

@group(0) @binding(0) var<storage, read> delta_out: array<u32>; // [T, NH, HD]
@group(0) @binding(1) var<storage, read> delta_dout: array<u32>; // [T, NH, HD]
@group(0) @binding(2) var<storage, read_write> delta_stats: array<f32>; // [T, NH, 2]

@group(0) @binding(0) var<storage, read> q: array<u32>; // [T, NH, HD]
@group(0) @binding(1) var<storage, read> k: array<u32>; // [T, NKV, HD]
@group(0) @binding(2) var<storage, read> v: array<u32>; // [T, NKV, HD]
@group(0) @binding(3) var<storage, read> dout: array<u32>; // [T, NH, HD]
@group(0) @binding(4) var<storage, read> stats: array<f32>; // [T, NH, 2]
@group(0) @binding(5) var<storage, read> bounds: array<u32>; // [T, BOUNDS]
@group(0) @binding(6) var<storage, read_write> dk: array<u32>; // [T, NKV, HD]
@group(0) @binding(7) var<storage, read_write> dv: array<u32>; // [T, NKV, HD]

@group(0) @binding(6) var<storage, read_write> dq: array<u32>; // [T, NH, HD]

@group(1) @binding(0) var<uniform> params: Params;

// Columns of the head that are staged at once, and the numbers of a staged row: rows are BC + 1 apart, so that
// threads that walk down a column meet different banks.
const SLAB: u32 = 32u;
const STRIDE: u32 = BC + 1u;
// 128 threads, each 4 rows and a pair of columns.
const_assert BR == 32u && BC == 32u && SLAB == BC;
const SLABS: u32 = (HEAD_WIDTH + SLAB - 1u) / SLAB;

// Which tensor a tile is filled from.
const OF_Q: u32 = 0u;
const OF_K: u32 = 1u;
const OF_V: u32 = 2u;
const OF_DOUT: u32 = 3u;

var<workgroup> a_tile: array<f32, BR * STRIDE>; // [BR, STRIDE] a slab of queries or of dout
var<workgroup> b_tile: array<f32, BR * STRIDE>; // [BR, STRIDE] the other operand
var<workgroup> p_tile: array<f32, BR * STRIDE>; // [BR, STRIDE] p or ds

fn element(tensor: u32, token: u32, head: u32, d: u32) -> f32 {
    if (token >= params.tokens || d >= HEAD_WIDTH) {
        return 0.0;
    }
    let query = (token * params.heads + head) * HEAD_WIDTH + d;
    let key = (token * params.kv_heads + head) * HEAD_WIDTH + d;
    switch tensor {
        case OF_Q: {
            return unpack(q[word_of(query, DT_Q)], query, DT_Q);
        }
        case OF_K: {
            return unpack(k[word_of(key, DT_K)], key, DT_K);
        }
        case OF_V: {
            return unpack(v[word_of(key, DT_V)], key, DT_V);
        }
        default: {
            return unpack(dout[word_of(query, DT_DOUT)], query, DT_DOUT);
        }
    }
}

fn stage_a(tensor: u32, first: u32, head: u32, slab: u32, thread: u32) {
    for (var n = thread; n < BR * SLAB; n += 128u) {
        let value = element(tensor, first + n / SLAB, head, slab * SLAB + n % SLAB);
        a_tile[n / SLAB * STRIDE + n % SLAB] = value;
    }
}

fn stage_b(tensor: u32, first: u32, head: u32, slab: u32, thread: u32) {
    for (var n = thread; n < BR * SLAB; n += 128u) {
        let value = element(tensor, first + n / SLAB, head, slab * SLAB + n % SLAB);
        b_tile[n / SLAB * STRIDE + n % SLAB] = value;
    }
}

// Rows of `a` times rows of `b`, both of the whole head width: the thread's 4 x 2 inner products.
fn inner_products(
    a: u32,
    first_a: u32,
    head_a: u32,
    b: u32,
    first_b: u32,
    head_b: u32,
    thread: u32,
) -> array<f32, 8> {
    var sums: array<f32, 8>; // [4, 2]
    for (var slab = 0u; slab < SLABS; slab++) {
        stage_a(a, first_a, head_a, slab, thread);
        stage_b(b, first_b, head_b, slab, thread);
        workgroupBarrier();
        for (var d = 0u; d < SLAB; d++) {
            let low = b_tile[2u * (thread % 16u) * STRIDE + d];
            let high = b_tile[(2u * (thread % 16u) + 1u) * STRIDE + d];
            for (var r = 0u; r < 4u; r++) {
                let value = a_tile[(thread / 16u + 8u * r) * STRIDE + d];
                sums[2u * r] += value * low;
                sums[2u * r + 1u] += value * high;
            }
        }
        workgroupBarrier();
    }
    return sums;
}

// p_tile times a slab of `b` [BC, SLAB]: the thread's 4 x 2 sums.
fn weighted_rows(b: u32, first: u32, head: u32, slab: u32, thread: u32) -> array<f32, 8> {
    var sums: array<f32, 8>; // [4, 2]
    stage_b(b, first, head, slab, thread);
    workgroupBarrier();
    for (var n = 0u; n < BC; n++) {
        let low = b_tile[n * STRIDE + 2u * (thread % 16u)];
        let high = b_tile[n * STRIDE + 2u * (thread % 16u) + 1u];
        for (var r = 0u; r < 4u; r++) {
            let weight = p_tile[(thread / 16u + 8u * r) * STRIDE + n];
            sums[2u * r] += weight * low;
            sums[2u * r + 1u] += weight * high;
        }
    }
    workgroupBarrier();
    return sums;
}

// p of a query and a key from their product.
fn weight_of(product: f32, query: u32, head: u32, key: u32) -> f32 {
    if (query >= params.tokens || key > query) {
        return 0.0;
    }
    if (!sees(seen_by(query, params.window), key)) {
        return 0.0;
    }
    return exp(product * params.scale - stats[(query * params.heads + head) * 2u]);
}

// ds from p and dp.
fn score_gradient(p: f32, dp: f32, query: u32, head: u32) -> f32 {
    if (query >= params.tokens) {
        return 0.0;
    }
    return p * (dp - stats[(query * params.heads + head) * 2u + 1u]) * params.scale;
}

@compute @workgroup_size(128)
fn attention_bwd_delta(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = block_number(block, grid) * 128u + thread;
    if (row >= params.tokens * params.heads) {
        return;
    }
    var sum = 0.0;
    for (var i = row * HEAD_WIDTH; i < (row + 1u) * HEAD_WIDTH; i++) {
        sum += unpack(delta_dout[word_of(i, DT_DOUT)], i, DT_DOUT)
            * unpack(delta_out[word_of(i, DT_OUT)], i, DT_OUT);
    }
    delta_stats[row * 2u + 1u] = sum;
}

@compute @workgroup_size(128)
fn attention_bwd_dkv(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_key = block.x * BC;
    let kv_head = block.y;
    let group = params.heads / params.kv_heads;
    let x = thread % 16u;
    let y = thread / 16u;
    // [1] the queries that see any of these keys: first_key .. end
    let last_key = min(first_key + BC - 1u, params.tokens - 1u);
    let end = end_of_seers(first_key, last_key, params.window);
    var dk_sums: array<f32, 8 * SLABS>; // [SLABS, 4, 2]
    var dv_sums: array<f32, 8 * SLABS>; // [SLABS, 4, 2]
    for (var head = kv_head * group; head < (kv_head + 1u) * group; head++) {
        for (var first = first_key; first < end; first += BR) {
            // [2] s and dp of the thread's pairs
            var p = inner_products(OF_Q, first, head, OF_K, first_key, kv_head, thread);
            var ds = inner_products(OF_DOUT, first, head, OF_V, first_key, kv_head, thread);
            // [3] p and ds; p goes into the tile transposed, a row per key
            for (var n = 0u; n < 8u; n++) {
                let row = y + 8u * (n / 2u);
                let column = 2u * x + n % 2u;
                p[n] = weight_of(p[n], first + row, head, first_key + column);
                ds[n] = score_gradient(p[n], ds[n], first + row, head);
                p_tile[column * STRIDE + row] = p[n];
            }
            // [4] dv += p^T dout
            for (var slab = 0u; slab < SLABS; slab++) {
                let sums = weighted_rows(OF_DOUT, first, head, slab, thread);
                for (var n = 0u; n < 8u; n++) {
                    dv_sums[slab * 8u + n] += sums[n];
                }
            }
            // [5] dk += ds^T q
            for (var n = 0u; n < 8u; n++) {
                p_tile[(2u * x + n % 2u) * STRIDE + y + 8u * (n / 2u)] = ds[n];
            }
            for (var slab = 0u; slab < SLABS; slab++) {
                let sums = weighted_rows(OF_Q, first, head, slab, thread);
                for (var n = 0u; n < 8u; n++) {
                    dk_sums[slab * 8u + n] += sums[n];
                }
            }
        }
    }
    // [6] write
    for (var n = 0u; n < 4u * SLABS; n++) {
        let token = first_key + y + 8u * (n % 4u);
        let d = n / 4u * SLAB + 2u * x;
        let i = (token * params.kv_heads + kv_head) * HEAD_WIDTH + d;
        if (token < params.tokens && d < HEAD_WIDTH) {
            dk[word_of(i, DT_DK)] = pack(dk_sums[2u * n], dk_sums[2u * n + 1u], DT_DK);
            dv[word_of(i, DT_DV)] = pack(dv_sums[2u * n], dv_sums[2u * n + 1u], DT_DV);
            if (DT_DK == F32 && d + 1u < HEAD_WIDTH) {
                dk[i + 1u] = pack(dk_sums[2u * n + 1u], 0.0, DT_DK);
                dv[i + 1u] = pack(dv_sums[2u * n + 1u], 0.0, DT_DV);
            }
        }
    }
}

@compute @workgroup_size(128)
fn attention_bwd_dq(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_query = (grid.x - 1u - block.x) * BR;
    let head = block.y;
    let kv_head = head / (params.heads / params.kv_heads);
    let x = thread % 16u;
    let y = thread / 16u;
    // [1] the keys that any of these queries sees
    let last_query = min(first_query + BR, params.tokens) - 1u;
    let walk = walk_keys(first_query, last_query, params.window, BC);
    var dq_sums: array<f32, 8 * SLABS>; // [SLABS, 4, 2]
    for (var n = 0u; n < walk_tiles(walk, last_query, BC); n++) {
        let first = walk_key(walk, n, BC);
        // [2] s and dp of the thread's pairs
        let s = inner_products(OF_Q, first_query, head, OF_K, first, kv_head, thread);
        let dp = inner_products(OF_DOUT, first_query, head, OF_V, first, kv_head, thread);
        // [3] ds
        for (var c = 0u; c < 8u; c++) {
            let row = y + 8u * (c / 2u);
            let column = 2u * x + c % 2u;
            let p = weight_of(s[c], first_query + row, head, first + column);
            p_tile[row * STRIDE + column] = score_gradient(p, dp[c], first_query + row, head);
        }
        // [4] dq += ds k
        for (var slab = 0u; slab < SLABS; slab++) {
            let sums = weighted_rows(OF_K, first, kv_head, slab, thread);
            for (var c = 0u; c < 8u; c++) {
                dq_sums[slab * 8u + c] += sums[c];
            }
        }
    }
    // [5] write
    for (var n = 0u; n < 4u * SLABS; n++) {
        let token = first_query + y + 8u * (n % 4u);
        let d = n / 4u * SLAB + 2u * x;
        let i = (token * params.heads + head) * HEAD_WIDTH + d;
        if (token < params.tokens && d < HEAD_WIDTH) {
            dq[word_of(i, DT_DQ)] = pack(dq_sums[2u * n], dq_sums[2u * n + 1u], DT_DQ);
            if (DT_DQ == F32 && d + 1u < HEAD_WIDTH) {
                dq[i + 1u] = pack(dq_sums[2u * n + 1u], 0.0, DT_DQ);
            }
        }
    }
}
