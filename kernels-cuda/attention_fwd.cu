// Causal attention over packed sequences, forward, without a T x S matrix (FlashAttention-2).
//
//   query t is key index i = t + q_offset and sees the keys j with lowest(i) <= j <= i,
//   lowest(i) = max(first token of i's sequence, i + 1 - window)
//   s_j = scale * q[t,h] . k[j,h/G]      G = NH / NKV query heads share a kv-head
//   out[t,h] = sum_j e^(s_j - lse) v[j,h/G],   lse = ln sum_j e^s_j
//
// Tensors   q, out [T, NH, HD], k, v [S, NKV, HD]: f32 | bf16 | f16; bounds u32 [S, 2] (first, end);
//           stats f32 [T, NH, 2]: lse at 0, the backward's delta at 1; sums in f32
// Mapping   a block owns a tile of BR = 32 queries of one head and walks over its keys by BC = 32,
//           from the first that any of its queries sees; a thread owns 4 rows and a pair of columns:
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
// Twin      kernels-wgsl/attention_fwd.wgsl. Reference: src/ops/attention/reference.rs.
//           Paper: arXiv:2307.08691

struct Params {
    u32 tokens;
    u32 keys;
    u32 heads;
    u32 kv_heads;
    u32 q_offset;
    u32 window;
    float scale;
};

constexpr u32 SLABS = (HEAD_WIDTH + 31) / 32;
constexpr float MASK = -1e30f;

__device__ __forceinline__ u32 lowest_key(const u32* bounds, u32 i, u32 window) {
    u32 first = bounds[2 * i];
    return i >= window ? max(first, i + 1 - window) : first;
}

// Fills a tile [32, 33] with a slab of tokens first .. first + 31 of x [limit, heads, HD]; 0 outside.
// Rows are 33 apart, so that threads that walk down a column meet different banks.
template <unsigned DT>
__device__ __forceinline__ void stage(float* tile, const void* x, u32 first, u32 limit, u32 heads,
                                      u32 head, u32 slab) {
    for (u32 n = threadIdx.x; n < 1024; n += 128) {
        u32 token = first + n / 32;
        u32 d = slab * 32 + n % 32;
        float value = 0.0f;
        if (token < limit && d < HEAD_WIDTH) value = load<DT>(x, (token * heads + head) * HEAD_WIDTH + d);
        tile[n / 32 * 33 + n % 32] = value;
    }
}

// The maximum or sum over a row's 16 threads, of the numbers that they put in `partial`.
__device__ __forceinline__ float reduce_row(const float* partial, u32 row, bool sum) {
    float value = partial[row * 16];
    for (u32 n = 1; n < 16; n++) {
        float next = partial[row * 16 + n];
        value = sum ? value + next : fmaxf(value, next);
    }
    return value;
}

extern "C" __global__ void __launch_bounds__(128)
attention_fwd(const void* q, const void* k, const void* v, const u32* bounds, void* out, float* stats,
              Params params) {
    __shared__ float q_tile[1056];  // [32, 33] a slab of the queries
    __shared__ float kv_tile[1056]; // [32, 33] a slab of the keys, then of the values
    __shared__ float p_tile[1056];  // [32, 33] weights of queries x keys
    __shared__ float partial[512];  // [32, 16] one number per thread and row, to be reduced
    u32 first_query = (gridDim.x - 1 - blockIdx.x) * 32;
    u32 head = blockIdx.y;
    u32 kv_head = head / (params.heads / params.kv_heads);
    u32 x = threadIdx.x % 16;
    u32 y = threadIdx.x / 16;
    // [1] what the thread's rows may see: keys lowest .. last; rows past the end see none
    u32 lowest[4] = {}, past[4] = {};
    float m[4], l[4] = {};
    for (u32 r = 0; r < 4; r++) {
        u32 token = first_query + y + 8 * r;
        if (token < params.tokens) {
            lowest[r] = lowest_key(bounds, token + params.q_offset, params.window);
            past[r] = token + params.q_offset + 1;
        }
        m[r] = MASK;
    }
    float sums[8 * SLABS] = {}; // [SLABS, 4, 2] unnormalised output
    u32 end = min(first_query + 32, params.tokens) + params.q_offset;
    u32 first_key = lowest_key(bounds, first_query + params.q_offset, params.window);
    for (; first_key < end; first_key += 32) {
        // [2] scores of the thread's pairs, slab by slab
        float s[8] = {}; // [4, 2]
        for (u32 slab = 0; slab < SLABS; slab++) {
            stage<DT_Q>(q_tile, q, first_query, params.tokens, params.heads, head, slab);
            stage<DT_K>(kv_tile, k, first_key, params.keys, params.kv_heads, kv_head, slab);
            __syncthreads();
#pragma unroll 4
            for (u32 d = 0; d < 32; d++) {
                float low = kv_tile[2 * x * 33 + d];
                float high = kv_tile[(2 * x + 1) * 33 + d];
#pragma unroll
                for (u32 r = 0; r < 4; r++) {
                    float value = q_tile[(y + 8 * r) * 33 + d];
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
                bool seen = key >= lowest[r] && key < past[r];
                s[2 * r + c] = seen ? s[2 * r + c] * params.scale : MASK;
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
                bool seen = key >= lowest[r] && key < past[r];
                float weight = seen ? expf(s[2 * r + c] - larger) : 0.0f;
                l[r] += weight;
                p_tile[row * 33 + 2 * x + c] = weight;
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
            for (u32 j = 0; j < 32; j++) {
                float low = kv_tile[j * 33 + 2 * x];
                float high = kv_tile[j * 33 + 2 * x + 1];
#pragma unroll
                for (u32 r = 0; r < 4; r++) {
                    float weight = p_tile[(y + 8 * r) * 33 + j];
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
            u32 d = slab * 32 + 2 * x;
            u32 i = (token * params.heads + head) * HEAD_WIDTH + d;
            if (d < HEAD_WIDTH) store<DT_OUT>(out, i, sums[slab * 8 + 2 * r] / total);
            if (d + 1 < HEAD_WIDTH) store<DT_OUT>(out, i + 1, sums[slab * 8 + 2 * r + 1] / total);
        }
    }
}
