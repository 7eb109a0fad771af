// Matrix product on tensor cores (mma.sync), for 16-bit operands of one dtype.
//
//   out[m,n] = alpha * sum_k A[m,k] * B[k,n]     (+ out[m,n] with ACCUMULATE)
//
//   LAYOUT   A in memory    B in memory    used for
//   NT       a [M, K]       b [N, K]       forward      out = x w^T
//   NN       a [M, K]       b [K, N]       backward     dx = dout w
//   TN       a [K, M]       b [K, N]       backward     dw = dout^T x
//
// Tensors   a, b: bf16 | f16, both the same; out: f32 | bf16 | f16; sums in f32
// Mapping   a block owns a TILE x TILE tile of out (128, or 64 where that gives too few blocks), each of
//           its 8 warps a part of TILE/2 x TILE/4:
//
//                    TILE                  slabs of 32 k of both operands come by cp.async, STAGES - 1
//            +---+---+---+---+             ahead of the one in use:
//      TILE  | 0 | 1 | 2 | 3 |  warps
//            +---+---+---+---+               slab      n       n+1      n+2      n+3
//            | 4 | 5 | 6 | 7 |               stage  [ in use | coming | coming | next copy ]
//            +---+---+---+---+
//
//           mma.cuh says how a slab lies in shared memory and what a lane holds
// Launch    grid (ceil(N / TILE), ceil(M / TILE), splits), block 256, 512 TILE bytes of shared memory
//           (64 KiB at 128); sm_80; rows of a and of b are multiples of 8 elements, a 16-bit out has an
//           even N (the host checks); any M, N, K otherwise: chunks outside are zeros
// Splits    with few tiles and a long K, the blocks of z take k from z depth to (z + 1) depth and write to
//           out[z] of an f32 [splits, M, N], with alpha 1; sum_splits adds them. Else depth >= K
// Cost      2 M N K FLOPs; a is read N / TILE times, b M / TILE times: bound by the tensor cores
// Numerics  products are exact, one f32 sum per element in order of k by steps of 16: deterministic, the
//           same bits for both tiles; the naive rule
// Versions  matmul_naive, matmul_tiled, matmul, this one, matmul_f32_mma, matmul_wgmma; not yet measured on a device
// Portable  kernels-cuda/matmul.cu. Reference: src/ops/matmul/reference.rs

constexpr bool A_K_ROWS = LAYOUT == TN, B_K_ROWS = LAYOUT != NT;
constexpr u32 BYTES = SLAB_BYTES<TILE>;
static_assert(SHARED_BYTES == STAGES * 2 * BYTES, "a slab of each operand in every stage");

extern "C" __global__ void __launch_bounds__(256)
matmul_mma(const void* a, const void* b, void* out, SplitParams params) {
    extern __shared__ __align__(128) u8 shared[]; // [STAGES, 2, BYTES]
    u32 row, column;
    tile_of_block<TILE>(row, column);
    Sums<TILE> sums = {}; // [TILE/32, TILE/32, 4]
    u32 first_slab = blockIdx.z * params.depth / SLAB_K;
    u32 k_end = min(params.K, (blockIdx.z + 1) * params.depth);
    auto a_slab = [&](u32 slab) { return shared_address(shared) + slab % STAGES * 2 * BYTES; };
    auto start = [&](u32 slab) {
        u32 k = slab * SLAB_K;
        if (k < k_end) {
            copy_slab<TILE, A_K_ROWS>(a_slab(slab), static_cast<const u16*>(a), row, params.M, k, params.K);
            copy_slab<TILE, B_K_ROWS>(a_slab(slab) + BYTES, static_cast<const u16*>(b), column, params.N, k,
                                      params.K);
        }
        // A group even of nothing, so that the count of groups tells which slab has come.
        commit_copies();
    };
    // [1] the first slabs on their way
    for (u32 slab = 0; slab < STAGES - 1; slab++) start(first_slab + slab);
    for (u32 slab = first_slab; slab * SLAB_K < k_end; slab++) {
        // [2] this slab has come, and everyone is done with the one that the next copy overwrites
        wait_for_copies<STAGES - 2>();
        __syncthreads();
        start(slab + STAGES - 1);
        // [3] multiply
        multiply_slabs<DT_A, TILE, A_K_ROWS, B_K_ROWS>(sums, a_slab(slab), a_slab(slab) + BYTES);
    }
    // [4] write
    u32 place = blockIdx.z * params.M * params.N;
    store_tile<DT_OUT, ACCUMULATE == 1, TILE>(out, place, sums, row, column, params.M, params.N, params.alpha);
}
