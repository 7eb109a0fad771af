// Matrix product, tiled: 16 x 16 tiles staged in shared memory.
//
//   out[m,n] = alpha * sum_k A[m,k] * B[k,n]     (+ out[m,n] with ACCUMULATE)
//
//   LAYOUT   NT: a [M, K], b [N, K]     NN: a [M, K], b [K, N]     TN: a [K, M], b [K, N]
//
// Tensors   a, b, out: f32 | bf16 | f16, each its own; sums in f32
// Mapping   a block owns 16 rows x 16 words of out, a thread one word (BN = 16 elements of f32, 32 of a
//           16-bit type). 16 steps of k at a time, the block stages what it needs and all share it:
//
//                            b_tile [16, BN]
//                          +------------------+
//       a_tile [16, 16]    |                  |
//       +-------+          +------------------+
//       |       |   16 x   | out [16, BN]     |
//       +-------+          +------------------+
//
// Launch    grid (ceil(N / BN), ceil(M / 16)), block 256, 3.1 KiB shared memory; any M, N, K; a 16-bit
//           out has an even N (the host checks)
// Cost      2 M N K FLOPs; a is read N / BN times, b M / 16 times. Still two loads from shared memory
//           per multiply-add, which bounds it: what the next rung mends
// Numerics  one f32 sum per element in order of k: deterministic; reduction tolerance
// Versions  matmul_naive, this one, matmul, matmul_mma, matmul_f32_mma, matmul_wgmma
// Twin      kernels-wgsl/matmul_tiled.wgsl. Reference: src/ops/matmul/reference.rs

static_assert(TILE * TILE == 256, "a thread for each element of a tile");

// A[m,k], 0 outside.
__device__ __forceinline__ float load_a(const void* a, u32 m, u32 k, const Params& params) {
    if (m >= params.M || k >= params.K) return 0.0f;
    return load<DT_A>(a, LAYOUT == TN ? k * params.M + m : m * params.K + k);
}

// B[k,n], 0 outside.
__device__ __forceinline__ float load_b(const void* b, u32 k, u32 n, const Params& params) {
    if (n >= params.N || k >= params.K) return 0.0f;
    return load<DT_B>(b, LAYOUT == NT ? n * params.K + k : k * params.N + n);
}

extern "C" __global__ void __launch_bounds__(256)
matmul_tiled(const void* a, const void* b, void* out, Params params) {
    constexpr u32 WORD = per_word(DT_OUT);
    constexpr u32 BN = TILE * WORD;
    __shared__ float a_tile[TILE * TILE];     // [16 of m, 16 of k]
    __shared__ float b_tile[TILE * (BN + 1)]; // [16 of k, BN + 1], the 1 against bank conflicts
    u32 thread = threadIdx.x;
    u32 row = thread / TILE; // of the tile
    u32 column = thread % TILE * WORD;
    u32 m = blockIdx.y * TILE + row;
    u32 n = blockIdx.x * BN + column;
    float sum[WORD] = {};
    for (u32 k0 = 0; k0 < params.K; k0 += TILE) {
        // [1] stage a tile of each operand
        a_tile[thread] = load_a(a, blockIdx.y * TILE + thread / TILE, k0 + thread % TILE, params);
        for (u32 i = thread; i < TILE * BN; i += 256) {
            if (LAYOUT == NT) {
                b_tile[i % TILE * (BN + 1) + i / TILE] =
                    load_b(b, k0 + i % TILE, blockIdx.x * BN + i / TILE, params);
            } else {
                b_tile[i / BN * (BN + 1) + i % BN] =
                    load_b(b, k0 + i / BN, blockIdx.x * BN + i % BN, params);
            }
        }
        __syncthreads();
        // [2] 16 steps of k
        for (u32 k = 0; k < TILE; k++) {
            float value = a_tile[row * TILE + k];
            for (u32 lane = 0; lane < WORD; lane++) {
                sum[lane] += value * b_tile[k * (BN + 1) + column + lane];
            }
        }
        __syncthreads();
    }
    // [3] write
    for (u32 lane = 0; lane < WORD; lane++) {
        if (m < params.M && n + lane < params.N) {
            u32 i = m * params.N + n + lane;
            float value = params.alpha * sum[lane];
            if (ACCUMULATE) value += load<DT_OUT>(out, i);
            store<DT_OUT>(out, i, value);
        }
    }
}
