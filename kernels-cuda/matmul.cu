// Matrix product, register-blocked: tiles in shared memory, sums of several elements in a thread's registers.
//
//   out[m,n] = alpha * sum_k A[m,k] * B[k,n]     (+ out[m,n] with ACCUMULATE)
//
//   LAYOUT   A in memory    B in memory    used for
//   NT       a [M, K]       b [N, K]       forward      out = x w^T
//   NN       a [M, K]       b [K, N]       backward     dx = dout w
//   TN       a [K, M]       b [K, N]       backward     dw = dout^T x
//
// Tensors   a, b, out: f32 | bf16 | f16, each its own; sums in f32
// Mapping   a block owns a 64 x 64 tile of out; of it a thread owns 4 rows x 4 adjacent columns, so that
//           16-bit pairs are written as whole words. Of a and b, 64 x 16 slabs are staged as f32, k first:
//
//                  BN = 64                    a_tile [BK, BM + 4], b_tile [BK, BN + 4]
//               +--------------+              each k step of a thread: 4 values of a, 4 of b,
//       BM = 64 | ty   4 x 4   |  16 x 16     16 multiply-adds in registers
//               |      at tx   |  threads     (the 4 columns of padding spread the staging writes
//               +--------------+               over memory banks)
//
// Launch    grid (ceil(N / 64), ceil(M / 64), splits), block 256, 5 to a multiprocessor (48 registers a
//           thread), 8.5 KiB shared memory; any M, N, K; a 16-bit out has an even N (the host checks)
// Splits    with few tiles and a long K, the blocks of z take k from z depth to (z + 1) depth and write to
//           out[z] of an f32 [splits, M, N], with alpha 1; sum_splits adds them. Else depth >= K
// Cost      2 M N K FLOPs; a is read N / 64 times, b M / 64 times: bound by arithmetic
// Numerics  one f32 sum per element (and split) in order of k: deterministic; reduction tolerance
// Versions  matmul_naive, matmul_tiled, this one, matmul_mma, matmul_f32_mma, matmul_wgmma
// Twin      kernels-wgsl/matmul.wgsl. Reference: src/ops/matmul/reference.rs

constexpr u32 STRIDE = BM + 4; // of a staged row
static_assert(BM == 64 && BN == 64, "256 threads, each 4 rows and 4 columns");

// A[m,k], 0 outside.
__device__ __forceinline__ float load_a(const void* a, u32 m, u32 k, const SplitParams& params) {
    if (m >= params.M || k >= params.K) return 0.0f;
    return load<DT_A>(a, LAYOUT == TN ? k * params.M + m : m * params.K + k);
}

// B[k,n], 0 outside.
__device__ __forceinline__ float load_b(const void* b, u32 k, u32 n, const SplitParams& params) {
    if (n >= params.N || k >= params.K) return 0.0f;
    return load<DT_B>(b, LAYOUT == NT ? n * params.K + k : k * params.N + n);
}

extern "C" __global__ void __launch_bounds__(256, 5)
matmul(const void* a, const void* b, void* out, SplitParams params) {
    __shared__ __align__(16) float a_tile[BK * STRIDE]; // [BK, BM + 4]
    __shared__ __align__(16) float b_tile[BK * STRIDE]; // [BK, BN + 4]
    u32 thread = threadIdx.x;
    u32 tile_row = blockIdx.y * BM;
    u32 tile_column = blockIdx.x * BN;
    u32 row = thread / 16 * 4; // of the tile
    u32 column = thread % 16 * 4;
    float sum[4][4] = {}; // [4, 4]
    u32 k_end = min(params.K, (blockIdx.z + 1) * params.depth);
    for (u32 k0 = blockIdx.z * params.depth; k0 < k_end; k0 += BK) {
        // [1] stage a slab of each operand; neighbouring threads read neighbouring memory
        for (u32 i = thread; i < BM * BK; i += 256) {
            if (LAYOUT == TN) {
                a_tile[i / BM * STRIDE + i % BM] = load_a(a, tile_row + i % BM, k0 + i / BM, params);
            } else {
                a_tile[i % BK * STRIDE + i / BK] = load_a(a, tile_row + i / BK, k0 + i % BK, params);
            }
            if (LAYOUT == NT) {
                b_tile[i % BK * STRIDE + i / BK] = load_b(b, k0 + i % BK, tile_column + i / BK, params);
            } else {
                b_tile[i / BN * STRIDE + i % BN] = load_b(b, k0 + i / BN, tile_column + i % BN, params);
            }
        }
        __syncthreads();
        // [2] 16 steps of k: the outer product of 4 values of a and 4 of b
#pragma unroll 8
        for (u32 k = 0; k < BK; k++) {
            float4 a_quad = *reinterpret_cast<const float4*>(&a_tile[k * STRIDE + row]);    // [4]
            float4 b_quad = *reinterpret_cast<const float4*>(&b_tile[k * STRIDE + column]); // [4]
            float a_row[4] = {a_quad.x, a_quad.y, a_quad.z, a_quad.w};
            float b_row[4] = {b_quad.x, b_quad.y, b_quad.z, b_quad.w};
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
#pragma unroll
                for (u32 j = 0; j < 4; j++) sum[i][j] += a_row[i] * b_row[j];
            }
        }
        __syncthreads();
    }
    // [3] write
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            u32 m = tile_row + row + i;
            u32 n = tile_column + column + j;
            if (m < params.M && n < params.N) {
                float value = params.alpha * sum[i][j];
                u32 place = (blockIdx.z * params.M + m) * params.N + n;
                if (ACCUMULATE) value += load<DT_OUT>(out, place);
                store<DT_OUT>(out, place, value);
            }
        }
    }
}
