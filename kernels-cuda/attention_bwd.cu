// Causal attention over packed sequences, backward (FlashAttention-2): weights are computed again from
// lse, tile by tile.
//
//   p = e^(s - lse), s = scale * q . k          for the pairs that attention_fwd sees, else 0
//   delta[t,h] = sum_d dout[t,h,d] out[t,h,d]   dp = dout . v,  ds = p (dp - delta) scale
//   dv[j] = sum p dout[t]   dk[j] = sum ds q[t]   over queries t that see j, and the G heads of a group
//   dq[t] = sum_j ds k[j]
//
// Tensors   q, out, dout, dq [T, NH, HD], k, v, dk, dv [T, NKV, HD]: f32 | bf16 | f16; bounds u32
//           [T, 2] or [T, 4] (attention.cuh); stats f32 [T, NH, 2]: lse, delta; sums in f32
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
//           12.4 KiB shared memory; HD <= 256, even for 16-bit types (the host checks)
// Cost      dkv 8, dq 6 HD FLOPs per visible pair: bound by arithmetic. Two passes compute s and dp
//           twice; that buys sums without atomics
// Numerics  all writes, no adds; one order of sums: deterministic; 3 x the naive error
// Versions  this one, attention_bwd_mma, attention_bwd_wgmma
// Twin      kernels-wgsl/attention_bwd.wgsl. Reference: src/ops/attention/reference.rs.
//           Paper: arXiv:2307.08691

// Columns of the head that are staged at once, and the numbers of a staged row: rows are BC + 1 apart, so that
// threads that walk down a column meet different banks.
constexpr u32 SLAB = 32, STRIDE = BC + 1;
static_assert(BR == 32 && BC == 32 && SLAB == BC, "128 threads, each 4 rows and a pair of columns");
constexpr u32 SLABS = (HEAD_WIDTH + SLAB - 1) / SLAB;
// Blocks that a multiprocessor holds at once, which grants a thread 128 registers, or 255 for wide heads;
// left to itself, the compiler spills to make room for more blocks.
constexpr u32 RESIDENT_BLOCKS = SLABS <= 3 ? 4 : 2;

// Fills a tile [BR, STRIDE] with a slab of tokens first .. first + BR - 1 of x [limit, heads, HD]; 0 outside.
template <unsigned DT>
__device__ __forceinline__ void stage(float* tile, const void* x, u32 first, u32 limit, u32 heads,
                                      u32 head, u32 slab) {
    for (u32 n = threadIdx.x; n < BR * SLAB; n += 128) {
        u32 token = first + n / SLAB;
        u32 d = slab * SLAB + n % SLAB;
        float value = 0.0f;
        if (token < limit && d < HEAD_WIDTH) value = load<DT>(x, (token * heads + head) * HEAD_WIDTH + d);
        tile[n / SLAB * STRIDE + n % SLAB] = value;
    }
}

// The tiles of a block and the place of the thread in them.
struct Block {
    float* a_tile; // [BR, STRIDE] a slab of queries or of dout
    float* b_tile; // [BR, STRIDE] the other operand
    float* p_tile; // [BR, STRIDE] p or ds
    u32 x;
    u32 y;
};

// Rows of `a` [limit, heads_a, HD] times rows of `b`, both of the whole head width: the thread's 4 x 2
// inner products.
template <unsigned LEFT, unsigned RIGHT>
__device__ __forceinline__ void inner_products(float (&sums)[8], Block block, const void* a, u32 first_a,
                                               u32 heads_a, u32 head_a, const void* b, u32 first_b,
                                               u32 heads_b, u32 head_b, u32 limit) {
#pragma unroll
    for (u32 n = 0; n < 8; n++) sums[n] = 0.0f;
    for (u32 slab = 0; slab < SLABS; slab++) {
        stage<LEFT>(block.a_tile, a, first_a, limit, heads_a, head_a, slab);
        stage<RIGHT>(block.b_tile, b, first_b, limit, heads_b, head_b, slab);
        __syncthreads();
        for (u32 d = 0; d < SLAB; d++) {
            float low = block.b_tile[2 * block.x * STRIDE + d];
            float high = block.b_tile[(2 * block.x + 1) * STRIDE + d];
#pragma unroll
            for (u32 r = 0; r < 4; r++) {
                float value = block.a_tile[(block.y + 8 * r) * STRIDE + d];
                sums[2 * r] += value * low;
                sums[2 * r + 1] += value * high;
            }
        }
        __syncthreads();
    }
}

// Adds p_tile times a slab of `b` [BC, SLAB] to the thread's 4 x 2 sums of that slab.
template <unsigned DT>
__device__ __forceinline__ void weighted_rows(float* slab_sums, Block block, const void* b, u32 first,
                                              u32 limit, u32 heads, u32 head, u32 slab) {
    float sums[8] = {}; // [4, 2]
    stage<DT>(block.b_tile, b, first, limit, heads, head, slab);
    __syncthreads();
    for (u32 n = 0; n < BC; n++) {
        float low = block.b_tile[n * STRIDE + 2 * block.x];
        float high = block.b_tile[n * STRIDE + 2 * block.x + 1];
#pragma unroll
        for (u32 r = 0; r < 4; r++) {
            float weight = block.p_tile[(block.y + 8 * r) * STRIDE + n];
            sums[2 * r] += weight * low;
            sums[2 * r + 1] += weight * high;
        }
    }
    __syncthreads();
#pragma unroll
    for (u32 n = 0; n < 8; n++) slab_sums[n] += sums[n];
}

// p of a query and a key from their product.
__device__ __forceinline__ float weight_of(float product, u32 query, u32 head, u32 key,
                                           const float* stats, const u32* bounds, const Params& params) {
    if (query >= params.tokens || key > query) return 0.0f;
    if (!sees(seen_by(bounds + BOUNDS * query, query, params.window), key)) return 0.0f;
    return expf(product * params.scale - stats[(query * params.heads + head) * 2]);
}

// ds from p and dp.
__device__ __forceinline__ float score_gradient(float p, float dp, u32 query, u32 head,
                                                const float* stats, const Params& params) {
    if (query >= params.tokens) return 0.0f;
    return p * (dp - stats[(query * params.heads + head) * 2 + 1]) * params.scale;
}

extern "C" __global__ void __launch_bounds__(128)
attention_bwd_delta(const void* out, const void* dout, float* stats, Params params) {
    u32 row = block_number() * 128 + threadIdx.x;
    if (row >= params.tokens * params.heads) return;
    float sum = 0.0f;
    for (u32 i = row * HEAD_WIDTH; i < (row + 1) * HEAD_WIDTH; i++) {
        sum += load<DT_DOUT>(dout, i) * load<DT_OUT>(out, i);
    }
    stats[row * 2 + 1] = sum;
}

extern "C" __global__ void __launch_bounds__(128, RESIDENT_BLOCKS)
attention_bwd_dkv(const void* q, const void* k, const void* v, const void* dout, const float* stats,
                  const u32* bounds, void* dk, void* dv, Params params) {
    __shared__ float a_tile[BR * STRIDE], b_tile[BR * STRIDE], p_tile[BR * STRIDE]; // [BR, STRIDE] each
    u32 x = threadIdx.x % 16;
    u32 y = threadIdx.x / 16;
    Block block = {a_tile, b_tile, p_tile, x, y};
    u32 first_key = blockIdx.x * BC;
    u32 kv_head = blockIdx.y;
    u32 group = params.heads / params.kv_heads;
    // [1] the queries that see any of these keys: first_key .. end
    u32 last_key = min(first_key + BC - 1, params.tokens - 1);
    u32 end = end_of_seers(bounds, first_key, last_key, params.window);
    float dk_sums[8 * SLABS] = {}; // [SLABS, 4, 2]
    float dv_sums[8 * SLABS] = {}; // [SLABS, 4, 2]
    for (u32 head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (u32 first = first_key; first < end; first += BR) {
            // [2] s and dp of the thread's pairs
            float p[8], ds[8]; // [4, 2]
            inner_products<DT_Q, DT_K>(p, block, q, first, params.heads, head, k, first_key,
                                       params.kv_heads, kv_head, params.tokens);
            inner_products<DT_DOUT, DT_V>(ds, block, dout, first, params.heads, head, v, first_key,
                                          params.kv_heads, kv_head, params.tokens);
            // [3] p and ds; p goes into the tile transposed, a row per key
#pragma unroll
            for (u32 n = 0; n < 8; n++) {
                u32 row = y + 8 * (n / 2);
                u32 column = 2 * x + n % 2;
                p[n] = weight_of(p[n], first + row, head, first_key + column, stats, bounds, params);
                ds[n] = score_gradient(p[n], ds[n], first + row, head, stats, params);
                p_tile[column * STRIDE + row] = p[n];
            }
            // [4] dv += p^T dout; unrolled, so that the sums stay in registers
#pragma unroll
            for (u32 slab = 0; slab < SLABS; slab++) {
                weighted_rows<DT_DOUT>(dv_sums + slab * 8, block, dout, first, params.tokens,
                                       params.heads, head, slab);
            }
            // [5] dk += ds^T q
#pragma unroll
            for (u32 n = 0; n < 8; n++) p_tile[(2 * x + n % 2) * STRIDE + y + 8 * (n / 2)] = ds[n];
#pragma unroll
            for (u32 slab = 0; slab < SLABS; slab++) {
                weighted_rows<DT_Q>(dk_sums + slab * 8, block, q, first, params.tokens, params.heads,
                                    head, slab);
            }
        }
    }
    // [6] write
#pragma unroll
    for (u32 n = 0; n < 8 * SLABS; n++) {
        u32 token = first_key + y + 8 * (n / 2 % 4);
        u32 d = n / 8 * SLAB + 2 * x + n % 2;
        u32 i = (token * params.kv_heads + kv_head) * HEAD_WIDTH + d;
        if (token < params.tokens && d < HEAD_WIDTH) {
            store<DT_DK>(dk, i, dk_sums[n]);
            store<DT_DV>(dv, i, dv_sums[n]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(128, RESIDENT_BLOCKS)
attention_bwd_dq(const void* q, const void* k, const void* v, const void* dout, const float* stats,
                 const u32* bounds, void* dq, Params params) {
    __shared__ float a_tile[BR * STRIDE], b_tile[BR * STRIDE], p_tile[BR * STRIDE]; // [BR, STRIDE] each
    u32 x = threadIdx.x % 16;
    u32 y = threadIdx.x / 16;
    Block block = {a_tile, b_tile, p_tile, x, y};
    u32 first_query = (gridDim.x - 1 - blockIdx.x) * BR;
    u32 head = blockIdx.y;
    u32 kv_head = head / (params.heads / params.kv_heads);
    // [1] the keys that any of these queries sees
    u32 last_query = min(first_query + BR, params.tokens) - 1;
    Walk walk = walk_keys(bounds, first_query, last_query, params.window, BC);
    float dq_sums[8 * SLABS] = {}; // [SLABS, 4, 2]
    for (u32 n = 0; n < walk_tiles(walk, last_query, BC); n++) {
        u32 first = walk_key(walk, n, BC);
        // [2] s and dp of the thread's pairs
        float s[8], dp[8]; // [4, 2]
        inner_products<DT_Q, DT_K>(s, block, q, first_query, params.heads, head, k, first,
                                   params.kv_heads, kv_head, params.tokens);
        inner_products<DT_DOUT, DT_V>(dp, block, dout, first_query, params.heads, head, v, first,
                                      params.kv_heads, kv_head, params.tokens);
        // [3] ds
#pragma unroll
        for (u32 c = 0; c < 8; c++) {
            u32 row = y + 8 * (c / 2);
            u32 column = 2 * x + c % 2;
            float p = weight_of(s[c], first_query + row, head, first + column, stats, bounds, params);
            p_tile[row * STRIDE + column] = score_gradient(p, dp[c], first_query + row, head, stats, params);
        }
        // [4] dq += ds k; unrolled, so that the sums stay in registers
#pragma unroll
        for (u32 slab = 0; slab < SLABS; slab++) {
            weighted_rows<DT_K>(dq_sums + slab * 8, block, k, first, params.tokens, params.kv_heads,
                                kv_head, slab);
        }
    }
    // [5] write
#pragma unroll
    for (u32 n = 0; n < 8 * SLABS; n++) {
        u32 token = first_query + y + 8 * (n / 2 % 4);
        u32 d = n / 8 * SLAB + 2 * x + n % 2;
        u32 i = (token * params.heads + head) * HEAD_WIDTH + d;
        if (token < params.tokens && d < HEAD_WIDTH) store<DT_DQ>(dq, i, dq_sums[n]);
    }
}
