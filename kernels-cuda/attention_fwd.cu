// Causal attention over packed sequences, forward, without a T x S matrix (FlashAttention-2).
//
//   query t is key index i = t + q_offset and sees the keys j with lowest(i) <= j <= i,
//   lowest(i) = max(first token of i's sequence, i + 1 - window)
//   and, where sequences share a prompt, the keys of that as if i's sequence followed it (attention.cuh)
//   s_j = scale * q[t,h] . k[j,h/G]      G = NH / NKV query heads share a kv-head
//   out[t,h] = sum_j e^(s_j - lse) v[j,h/G],   lse = ln sum_j e^s_j
//
// Tensors   q, out [T, NH, HD], k, v [S, NKV, HD]: f32 | bf16 | f16; bounds u32 [S, 2] or
//           [S, 4] (attention.cuh); stats f32 [T, NH, 2]: lse at 0, the backward's delta at 1; sums in f32
// Mapping   a block owns a tile of BR = 32 queries of one head and walks over its keys by BC = 32,
//           from the first that any of its queries sees, with a leap over those between a shared prompt and
//           its own sequences; a thread owns 4 rows and a pair of columns:
//
//                       keys ->                  thread = 16 y + x
//             queries  [ . . xx . . ]  y         rows y, y + 8, y + 16, y + 24
//                      [ . . xx . . ]  y + 8     columns 2 x, 2 x + 1: a word of a 16-bit output
//
//           products go by slabs of 32 columns of the head, so shared memory does not grow with HD
// Launch    grid (ceil(T / 32), NH), block 128, 14.4 KiB shared memory; HD <= 256, even for 16-bit
//           types (the host checks); the last tile, which has most keys, starts first
// Cost      4 HD FLOPs per visible pair (tiles are whole: up to 32 pairs more per row), q and out once,
//           k and v ceil(T / 32) / 2 times: bound by arithmetic
// Numerics  online softmax: row maximum m and sum l are carried over the tiles, sums rescaled when m
//           grows; unseen pairs weigh exactly 0, MASK is finite so that MASK - MASK is; deterministic
// Versions  this one, attention_fwd_mma, attention_fwd_wgmma
// Twin      kernels-wgsl/attention_fwd.wgsl. Reference: src/ops/attention/reference.rs.
//           Paper: arXiv:2307.08691

// Columns of the head that are staged at once, and the numbers of a staged row: rows are BC + 1 apart, so that
// threads that walk down a column meet different banks.
constexpr u32 SLAB = 32, STRIDE = BC + 1;
static_assert(BR == 32 && BC == 32 && SLAB == BC, "128 threads, each 4 rows and a pair of columns");
constexpr u32 SLABS = (HEAD_WIDTH + SLAB - 1) / SLAB;

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

// The maximum or sum over a row's 16 threads, of the numbers that they put in `partial`.
__device__ __forceinline__ float reduce_row(const float* partial, u32 row, bool sum) {
    float value = partial[row * 16];
    // What shared prompts see takes the registers that the rest would be read into.
#pragma unroll (SHARED ? 3 : 15)
    for (u32 n = 1; n < 16; n++) {
        float next = partial[row * 16 + n];
        value = sum ? value + next : fmaxf(value, next);
    }
    return value;
}

extern "C" __global__ void __launch_bounds__(128)
attention_fwd(const void* q, const void* k, const void* v, const u32* bounds, void* out, float* stats,
              Params params) {
    __shared__ float q_tile[BR * STRIDE];  // [BR, STRIDE] a slab of the queries
    __shared__ float kv_tile[BR * STRIDE]; // [BR, STRIDE] a slab of the keys, then of the values
    __shared__ float p_tile[BR * STRIDE];  // [BR, STRIDE] weights of queries x keys
    __shared__ float partial[BR * 16]; // [BR, 16] one number per thread and row, to be reduced
    u32 first_query = (gridDim.x - 1 - blockIdx.x) * BR;
    u32 head = blockIdx.y;
    u32 kv_head = head / (params.heads / params.kv_heads);
    u32 x = threadIdx.x % 16;
    u32 y = threadIdx.x / 16;
    // [1] what the thread's rows may see; rows past the end see nothing
    Seen seen[4] = {};
    float m[4], l[4] = {};
    for (u32 r = 0; r < 4; r++) {
        u32 i = first_query + y + 8 * r + params.q_offset;
        if (i < params.keys) seen[r] = seen_by(bounds + BOUNDS * i, i, params.window);
        m[r] = MASK;
    }
    float sums[8 * SLABS] = {}; // [SLABS, 4, 2] unnormalised output
    u32 first_i = first_query + params.q_offset;
    u32 last_i = min(first_i + BR, params.keys) - 1;
    Walk walk = walk_keys(bounds, first_i, last_i, params.window, BC);
    for (u32 n = 0; n < walk_tiles(walk, last_i, BC); n++) {
        u32 first_key = walk_key(walk, n, BC);
        // [2] scores of the thread's pairs, slab by slab
        float s[8] = {}; // [4, 2]
        for (u32 slab = 0; slab < SLABS; slab++) {
            stage<DT_Q>(q_tile, q, first_query, params.tokens, params.heads, head, slab);
            stage<DT_K>(kv_tile, k, first_key, params.keys, params.kv_heads, kv_head, slab);
            __syncthreads();
#pragma unroll 4
            for (u32 d = 0; d < SLAB; d++) {
                float low = kv_tile[2 * x * STRIDE + d];
                float high = kv_tile[(2 * x + 1) * STRIDE + d];
#pragma unroll
                for (u32 r = 0; r < 4; r++) {
                    float value = q_tile[(y + 8 * r) * STRIDE + d];
                    s[2 * r] += value * low;
                    s[2 * r + 1] += value * high;
                }
            }
            __syncthreads();
        }
        // [3] the row maxima so far
#pragma unroll
        for (u32 r = 0; r < 4; r++) {
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                u32 key = first_key + 2 * x + c;
                s[2 * r + c] = sees(seen[r], key) ? s[2 * r + c] * params.scale : MASK;
            }
            partial[(y + 8 * r) * 16 + x] = fmaxf(s[2 * r], s[2 * r + 1]);
        }
        __syncthreads();
        // [4] weights; sums so far shrink by as much as the maximum grew
#pragma unroll
        for (u32 r = 0; r < 4; r++) {
            u32 row = y + 8 * r;
            float larger = fmaxf(m[r], reduce_row(partial, row, false));
            float shrink = expf(m[r] - larger);
            m[r] = larger;
            l[r] *= shrink;
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                u32 key = first_key + 2 * x + c;
                float weight = sees(seen[r], key) ? expf(s[2 * r + c] - larger) : 0.0f;
                l[r] += weight;
                p_tile[row * STRIDE + 2 * x + c] = weight;
            }
#pragma unroll
            for (u32 slab = 0; slab < SLABS; slab++) {
                sums[slab * 8 + 2 * r] *= shrink;
                sums[slab * 8 + 2 * r + 1] *= shrink;
            }
        }
        // [5] add the weighted values, slab by slab; unrolled, so that the sums stay in registers
#pragma unroll
        for (u32 slab = 0; slab < SLABS; slab++) {
            stage<DT_V>(kv_tile, v, first_key, params.keys, params.kv_heads, kv_head, slab);
            __syncthreads();
#pragma unroll 4
            for (u32 j = 0; j < BC; j++) {
                float low = kv_tile[j * STRIDE + 2 * x];
                float high = kv_tile[j * STRIDE + 2 * x + 1];
#pragma unroll
                for (u32 r = 0; r < 4; r++) {
                    float weight = p_tile[(y + 8 * r) * STRIDE + j];
                    sums[slab * 8 + 2 * r] += weight * low;
                    sums[slab * 8 + 2 * r + 1] += weight * high;
                }
            }
            __syncthreads();
        }
    }
    // [6] the row sums, then normalise and write
#pragma unroll
    for (u32 r = 0; r < 4; r++) partial[(y + 8 * r) * 16 + x] = l[r];
    __syncthreads();
#pragma unroll
    for (u32 r = 0; r < 4; r++) {
        u32 token = first_query + y + 8 * r;
        if (token >= params.tokens) break;
        float total = reduce_row(partial, y + 8 * r, true);
        if (x == 0) stats[(token * params.heads + head) * 2] = m[r] + logf(total);
#pragma unroll
        for (u32 slab = 0; slab < SLABS; slab++) {
            u32 d = slab * SLAB + 2 * x;
            u32 i = (token * params.heads + head) * HEAD_WIDTH + d;
            if (d < HEAD_WIDTH) store<DT_OUT>(out, i, sums[slab * 8 + 2 * r] / total);
            if (d + 1 < HEAD_WIDTH) store<DT_OUT>(out, i + 1, sums[slab * 8 + 2 * r + 1] / total);
        }
    }
}
