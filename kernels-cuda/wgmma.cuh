// Hopper (sm_90a): what the versions on wgmma share. Text of such a kernel comes after mma.cuh and this.
//
// One thread, the producer, asks TMA (the Tensor Memory Accelerator) for boxes of a matrix; two warpgroups of
// 128 threads, the consumers, multiply them straight from shared memory. Two barriers for each stage of a ring hold them apart:
//
//        producer                            shared memory                        consumers
//        wait for empty, expect bytes   -->  [ stage 0 | stage 1 | ... ]   -->    wait for full, multiply
//                  ^                     TMA arrives at full                       |
//                  +------------------- empty: each warp arrives once -------------+
//
// A box is rows of 64 elements of 16 bits, 128 bytes, and starts at a multiple of 1024 bytes. TMA swizzles
// it by itself: chunk c (16 bytes) of row r lies at place c ^ r % 8, so that neither copies nor wgmma
// meet a bank twice. What lies outside the matrix comes as zeros. A tile wider than 64 is several boxes.
//
// wgmma computes D [64, N] += A [64, 16] B [16, N] with f32 sums, asynchronously. Warp w of the group owns rows
// 16 w .. 16 w + 15; in them D lies like N / 8 results of mma (mma.cuh), d[4 j .. 4 j + 3] in columns 8 j ..,
// and A in registers like that of mma. In shared memory rows of the boxes are those of the operand (k inside a
// row), or with K_ROWS k (the operand's rows inside a row).
//
// Source: PTX ISA 8.0 and later, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions"

// A matrix as TMA sees it; the host encodes it.
struct alignas(64) TensorMap {
    u64 words[16];
};

// BOX_WIDTH elements of 16 bits, as the host encodes a map
constexpr u32 BOX_ROW_BYTES = BOX_WIDTH * 2;
static_assert(BOX_ROW_BYTES == 128, "the swizzle is that of rows of 128 bytes");

// Barriers are addresses in shared memory of 8 bytes each.

// A phase ends with `arrivals`, and when all expected bytes are there.
__device__ __forceinline__ void init_barrier(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(barrier), "r"(arrivals) : "memory");
}

// Shows new barriers to TMA; a __syncthreads must follow.
__device__ __forceinline__ void publish_barriers() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory");
}

// Arrives, and makes the phase wait for this many bytes of copies.
__device__ __forceinline__ void expect_bytes(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory");
}

// Waits for the end of the phase of this parity: 0 for the first, 1 for the second, 0 for the third, ...
__device__ __forceinline__ void wait_for(u32 barrier, u32 parity) {
    u32 over;
    do {
        asm volatile("{\n"
                     ".reg .pred over;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, over;\n"
                     "}" : "=r"(over) : "r"(barrier), "r"(parity) : "memory");
    } while (!over);
}

// Starts the copy of a box whose first element is at (row, column); its bytes count at the barrier.
__device__ __forceinline__ void copy_box(u32 to, const TensorMap& map, u32 row, u32 column, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];"
                 :: "r"(to), "l"(&map), "r"(barrier), "r"(column), "r"(row) : "memory");
}

// Where producer or consumers are in a ring of STAGES stages; the barriers lie full, empty, full, empty, ...
template <u32 STAGES>
struct Ring {
    static constexpr u32 BYTES = STAGES * 16; // of the barriers

    u32 barriers;
    u32 stage = 0, round = 0;

    __device__ __forceinline__ explicit Ring(u32 barriers) : barriers(barriers) {}

    // By one thread, before all others see it; `warps` consume.
    __device__ __forceinline__ void init(u32 warps) const {
        for (u32 s = 0; s < STAGES; s++) {
            init_barrier(barriers + 16 * s, 1);
            init_barrier(barriers + 16 * s + 8, warps);
        }
    }

    __device__ __forceinline__ u32 full() const { return barriers + 16 * stage; }
    __device__ __forceinline__ void wait_full() const { wait_for(full(), round); }
    // In the first round no one has used a stage: the phase before the first counts as over.
    __device__ __forceinline__ void wait_empty() const { wait_for(full() + 8, round ^ 1); }
    // Each consuming warp calls it once for each stage.
    __device__ __forceinline__ void release() const {
        if (threadIdx.x % 32 == 0) arrive(full() + 8);
    }
    __device__ __forceinline__ void advance() {
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        round ^= stage == 0;
    }
};

// A warpgroup gives registers back, or takes them; both sides must be in one if and its else.
template <u32 COUNT>
__device__ __forceinline__ void shrink_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(COUNT));
}
template <u32 COUNT>
__device__ __forceinline__ void grow_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(COUNT));
}

// Keeps the compiler from moving uses of registers across.
template <u32 COUNT>
__device__ __forceinline__ void pin(float (&values)[COUNT]) {
#pragma unroll
    for (u32 i = 0; i < COUNT; i++) asm volatile("" : "+f"(values[i]) :: "memory");
}
template <u32 ROWS, u32 COUNT>
__device__ __forceinline__ void pin(u32 (&words)[ROWS][COUNT]) {
#pragma unroll
    for (u32 i = 0; i < ROWS * COUNT; i++) asm volatile("" : "+r"(words[i / COUNT][i % COUNT]) :: "memory");
}

// Before products: orders what was written to these registers.
template <typename... Registers>
__device__ __forceinline__ void begin_products(Registers&... registers) {
    (pin(registers), ...);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Ends a group of products.
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits for all groups but the newest PENDING; after it the sums of those groups may be touched.
template <u32 PENDING, typename... Registers>
__device__ __forceinline__ void wait_for_products(Registers&... registers) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(PENDING) : "memory");
    (pin(registers), ...);
}

// The descriptor of an operand in boxes of `box_rows` rows, of its rows from `row` and k from `k`. Groups of 8
// rows of a box are 1024 bytes apart. With K_ROWS the groups are those of k, and the operand's rows from 64 on
// lie in the next box.
template <bool K_ROWS>
__device__ __forceinline__ u64 operand(u32 boxes, u32 box_rows, u32 row, u32 k) {
    u32 box_bytes = box_rows * BOX_ROW_BYTES;
    u32 start = K_ROWS ? boxes + row / BOX_WIDTH * box_bytes + k * BOX_ROW_BYTES
                       : boxes + k / BOX_WIDTH * box_bytes + row * BOX_ROW_BYTES + k % BOX_WIDTH * 2;
    u32 next_box = K_ROWS ? box_bytes : 0; // k never leaves a row of a box
    constexpr u64 SWIZZLE_128 = 1ull << 62;
    return SWIZZLE_128 | u64(1024 / 16) << 32 | u64(next_box / 16) << 16 | (start & 0x3ffff) / 16;
}

// An instruction names each of its registers: the lists of 32, 64 and 128 sums.
#define REGISTERS_16(d, i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
    "+f"(d[i + 7]), "+f"(d[i + 8]), "+f"(d[i + 9]), "+f"(d[i + 10]), "+f"(d[i + 11]), "+f"(d[i + 12]), \
    "+f"(d[i + 13]), "+f"(d[i + 14]), "+f"(d[i + 15])
#define REGISTERS_32(d, i) REGISTERS_16(d, i), REGISTERS_16(d, i + 16)
#define REGISTERS_64(d, i) REGISTERS_32(d, i), REGISTERS_32(d, i + 32)
#define REGISTERS_128(d) REGISTERS_64(d, 0), REGISTERS_64(d, 64)
#define NUMBERS_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define NUMBERS_64 NUMBERS_32 \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, " \
    "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NUMBERS_128 NUMBERS_64 \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, " \
    "%85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, " \
    "%105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, " \
    "%123, %124, %125, %126, %127"
// The one instruction; behind the sums come A, B, whether to add, two signs, and how the operands lie.
#define WGMMA(N, SUMS, OPERANDS, ...) \
    static_assert(DT == BF16 || DT == F16, "16-bit operands"); \
    if constexpr (DT == BF16) { \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" N "k16.f32.bf16.bf16 {" SUMS "}, " OPERANDS ";" \
                     : __VA_ARGS__); \
    } else { \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" N "k16.f32.f16.f16 {" SUMS "}, " OPERANDS ";" \
                     : __VA_ARGS__); \
    }

// D = A B, or with ADD += A B, for A [64, 16] and B [16, N] in shared memory; N is twice the number of sums.
template <unsigned DT, bool ADD, bool A_K_ROWS, bool B_K_ROWS>
__device__ __forceinline__ void multiply(float (&d)[32], u64 a, u64 b) {
    WGMMA("64", NUMBERS_32, "%32, %33, %34, 1, 1, %35, %36",
          REGISTERS_32(d, 0) : "l"(a), "l"(b), "n"(ADD), "n"(A_K_ROWS), "n"(B_K_ROWS))
}
template <unsigned DT, bool ADD, bool A_K_ROWS, bool B_K_ROWS>
__device__ __forceinline__ void multiply(float (&d)[64], u64 a, u64 b) {
    WGMMA("128", NUMBERS_64, "%64, %65, %66, 1, 1, %67, %68",
          REGISTERS_64(d, 0) : "l"(a), "l"(b), "n"(ADD), "n"(A_K_ROWS), "n"(B_K_ROWS))
}
template <unsigned DT, bool ADD, bool A_K_ROWS, bool B_K_ROWS>
__device__ __forceinline__ void multiply(float (&d)[128], u64 a, u64 b) {
    WGMMA("256", NUMBERS_128, "%128, %129, %130, 1, 1, %131, %132",
          REGISTERS_128(d) : "l"(a), "l"(b), "n"(ADD), "n"(A_K_ROWS), "n"(B_K_ROWS))
}

// D += A B for A in registers.
template <unsigned DT, bool B_K_ROWS>
__device__ __forceinline__ void multiply(float (&d)[32], const u32 (&a)[4], u64 b) {
    WGMMA("64", NUMBERS_32, "{%32, %33, %34, %35}, %36, 1, 1, 1, %37",
          REGISTERS_32(d, 0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(B_K_ROWS))
}
template <unsigned DT, bool B_K_ROWS>
__device__ __forceinline__ void multiply(float (&d)[64], const u32 (&a)[4], u64 b) {
    WGMMA("128", NUMBERS_64, "{%64, %65, %66, %67}, %68, 1, 1, 1, %69",
          REGISTERS_64(d, 0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(B_K_ROWS))
}

// Writes alpha times the sums of a warpgroup as 64 rows of out [M, N]; adds them with ADD.
template <unsigned DT, bool ADD, u32 COUNT>
__device__ __forceinline__ void store_rows(void* out, const float (&sums)[COUNT], u32 first_row, u32 first_column,
                                           u32 M, u32 N, float alpha) {
    u32 row = first_row + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    u32 column = first_column + threadIdx.x % 4 * 2;
#pragma unroll
    for (u32 i = 0; i < COUNT; i += 2) {
        u32 m = row + i % 4 * 4;
        u32 n = column + i / 4 * 8;
        if (m < M && n < N) store_pair<DT, ADD>(out, m * N + n, n + 1 < N, alpha * sums[i], alpha * sums[i + 1]);
    }
}

// Has rows first .. first + ROWS of a head of x [tokens, heads, WIDTH] copied; box after box, 64 columns each.
template <u32 ROWS, u32 WIDTH>
__device__ __forceinline__ void copy_head_boxes(u32 to, const TensorMap& x, u32 first, u32 head, u32 barrier) {
    for (u32 d = 0; d < WIDTH; d += BOX_WIDTH) {
        copy_box(to + d * ROWS * 2, x, first, head * WIDTH + d, barrier);
    }
}

// D [64, N] = the inner products of 64 rows of one tile, from a_row, with the N rows of another, WIDTH wide.
template <unsigned DT, u32 A_ROWS, u32 WIDTH, u32 COUNT>
__device__ __forceinline__ void start_inner_products(float (&d)[COUNT], u32 a_tile, u32 a_row, u32 b_tile) {
    constexpr u32 N = COUNT * 2;
#pragma unroll
    for (u32 k = 0; k < WIDTH; k += 16) {
        u64 a = operand<false>(a_tile, A_ROWS, a_row, k), b = operand<false>(b_tile, N, 0, k);
        if (k == 0) multiply<DT, false, false, false>(d, a, b);
        else multiply<DT, true, false, false>(d, a, b);
    }
}

// D [64, WIDTH] += the rows of a tile, weighted by weights [64, ROWS] that pack_weights has made.
template <unsigned DT, u32 ROWS, u32 COUNT>
__device__ __forceinline__ void start_weighted_rows(float (&d)[COUNT], const u32 (&weights)[ROWS / 16][4], u32 tile) {
#pragma unroll
    for (u32 k = 0; k < ROWS; k += 16) multiply<DT, true>(d, weights[k / 16], operand<true>(tile, ROWS, 0, k));
}

// Results of a product, rounded, as the first operand of the next.
template <unsigned DT, u32 COUNT>
__device__ __forceinline__ void pack_weights(u32 (&words)[COUNT / 8][4], const float (&weights)[COUNT]) {
#pragma unroll
    for (u32 i = 0; i < COUNT / 2; i++) words[i / 4][i % 4] = pack<DT>(weights[2 * i], weights[2 * i + 1]);
}

// Writes a warpgroup's sums as rows first .. of a head of x [tokens, heads, 2 COUNT].
template <unsigned DT, u32 COUNT>
__device__ __forceinline__ void store_head_rows(void* x, const float (&sums)[COUNT], u32 first, u32 tokens, u32 heads,
                                                u32 head) {
    u32 row = first + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
    for (u32 i = 0; i < COUNT; i += 2) {
        u32 token = row + i % 4 * 4;
        u32 column = i / 4 * 8 + threadIdx.x % 4 * 2;
        u32 place = (token * heads + head) * COUNT * 2 + column;
        if (token < tokens) store_pair<DT, false>(x, place, true, sums[i], sums[i + 1]);
    }
}
