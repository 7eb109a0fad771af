// Tensor cores (sm_80 and newer): what the fast versions of products and of attention share. A kernel
// without a WGSL twin is compiled with this file in front of it.
//
// A tile in shared memory is rows of WIDTH 16-bit elements, a row is chunks of 8 elements (16 bytes):
// what cp.async copies and what ldmatrix reads as a row of an 8 x 8 matrix. Tiles are swizzled: the chunk number
// is xor-ed with bits of the row number, so that the 8 rows of a matrix lie in 8 different groups of 4 banks:
//
//                 chunk 0    1    2    3         64 bytes a row, 2 rows to a line of all 32 banks
//        row 0   [  0    1    2    3 ]
//        row 1   [  0    1    2    3 ]           the matrix in column 0 (rows 0 .. 7) is read from
//        row 2   [  1    0    3    2 ]           places 0 4 1 5 2 6 3 7 of a line: no two alike
//        row 3   [  1    0    3    2 ]
//        row 4   [  2    3    0    1 ]   ...
//
// mma computes D [16, 8] += A [16, 16] B [16, 8] with f32 sums. Lane l holds, in pairs of neighbours:
//
//   A   rows l/4 (a[0], a[2]) and l/4 + 8 (a[1], a[3]), k = 2 (l%4) (a[0], a[1]) and that + 8
//   B   column l/4, k = 2 (l%4) (b0) and that + 8 (b1)
//   D   rows l/4 (d[0], d[1]) and l/4 + 8 (d[2], d[3]), columns 2 (l%4) and the next
//
// So D of one product, rounded and packed, is A of the next: attention's weights never leave registers.

__device__ __forceinline__ u32 shared_address(const void* pointer) {
    return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

// The place of a chunk in a tile, in bytes.
template <u32 WIDTH>
__device__ __forceinline__ u32 place(u32 row, u32 chunk) {
    constexpr u32 CHUNKS = WIDTH / 8;
    static_assert(WIDTH % 16 == 0, "rows of whole pairs of chunks");
    u32 swizzle = CHUNKS % 8 == 0 ? row % 8 : CHUNKS % 4 == 0 ? row / 2 % 4 : row / 4 % 2;
    return (row * CHUNKS + (chunk ^ swizzle)) * 16;
}

// Starts a copy of 8 elements to shared memory; of zeros where `inside` is false.
__device__ __forceinline__ void copy_chunk(u32 to, const void* from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(to), "l"(from), "r"(inside ? 16 : 0) : "memory");
}

// Ends a group of copies.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all of this thread's groups but the newest PENDING; a barrier must follow.
template <u32 PENDING>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory");
}

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(u32 (&words)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(address));
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(u32 (&words)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(address));
}

// A of the rows from m and the k from `k`. The tile's rows are those of A, or with K_ROWS k.
template <bool K_ROWS, u32 WIDTH>
__device__ __forceinline__ void load_a(u32 (&a)[4], u32 tile, u32 m, u32 k) {
    u32 lane = threadIdx.x % 32;
    if constexpr (K_ROWS) {
        load_matrices_transposed(a, tile + place<WIDTH>(k + lane / 16 * 8 + lane % 8, m / 8 + lane / 8 % 2));
    } else {
        load_matrices(a, tile + place<WIDTH>(m + lane % 16, k / 8 + lane / 16));
    }
}

// B of the 16 columns from n: b[0], b[1] of the first 8, b[2], b[3] of the others. The tile's rows are
// the columns of B, or with K_ROWS k.
template <bool K_ROWS, u32 WIDTH>
__device__ __forceinline__ void load_b(u32 (&b)[4], u32 tile, u32 n, u32 k) {
    u32 lane = threadIdx.x % 32;
    if constexpr (K_ROWS) {
        load_matrices_transposed(b, tile + place<WIDTH>(k + lane % 16, n / 8 + lane / 16));
    } else {
        load_matrices(b, tile + place<WIDTH>(n + lane / 16 * 8 + lane % 8, k / 8 + lane / 8 % 2));
    }
}

// D += A B.
template <unsigned DT>
__device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    static_assert(DT == BF16 || DT == F16, "16-bit operands");
    if constexpr (DT == BF16) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
}

// Writes two neighbours of a row at index i, the second only if `both`; adds to them with ADD. In 16
// bits rows are of even width, so that a pair is a word.
template <unsigned DT, bool ADD>
__device__ __forceinline__ void store_pair(void* out, u32 i, bool both, float low, float high) {
    if constexpr (ADD) {
        low += load<DT>(out, i);
        if (both) high += load<DT>(out, i + 1);
    }
    if constexpr (DT == F32) {
        static_cast<float*>(out)[i] = low;
        if (both) static_cast<float*>(out)[i + 1] = high;
    } else {
        static_cast<u32*>(out)[i / 2] = pack<DT>(low, high);
    }
}

// Products by blocks of 256 threads: a block owns a TILE x TILE tile of the result, each of its 8 warps a
// part of TILE/2 x TILE/4. Operands come in slabs of SLAB_K k; in a slab an operand lies as in memory:
// [TILE, SLAB_K] with k inside the rows, or with K_ROWS [SLAB_K, TILE].

static_assert(SLAB_K % 16 == 0, "whole steps of mma");

template <u32 TILE, bool K_ROWS>
constexpr u32 SLAB_WIDTH = K_ROWS ? TILE : SLAB_K;

// Bytes of one operand's slab.
template <u32 TILE>
constexpr u32 SLAB_BYTES = TILE * SLAB_K * 2;

// The sums of a warp's part: 16 x 8 products of mma.
template <u32 TILE>
using Sums = float[TILE / 32][TILE / 32][4];

// The row and the column of tiles of the tile `number`, of rows x columns tiles. They are numbered down columns
// of 8, so that blocks that run together share slabs of both operands in the L2 cache.
__device__ __forceinline__ void tile_at(u32 number, u32 rows, u32 columns, u32& row, u32& column) {
    constexpr u32 GROUP = 8;
    u32 first = number / (GROUP * columns) * GROUP;
    u32 within = number % (GROUP * columns);
    u32 height = min(GROUP, rows - first);
    row = first + within % height;
    column = within / height;
}

// The first row and column of this block's tile.
template <u32 TILE>
__device__ __forceinline__ void tile_of_block(u32& row, u32& column) {
    tile_at(block_number(), gridDim.y, gridDim.x, row, column);
    row *= TILE;
    column *= TILE;
}

// Starts the copy of a slab of x: `first` .. first + TILE of its `limit` rows or columns, k0 .. k0 + SLAB_K
// of its K. A row is a multiple of 8 elements, so a chunk is wholly inside or outside.
template <u32 TILE, bool K_ROWS>
__device__ __forceinline__ void copy_slab(u32 to, const u16* x, u32 first, u32 limit, u32 k0, u32 K) {
    constexpr u32 WIDTH = SLAB_WIDTH<TILE, K_ROWS>;
#pragma unroll
    for (u32 n = threadIdx.x; n < TILE * SLAB_K / 8; n += 256) {
        u32 row = n / (WIDTH / 8);
        u32 chunk = n % (WIDTH / 8);
        u32 outer = first + (K_ROWS ? chunk * 8 : row);
        u32 k = k0 + (K_ROWS ? row : chunk * 8);
        bool inside = outer < limit && k < K;
        u32 i = K_ROWS ? k * limit + outer : outer * K + k;
        copy_chunk(to + place<WIDTH>(row, chunk), x + (inside ? i : 0), inside);
    }
}

// Adds the product of two slabs to the warp's sums.
template <unsigned DT, u32 TILE, bool A_K_ROWS, bool B_K_ROWS>
__device__ __forceinline__ void multiply_slabs(Sums<TILE>& sums, u32 a_slab, u32 b_slab) {
    u32 row = threadIdx.x / 128 * (TILE / 2);
    u32 column = threadIdx.x / 32 % 4 * (TILE / 4);
#pragma unroll
    for (u32 k = 0; k < SLAB_K; k += 16) {
        u32 a[TILE / 32][4], b[TILE / 64][4];
#pragma unroll
        for (u32 i = 0; i < TILE / 32; i++) {
            load_a<A_K_ROWS, SLAB_WIDTH<TILE, A_K_ROWS>>(a[i], a_slab, row + 16 * i, k);
        }
#pragma unroll
        for (u32 j = 0; j < TILE / 64; j++) {
            load_b<B_K_ROWS, SLAB_WIDTH<TILE, B_K_ROWS>>(b[j], b_slab, column + 16 * j, k);
        }
#pragma unroll
        for (u32 i = 0; i < TILE / 32; i++) {
#pragma unroll
            for (u32 j = 0; j < TILE / 32; j++) {
                mma<DT>(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
            }
        }
    }
}

// Writes alpha times the warp's part of a tile of an [M, N] that begins at element `place` of out; adds it
// with ADD.
template <unsigned DT, bool ADD, u32 TILE>
__device__ __forceinline__ void store_tile(void* out, u32 place, const Sums<TILE>& sums, u32 tile_row,
                                           u32 tile_column, u32 M, u32 N, float alpha) {
    u32 row = tile_row + threadIdx.x / 128 * (TILE / 2) + threadIdx.x % 32 / 4;
    u32 column = tile_column + threadIdx.x / 32 % 4 * (TILE / 4) + threadIdx.x % 4 * 2;
#pragma unroll
    for (u32 i = 0; i < TILE / 16; i++) {
#pragma unroll
        for (u32 j = 0; j < TILE / 32; j++) {
            u32 m = row + 8 * i;
            u32 n = column + 8 * j;
            if (m < M && n < N) {
                const float* pair = &sums[i / 2][j][i % 2 * 2];
                store_pair<DT, ADD>(out, place + m * N + n, n + 1 < N, alpha * pair[0], alpha * pair[1]);
            }
        }
    }
}

// Attention by blocks of 128 threads, 4 warps of 16 rows each.

// Starts the copy of a head of ROWS tokens of x [limit, heads, WIDTH] from `first`; of zeros past the end.
template <u32 ROWS, u32 WIDTH>
__device__ __forceinline__ void copy_head(u32 to, const void* x, u32 first, u32 limit, u32 heads, u32 head) {
#pragma unroll
    for (u32 n = threadIdx.x; n < ROWS * WIDTH / 8; n += 128) {
        u32 row = n / (WIDTH / 8);
        u32 chunk = n % (WIDTH / 8);
        bool inside = first + row < limit;
        u32 i = inside ? ((first + row) * heads + head) * WIDTH + chunk * 8 : 0;
        copy_chunk(to + place<WIDTH>(row, chunk), static_cast<const u16*>(x) + i, inside);
    }
}

// The maximum of the four lanes that share a row.
__device__ __forceinline__ float row_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffff, value, 2));
}

// The sum of the four lanes that share a row.
__device__ __forceinline__ float row_sum(float value) {
    value += __shfl_xor_sync(0xffffffff, value, 1);
    return value + __shfl_xor_sync(0xffffffff, value, 2);
}

// Sums of 16 rows x COLUMNS: the inner products of 16 rows of one tile with the rows of another.
template <unsigned DT, u32 COLUMNS, u32 WIDTH>
__device__ __forceinline__ void inner_products(float (&sums)[COLUMNS / 8][4], u32 a_tile, u32 a_row, u32 b_tile) {
#pragma unroll
    for (u32 j = 0; j < COLUMNS / 8; j++) sums[j][0] = sums[j][1] = sums[j][2] = sums[j][3] = 0.0f;
#pragma unroll
    for (u32 d = 0; d < WIDTH; d += 16) {
        u32 a[4];
        load_a<false, WIDTH>(a, a_tile, a_row, d);
#pragma unroll
        for (u32 j = 0; j < COLUMNS; j += 16) {
            u32 b[4];
            load_b<false, WIDTH>(b, b_tile, j, d);
            mma<DT>(sums[j / 8], a, b[0], b[1]);
            mma<DT>(sums[j / 8 + 1], a, b[2], b[3]);
        }
    }
}

// Adds to sums [16, WIDTH] the rows of a tile, weighted by 16 x ROWS weights that lie as sums of mma do.
template <unsigned DT, u32 ROWS, u32 WIDTH>
__device__ __forceinline__ void add_weighted_rows(float (&sums)[WIDTH / 8][4], const float (&weights)[ROWS / 8][4],
                                                  u32 tile) {
#pragma unroll
    for (u32 k = 0; k < ROWS; k += 16) {
        const float(&low)[4] = weights[k / 8];
        const float(&high)[4] = weights[k / 8 + 1];
        u32 a[4] = {pack<DT>(low[0], low[1]), pack<DT>(low[2], low[3]),
                    pack<DT>(high[0], high[1]), pack<DT>(high[2], high[3])};
#pragma unroll
        for (u32 d = 0; d < WIDTH; d += 16) {
            u32 b[4];
            load_b<true, WIDTH>(b, tile, d, k);
            mma<DT>(sums[d / 8], a, b[0], b[1]);
            mma<DT>(sums[d / 8 + 1], a, b[2], b[3]);
        }
    }
}

// 2^x, with an error of two units in the last place; 0 for -inf.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

constexpr float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;
