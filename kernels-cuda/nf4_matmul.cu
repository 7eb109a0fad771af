// Product with an NF4 weight (QLoRA): the weight is decoded as its tile is staged.
//
//   NT   out[m,n] = sum_k x[m,k] * W[n,k]     W [N, K]     forward     y = x W^T
//   NN   out[m,n] = sum_k x[m,k] * W[k,n]     W [K, N]     backward    dx = dout W   (+ out with ACCUMULATE)
//
//   W[i] = levels[code[i]] * scale[i / blocksize], rounded to the dtype of x, i over the flattened weight
//   scale = absmax[block]                              without double quantization
//         = map[q[block]] * nested_absmax[block / nested_blocksize] + offset     with it (NESTED)
//
// Tensors   x [M, K], out [M, N]: f32 | bf16 | f16; codes [N K / 2] bytes, two codes each, the even
//           element in the high half; scales [blocks] bytes q (NESTED; else unused); tables f32:
//           levels [16], then absmax [blocks], or map [256], offset [1], nested_absmax [..]; sums in f32
// Mapping   as in matmul: a thread block owns a 64 x 64 tile of out, a thread 4 rows x 4 adjacent columns of it;
//           64 x 16 slabs of both operands are staged as f32, k first:
//
//                  BN = 64                    x_tile [BK, BM + 4], w_tile [BK, BN + 4]
//               +--------------+              each k step of a thread: 4 values of x, 4 of W,
//       BM = 64 | ty   4 x 4   |  16 x 16     16 multiply-adds in registers
//               |      at tx   |  threads
//               +--------------+
//
// Launch    grid (ceil(N / 64), ceil(M / 64)), block 256, 8.5 KiB shared memory; any M, N, K; a 16-bit
//           out has an even N (the host checks)
// Cost      2 M N K FLOPs, about as many integer operations to decode W M / 64 times; W is 0.5 byte per
//           element: bound by arithmetic, and by decoding where M is small
// Numerics  decoded weights are bit-equal to bitsandbytes (see nf4); one f32 sum per element in order of
//           k: deterministic; the naive rule
// Versions  this one, nf4_matmul_mma
// Twin      kernels-wgsl/nf4_matmul.wgsl. Reference: src/ops/nf4/reference.rs. Paper: arXiv:2305.14314

constexpr u32 STRIDE = BM + 4; // of a staged row
static_assert(BM == 64 && BN == 64, "256 threads, each 4 rows and 4 columns");

// x[m,k], 0 outside.
__device__ __forceinline__ float load_x(const void* x, u32 m, u32 k, const ProductParams& params) {
    if (m >= params.M || k >= params.K) return 0.0f;
    return load<DT_X>(x, m * params.K + k);
}

// The weight in memory: NF4 codes and their scales.
struct Weight {
    const u8* codes;     // [N K / 2]
    const u8* scales;    // [blocks]
    const float* tables; // [16 + ..]
};

// The scale of a block; the product and the sum must not become one fused operation.
__device__ __forceinline__ float scale_of(const Weight& w, u32 block, const ProductParams& params) {
    if (NESTED == 0) return w.tables[16 + block];
    float nested_absmax = w.tables[273 + block / params.nested_blocksize];
    return __fadd_rn(__fmul_rn(w.tables[16 + w.scales[block]], nested_absmax), w.tables[272]);
}

// The weight at (k, n) of the product, decoded and rounded; 0 outside.
__device__ __forceinline__ float load_w(const Weight& w, u32 k, u32 n, const ProductParams& params) {
    if (n >= params.N || k >= params.K) return 0.0f;
    u32 i = LAYOUT == NT ? n * params.K + k : k * params.N + n;
    u32 code = i % 2 == 1 ? w.codes[i / 2] & 15 : w.codes[i / 2] >> 4;
    return round_to<DT_X>(__fmul_rn(w.tables[code], scale_of(w, i / params.blocksize, params)));
}

extern "C" __global__ void __launch_bounds__(256)
nf4_matmul(const void* x, const u8* codes, const u8* scales, const float* tables, void* out,
           ProductParams params) {
    Weight w = {codes, scales, tables};
    __shared__ __align__(16) float x_tile[BK * STRIDE]; // [BK, BM + 4]
    __shared__ __align__(16) float w_tile[BK * STRIDE]; // [BK, BN + 4]
    u32 thread = threadIdx.x;
    u32 tile_row = blockIdx.y * BM;
    u32 tile_column = blockIdx.x * BN;
    u32 row = thread / 16 * 4; // of the tile
    u32 column = thread % 16 * 4;
    float sum[4][4] = {}; // [4, 4]
    for (u32 k0 = 0; k0 < params.K; k0 += BK) {
        // [1] stage a slab of each operand, decoding W; neighbouring threads read neighbouring memory
        for (u32 i = thread; i < BM * BK; i += 256) {
            x_tile[i % BK * STRIDE + i / BK] = load_x(x, tile_row + i / BK, k0 + i % BK, params);
            if (LAYOUT == NT) {
                w_tile[i % BK * STRIDE + i / BK] = load_w(w, k0 + i % BK, tile_column + i / BK, params);
            } else {
                w_tile[i / BN * STRIDE + i % BN] = load_w(w, k0 + i / BN, tile_column + i % BN, params);
            }
        }
        __syncthreads();
        // [2] 16 steps of k: the outer product of 4 values of x and 4 of W
        for (u32 k = 0; k < BK; k++) {
            float4 x_quad = *reinterpret_cast<const float4*>(&x_tile[k * STRIDE + row]);    // [4]
            float4 w_quad = *reinterpret_cast<const float4*>(&w_tile[k * STRIDE + column]); // [4]
            float x_row[4] = {x_quad.x, x_quad.y, x_quad.z, x_quad.w};
            float w_row[4] = {w_quad.x, w_quad.y, w_quad.z, w_quad.w};
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
#pragma unroll
                for (u32 j = 0; j < 4; j++) sum[i][j] += x_row[i] * w_row[j];
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
                float value = sum[i][j];
                if (ACCUMULATE) value += load<DT_OUT>(out, m * params.N + n);
                store<DT_OUT>(out, m * params.N + n, value);
            }
        }
    }
}
