// Hopper's asynchronous instructions: TMA copies, mbarriers, wgmma, and what goes wrong with them. Each kernel is a
// template over one deliberate fault.

enum Fault {
    NONE,
    NO_WAIT,             // the consumer does not wait for the full barrier
    EARLY_RELEASE,       // a stage is released before the products that read it were waited for
    FEW_BYTES,           // expect_tx of half the bytes that come
    MANY_BYTES,          // expect_tx of more bytes than come
    WRONG_PARITY,        // the consumer waits for the phase that never comes
    NO_INIT_FENCE,       // no fence between mbarrier.init and the copies
    NO_INIT_BARRIER,     // no __syncthreads() after mbarrier.init
    NO_WGMMA_FENCE,      // no wgmma.fence
    FENCE_AFTER_READ,    // accumulators used between wgmma.fence and wgmma
    NO_WGMMA_WAIT,       // accumulators used before wait_group
    UNCOMMITTED,         // exit with a wgmma that was not committed
    WRONG_SWIZZLE,       // the descriptor says that there is none
    NO_PROXY_FENCE,      // written by ordinary stores, read by wgmma or a bulk store without fence.proxy.async
    LATE_PROXY_FENCE,    // the same, with the fence after the barrier
    OVERWRITE_SOURCE,    // the source of a bulk store is written before wait_group.read
    NO_STORE_WAIT,       // exit with a bulk store that was not waited for
    ONE_WARP,            // one warp of the warpgroup skips the product
    TWO_ARRIVALS,        // more arrivals than the barrier counts
    TOUCH_BARRIER,       // an ordinary load of a barrier
    NO_INIT,             // a barrier that was never initialised
    WAIT_ONCE,           // try_wait without a loop
    LOST_LOAD,           // exit with a load that nobody waits for
    A_TOO_EARLY,         // the registers of A are overwritten before wait_group
};

typedef unsigned long long u64;
typedef unsigned short u16;

struct alignas(64) TensorMap { u64 words[16]; };

__device__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

__device__ void barrier_init(u64* bar, unsigned count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(count) : "memory");
}

__device__ void arrive(u64* bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}

__device__ void arrive_expect(u64* bar, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes)
                 : "memory");
}

__device__ void wait(u64* bar, unsigned parity) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
        "@p bra done;\n"
        "bra again;\n"
        "done:\n"
        "}" ::"r"(shared_address(bar)),
        "r"(parity)
        : "memory");
}

// As if try_wait did not give up after a time.
__device__ void wait_once(u64* bar, unsigned parity) {
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n}" ::"r"(shared_address(bar)),
                 "r"(parity)
                 : "memory");
}

__device__ void load_box(void* dst, const TensorMap* map, int x, int y, u64* bar) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            shared_address(dst)),
        "l"(map), "r"(x), "r"(y), "r"(shared_address(bar))
        : "memory");
}

__device__ void store_box(const TensorMap* map, int x, int y, const void* src) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x),
                 "r"(y), "r"(shared_address(src))
                 : "memory");
}

__device__ void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int N> __device__ void wait_stores_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory"); }
template <int N> __device__ void wait_stores() { asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory"); }
__device__ void fence_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ void fence_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

__device__ u64 descriptor(const void* p, unsigned leading, unsigned stride, u64 mode) {
    return (u64)(shared_address(p) >> 4) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | mode << 62;
}

// Keeps the compiler from moving uses of the accumulators across.
template <int N> __device__ void hold(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define D8(o) "+f"(d[o]), "+f"(d[o + 1]), "+f"(d[o + 2]), "+f"(d[o + 3]), "+f"(d[o + 4]), "+f"(d[o + 5]), "+f"(d[o + 6]), "+f"(d[o + 7])

// d[64,64] = a[64,16] * b[16,64] (+ d)
template <int TA, int TB> __device__ void wgmma64(float (&d)[32], u64 a, u64 b, int accumulate) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
        "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, "
        "1, 1, %35, %36;\n}"
        : D8(0), D8(8), D8(16), D8(24)
        : "l"(a), "l"(b), "r"(accumulate), "n"(TA), "n"(TB));
}

template <int TB> __device__ void wgmma64_registers(float (&d)[32], const unsigned (&a)[4], u64 b, int accumulate) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
        "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, "
        "%34, %35}, %36, p, 1, 1, %38;\n}"
        : D8(0), D8(8), D8(16), D8(24)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(TB));
}

// d[64,128] = a[64,16] * b[16,128] (+ d)
template <int TA, int TB> __device__ void wgmma128(float (&d)[64], u64 a, u64 b, int accumulate) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
        "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, "
        "%35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, "
        "%57, %58, %59, %60, %61, %62, %63}, %64, %65, p, 1, 1, %67, %68;\n}"
        : D8(0), D8(8), D8(16), D8(24), D8(32), D8(40), D8(48), D8(56)
        : "l"(a), "l"(b), "r"(accumulate), "n"(TA), "n"(TB));
}

template <int N> __device__ void store_tile(const float (&d)[N], float* c, unsigned ld) {
    unsigned t = threadIdx.x % 128, row = t / 32 * 16 + t % 32 / 4;
#pragma unroll
    for (unsigned i = 0; i < N; i += 2)
        *(float2*)&c[(row + i / 2 % 2 * 8) * ld + i / 4 * 8 + t % 4 * 2] = make_float2(d[i], d[i + 1]);
}

// out = in, [rows, columns] f32, in tiles of 32 x 32 through two stages: TMA in, ordinary copy, TMA out.
template <Fault F> __device__ void copy_tiles(const TensorMap& in, const TensorMap& out, unsigned rows) {
    __shared__ alignas(128) float source[2][32][32];
    __shared__ alignas(128) float target[32][32];
    __shared__ u64 full[2];
    unsigned t = threadIdx.x, tiles = rows / 32, x = blockIdx.x * 32;
    if (t == 0 && F != NO_INIT) {
        barrier_init(&full[0], 1);
        barrier_init(&full[1], 1);
        if (F != NO_INIT_FENCE) fence_init();
    }
    if (F != NO_INIT_BARRIER) __syncthreads();
    if (t == 0) {
        for (unsigned i = 0; i < 2 && i < tiles; ++i) {
            arrive_expect(&full[i], F == FEW_BYTES ? 2048 : F == MANY_BYTES ? 8192 : 4096);
            load_box(source[i], &in, x, i * 32, &full[i]);
        }
        if (F == TWO_ARRIVALS) arrive_expect(&full[0], 0), arrive(&full[0]);
    }
    if (F == TOUCH_BARRIER && t == 1) target[0][0] = *(float*)&full[0];
    for (unsigned i = 0; i < tiles; ++i) {
        unsigned s = i % 2, phase = i / 2 % 2;
        if (F == WAIT_ONCE) wait_once(&full[s], phase);
        else if (F != NO_WAIT) wait(&full[s], F == WRONG_PARITY && i == 1 ? 1 - phase : phase);
        for (unsigned e = t; e < 1024; e += blockDim.x) target[e / 32][e % 32] = source[s][e / 32][e % 32];
        if (F != NO_PROXY_FENCE && F != LATE_PROXY_FENCE) fence_proxy();
        __syncthreads();
        if (t == 0) {
            if (F == LATE_PROXY_FENCE) fence_proxy();
            store_box(&out, x, i * 32, target);
            commit_stores();
            if (i + 2 < tiles) {
                arrive_expect(&full[s], 4096);
                load_box(source[s], &in, x, (i + 2) * 32, &full[s]);
            }
            if (F != OVERWRITE_SOURCE && (F != NO_STORE_WAIT || i + 1 < tiles)) wait_stores_read<0>();
        }
        __syncthreads();
    }
    if (t == 0 && F != NO_STORE_WAIT) wait_stores<0>();
    if (t == 0 && F == LOST_LOAD) {
        arrive_expect(&full[0], 4096);
        load_box(source[0], &in, x, 0, &full[0]);
    }
}

#define COPY(NAME, FAULT)                                                                                             \
    extern "C" __global__ void NAME(const __grid_constant__ TensorMap in, const __grid_constant__ TensorMap out,      \
                                    unsigned rows) {                                                                  \
        copy_tiles<FAULT>(in, out, rows);                                                                             \
    }
COPY(copy, NONE)
COPY(copy_no_wait, NO_WAIT)
COPY(copy_wait_once, WAIT_ONCE)
COPY(copy_lost_load, LOST_LOAD)
COPY(copy_few_bytes, FEW_BYTES)
COPY(copy_many_bytes, MANY_BYTES)
COPY(copy_wrong_parity, WRONG_PARITY)
COPY(copy_no_init, NO_INIT)
COPY(copy_no_init_fence, NO_INIT_FENCE)
COPY(copy_no_init_barrier, NO_INIT_BARRIER)
COPY(copy_no_proxy_fence, NO_PROXY_FENCE)
COPY(copy_late_proxy_fence, LATE_PROXY_FENCE)
COPY(copy_overwrite_source, OVERWRITE_SOURCE)
COPY(copy_no_store_wait, NO_STORE_WAIT)
COPY(copy_two_arrivals, TWO_ARRIVALS)
COPY(copy_touch_barrier, TOUCH_BARRIER)

// Plain bulk copies of bytes, with a state instead of a parity.
extern "C" __global__ void copy_bytes(const float* in, float* out) {
    __shared__ alignas(16) float tile[256];
    __shared__ u64 full;
    unsigned t = threadIdx.x;
    if (t == 0) {
        barrier_init(&full, blockDim.x);
        fence_proxy();
    }
    __syncthreads();
    u64 state;
    if (t == 0) {
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                         shared_address(tile)),
                     "l"(in + blockIdx.x * 256), "r"(1024), "r"(shared_address(&full))
                     : "memory");
        asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 %0, [%1], %2;"
                     : "=l"(state)
                     : "r"(shared_address(&full)), "r"(1024)
                     : "memory");
    } else {
        asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 %0, [%1];" : "=l"(state) : "r"(shared_address(&full)) : "memory");
    }
    unsigned done;
    do {
        asm volatile(
            "{\n.reg .pred p;\nmbarrier.test_wait.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
            : "=r"(done)
            : "r"(shared_address(&full)), "l"(state)
            : "memory");
    } while (!done);
    for (unsigned e = t; e < 256; e += blockDim.x) tile[e] *= 2.0f;
    fence_proxy();
    __syncthreads();
    if (t == 0) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(out + blockIdx.x * 256),
                     "r"(shared_address(tile)), "r"(1024)
                     : "memory");
        commit_stores();
        wait_stores<0>();
    }
}

// c[M,N] = a * b, bf16 in, f32 out, one warpgroup per tile of 64 x 128, K in steps of BK, one stage.
// TA: a is stored [K,M], else [M,K]. TB: b is stored [K,N], else [N,K]. Rows of BK elements fill a swizzle span; BK is
// 64 where TA or TB.
template <int TA, int TB, Fault F, int BK = 64>
__device__ void product(const TensorMap& a, const TensorMap& b, float* c, unsigned n, unsigned k_total) {
    __shared__ alignas(1024) u16 tile_a[64 * BK];
    __shared__ alignas(1024) u16 tile_b[128 * BK];
    __shared__ u64 full;
    unsigned t = threadIdx.x, m0 = blockIdx.y * 64, n0 = blockIdx.x * 128;
    if (t == 0) {
        barrier_init(&full, 1);
        fence_init();
    }
    __syncthreads();
    const u64 mode = F == WRONG_SWIZZLE ? 0 : BK == 64 ? 1 : BK == 32 ? 2 : 3;
    float d[64];
    for (unsigned k0 = 0, phase = 0; k0 < k_total; k0 += BK, phase ^= 1) {
        if (t == 0) {
            arrive_expect(&full, 3 * 64 * BK * 2);
            TA ? load_box(tile_a, &a, m0, k0, &full) : load_box(tile_a, &a, k0, m0, &full);
            for (unsigned h = 0; h < 2; ++h)
                TB ? load_box(tile_b + h * 64 * BK, &b, n0 + h * 64, k0, &full)
                   : load_box(tile_b + h * 64 * BK, &b, k0, n0 + h * 64, &full);
        }
        if (F != NO_WAIT) wait(&full, phase);
        if (F != NO_WGMMA_FENCE) wgmma_fence();
        if (F == FENCE_AFTER_READ && k0 == 64) d[0] *= 2.0f;
        if (F != ONE_WARP || t >= 32)
#pragma unroll
            for (unsigned kk = 0; kk < BK; kk += 16) {
                // k steps of 16: 32 bytes along a row, or 16 rows of 128 bytes.
                u64 da = descriptor(TA ? tile_a + kk * 64 : tile_a + kk, 0, BK * 16, mode);
                u64 db = descriptor(TB ? tile_b + kk * 64 : tile_b + kk, TB ? 8192 : 0, BK * 16, mode);
                wgmma128<TA, TB>(d, da, db, k0 + kk > 0);
            }
        if (F != UNCOMMITTED) wgmma_commit();
        if (F == NO_WGMMA_WAIT) c[0] = d[0];
        if (F != UNCOMMITTED) wgmma_wait<0>();
        hold(d);
        __syncthreads();
        if (F == UNCOMMITTED) return;
    }
    store_tile(d, c + m0 * n + n0, n);
}

#define PRODUCT(NAME, TA, TB, ...)                                                                                    \
    extern "C" __global__ void __launch_bounds__(128)                                                                 \
        NAME(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* c, unsigned n,          \
             unsigned k) {                                                                                            \
        product<TA, TB, __VA_ARGS__>(a, b, c, n, k);                                                                        \
    }
PRODUCT(product_nt, 0, 0, NONE)
PRODUCT(product_nn, 0, 1, NONE)
PRODUCT(product_tn, 1, 1, NONE)
PRODUCT(product_64_bytes, 0, 0, NONE, 32)
PRODUCT(product_32_bytes, 0, 0, NONE, 16)
PRODUCT(product_no_wait, 0, 0, NO_WAIT)
PRODUCT(product_no_fence, 0, 0, NO_WGMMA_FENCE)
PRODUCT(product_fence_after_read, 0, 0, FENCE_AFTER_READ)
PRODUCT(product_no_wgmma_wait, 0, 0, NO_WGMMA_WAIT)
PRODUCT(product_uncommitted, 0, 0, UNCOMMITTED)
PRODUCT(product_wrong_swizzle, 0, 0, WRONG_SWIZZLE)
PRODUCT(product_one_warp, 0, 0, ONE_WARP)

// c[64,64] = a[64,64] * b[64,64]^T: A from registers, B written to shared memory by ordinary stores, without swizzle.
template <Fault F> __device__ void from_registers(const u16* a, const u16* b, float* c) {
    __shared__ alignas(128) u16 tile_b[8][8][8][8];  // [n/8][k/8] core matrices of 8 x 16 bytes
    unsigned t = threadIdx.x, row = t / 32 * 16 + t % 32 / 4;
    for (unsigned e = t; e < 64 * 64 / 2; e += 128) {
        unsigned n = e / 32, k = e % 32 * 2;
        *(unsigned*)&tile_b[n / 8][k / 8][n % 8][k % 8] = *(const unsigned*)&b[n * 64 + k];
    }
    if (F != NO_PROXY_FENCE) fence_proxy();
    __syncthreads();
    float d[32];
    unsigned ra[4];
#pragma unroll 1
    for (unsigned kk = 0; kk < 64; kk += 16) {
        for (unsigned i = 0; i < 4; ++i)
            ra[i] = *(const unsigned*)&a[(row + i % 2 * 8) * 64 + kk + t % 4 * 2 + i / 2 * 8];
        for (unsigned i = 0; i < 4; ++i) asm volatile("" : "+r"(ra[i])::"memory");
        wgmma_fence();
        wgmma64_registers<0>(d, ra, descriptor(tile_b[0][kk / 8], 128, 1024, 0), kk > 0);
        wgmma_commit();
        if (F != A_TOO_EARLY) wgmma_wait<0>();
    }
    if (F == A_TOO_EARLY) wgmma_wait<0>();
    hold(d);
    store_tile(d, c, 64);
}

extern "C" __global__ void registers_product(const u16* a, const u16* b, float* c) { from_registers<NONE>(a, b, c); }
extern "C" __global__ void registers_no_proxy_fence(const u16* a, const u16* b, float* c) {
    from_registers<NO_PROXY_FENCE>(a, b, c);
}
extern "C" __global__ void registers_too_early(const u16* a, const u16* b, float* c) {
    from_registers<A_TOO_EARLY>(a, b, c);
}

// c[M,N] (f32, through TMA) = a[M,K] * b[N,K]^T: a producer warpgroup and two consumer warpgroups of 64 x 64 each,
// three stages in dynamic shared memory, persistent blocks, products kept one group deep.
#define STAGES 3
struct Stage {
    u16 a[128 * 64];
    u16 b[64 * 64];
};
struct Storage {
    Stage stage[STAGES];
    float c[2][2][64][32];
    u64 full[STAGES], empty[STAGES];
};

template <Fault F>
__device__ void specialised(const TensorMap& a, const TensorMap& b, const TensorMap& c, unsigned m, unsigned n,
                            unsigned k_total) {
    extern __shared__ __align__(1024) unsigned char bytes[];
    Storage& s = *(Storage*)bytes;
    unsigned t = threadIdx.x, group = t / 128, steps = k_total / 64, tiles = m / 128 * (n / 64);
    if (t == 0) {
        for (unsigned i = 0; i < STAGES; ++i) {
            barrier_init(&s.full[i], 1);
            barrier_init(&s.empty[i], 2);
        }
        fence_init();
    }
    __syncthreads();
    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (t == 0) {
            for (unsigned tile = blockIdx.x, i = 0; tile < tiles; tile += gridDim.x) {
                unsigned m0 = tile / (n / 64) * 128, n0 = tile % (n / 64) * 64;
                for (unsigned step = 0; step < steps; ++step, ++i) {
                    unsigned at = i % STAGES;
                    wait(&s.empty[at], (i / STAGES & 1) ^ 1);
                    arrive_expect(&s.full[at], 3 * 8192);
                    load_box(s.stage[at].a, &a, step * 64, m0, &s.full[at]);
                    load_box(s.stage[at].a + 4096, &a, step * 64, m0 + 64, &s.full[at]);
                    load_box(s.stage[at].b, &b, step * 64, n0, &s.full[at]);
                }
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    unsigned w = group - 1, u = t % 128;
    float d[32];
    for (unsigned tile = blockIdx.x, i = 0; tile < tiles; tile += gridDim.x) {
        unsigned m0 = tile / (n / 64) * 128, n0 = tile % (n / 64) * 64;
        for (unsigned step = 0; step < steps; ++step, ++i) {
            unsigned at = i % STAGES;
            wait(&s.full[at], i / STAGES & 1);
            hold(d);
            wgmma_fence();
#pragma unroll
            for (unsigned kk = 0; kk < 64; kk += 16)
                wgmma64<0, 0>(d, descriptor(s.stage[at].a + w * 4096 + kk, 16, 1024, 1),
                              descriptor(s.stage[at].b + kk, 16, 1024, 1), step + kk > 0);
            wgmma_commit();
            if (F == EARLY_RELEASE && u == 0) arrive(&s.empty[at]);
            // The products of the step before are done: its stage goes back.
            wgmma_wait<1>();
            if (F != EARLY_RELEASE && step > 0 && u == 0) arrive(&s.empty[(i + STAGES - 1) % STAGES]);
        }
        wgmma_wait<0>();
        hold(d);
        if (F != EARLY_RELEASE && u == 0) arrive(&s.empty[(i + STAGES - 1) % STAGES]);
        // [64,64] f32 as two boxes of [64,32], swizzled.
        if (u == 0) wait_stores_read<0>();
        asm volatile("bar.sync %0, 128;" ::"r"(group) : "memory");
        unsigned row = u / 32 * 16 + u % 32 / 4;
#pragma unroll
        for (unsigned j = 0; j < 32; j += 2) {
            unsigned r = row + j / 2 % 2 * 8, column = j / 4 * 8 + u % 4 * 2;
            unsigned chunk = column % 32 / 4 ^ r % 8;
            *(float2*)&s.c[w][column / 32][r][chunk * 4 + column % 4] = make_float2(d[j], d[j + 1]);
        }
        fence_proxy();
        asm volatile("bar.sync %0, 128;" ::"r"(group) : "memory");
        if (u == 0) {
            store_box(&c, n0, m0 + w * 64, s.c[w][0]);
            store_box(&c, n0 + 32, m0 + w * 64, s.c[w][1]);
            commit_stores();
        }
    }
    if (u == 0) wait_stores<0>();
}

#define SPECIALISED(NAME, FAULT)                                                                                      \
    extern "C" __global__ void __launch_bounds__(384)                                                                 \
        NAME(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,                                \
             const __grid_constant__ TensorMap c, unsigned m, unsigned n, unsigned k) {                               \
        specialised<FAULT>(a, b, c, m, n, k);                                                                         \
    }
SPECIALISED(specialised_product, NONE)
SPECIALISED(specialised_early_release, EARLY_RELEASE)

// out[T,64] = softmax(q k^T / 8) v, one block of 64 queries: four consumer warps and a producer warp, two stages.
// The scores of the next keys are computed while the values of the last ones are added.
template <Fault F>
__device__ void attention(const TensorMap& q, const TensorMap& k, const TensorMap& v, float* out, unsigned keys) {
    __shared__ alignas(1024) u16 tile_q[64 * 64], tile_k[2][64 * 64], tile_v[2][64 * 64];
    __shared__ u64 full_q, full_k[2], full_v[2], empty_k[2], empty_v[2];
    unsigned t = threadIdx.x, steps = keys / 64;
    if (t == 0) {
        barrier_init(&full_q, 1);
        for (unsigned i = 0; i < 2; ++i) {
            barrier_init(&full_k[i], 1);
            barrier_init(&full_v[i], 1);
            barrier_init(&empty_k[i], 4);
            barrier_init(&empty_v[i], 4);
        }
        fence_init();
    }
    __syncthreads();
    if (t >= 128) {
        if (t == 128) {
            arrive_expect(&full_q, 8192);
            load_box(tile_q, &q, 0, blockIdx.x * 64, &full_q);
            for (unsigned i = 0; i < steps; ++i) {
                unsigned at = i % 2, parity = (i / 2 & 1) ^ 1;
                wait(&empty_k[at], parity);
                arrive_expect(&full_k[at], 8192);
                load_box(tile_k[at], &k, 0, i * 64, &full_k[at]);
                wait(&empty_v[at], parity);
                arrive_expect(&full_v[at], 8192);
                load_box(tile_v[at], &v, 0, i * 64, &full_v[at]);
            }
        }
        return;
    }
    float o[32], s[32], top[2] = {-1e30f, -1e30f}, sum[2] = {0, 0};
    unsigned p[4][4];
#pragma unroll
    for (int i = 0; i < 32; ++i) o[i] = 0;
    wait(&full_q, 0);
    for (unsigned i = 0; i <= steps; ++i) {
        if (i < steps) {
            wait(&full_k[i % 2], i / 2 & 1);
            wgmma_fence();
#pragma unroll
            for (unsigned kk = 0; kk < 64; kk += 16)
                wgmma64<0, 0>(s, descriptor(tile_q + kk, 0, 1024, 1), descriptor(tile_k[i % 2] + kk, 0, 1024, 1), kk > 0);
        }
        wgmma_commit();
        unsigned last = (i + 1) % 2;
        if (i > 0) {
            wait(&full_v[last], (i - 1) / 2 & 1);
            wgmma_fence();
#pragma unroll
            for (unsigned kk = 0; kk < 4; ++kk)
                wgmma64_registers<1>(o, p[kk], descriptor(tile_v[last] + kk * 1024, 8192, 1024, 1), 1);
        }
        wgmma_commit();
        wgmma_wait<1>();
        hold(s);
        float scale[2] = {1, 1};
        if (i < steps) {
            if (t % 32 == 0) arrive(&empty_k[i % 2]);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                float most = top[h];
#pragma unroll
                for (int j = 0; j < 32; ++j)
                    if (j / 2 % 2 == h) most = fmaxf(most, s[j] *= 0.125f);
                most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
                most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
                scale[h] = __expf(top[h] - most);
                top[h] = most;
                sum[h] *= scale[h];
#pragma unroll
                for (int j = 0; j < 32; ++j)
                    if (j / 2 % 2 == h) sum[h] += s[j] = __expf(s[j] - most);
            }
        }
        if (F != A_TOO_EARLY) {
            wgmma_wait<0>();
            hold(o);
        }
#pragma unroll
        for (int j = 0; j < 16; ++j) {
            unsigned pair;
            asm volatile("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(s[2 * j + 1]), "f"(s[2 * j]));
            p[j / 4][j % 4] = pair;
        }
        wgmma_wait<0>();
        if (i > 0 && t % 32 == 0) arrive(&empty_v[last]);
#pragma unroll
        for (int j = 0; j < 32; ++j) o[j] *= scale[j / 2 % 2];
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
        sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
    }
#pragma unroll
    for (int j = 0; j < 32; ++j) o[j] /= sum[j / 2 % 2];
    store_tile(o, out + blockIdx.x * 64 * 64, 64);
}

#define ATTENTION(NAME, FAULT)                                                                                        \
    extern "C" __global__ void __launch_bounds__(160)                                                                 \
        NAME(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,                                \
             const __grid_constant__ TensorMap v, float* out, unsigned keys) {                                        \
        attention<FAULT>(q, k, v, out, keys);                                                                         \
    }
ATTENTION(attention_pipelined, NONE)
ATTENTION(attention_too_early, A_TOO_EARLY)

// elect.sync, and words of a parameter through a generic pointer.
extern "C" __global__ void elected(const __grid_constant__ TensorMap map, unsigned* out) {
    unsigned leader;
    asm volatile("{\n.reg .pred p;\n.reg .b32 r;\nelect.sync r|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(leader));
    out[threadIdx.x] = leader ? 1 + (unsigned)map.words[threadIdx.x % 16 + out[32]] : 0;
}
