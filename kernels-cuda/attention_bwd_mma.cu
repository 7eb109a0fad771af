// Causal attention over packed sequences, backward, on tensor cores (FlashAttention-2), for bf16: weights are
// computed again from lse, tile by tile.
//
//   p = e^(s - lse), s = scale * q . k          for the pairs that attention_fwd sees, else 0
//   dp = dout . v,  ds = p (dp - delta) scale   delta comes from attention_bwd_delta
//   dv[j] = sum p dout[t]   dk[j] = sum ds q[t]   over queries t that see j, and the G heads of a group
//   dq[t] = sum_j ds k[j]
//
// Tensors   q, dout, dq [T, NH, HD], k, v, dk, dv [T, NKV, HD]: bf16; bounds u32 [T, 2] or [T, 4]
//           (attention.cuh); stats f32 [T, NH, 2]: lse, delta; sums in f32
// Mapping   dkv: a block owns 64 keys of a kv-head, a warp 16 of them, and walks over the group's heads and
//           their queries by 32: no sum leaves the block. Scores are made transposed, keys x queries, so that
//           p and ds lie as the first operand of the products that follow
//           dq: a block owns 64 queries of a head, a warp 16 of them, and walks over their keys by 32
//
//             dkv:  k q^T, v dout^T  [16 keys, 32 queries]   -> p x dout, ds x q   [16 keys, HD]
//             dq:   q k^T, dout v^T  [16 queries, 32 keys]   ->           ds x k   [16 queries, HD]
//
//           what the block owns stays in shared memory; the next step's tiles are copied during this one
// Launch    grid dkv (ceil(T / 64), NKV), dq (ceil(T / 64), NH); block 128; shared memory 512 HD bytes, and
//           1 KiB for dkv (65 KiB at 128), 1.5 KiB where sequences share prompts; sm_80; HD a multiple of 16,
//           at most 128, where dk and dv still fit into registers (the host checks)
// Cost      dkv 8, dq 6 HD FLOPs per visible pair: bound by the tensor cores. Two passes compute s and dp
//           twice; that buys sums without atomics
// Numerics  p and ds are rounded to bf16 before they are multiplied; all writes, no adds, one order of sums:
//           deterministic; 3 x the naive error. Rounded to f16 they miss that: f16 stays with the portable version
// Versions  attention_bwd, this one, attention_bwd_wgmma; not yet measured on a device
// Portable  kernels-cuda/attention_bwd.cu. Reference: src/ops/attention/reference.rs.
//           Paper: arXiv:2307.08691

constexpr u32 HD = HEAD_WIDTH;
// OWN tokens of a block, WALK of a step of its walk.
constexpr u32 OWN_BYTES = OWN * HD * 2, WALK_BYTES = WALK * HD * 2;
static_assert(OWN == 64 && WALK % 16 == 0 && WALK <= 64, "4 warps of 16 rows, whole steps of mma");
static_assert(DQ_BYTES == 2 * OWN_BYTES + 2 * 2 * WALK_BYTES, "what the block owns, and two stages");
static_assert(DKV_BYTES == DQ_BYTES + 2 * WALK * 4 * (2 + BOUNDS), "the same, with stats and bounds of each query");

// Writes a warp's [16, HD] sums as rows first .. of a head of x [tokens, heads, HD].
template <unsigned DT>
__device__ __forceinline__ void store_head(void* x, const float (&sums)[HD / 8][4], u32 first, u32 tokens,
                                           u32 heads, u32 head) {
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        u32 token = first + threadIdx.x % 32 / 4 + 8 * r;
        if (token >= tokens) continue;
#pragma unroll
        for (u32 j = 0; j < HD / 8; j++) {
            u32 i = (token * heads + head) * HD + 8 * j + threadIdx.x % 4 * 2;
            store_pair<DT, false>(x, i, true, sums[j][2 * r], sums[j][2 * r + 1]);
        }
    }
}

// Starts a copy of 8 or 16 bytes to shared memory; of zeros where `inside` is false.
template <u32 BYTES>
__device__ __forceinline__ void copy_numbers(u32 to, const void* from, bool inside) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 :: "r"(to), "l"(from), "n"(BYTES), "r"(inside ? BYTES : 0) : "memory");
}

extern "C" __global__ void __launch_bounds__(128)
attention_bwd_dkv_mma(const void* q, const void* k, const void* v, const void* dout, const float* stats,
                      const u32* bounds, void* dk, void* dv, Params params) {
    // k, v [OWN, HD], twice q, dout [WALK, HD], twice stats [WALK, 2], bounds [WALK, BOUNDS]
    extern __shared__ __align__(128) u8 shared[];
    u8* per_query = shared + 2 * OWN_BYTES + 4 * WALK_BYTES;
    u32 k_tile = shared_address(shared);
    u32 v_tile = k_tile + OWN_BYTES;
    u32 first_key = blockIdx.x * OWN;
    u32 kv_head = blockIdx.y;
    u32 group = params.heads / params.kv_heads;
    u32 warp_row = threadIdx.x / 32 * 16;
    // [1] the queries that see any of these keys: first_key .. end, in steps, once for each head
    u32 last_key = min(first_key + OWN, params.tokens) - 1;
    u32 end = end_of_seers(bounds, first_key, last_key, params.window);
    u32 steps = (end - first_key + WALK - 1) / WALK;
    auto start = [&](u32 n) {
        if (n < group * steps) {
            u32 head = kv_head * group + n / steps;
            u32 first = first_key + n % steps * WALK;
            u32 to = v_tile + OWN_BYTES + n % 2 * 2 * WALK_BYTES;
            copy_head<WALK, HD>(to, q, first, params.tokens, params.heads, head);
            copy_head<WALK, HD>(to + WALK_BYTES, dout, first, params.tokens, params.heads, head);
            u32 token = first + threadIdx.x % WALK;
            bool inside = token < params.tokens;
            u32 numbers = shared_address(per_query) + n % 2 * WALK * 4 * (2 + BOUNDS);
            u32 place = threadIdx.x % WALK;
            if (threadIdx.x < WALK) {
                const float* from = stats + (inside ? (token * params.heads + head) * 2 : 0);
                copy_numbers<8>(numbers + place * 8, from, inside);
            } else if (threadIdx.x < 2 * WALK) {
                const u32* from = bounds + (inside ? token * BOUNDS : 0);
                copy_numbers<4 * BOUNDS>(numbers + WALK * 8 + place * 4 * BOUNDS, from, inside);
            }
        }
        commit_copies();
    };
    copy_head<OWN, HD>(k_tile, k, first_key, params.tokens, params.kv_heads, kv_head);
    copy_head<OWN, HD>(v_tile, v, first_key, params.tokens, params.kv_heads, kv_head);
    start(0);
    float dk_sums[HD / 8][4] = {}; // [16, HD]
    float dv_sums[HD / 8][4] = {}; // [16, HD]
    for (u32 n = 0; n < group * steps; n++) {
        // [2] this step's tiles are there, and everyone is done with those that are overwritten next
        wait_for_copies<0>();
        __syncthreads();
        start(n + 1);
        u32 q_tile = v_tile + OWN_BYTES + n % 2 * 2 * WALK_BYTES; // [WALK, HD]
        u32 dout_tile = q_tile + WALK_BYTES;                      // [WALK, HD]
        u8* numbers = per_query + n % 2 * WALK * 4 * (2 + BOUNDS);
        const float2* step_stats = reinterpret_cast<const float2*>(numbers);              // [WALK]
        const u32* step_bounds = reinterpret_cast<const u32*>(numbers + WALK * 8);        // [WALK, BOUNDS]
        // [3] s and dp of the warp's pairs
        float p[WALK / 8][4], ds[WALK / 8][4]; // [16, WALK]
        inner_products<DT_K, WALK, HD>(p, k_tile, warp_row, q_tile);
        inner_products<DT_V, WALK, HD>(ds, v_tile, warp_row, dout_tile);
        // [4] p and ds
#pragma unroll
        for (u32 j = 0; j < WALK / 8; j++) {
#pragma unroll
            for (u32 c = 0; c < 4; c++) {
                u32 column = 8 * j + threadIdx.x % 4 * 2 + c % 2;
                u32 query = first_key + n % steps * WALK + column;
                u32 key = first_key + warp_row + threadIdx.x % 32 / 4 + c / 2 * 8;
                float2 lse_delta = step_stats[column];
                Seen keys = seen_by(step_bounds + BOUNDS * column, query, params.window);
                bool seen = query < params.tokens && sees(keys, key);
                float s = p[j][c] * params.scale - lse_delta.x;
                p[j][c] = seen ? exp2_fast(s * LOG2_E) : 0.0f;
                ds[j][c] = p[j][c] * (ds[j][c] - lse_delta.y) * params.scale;
            }
        }
        // [5] dv += p^T dout
        add_weighted_rows<DT_DOUT, WALK, HD>(dv_sums, p, dout_tile);
        // [6] dk += ds^T q
        add_weighted_rows<DT_Q, WALK, HD>(dk_sums, ds, q_tile);
    }
    // [7] write
    store_head<DT_DK>(dk, dk_sums, first_key + warp_row, params.tokens, params.kv_heads, kv_head);
    store_head<DT_DV>(dv, dv_sums, first_key + warp_row, params.tokens, params.kv_heads, kv_head);
}

extern "C" __global__ void __launch_bounds__(128)
attention_bwd_dq_mma(const void* q, const void* k, const void* v, const void* dout, const float* stats,
                     const u32* bounds, void* dq, Params params) {
    extern __shared__ __align__(128) u8 shared[]; // q [OWN, HD], dout [OWN, HD], twice k, v [WALK, HD]
    u32 q_tile = shared_address(shared);
    u32 dout_tile = q_tile + OWN_BYTES;
    u32 first_query = (gridDim.x - 1 - blockIdx.x) * OWN;
    u32 head = blockIdx.y;
    u32 kv_head = head / (params.heads / params.kv_heads);
    u32 warp_row = threadIdx.x / 32 * 16;
    // [1] what the lane's two rows may see, and what the forward left; rows past the end see nothing
    Seen seen[2] = {};
    float lse[2] = {}, delta[2] = {};
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        u32 query = first_query + warp_row + threadIdx.x % 32 / 4 + 8 * r;
        if (query < params.tokens) {
            seen[r] = seen_by(bounds + BOUNDS * query, query, params.window);
            lse[r] = stats[(query * params.heads + head) * 2];
            delta[r] = stats[(query * params.heads + head) * 2 + 1];
        }
    }
    u32 last_query = min(first_query + OWN, params.tokens) - 1;
    Walk walk = walk_keys(bounds, first_query, last_query, params.window, WALK);
    u32 steps = walk_tiles(walk, last_query, WALK);
    auto start = [&](u32 n) {
        if (n < steps) {
            u32 first = walk_key(walk, n, WALK);
            u32 to = dout_tile + OWN_BYTES + n % 2 * 2 * WALK_BYTES;
            copy_head<WALK, HD>(to, k, first, params.tokens, params.kv_heads, kv_head);
            copy_head<WALK, HD>(to + WALK_BYTES, v, first, params.tokens, params.kv_heads, kv_head);
        }
        commit_copies();
    };
    copy_head<OWN, HD>(q_tile, q, first_query, params.tokens, params.heads, head);
    copy_head<OWN, HD>(dout_tile, dout, first_query, params.tokens, params.heads, head);
    start(0);
    float dq_sums[HD / 8][4] = {}; // [16, HD]
    for (u32 n = 0; n < steps; n++) {
        // [2] this step's tiles are there, and everyone is done with those that are overwritten next
        wait_for_copies<0>();
        __syncthreads();
        start(n + 1);
        u32 k_tile = dout_tile + OWN_BYTES + n % 2 * 2 * WALK_BYTES; // [WALK, HD]
        u32 v_tile = k_tile + WALK_BYTES;                            // [WALK, HD]
        // [3] s and dp of the warp's pairs
        float s[WALK / 8][4], ds[WALK / 8][4]; // [16, WALK]
        inner_products<DT_Q, WALK, HD>(s, q_tile, warp_row, k_tile);
        inner_products<DT_DOUT, WALK, HD>(ds, dout_tile, warp_row, v_tile);
        // [4] ds
#pragma unroll
        for (u32 j = 0; j < WALK / 8; j++) {
#pragma unroll
            for (u32 c = 0; c < 4; c++) {
                u32 key = walk_key(walk, n, WALK) + 8 * j + threadIdx.x % 4 * 2 + c % 2;
                float p = exp2_fast((s[j][c] * params.scale - lse[c / 2]) * LOG2_E);
                ds[j][c] = sees(seen[c / 2], key) ? p * (ds[j][c] - delta[c / 2]) * params.scale : 0.0f;
            }
        }
        // [5] dq += ds k
        add_weighted_rows<DT_K, WALK, HD>(dq_sums, ds, k_tile);
    }
    // [6] write
    store_head<DT_DQ>(dq, dq_sums, first_query + warp_row, params.tokens, params.heads, head);
}
