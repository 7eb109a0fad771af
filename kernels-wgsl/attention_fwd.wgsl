// Causal attention over packed sequences, forward, without a T x S matrix (FlashAttention-2).
//
//   query t is key index i = t + q_offset and sees the keys j with lowest(i) <= j <= i,
//   lowest(i) = max(first token of i's sequence, i + 1 - window)
//   and, where sequences share a prompt, the keys of that as if i's sequence followed it (attention.wgsl)
//   s_j = scale * q[t,h] . k[j,h/G]      G = NH / NKV query heads share a kv-head
//   out[t,h] = sum_j e^(s_j - lse) v[j,h/G],   lse = ln sum_j e^s_j
//
// Tensors   q, out [T, NH, HD], k, v [S, NKV, HD]: f32 | bf16 | f16; bounds u32 [S, 2] or
//           [S, 4] (attention.wgsl); stats f32 [T, NH, 2]: lse at 0, the backward's delta at 1; sums in f32
// Mapping   a block owns a tile of BR = 32 queries of one head and walks over its keys by BC = 32,
//           from the first that any of its queries sees, with a leap over those between a shared prompt and
//           its own sequences; a thread owns 4 rows and a pair of columns:
//
//                       keys ->                  thread = 16 y + x
//             queries  [ . . xx . . ]  y         rows y, y + 8, y + 16, y + 24
//                      [ . . xx . . ]  y + 8     columns 2 x, 2 x + 1: a word of a 16-bit output
//
//           products go by slabs of 32 columns of the head, so workgroup memory does not grow with HD
// Launch    grid (ceil(T / 32), NH), block 128, 14.4 KiB workgroup memory; HD <= 256, even for 16-bit
//           types (the host checks); the last tile, which has most keys, starts first
// Cost      4 HD FLOPs per visible pair (tiles are whole: up to 32 pairs more per row), q and out once,
//           k and v ceil(T / 32) / 2 times: bound by arithmetic
// Numerics  online softmax: row maximum m and sum l are carried over the tiles, sums rescaled when m
//           grows; unseen pairs weigh exactly 0, MASK is finite so that MASK - MASK is; deterministic
// Versions  this one, attention_fwd_mma, attention_fwd_wgmma
// Twin      kernels-cuda/attention_fwd.cu. Reference: src/ops/attention/reference.rs.
//           Paper: arXiv:2307.08691

@group(0) @binding(0) var<storage, read> q: array<u32>; // [T, NH, HD]
@group(0) @binding(1) var<storage, read> k: array<u32>; // [S, NKV, HD]
@group(0) @binding(2) var<storage, read> v: array<u32>; // [S, NKV, HD]
@group(0) @binding(3) var<storage, read> bounds: array<u32>; // [S, BOUNDS]
@group(0) @binding(4) var<storage, read_write> out: array<u32>; // [T, NH, HD]
@group(0) @binding(5) var<storage, read_write> stats: array<f32>; // [T, NH, 2]
@group(1) @binding(0) var<uniform> params: Params;

// Columns of the head that are staged at once, and the numbers of a staged row: rows are BC + 1 apart, so that
// threads that walk down a column meet different banks.
const SLAB: u32 = 32u;
const STRIDE: u32 = BC + 1u;
// 128 threads, each 4 rows and a pair of columns.
const_assert BR == 32u && BC == 32u && SLAB == BC;
const SLABS: u32 = (HEAD_WIDTH + SLAB - 1u) / SLAB;

var<workgroup> q_tile: array<f32, BR * STRIDE>; // [BR, STRIDE] a slab of the queries
var<workgroup> kv_tile: array<f32, BR * STRIDE>; // [BR, STRIDE] a slab of the keys, then of the values
var<workgroup> p_tile: array<f32, BR * STRIDE>; // [BR, STRIDE] weights of queries x keys
var<workgroup> partial: array<f32, BR * 16u>; // [BR, 16] one number per thread and row, to be reduced

fn stage_q(first: u32, head: u32, slab: u32, thread: u32) {
    for (var n = thread; n < BR * SLAB; n += 128u) {
        let token = first + n / SLAB;
        let d = slab * SLAB + n % SLAB;
        var value = 0.0;
        if (token < params.tokens && d < HEAD_WIDTH) {
            let i = (token * params.heads + head) * HEAD_WIDTH + d;
            value = unpack(q[word_of(i, DT_Q)], i, DT_Q);
        }
        q_tile[n / SLAB * STRIDE + n % SLAB] = value;
    }
}

fn stage_kv(values: bool, first: u32, head: u32, slab: u32, thread: u32) {
    for (var n = thread; n < BR * SLAB; n += 128u) {
        let token = first + n / SLAB;
        let d = slab * SLAB + n % SLAB;
        var value = 0.0;
        if (token < params.keys && d < HEAD_WIDTH) {
            let i = (token * params.kv_heads + head) * HEAD_WIDTH + d;
            if (values) {
                value = unpack(v[word_of(i, DT_V)], i, DT_V);
            } else {
                value = unpack(k[word_of(i, DT_K)], i, DT_K);
            }
        }
        kv_tile[n / SLAB * STRIDE + n % SLAB] = value;
    }
}

// The maximum or sum over a row's 16 threads, of the numbers that they put in `partial`.
fn reduce_row(row: u32, sum: bool) -> f32 {
    var value = partial[row * 16u];
    for (var n = 1u; n < 16u; n++) {
        let next = partial[row * 16u + n];
        value = select(max(value, next), value + next, sum);
    }
    return value;
}

@compute @workgroup_size(128)
fn attention_fwd(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_query = (grid.x - 1u - block.x) * BR;
    let head = block.y;
    let kv_head = head / (params.heads / params.kv_heads);
    let x = thread % 16u;
    let y = thread / 16u;
    // [1] what the thread's rows may see; rows past the end see nothing
    var seen: array<Seen, 4>;
    var m: array<f32, 4>;
    var l: array<f32, 4>;
    for (var r = 0u; r < 4u; r++) {
        let i = first_query + y + 8u * r + params.q_offset;
        if (i < params.keys) {
            seen[r] = seen_by(i, params.window);
        }
        m[r] = MASK;
    }
    var sums: array<f32, 8 * SLABS>; // [SLABS, 4, 2] unnormalised output
    let first_i = first_query + params.q_offset;
    let last_i = min(first_i + BR, params.keys) - 1u;
    let walk = walk_keys(first_i, last_i, params.window, BC);
    for (var n = 0u; n < walk_tiles(walk, last_i, BC); n++) {
        let first_key = walk_key(walk, n, BC);
        // [2] scores of the thread's pairs, slab by slab
        var s: array<f32, 8>; // [4, 2]
        for (var slab = 0u; slab < SLABS; slab++) {
            stage_q(first_query, head, slab, thread);
            stage_kv(false, first_key, kv_head, slab, thread);
            workgroupBarrier();
            for (var d = 0u; d < SLAB; d++) {
                let low = kv_tile[2u * x * STRIDE + d];
                let high = kv_tile[(2u * x + 1u) * STRIDE + d];
                for (var r = 0u; r < 4u; r++) {
                    let value = q_tile[(y + 8u * r) * STRIDE + d];
                    s[2u * r] += value * low;
                    s[2u * r + 1u] += value * high;
                }
            }
            workgroupBarrier();
        }
        // [3] the row maxima so far
        for (var r = 0u; r < 4u; r++) {
            for (var c = 0u; c < 2u; c++) {
                let key = first_key + 2u * x + c;
                s[2u * r + c] = select(MASK, s[2u * r + c] * params.scale, sees(seen[r], key));
            }
            partial[(y + 8u * r) * 16u + x] = max(s[2u * r], s[2u * r + 1u]);
        }
        workgroupBarrier();
        // [4] weights; sums so far shrink by as much as the maximum grew
        for (var r = 0u; r < 4u; r++) {
            let row = y + 8u * r;
            let larger = max(m[r], reduce_row(row, false));
            let shrink = exp(m[r] - larger);
            m[r] = larger;
            l[r] *= shrink;
            for (var c = 0u; c < 2u; c++) {
                let key = first_key + 2u * x + c;
                let weight = select(0.0, exp(s[2u * r + c] - larger), sees(seen[r], key));
                l[r] += weight;
                p_tile[row * STRIDE + 2u * x + c] = weight;
            }
            for (var slab = 0u; slab < SLABS; slab++) {
                sums[slab * 8u + 2u * r] *= shrink;
                sums[slab * 8u + 2u * r + 1u] *= shrink;
            }
        }
        // [5] add the weighted values, slab by slab
        for (var slab = 0u; slab < SLABS; slab++) {
            stage_kv(true, first_key, kv_head, slab, thread);
            workgroupBarrier();
            for (var j = 0u; j < BC; j++) {
                let low = kv_tile[j * STRIDE + 2u * x];
                let high = kv_tile[j * STRIDE + 2u * x + 1u];
                for (var r = 0u; r < 4u; r++) {
                    let weight = p_tile[(y + 8u * r) * STRIDE + j];
                    sums[slab * 8u + 2u * r] += weight * low;
                    sums[slab * 8u + 2u * r + 1u] += weight * high;
                }
            }
            workgroupBarrier();
        }
    }
    // [6] the row sums, then normalise and write
    for (var r = 0u; r < 4u; r++) {
        partial[(y + 8u * r) * 16u + x] = l[r];
    }
    workgroupBarrier();
    for (var r = 0u; r < 4u; r++) {
        let token = first_query + y + 8u * r;
        if (token >= params.tokens) {
            break;
        }
        let total = reduce_row(y + 8u * r, true);
        if (x == 0u) {
            stats[(token * params.heads + head) * 2u] = m[r] + log(total);
        }
        for (var slab = 0u; slab < SLABS; slab++) {
            let d = slab * SLAB + 2u * x;
            let i = (token * params.heads + head) * HEAD_WIDTH + d;
            let low = sums[slab * 8u + 2u * r] / total;
            let high = sums[slab * 8u + 2u * r + 1u] / total;
            if (d < HEAD_WIDTH) {
                out[word_of(i, DT_OUT)] = pack(low, high, DT_OUT);
            }
            if (DT_OUT == F32 && d + 1u < HEAD_WIDTH) {
                out[i + 1u] = pack(high, 0.0, DT_OUT);
            }
        }
    }
}
