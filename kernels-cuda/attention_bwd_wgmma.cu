// Causal attention over packed sequences, backward, on Hopper's tensor cores, for bf16: weights are computed
// again from lse, tile by tile.
//
//   p = e^(s - lse), s = scale * q . k          for the pairs that attention_fwd sees, else 0
//   dp = dout . v,  ds = p (dp - delta) scale   delta comes from attention_bwd_delta
//   dv[j] = sum p dout[t]   dk[j] = sum ds q[t]   over queries t that see j, and the G heads of a group
//   dq[t] = sum_j ds k[j]
//
// Tensors   q, dout, dq [T, NH, HD], k, v, dk, dv [T, NKV, HD]: bf16; bounds u32 [T, 2] or [T, 4]
//           (attention.cuh); stats f32 [T, NH, 2]: lse, delta; sums in f32
// Mapping   dkv: a block owns 128 keys of a kv-head, warpgroups 1 and 2 64 of them each, and walks over the
//           group's heads and their queries by 64: no sum leaves the block. Scores are made transposed, keys x
//           queries, so that p and ds lie as the first operand of the products that follow
//           dq: a block owns 128 queries of a head, a warpgroup 64 of them, and walks over their keys by 64
//
//             dkv:  k q^T, v dout^T  [64 keys, 64 queries]   -> p x dout, ds x q   [64 keys, HD]
//             dq:   q k^T, dout v^T  [64 queries, 64 keys]   ->           ds x k   [64 queries, HD]
//
//           warp 0 has tiles copied, a step ahead of the one in use, and in dkv brings lse and delta of
//           their queries itself. While one warpgroup computes p and ds, the other one's products run
// Launch    grid dkv (ceil(T / 128), NKV), dq (ceil(T / 128), NH); block 384; shared memory 1024 HD bytes, 1
//           KiB for dkv (1.5 KiB where sequences share prompts), and the barriers (129 KiB at 128); sm_90a; HD
//           64 or 128 (the host checks)
// Cost      dkv 8, dq 6 HD FLOPs per visible pair: bound by the tensor cores. Two passes compute s and dp
//           twice; that buys sums without atomics
// Numerics  as attention_bwd_mma: p and ds are rounded to bf16 before they are multiplied; deterministic; 3 x
//           the naive error
// Versions  attention_bwd, attention_bwd_mma, this one; not yet measured on a device
// Portable  kernels-cuda/attention_bwd.cu. Reference: src/ops/attention/reference.rs.
//           Paper: arXiv:2407.08608

constexpr u32 HD = HEAD_WIDTH;
// OWN tokens of a block, WALK of a step of its walk.
constexpr u32 OWN_BYTES = OWN * HD * 2, WALK_BYTES = WALK * HD * 2;
constexpr u32 CONSUMING_WARPS = 8;
static_assert(OWN == 128 && WALK % 16 == 0, "2 warpgroups of 64 rows, whole steps of wgmma");
static_assert(DQ_BYTES == 2 * OWN_BYTES + STAGES * 2 * WALK_BYTES + 8 + Ring<STAGES>::BYTES, "tiles and barriers");
static_assert(DKV_BYTES == DQ_BYTES + STAGES * WALK * (SHARED ? 12 : 8), "the same, with the stats of each query");

extern "C" __global__ void __launch_bounds__(384, 1)
attention_bwd_dkv_wgmma(const void*, const void*, const void*, const void*, const float* stats, const u32* bounds,
                        void* dk, void* dv, const __grid_constant__ TensorMap q,
                        const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
                        const __grid_constant__ TensorMap dout, Params params) {
    // k, v [OWN, HD], [STAGES] of q, dout [WALK, HD], [STAGES] of stats [WALK, 2], of holes [WALK], barriers
    extern __shared__ __align__(1024) u8 shared[];
    float2* all_stats = reinterpret_cast<float2*>(shared + 2 * OWN_BYTES + STAGES * 2 * WALK_BYTES);
    // How many tokens stand between a query's shared prompt and its own sequence.
    u32* all_holes = reinterpret_cast<u32*>(all_stats + STAGES * WALK);
    u32 k_tile = shared_address(shared);
    u32 v_tile = k_tile + OWN_BYTES;
    u32 tiles = v_tile + OWN_BYTES;
    u32 kv_here = tiles + STAGES * (2 * WALK_BYTES + WALK * (SHARED ? 12 : 8));
    Ring<STAGES> ring(kv_here + 8);
    u32 first_key = blockIdx.x * OWN;
    u32 kv_head = blockIdx.y;
    u32 group = params.heads / params.kv_heads;
    // [1] the queries that see any of these keys: first_key .. end, in steps, once for each head
    u32 last_key = min(first_key + OWN, params.tokens) - 1;
    u32 end = end_of_seers(bounds, first_key, last_key, params.window);
    u32 steps = (end - first_key + WALK - 1) / WALK;
    if (threadIdx.x == 0) {
        init_barrier(kv_here, 1);
        ring.init(CONSUMING_WARPS);
        publish_barriers();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        // [2] the producer, a warp: k and v once, then q, dout and their stats into each stage that is free
        shrink_registers<SHARED ? 40 : 24>();
        if (threadIdx.x >= 32) return;
        if (threadIdx.x == 0) {
            expect_bytes(kv_here, 2 * OWN_BYTES);
            copy_head_boxes<OWN, HD>(k_tile, k, first_key, kv_head, kv_here);
            copy_head_boxes<OWN, HD>(v_tile, v, first_key, kv_head, kv_here);
        }
        for (u32 n = 0; n < group * steps; n++) {
            u32 head = kv_head * group + n / steps;
            u32 first = first_key + n % steps * WALK;
            u32 to = tiles + ring.stage * 2 * WALK_BYTES;
            ring.wait_empty();
            for (u32 i = threadIdx.x; i < WALK; i += 32) {
                u32 query = min(first + i, params.tokens - 1);
                u32 row = query * params.heads + head;
                all_stats[ring.stage * WALK + i] = reinterpret_cast<const float2*>(stats)[row];
                if (SHARED) {
                    u32 hole = bounds[BOUNDS * query] - bounds[BOUNDS * query + 3];
                    all_holes[ring.stage * WALK + i] = hole;
                }
            }
            __syncwarp();
            if (threadIdx.x == 0) {
                expect_bytes(ring.full(), 2 * WALK_BYTES);
                copy_head_boxes<WALK, HD>(to, q, first, head, ring.full());
                copy_head_boxes<WALK, HD>(to + WALK_BYTES, dout, first, head, ring.full());
            }
            ring.advance();
        }
    } else {
        grow_registers<SHARED ? 232 : 240>();
        u32 group_row = (threadIdx.x / 128 - 1) * 64;
        // [3] the queries that see the lane's two keys: key .. past; none sees keys past the end. Of those after a
        // shared prompt that the key is in, which begin at `after`, the ones within the window
        u32 key = first_key + group_row + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
        u32 past[2], after[2];
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            u32 j = key + 8 * r;
            past[r] = 0;
            if (j < params.tokens) past[r] = end_of_seers(bounds, j, j, params.window);
            after[r] = 0xffffffff;
            if (SHARED && past[r] > 0) {
                u32 prompt_end = bounds[BOUNDS * (past[r] - 1) + 3];
                if (prompt_end > j) after[r] = prompt_end;
            }
        }
        float p[WALK / 2], ds[WALK / 2];                   // [64, WALK]
        u32 p_words[WALK / 16][4], ds_words[WALK / 16][4]; // the same, rounded
        float dk_sums[HD / 2] = {}, dv_sums[HD / 2] = {};  // [64, HD]
        wait_for(kv_here, 0);
        for (u32 n = 0; n < group * steps; n++) {
            u32 q_tile = tiles + ring.stage * 2 * WALK_BYTES; // [WALK, HD]
            u32 dout_tile = q_tile + WALK_BYTES;                   // [WALK, HD]
            const float2* step_stats = all_stats + ring.stage * WALK;
            const u32* step_holes = all_holes + ring.stage * WALK;
            // [4] s and dp of the warpgroup's pairs
            ring.wait_full();
            begin_products(p, ds);
            start_inner_products<DT_K, OWN, HD>(p, k_tile, group_row, q_tile);
            commit_products();
            start_inner_products<DT_V, OWN, HD>(ds, v_tile, group_row, dout_tile);
            commit_products();
            // [5] p, while dp is on its way, then ds
            wait_for_products<1>(p);
#pragma unroll
            for (u32 i = 0; i < WALK / 2; i++) {
                u32 r = i / 2 % 2;
                u32 column = i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
                u32 query = first_key + n % steps * WALK + column;
                bool seen = query >= key + 8 * r && query < past[r];
                if (SHARED) {
                    u32 place = query - (query >= after[r] ? step_holes[column] : 0);
                    seen = seen && place - (key + 8 * r) < params.window;
                }
                float s = p[i] * params.scale - step_stats[column].x;
                p[i] = seen ? exp2_fast(s * LOG2_E) : 0.0f;
            }
            wait_for_products<0>(ds);
#pragma unroll
            for (u32 i = 0; i < WALK / 2; i++) {
                u32 column = i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
                ds[i] = p[i] * (ds[i] - step_stats[column].y) * params.scale;
            }
            pack_weights<DT_DOUT>(p_words, p);
            pack_weights<DT_Q>(ds_words, ds);
            // [6] dv += p^T dout, dk += ds^T q
            begin_products(dv_sums, dk_sums, p_words, ds_words);
            start_weighted_rows<DT_DOUT, WALK>(dv_sums, p_words, dout_tile);
            start_weighted_rows<DT_Q, WALK>(dk_sums, ds_words, q_tile);
            commit_products();
            wait_for_products<0>(dv_sums, dk_sums, p_words, ds_words);
            ring.release();
            ring.advance();
        }
        // [7] write
        store_head_rows<DT_DK>(dk, dk_sums, first_key + group_row, params.tokens, params.kv_heads, kv_head);
        store_head_rows<DT_DV>(dv, dv_sums, first_key + group_row, params.tokens, params.kv_heads, kv_head);
    }
}

extern "C" __global__ void __launch_bounds__(384, 1)
attention_bwd_dq_wgmma(const void*, const void*, const void*, const void*, const float* stats, const u32* bounds,
                       void* dq, const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,
                       const __grid_constant__ TensorMap v, const __grid_constant__ TensorMap dout, Params params) {
    extern __shared__ __align__(1024) u8 shared[]; // q, dout [OWN, HD], [STAGES] of k, v [WALK, HD], barriers
    u32 q_tile = shared_address(shared);
    u32 dout_tile = q_tile + OWN_BYTES;
    u32 tiles = dout_tile + OWN_BYTES;
    u32 q_here = tiles + STAGES * 2 * WALK_BYTES;
    Ring<STAGES> ring(q_here + 8);
    u32 first_query = (gridDim.x - 1 - blockIdx.x) * OWN;
    u32 head = blockIdx.y;
    u32 kv_head = head / (params.heads / params.kv_heads);
    // [1] the keys that any of the block's queries sees, in steps
    u32 last_query = min(first_query + OWN, params.tokens) - 1;
    Walk walk = walk_keys(bounds, first_query, last_query, params.window, WALK);
    u32 steps = walk_tiles(walk, last_query, WALK);
    if (threadIdx.x == 0) {
        init_barrier(q_here, 1);
        ring.init(CONSUMING_WARPS);
        publish_barriers();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        // [2] the producer: q and dout once, then keys and values into each stage that is free
        shrink_registers<24>();
        if (threadIdx.x > 0) return;
        expect_bytes(q_here, 2 * OWN_BYTES);
        copy_head_boxes<OWN, HD>(q_tile, q, first_query, head, q_here);
        copy_head_boxes<OWN, HD>(dout_tile, dout, first_query, head, q_here);
        for (u32 n = 0; n < steps; n++) {
            u32 to = tiles + ring.stage * 2 * WALK_BYTES;
            ring.wait_empty();
            expect_bytes(ring.full(), 2 * WALK_BYTES);
            copy_head_boxes<WALK, HD>(to, k, walk_key(walk, n, WALK), kv_head, ring.full());
            copy_head_boxes<WALK, HD>(to + WALK_BYTES, v, walk_key(walk, n, WALK), kv_head, ring.full());
            ring.advance();
        }
    } else {
        grow_registers<240>();
        u32 group_row = (threadIdx.x / 128 - 1) * 64;
        // [3] what the lane's two rows may see, and what the forward left; rows past the end see nothing
        Seen seen[2] = {};
        float lse[2] = {}, delta[2] = {};
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            u32 query = first_query + group_row + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + 8 * r;
            if (query < params.tokens) {
                seen[r] = seen_by(bounds + BOUNDS * query, query, params.window);
                lse[r] = stats[(query * params.heads + head) * 2];
                delta[r] = stats[(query * params.heads + head) * 2 + 1];
            }
        }
        float p[WALK / 2], ds[WALK / 2]; // [64, WALK]
        u32 ds_words[WALK / 16][4];      // the same, rounded
        float dq_sums[HD / 2] = {};      // [64, HD]
        wait_for(q_here, 0);
        for (u32 n = 0; n < steps; n++) {
            u32 k_tile = tiles + ring.stage * 2 * WALK_BYTES; // [WALK, HD]
            u32 v_tile = k_tile + WALK_BYTES;                      // [WALK, HD]
            // [4] s and dp of the warpgroup's pairs
            ring.wait_full();
            begin_products(p, ds);
            start_inner_products<DT_Q, OWN, HD>(p, q_tile, group_row, k_tile);
            commit_products();
            start_inner_products<DT_DOUT, OWN, HD>(ds, dout_tile, group_row, v_tile);
            commit_products();
            // [5] p, while dp is on its way, then ds
            wait_for_products<1>(p);
#pragma unroll
            for (u32 i = 0; i < WALK / 2; i++) {
                u32 r = i / 2 % 2;
                u32 key = walk_key(walk, n, WALK) + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
                p[i] = sees(seen[r], key) ? exp2_fast((p[i] * params.scale - lse[r]) * LOG2_E) : 0.0f;
            }
            wait_for_products<0>(ds);
#pragma unroll
            for (u32 i = 0; i < WALK / 2; i++) ds[i] = p[i] * (ds[i] - delta[i / 2 % 2]) * params.scale;
            pack_weights<DT_K>(ds_words, ds);
            // [6] dq += ds k
            begin_products(dq_sums, ds_words);
            start_weighted_rows<DT_K, WALK>(dq_sums, ds_words, k_tile);
            commit_products();
            wait_for_products<0>(dq_sums, ds_words);
            ring.release();
            ring.advance();
        }
        // [7] write
        store_head_rows<DT_DQ>(dq, dq_sums, first_query + group_row, params.tokens, params.heads, head);
    }
}
