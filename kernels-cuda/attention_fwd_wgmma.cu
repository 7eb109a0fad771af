// Causal attention over packed sequences, forward, on Hopper's tensor cores (FlashAttention-3), for 16-bit types.
//
//   query t is key index i = t + q_offset and sees the keys j with lowest(i) <= j <= i,
//   lowest(i) = max(first token of i's sequence, i + 1 - window)
//   and, where sequences share a prompt, the keys of that as if i's sequence followed it (attention.cuh)
//   s_j = scale * q[t,h] . k[j,h/G]      G = NH / NKV query heads share a kv-head
//   out[t,h] = sum_j e^(s_j - lse) v[j,h/G],   lse = ln sum_j e^s_j
//
// Tensors   q, out [T, NH, HD], k, v [S, NKV, HD]: bf16 | f16, all the same; bounds u32 [S, 2] or
//           [S, 4] (attention.cuh); stats f32 [T, NH, 2]: lse at 0, the backward's delta at 1; sums in f32
// Mapping   a block owns BR = 128 queries of one head, warpgroups 1 and 2 64 of them each, and walks over its
//           keys by BC = 128, from the first that any of its queries sees. A thread of warpgroup 0 has the
//           tiles copied, keys and values in a ring of two stages each. A warpgroup keeps the tensor cores
//           busy while it weighs:
//
//             tensor cores   q k0 | q k1, p0 v0 | q k2, p1 v1 | ... | pn vn
//             the others          p0            p1             p2            of s0, s1, s2: mask, maximum, e^x
//
//           scores are sums of wgmma, and once rounded, the first operand of the product with v: they never
//           leave registers. Lane 4 r + c of a warp has rows r, r + 8 of its 16, columns 2 c, 2 c + 1 of every 8
// Launch    grid (ceil(T / 128), NH), block 384, 256 HD + 1024 HD bytes of shared memory and the barriers
//           (160 KiB at 128); sm_90a; HD 64 or 128 (the host checks); the last tile, which has most keys,
//           starts first
// Cost      4 HD FLOPs per visible pair (tiles are whole: up to 255 pairs more per row), q and out once,
//           k and v ceil(T / 128) / 2 times: bound by the tensor cores, and by e^x at HD 64
// Numerics  as attention_fwd_mma: online softmax in f32 to base 2; weights are rounded to the inputs' dtype;
//           unseen pairs are -inf and weigh exactly 0; deterministic; the naive rule
// Versions  attention_fwd, attention_fwd_mma, this one; not yet measured on a device
// Portable  kernels-cuda/attention_fwd.cu. Reference: src/ops/attention/reference.rs.
//           Paper: arXiv:2407.08608

constexpr u32 HD = HEAD_WIDTH;
constexpr u32 Q_BYTES = BR * HD * 2, KV_BYTES = BC * HD * 2;
constexpr u32 CONSUMING_WARPS = 8;
static_assert(BR == 128 && BC % 16 == 0, "2 warpgroups of 64 rows, whole steps of wgmma");
static_assert(SHARED_BYTES == Q_BYTES + 2 * STAGES * KV_BYTES + 8 + 2 * Ring<STAGES>::BYTES, "tiles and barriers");

extern "C" __global__ void __launch_bounds__(384, 1)
attention_fwd_wgmma(const void*, const void*, const void*, const u32* bounds, void* out, float* stats,
                    const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,
                    const __grid_constant__ TensorMap v, Params params) {
    extern __shared__ __align__(1024) u8 shared[]; // q [BR, HD], k, v [STAGES, BC, HD], barriers
    u32 q_tile = shared_address(shared);
    u32 k_tiles = q_tile + Q_BYTES, v_tiles = k_tiles + STAGES * KV_BYTES;
    u32 q_here = v_tiles + STAGES * KV_BYTES;
    Ring<STAGES> k_ring(q_here + 8), v_ring(q_here + 8 + Ring<STAGES>::BYTES);
    u32 first_query = (gridDim.x - 1 - blockIdx.x) * BR;
    u32 head = blockIdx.y;
    u32 kv_head = head / (params.heads / params.kv_heads);
    // [1] the keys that any of the block's queries sees, in steps
    u32 first_i = first_query + params.q_offset;
    u32 last_i = min(first_query + BR, params.tokens) - 1 + params.q_offset;
    Walk walk = walk_keys(bounds, first_i, last_i, params.window, BC);
    u32 steps = walk_tiles(walk, last_i, BC);
    if (threadIdx.x == 0) {
        init_barrier(q_here, 1);
        k_ring.init(CONSUMING_WARPS);
        v_ring.init(CONSUMING_WARPS);
        publish_barriers();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        // [2] the producer: q once, then keys and values into each stage that is free
        shrink_registers<24>();
        if (threadIdx.x > 0) return;
        expect_bytes(q_here, Q_BYTES);
        copy_head_boxes<BR, HD>(q_tile, q, first_query, head, q_here);
        auto bring = [&](Ring<STAGES>& ring, u32 tiles, const TensorMap& x, u32 n) {
            ring.wait_empty();
            expect_bytes(ring.full(), KV_BYTES);
            copy_head_boxes<BC, HD>(tiles + ring.stage * KV_BYTES, x, walk_key(walk, n, BC), kv_head, ring.full());
            ring.advance();
        };
        for (u32 n = 0; n < steps; n++) {
            bring(k_ring, k_tiles, k, n);
            bring(v_ring, v_tiles, v, n);
        }
    } else {
        grow_registers<240>();
        u32 group_row = (threadIdx.x / 128 - 1) * 64;
        // [3] what the lane's two rows may see; rows past the end see what the last sees
        u32 row = first_query + group_row + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
        Seen seen[2];
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            u32 i = min(row + 8 * r, params.tokens - 1) + params.q_offset;
            seen[r] = seen_by(bounds + BOUNDS * i, i, params.window);
        }
        SeenByAll seen_by_all(bounds, first_i, last_i, params.window);
        float m[2] = {MASK, MASK}, l[2] = {}, shrink[2];
        float s[BC / 2];         // scores of the warpgroup [64, BC]
        u32 p[BC / 16][4];       // weights [64, BC], rounded
        float sums[HD / 2] = {}; // unnormalised output [64, HD]
        float scale = params.scale * LOG2_E;
        // Turns scores to base 2 into weights; sums so far must shrink by as much as the maximum grew.
        auto weigh = [&](u32 n) {
            u32 first_key = walk_key(walk, n, BC);
            bool all_seen = seen_by_all(first_key, BC);
            float larger[2] = {m[0], m[1]};
#pragma unroll
            for (u32 i = 0; i < BC / 2; i++) {
                u32 key = first_key + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
                u32 r = i / 2 % 2;
                s[i] = all_seen || sees(seen[r], key) ? s[i] * scale : -__int_as_float(0x7f800000);
                larger[r] = fmaxf(larger[r], s[i]);
            }
#pragma unroll
            for (u32 r = 0; r < 2; r++) {
                larger[r] = row_max(larger[r]);
                shrink[r] = exp2_fast(m[r] - larger[r]);
                m[r] = larger[r];
                l[r] *= shrink[r];
            }
#pragma unroll
            for (u32 i = 0; i < BC / 2; i++) {
                s[i] = exp2_fast(s[i] - m[i / 2 % 2]);
                l[i / 2 % 2] += s[i];
            }
        };
        // [4] the first scores and weights
        wait_for(q_here, 0);
        k_ring.wait_full();
        begin_products(s);
        start_inner_products<DT_Q, BR, HD>(s, q_tile, group_row, k_tiles);
        commit_products();
        wait_for_products<0>(s);
        k_ring.release();
        k_ring.advance();
        weigh(0);
        pack_weights<DT_Q>(p, s);
        for (u32 n = 1; n < steps; n++) {
            // [5] the next scores, and the values of the weights that are there
            k_ring.wait_full();
            begin_products(s);
            start_inner_products<DT_Q, BR, HD>(s, q_tile, group_row, k_tiles + k_ring.stage * KV_BYTES);
            commit_products();
            v_ring.wait_full();
            begin_products(sums, p);
            start_weighted_rows<DT_Q, BC>(sums, p, v_tiles + v_ring.stage * KV_BYTES);
            commit_products();
            // [6] weigh the scores while the tensor cores add the values
            wait_for_products<1>(s);
            k_ring.release();
            k_ring.advance();
            weigh(n);
            wait_for_products<0>(sums, p);
            v_ring.release();
            v_ring.advance();
#pragma unroll
            for (u32 i = 0; i < HD / 2; i++) sums[i] *= shrink[i / 2 % 2];
            pack_weights<DT_Q>(p, s);
        }
        // [7] the last values
        v_ring.wait_full();
        begin_products(sums, p);
        start_weighted_rows<DT_Q, BC>(sums, p, v_tiles + v_ring.stage * KV_BYTES);
        commit_products();
        wait_for_products<0>(sums, p);
        // [8] the row sums, then normalise and write
        float total[2] = {row_sum(l[0]), row_sum(l[1])};
#pragma unroll
        for (u32 r = 0; r < 2; r++) {
            u32 token = row + 8 * r;
            if (threadIdx.x % 4 == 0 && token < params.tokens) {
                stats[(token * params.heads + head) * 2] = m[r] * LN_2 + logf(total[r]);
            }
        }
#pragma unroll
        for (u32 i = 0; i < HD / 2; i++) sums[i] /= total[i / 2 % 2];
        store_head_rows<DT_OUT>(out, sums, first_query + group_row, params.tokens, params.heads, head);
    }
}
