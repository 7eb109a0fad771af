// Matrix product on Hopper's tensor cores (wgmma), fed by TMA, for 16-bit operands of one dtype.
//
//   out[m,n] = alpha * sum_k A[m,k] * B[k,n]     (+ out[m,n] with ACCUMULATE)
//
//   LAYOUT   A in memory    B in memory    used for
//   NT       a [M, K]       b [N, K]       forward      out = x w^T
//   NN       a [M, K]       b [K, N]       backward     dx = dout w
//   TN       a [K, M]       b [K, N]       backward     dw = dout^T x
//
// Tensors   a, b: bf16 | f16, both the same; out: f32 | bf16 | f16; sums in f32
// Mapping   a persistent kernel: a block works on every gridDim.x-th tile of out, 128 x TILE (256, or 128 where
//           that gives too few tiles). Warpgroup 0 is the producer: one of its threads has slabs of 64 k copied,
//           STAGES ahead, into the next tile too; warpgroups 1 and 2 multiply, 64 rows each:
//
//                      TILE                 stage   [ A 128 x 64 k | B TILE x 64 k ]
//             +--------------------+
//        64   |  warpgroup 1       |        the sums of a warpgroup are 64 x TILE floats in registers, which
//             +--------------------+        the producer gives up for them
//        64   |  warpgroup 2       |
//             +--------------------+
//
//           while one warpgroup writes its sums (the epilogue), TMA already fetches the next tile
// Launch    grid min(tiles, multiprocessors), block 384, STAGES (128 + TILE) 128 bytes of shared memory and the
//           barriers (193 KiB at 256); sm_90a; rows of a and of b are multiples of 8 elements, a 16-bit out
//           has an even N (the host checks); any M, N, K otherwise: TMA gives zeros outside
// Cost      2 M N K FLOPs; a is read N / TILE times, b M / 128 times: bound by the tensor cores
// Numerics  products are exact, one f32 sum per element, in the same steps of 16 k for both tiles:
//           deterministic; the naive rule
// Versions  matmul_naive, matmul_tiled, matmul, matmul_mma, matmul_f32_mma, this one; not yet measured on a device
// Portable  kernels-cuda/matmul.cu. Reference: src/ops/matmul/reference.rs

constexpr bool A_K_ROWS = LAYOUT == TN, B_K_ROWS = LAYOUT != NT;
constexpr u32 A_BOX_ROWS = A_K_ROWS ? SLAB : TILE_M, B_BOX_ROWS = B_K_ROWS ? SLAB : TILE;
constexpr u32 A_BYTES = TILE_M * BOX_ROW_BYTES, B_BYTES = TILE * BOX_ROW_BYTES;
constexpr u32 CONSUMING_WARPS = 8;
static_assert(TILE_M == 128 && SLAB == BOX_WIDTH, "2 warpgroups of 64 rows, whole rows of a box");
static_assert(SHARED_BYTES == STAGES * (A_BYTES + B_BYTES) + Ring<STAGES>::BYTES, "slabs and barriers");

// Has a slab of an operand copied: `first` .. first + COUNT of its rows, k .. k + 64.
template <u32 COUNT, bool K_ROWS>
__device__ __forceinline__ void copy_operand(u32 to, const TensorMap& map, u32 first, u32 k, u32 barrier) {
    if constexpr (K_ROWS) {
        for (u32 i = 0; i < COUNT; i += BOX_WIDTH) {
            copy_box(to + i * BOX_ROW_BYTES, map, k, first + i, barrier);
        }
    } else {
        copy_box(to, map, first, k, barrier);
    }
}

extern "C" __global__ void __launch_bounds__(384, 1)
matmul_wgmma(const void*, const void*, void* out, const __grid_constant__ TensorMap a,
             const __grid_constant__ TensorMap b, Params params) {
    extern __shared__ __align__(1024) u8 shared[]; // [STAGES, A_BYTES + B_BYTES], barriers
    u32 stages = shared_address(shared);
    Ring<STAGES> ring(stages + STAGES * (A_BYTES + B_BYTES));
    u32 tile_rows = (params.M + TILE_M - 1) / TILE_M, tile_columns = (params.N + TILE - 1) / TILE;
    u32 slabs = (params.K + SLAB - 1) / SLAB;
    if (threadIdx.x == 0) {
        ring.init(CONSUMING_WARPS);
        publish_barriers();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        // [1] the producer: a slab of both operands into each stage that is free
        shrink_registers<40>();
        if (threadIdx.x > 0) return;
        for (u32 tile = blockIdx.x; tile < tile_rows * tile_columns; tile += gridDim.x) {
            u32 row, column;
            tile_at(tile, tile_rows, tile_columns, row, column);
            for (u32 slab = 0; slab < slabs; slab++) {
                u32 to = stages + ring.stage * (A_BYTES + B_BYTES);
                ring.wait_empty();
                expect_bytes(ring.full(), A_BYTES + B_BYTES);
                copy_operand<TILE_M, A_K_ROWS>(to, a, row * TILE_M, slab * SLAB, ring.full());
                copy_operand<TILE, B_K_ROWS>(to + A_BYTES, b, column * TILE, slab * SLAB, ring.full());
                ring.advance();
            }
        }
    } else {
        grow_registers<232>();
        u32 group_row = (threadIdx.x / 128 - 1) * 64;
        Ring<STAGES> used = ring; // one slab behind
        for (u32 tile = blockIdx.x; tile < tile_rows * tile_columns; tile += gridDim.x) {
            float sums[TILE / 2] = {}; // of the warpgroup [64, TILE]
            pin(sums);
            for (u32 slab = 0; slab < slabs; slab++) {
                // [2] this slab has come: start its products
                u32 a_slab = stages + ring.stage * (A_BYTES + B_BYTES);
                ring.wait_full();
                begin_products();
#pragma unroll
                for (u32 k = 0; k < SLAB; k += 16) {
                    multiply<DT_A, true, A_K_ROWS, B_K_ROWS>(
                        sums, operand<A_K_ROWS>(a_slab, A_BOX_ROWS, group_row, k),
                        operand<B_K_ROWS>(a_slab + A_BYTES, B_BOX_ROWS, 0, k));
                }
                commit_products();
                ring.advance();
                // [3] those of the slab before are done: its stage is free
                wait_for_products<1>();
                if (slab > 0) used.release();
                if (slab > 0) used.advance();
            }
            wait_for_products<0>(sums);
            if (slabs > 0) used.release();
            if (slabs > 0) used.advance();
            // [4] the epilogue: write
            u32 row, column;
            tile_at(tile, tile_rows, tile_columns, row, column);
            store_rows<DT_OUT, ACCUMULATE == 1>(out, sums, row * TILE_M + group_row, column * TILE, params.M,
                                                params.N, params.alpha);
        }
    }
}
