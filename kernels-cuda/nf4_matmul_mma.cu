// Product with an NF4 weight (QLoRA) on tensor cores (mma.sync), for 16-bit x: the weight is decoded as
// its slab is put into shared memory, once per tile.
//
//   NT   out[m,n] = sum_k x[m,k] * W[n,k]     W [N, K]     forward     y = x W^T
//   NN   out[m,n] = sum_k x[m,k] * W[k,n]     W [K, N]     backward    dx = dout W   (+ out with ACCUMULATE)
//
//   W[i] = levels[code[i]] * scale[i / blocksize], rounded to the dtype of x, i over the flattened weight
//   scale = absmax[block]                              without double quantization
//         = map[q[block]] * nested_absmax[block / nested_blocksize] + offset     with it (NESTED)
//
// Tensors   x [M, K]: bf16 | f16; out [M, N]: f32 | bf16 | f16; codes [N K / 8] words of 8 codes; scales
//           [blocks] bytes q (NESTED; else unused); tables f32: levels [16], then absmax [blocks], or
//           map [256], offset [1], nested_absmax [..]; sums in f32
// Mapping   as in matmul_mma: a thread block owns a TILE x TILE tile of out, a warp TILE/2 x TILE/4 of it. Slabs
//           of x come by cp.async. A thread decodes TILE/64 words of codes of each slab of W: what is
//           decoded for the next slab was fetched during the one before:
//
//             slab      n         n + 1             n + 2
//             x      [ in use |  coming  |         coming          | next copy ]
//             W      [ in use | decoded  |  codes into registers   ]
//
// Launch    grid (ceil(N / TILE), ceil(M / TILE)), block 256, 384 TILE bytes of dynamic shared memory
//           (48 KiB at 128) and 3 KiB; sm_80; rows of x and of W are multiples of 8 elements, blocksizes
//           powers of two, at least 8, a 16-bit out has an even N (the host checks)
// Cost      2 M N K FLOPs, and W is decoded M / TILE times: bound by the tensor cores, by decoding where M
//           is small; W is 0.5 byte per element
// Numerics  decoded weights are bit-equal to bitsandbytes (see nf4); one f32 sum per element in order of
//           k by steps of 16: deterministic, the bits of matmul_mma with the decoded weight; the naive rule
// Versions  nf4_matmul, this one; not yet measured on a device
// Portable  kernels-cuda/nf4_matmul.cu. Reference: src/ops/nf4/reference.rs.
//           Paper: arXiv:2305.14314

constexpr bool W_K_ROWS = LAYOUT != NT;
constexpr u32 WIDTH = SLAB_WIDTH<TILE, W_K_ROWS>;
constexpr u32 BYTES = SLAB_BYTES<TILE>;
static_assert(SHARED_BYTES == STAGES * BYTES + 2 * BYTES, "stages of x, and two slabs of the weight");
constexpr u32 WORDS = TILE * SLAB_K / 8 / 256; // of codes per thread and slab
constexpr u32 ZEROS = 0x77777777;              // 8 codes of level 7, which is 0

// The weight in memory, and the tables of it that were copied to shared memory.
struct Weight {
    const u32* codes;    // [N K / 8]
    const u8* scales;    // [blocks]
    const float* tables; // [16 + ..]
    const float* levels; // [16, 32] each level once per bank
    const float* map;    // [256]
    u32 block_shift;     // log2 of the blocksizes
    u32 nested_shift;
};

// Words of codes with what their scales are made of.
struct Fetched {
    u32 codes[WORDS];
    u32 q[WORDS];
    float absmax[WORDS]; // of the block, or nested
};

// Fetches this thread's words of the slab at k0.
__device__ __forceinline__ void fetch(Fetched& fetched, const Weight& w, u32 first, u32 k0,
                                      const ProductParams& params) {
#pragma unroll
    for (u32 c = 0; c < WORDS; c++) {
        u32 n = threadIdx.x + 256 * c;
        u32 outer = first + (W_K_ROWS ? n % (WIDTH / 8) * 8 : n / (WIDTH / 8));
        u32 k = k0 + (W_K_ROWS ? n / (WIDTH / 8) : n % (WIDTH / 8) * 8);
        bool inside = outer < params.N && k < params.K;
        u32 i = W_K_ROWS ? k * params.N + outer : outer * params.K + k;
        u32 block = i >> w.block_shift;
        fetched.codes[c] = inside ? w.codes[i / 8] : ZEROS;
        fetched.q[c] = NESTED && inside ? w.scales[block] : 0;
        fetched.absmax[c] = inside ? w.tables[NESTED ? 273 + (block >> w.nested_shift) : 16 + block] : 0;
    }
}

// Decodes what was fetched into a slab. The product and the sum of a nested scale must not become one
// fused operation.
__device__ __forceinline__ void decode(u8* slab, const Fetched& fetched, const Weight& w) {
    const float* levels = w.levels + threadIdx.x % 32;
    float offset = NESTED ? w.map[256] : 0.0f;
#pragma unroll
    for (u32 c = 0; c < WORDS; c++) {
        u32 n = threadIdx.x + 256 * c;
        float scale = fetched.absmax[c];
        if (NESTED) scale = __fadd_rn(__fmul_rn(w.map[fetched.q[c]], scale), offset);
        u32 pairs[4];
#pragma unroll
        for (u32 pair = 0; pair < 4; pair++) {
            // Of a byte the even element is the high half.
            u32 even = fetched.codes[c] >> (8 * pair + 4) & 15;
            u32 odd = fetched.codes[c] >> (8 * pair) & 15;
            pairs[pair] = pack<DT_X>(__fmul_rn(levels[even * 32], scale), __fmul_rn(levels[odd * 32], scale));
        }
        u32 at = place<WIDTH>(n / (WIDTH / 8), n % (WIDTH / 8));
        *reinterpret_cast<uint4*>(slab + at) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
}

extern "C" __global__ void __launch_bounds__(256)
nf4_matmul_mma(const void* x, const u32* codes, const u8* scales, const float* tables, void* out,
               ProductParams params) {
    extern __shared__ __align__(128) u8 shared[]; // [STAGES, BYTES] of x, [2, BYTES] of W
    __shared__ float levels[16 * 32];             // [16, 32]
    __shared__ float map[257];                    // [256 + 1] and the offset
    u8* w_slabs = shared + STAGES * BYTES;
    u32 row, column;
    tile_of_block<TILE>(row, column);
    Weight w = {codes, scales, tables, levels, map,
                31u - __clz(params.blocksize), 31u - __clz(params.nested_blocksize)};
    Sums<TILE> sums = {}; // [TILE/32, TILE/32, 4]
    auto x_slab = [&](u32 slab) { return shared_address(shared) + slab % STAGES * BYTES; };
    auto start = [&](u32 slab) {
        u32 k = slab * SLAB_K;
        if (k < params.K) {
            copy_slab<TILE, false>(x_slab(slab), static_cast<const u16*>(x), row, params.M, k, params.K);
        }
        // A group even of nothing, so that the count of groups tells which slab has come.
        commit_copies();
    };
    // [1] the first slabs of x on their way, the first of W decoded, the second fetched
    for (u32 slab = 0; slab < STAGES - 1; slab++) start(slab);
    for (u32 n = threadIdx.x; n < 16 * 32; n += 256) levels[n] = tables[n / 32];
    if (NESTED) {
        for (u32 n = threadIdx.x; n < 257; n += 256) map[n] = tables[16 + n];
    }
    Fetched fetched;
    fetch(fetched, w, column, 0, params);
    __syncthreads();
    decode(w_slabs, fetched, w);
    fetch(fetched, w, column, SLAB_K, params);
    for (u32 slab = 0; slab * SLAB_K < params.K; slab++) {
        // [2] both slabs are there, and everyone is done with those that are overwritten next
        wait_for_copies<STAGES - 2>();
        __syncthreads();
        start(slab + STAGES - 1);
        // [3] decode the next slab of W, fetch the one after it
        decode(w_slabs + (slab + 1) % 2 * BYTES, fetched, w);
        fetch(fetched, w, column, (slab + 2) * SLAB_K, params);
        // [4] multiply
        u32 w_slab = shared_address(w_slabs) + slab % 2 * BYTES;
        multiply_slabs<DT_X, TILE, false, W_K_ROWS>(sums, x_slab(slab), w_slab);
    }
    // [5] write
    store_tile<DT_OUT, ACCUMULATE == 1, TILE>(out, 0, sums, row, column, params.M, params.N, 1.0f);
}
