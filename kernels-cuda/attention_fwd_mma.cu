// Causal attention over packed sequences, forward, on tensor cores (FlashAttention-2), for 16-bit types.
//
//   query t is key index i = t + q_offset and sees the keys j with lowest(i) <= j <= i,
//   lowest(i) = max(first token of i's sequence, i + 1 - window)
//   and, where sequences share a prompt, the keys of that as if i's sequence followed it (attention.cuh)
//   s_j = scale * q[t,h] . k[j,h/G]      G = NH / NKV query heads share a kv-head
//   out[t,h] = sum_j e^(s_j - lse) v[j,h/G],   lse = ln sum_j e^s_j
//
// Tensors   q, out [T, NH, HD], k, v [S, NKV, HD]: bf16 | f16, all the same; bounds u32 [S, 2] or
//           [S, 4] (attention.cuh); stats f32 [T, NH, 2]: lse at 0, the backward's delta at 1; sums in f32
// Mapping   a block owns BR = 64 queries of one head, a warp 16 of them, and walks over its keys by BC
//           (64; 32 or 16 where heads are wider than 128 or 192), from the first that any of its queries sees (a shared
//           prompt's, then those of its own sequences); the next keys and values are copied while these are used:
//
//                       keys ->                        lane 4 r + c of a warp
//             queries  [ . . xx . . ]  warp 0          rows r, r + 8 of the warp's 16
//                      [ . . xx . . ]  warp 1          columns 2 c, 2 c + 1 of every 8
//                      [ . . xx . . ]  warp 2
//                      [ . . xx . . ]  warp 3          four lanes share a row
//
//           scores are sums of mma, and once rounded, the first operand of the product with v: they
//           never leave registers
// Launch    grid (ceil(T / 64), NH), block 128, 128 HD + 8 BC HD bytes of shared memory (80 KiB at 128);
//           sm_80; HD a multiple of 16, at most 256 (the host checks); the last tile, which has most
//           keys, starts first
// Cost      4 HD FLOPs per visible pair (tiles are whole: up to 127 pairs more per row), q and out once,
//           k and v ceil(T / 64) / 2 times: bound by the tensor cores, and by e^x at HD 64
// Numerics  online softmax in f32 to base 2; weights are rounded to the inputs' dtype before they meet v;
//           unseen pairs are -inf and weigh exactly 0, the row maximum starts at a finite MASK so that no
//           difference is a NaN; deterministic; the naive rule
// Versions  attention_fwd, this one, attention_fwd_wgmma; not yet measured on a device
// Portable  kernels-cuda/attention_fwd.cu. Reference: src/ops/attention/reference.rs.
//           Paper: arXiv:2307.08691

constexpr u32 HD = HEAD_WIDTH;
constexpr u32 KV_BYTES = BC * HD * 2;
static_assert(BR == 64 && BC % 16 == 0, "4 warps of 16 rows, whole steps of mma");
static_assert(SHARED_BYTES == BR * HD * 2 + 2 * 2 * KV_BYTES, "queries, and two stages of keys and values");

extern "C" __global__ void __launch_bounds__(128)
attention_fwd_mma(const void* q, const void* k, const void* v, const u32* bounds, void* out, float* stats,
                  Params params) {
    extern __shared__ __align__(128) u8 shared[]; // q [BR, HD], then twice k [BC, HD], v [BC, HD]
    u32 q_tile = shared_address(shared);
    u32 kv_tiles = q_tile + BR * HD * 2;
    u32 first_query = (gridDim.x - 1 - blockIdx.x) * BR;
    u32 head = blockIdx.y;
    u32 kv_head = head / (params.heads / params.kv_heads);
    u32 warp_row = threadIdx.x / 32 * 16;
    // [1] what the lane's two rows may see; rows past the end see what the last sees
    u32 token[2];
    Seen seen[2];
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        token[r] = first_query + warp_row + threadIdx.x % 32 / 4 + 8 * r;
        u32 i = min(token[r], params.tokens - 1) + params.q_offset;
        seen[r] = seen_by(bounds + BOUNDS * i, i, params.window);
    }
    u32 first_i = first_query + params.q_offset;
    u32 last_i = min(first_query + BR, params.tokens) - 1 + params.q_offset;
    Walk walk = walk_keys(bounds, first_i, last_i, params.window, BC);
    u32 steps = walk_tiles(walk, last_i, BC);
    SeenByAll seen_by_all(bounds, first_i, last_i, params.window);
    auto start = [&](u32 n) {
        if (n < steps) {
            u32 first = walk_key(walk, n, BC);
            u32 to = kv_tiles + n % 2 * 2 * KV_BYTES;
            copy_head<BC, HD>(to, k, first, params.keys, params.kv_heads, kv_head);
            copy_head<BC, HD>(to + KV_BYTES, v, first, params.keys, params.kv_heads, kv_head);
        }
        commit_copies();
    };
    copy_head<BR, HD>(q_tile, q, first_query, params.tokens, params.heads, head);
    start(0);
    float m[2] = {MASK, MASK}, l[2] = {};
    float sums[HD / 8][4] = {}; // [16, HD] unnormalised output
    float scale = params.scale * LOG2_E;
    for (u32 n = 0; n < steps; n++) {
        // [2] these keys and values are there, and everyone is done with those that are overwritten next
        wait_for_copies<0>();
        __syncthreads();
        start(n + 1);
        u32 first_key = walk_key(walk, n, BC);
        u32 k_tile = kv_tiles + n % 2 * 2 * KV_BYTES; // [BC, HD]
        u32 v_tile = k_tile + KV_BYTES;               // [BC, HD]
        // [3] scores to base 2
        float s[BC / 8][4]; // [16, BC]
        inner_products<DT_Q, BC, HD>(s, q_tile, warp_row, k_tile);
        bool all_seen = seen_by_all(first_key, BC);
        float larger[2] = {m[0], m[1]};
#pragma unroll
        for (u32 j = 0; j < BC / 8; j++) {
#pragma unroll
            for (u32 c = 0; c < 4; c++) {
                u32 key = first_key + 8 * j + threadIdx.x % 4 * 2 + c % 2;
                s[j][c] = all_seen || sees(seen[c / 2], key) ? s[j][c] * scale : -__int_as_float(0x7f800000);
                larger[c / 2] = fmaxf(larger[c / 2], s[j][c]);
            }
        }
        // [4] the row maxima so far; sums so far shrink by as much as the maximum grew
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            larger[r] = row_max(larger[r]);
            float shrink = exp2_fast(m[r] - larger[r]);
            m[r] = larger[r];
            l[r] *= shrink;
#pragma unroll
            for (u32 j = 0; j < HD / 8; j++) {
                sums[j][2 * r] *= shrink;
                sums[j][2 * r + 1] *= shrink;
            }
        }
        // [5] weights, and the lane's share of their sums
#pragma unroll
        for (u32 j = 0; j < BC / 8; j++) {
#pragma unroll
            for (u32 c = 0; c < 4; c++) {
                s[j][c] = exp2_fast(s[j][c] - m[c / 2]);
                l[c / 2] += s[j][c];
            }
        }
        // [6] add the weighted values
        add_weighted_rows<DT_Q, BC, HD>(sums, s, v_tile);
    }
    // [7] the row sums, then normalise and write
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        float total = row_sum(l[r]);
        if (token[r] >= params.tokens) continue;
        u32 row = token[r] * params.heads + head;
        if (threadIdx.x % 4 == 0) stats[row * 2] = m[r] * LN_2 + logf(total);
#pragma unroll
        for (u32 j = 0; j < HD / 8; j++) {
            u32 i = row * HD + 8 * j + threadIdx.x % 4 * 2;
            store_pair<DT_OUT, false>(out, i, true, sums[j][2 * r] / total, sums[j][2 * r + 1] / total);
        }
    }
}
