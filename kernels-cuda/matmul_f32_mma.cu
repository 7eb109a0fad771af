// Matrix product on tensor cores (mma.sync) where an operand is f32, or the two are of different dtypes:
// LoRA's factors in f32 beside activations in bf16. Operands are cut into planes of bf16, exactly.
//
//   out[m,n] = alpha * sum_k A[m,k] * B[k,n]     (+ out[m,n] with ACCUMULATE)
//
//   LAYOUT   A in memory    B in memory    used for
//   NT       a [M, K]       b [N, K]       forward      out = x w^T
//   NN       a [M, K]       b [K, N]       backward     dx = dout w
//   TN       a [K, M]       b [K, N]       backward     dw = dout^T x
//
//   A = A0 + A1 + A2     A0 = A rounded to bf16, A1 = A - A0 rounded, A2 = A - A0 - A1: 8 bits each
//   A B = A0 B0 + A0 B1 + A1 B0 + A0 B2 + A1 B1 + A2 B0 + ..     what is left out is below 2^-25 of A B
//
// Tensors   a, b, out: f32 | bf16 | f16, each its own; sums in f32
// Mapping   as in matmul_mma: a block owns a TILE x TILE tile of out, a warp TILE/2 x TILE/4 of it. Slabs of
//           32 k come by way of registers, where they are cut; f32 makes 3 planes, f16 2, bf16 is one:
//
//             slab      n         n + 1            n + 2
//                    [ in use | cut, stored |  into registers  ]
//
// Launch    grid (ceil(N / TILE), ceil(M / TILE), splits), block 256, 128 TILE bytes of shared memory for
//           each plane of a and of b (at most 96 KiB); sm_80; rows of a and of b are multiples of 8 elements, a
//           16-bit out has an even N (the host checks); any M, N, K otherwise: chunks outside are zeros
// Splits    with few tiles and a long K, the blocks of z take k from z depth to (z + 1) depth and write to
//           out[z] of an f32 [splits, M, N], with alpha 1; sum_splits adds them. Else depth >= K
// Cost      2 M N K FLOPs, as tensor cores count them 6 times that for two f32, 3 times for f32 and bf16;
//           a is read N / TILE times, b M / TILE times: bound by the tensor cores, with LoRA's narrow
//           matrices by memory bandwidth
// Numerics  products as exact as f32 makes them, sums in f32 in a fixed order: deterministic; reduction
//           tolerance. An infinity becomes a NaN
// Versions  matmul_naive, matmul_tiled, matmul, matmul_mma, this one, matmul_wgmma; not yet measured on a device
// Portable  kernels-cuda/matmul.cu. Reference: src/ops/matmul/reference.rs

constexpr bool A_K_ROWS = LAYOUT == TN, B_K_ROWS = LAYOUT != NT;
constexpr u32 BYTES = SLAB_BYTES<TILE>;
constexpr u32 CHUNKS = TILE * SLAB_K / 8 / 256; // of an operand per thread and slab

static_assert(STAGES == 2, "one slab in use, one being stored");

template <unsigned DT>
constexpr u32 PLANES = DT == F32 ? 3 : DT == F16 ? 2 : 1;

// A thread's chunks of 8 elements of a slab, as they are in memory.
template <unsigned DT>
struct Fetched {
    uint4 words[CHUNKS][DT == F32 ? 2 : 1];
};

// Fetches this thread's chunks of a slab of x: `first` .. first + TILE of its `limit` rows or columns,
// k0 .. k0 + SLAB_K of its K as far as k_end.
template <unsigned DT, bool K_ROWS>
__device__ __forceinline__ void fetch(Fetched<DT>& fetched, const void* x, u32 first, u32 limit, u32 k0,
                                      u32 k_end, u32 K) {
    constexpr u32 ROW_CHUNKS = SLAB_WIDTH<TILE, K_ROWS> / 8;
#pragma unroll
    for (u32 c = 0; c < CHUNKS; c++) {
        u32 row = (threadIdx.x + 256 * c) / ROW_CHUNKS;
        u32 chunk = (threadIdx.x + 256 * c) % ROW_CHUNKS;
        u32 outer = first + (K_ROWS ? chunk * 8 : row);
        u32 k = k0 + (K_ROWS ? row : chunk * 8);
        u32 i = K_ROWS ? k * limit + outer : outer * K + k;
        bool inside = outer < limit && k < k_end;
#pragma unroll
        for (u32 half = 0; half < (DT == F32 ? 2 : 1); half++) {
            const uint4* from = static_cast<const uint4*>(x) + i / (DT == F32 ? 4 : 8) + half;
            fetched.words[c][half] = inside ? *from : make_uint4(0, 0, 0, 0);
        }
    }
}

// Element `i` of a chunk.
template <unsigned DT>
__device__ __forceinline__ float element(const uint4* chunk, u32 i) {
    const uint4& words = chunk[DT == F32 ? i / 4 : 0];
    u32 n = DT == F32 ? i % 4 : i / 2;
    u32 word = n == 0 ? words.x : n == 1 ? words.y : n == 2 ? words.z : words.w;
    if (DT == F32) return __uint_as_float(word);
    u16 bits = i % 2 == 1 ? word >> 16 : word & 0xffff;
    return DT == BF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

// Cuts chunks into planes and stores each in its slab.
template <unsigned DT, bool K_ROWS>
__device__ __forceinline__ void cut(u8* slabs, const Fetched<DT>& fetched) {
    constexpr u32 WIDTH = SLAB_WIDTH<TILE, K_ROWS>;
#pragma unroll
    for (u32 c = 0; c < CHUNKS; c++) {
        float rest[8];
#pragma unroll
        for (u32 i = 0; i < 8; i++) rest[i] = element<DT>(fetched.words[c], i);
        u32 at = place<WIDTH>((threadIdx.x + 256 * c) / (WIDTH / 8), (threadIdx.x + 256 * c) % (WIDTH / 8));
#pragma unroll
        for (u32 plane = 0; plane < PLANES<DT>; plane++) {
            u32 words[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                words[i] = pack<BF16>(rest[2 * i], rest[2 * i + 1]);
                rest[2 * i] -= bf16_to_f32(words[i] & 0xffff);
                rest[2 * i + 1] -= bf16_to_f32(words[i] >> 16);
            }
            uint4 chunk = make_uint4(words[0], words[1], words[2], words[3]);
            *reinterpret_cast<uint4*>(slabs + plane * BYTES + at) = chunk;
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 1)
matmul_f32_mma(const void* a, const void* b, void* out, SplitParams params) {
    constexpr u32 STAGE = (PLANES<DT_A> + PLANES<DT_B>) * BYTES;
    static_assert(SHARED_BYTES == STAGES * STAGE, "the planes of a slab of each operand in every stage");
    extern __shared__ __align__(128) u8 shared[]; // [STAGES, planes of a and of b, BYTES]
    u32 row, column;
    tile_of_block<TILE>(row, column);
    Sums<TILE> sums = {}; // [TILE/32, TILE/32, 4]
    Sums<TILE> small = {}; // [TILE/32, TILE/32, 4] of the lesser planes, which would lose bits among the others
    Fetched<DT_A> a_chunks;
    Fetched<DT_B> b_chunks;
    u32 first_slab = blockIdx.z * params.depth / SLAB_K;
    u32 k_end = min(params.K, (blockIdx.z + 1) * params.depth);
    auto fetch_slab = [&](u32 slab) {
        fetch<DT_A, A_K_ROWS>(a_chunks, a, row, params.M, slab * SLAB_K, k_end, params.K);
        fetch<DT_B, B_K_ROWS>(b_chunks, b, column, params.N, slab * SLAB_K, k_end, params.K);
    };
    auto cut_slab = [&](u32 slab) {
        u8* stage = shared + slab % STAGES * STAGE;
        cut<DT_A, A_K_ROWS>(stage, a_chunks);
        cut<DT_B, B_K_ROWS>(stage + PLANES<DT_A> * BYTES, b_chunks);
    };
    // [1] the first slab into shared memory, the second into registers
    fetch_slab(first_slab);
    cut_slab(first_slab);
    fetch_slab(first_slab + 1);
    for (u32 slab = first_slab; slab * SLAB_K < k_end; slab++) {
        // [2] this slab is there, and everyone is done with the one that is overwritten next
        __syncthreads();
        cut_slab(slab + 1);
        fetch_slab(slab + 2);
        // [3] multiply all planes but those whose product is too small to matter
        u32 a_slab = shared_address(shared) + slab % STAGES * STAGE;
        u32 b_slab = a_slab + PLANES<DT_A> * BYTES;
#pragma unroll
        for (u32 i = 0; i < PLANES<DT_A>; i++) {
#pragma unroll
            for (u32 j = 0; j < PLANES<DT_B> && i + j < 3; j++) {
                multiply_slabs<BF16, TILE, A_K_ROWS, B_K_ROWS>(i + j == 0 ? sums : small, a_slab + i * BYTES,
                                                               b_slab + j * BYTES);
            }
        }
    }
    // [4] write
#pragma unroll
    for (u32 n = 0; n < sizeof(sums) / sizeof(float); n++) (&sums[0][0][0])[n] += (&small[0][0][0])[n];
    u32 place = blockIdx.z * params.M * params.N;
    store_tile<DT_OUT, ACCUMULATE == 1, TILE>(out, place, sums, row, column, params.M, params.N, params.alpha);
}
