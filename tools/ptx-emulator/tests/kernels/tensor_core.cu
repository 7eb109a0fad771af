// c[M,N] (f32) = a[M,K] (bf16) * b[N,K]^T (bf16) on tensor cores: 64x64 tiles, 4 warps, two cp.async stages,
// ldmatrix, mma.m16n8k16. M, N multiples of 64, K of 32.

#define BM 64
#define BN 64
#define BK 32
#define PITCH (BK + 8)

__device__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

__device__ void copy16(void* dst, const void* src) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(dst)), "l"(src) : "memory");
}

template <typename T>
__device__ void load_tile(T (*tile)[PITCH], const T* src, unsigned row0, unsigned k0, unsigned ld) {
    for (unsigned e = threadIdx.x; e < BM * BK / 8; e += blockDim.x) {
        unsigned r = e / (BK / 8), k = e % (BK / 8) * 8;
        copy16(&tile[r][k], src + (row0 + r) * ld + k0 + k);
    }
}

template <bool WAIT>
__device__ void matmul(const unsigned short* a, const unsigned short* b, float* c, unsigned n, unsigned k_total) {
    __shared__ __align__(16) unsigned short tile_a[2][BM][PITCH];
    __shared__ __align__(16) unsigned short tile_b[2][BN][PITCH];
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    unsigned row0 = blockIdx.y * BM, col0 = blockIdx.x * BN;
    float acc[8][4] = {};
    load_tile(tile_a[0], a, row0, 0, k_total);
    load_tile(tile_b[0], b, col0, 0, k_total);
    asm volatile("cp.async.commit_group;" ::: "memory");
    for (unsigned k0 = 0, stage = 0; k0 < k_total; k0 += BK, stage ^= 1) {
        if (k0 + BK < k_total) {
            load_tile(tile_a[stage ^ 1], a, row0, k0 + BK, k_total);
            load_tile(tile_b[stage ^ 1], b, col0, k0 + BK, k_total);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        if (WAIT) asm volatile("cp.async.wait_group 1;" ::: "memory");
        __syncthreads();
        for (unsigned kk = 0; kk < BK; kk += 16) {
            unsigned ra[4];
            unsigned pa = shared_address(&tile_a[stage][warp * 16 + lane % 16][kk + lane / 16 * 8]);
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                         : "=r"(ra[0]), "=r"(ra[1]), "=r"(ra[2]), "=r"(ra[3])
                         : "r"(pa));
            for (unsigned j = 0; j < 8; ++j) {
                unsigned rb[2];
                unsigned pb = shared_address(&tile_b[stage][j * 8 + lane % 8][kk + lane / 8 % 2 * 8]);
                asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                             : "=r"(rb[0]), "=r"(rb[1])
                             : "r"(pb));
                asm volatile(
                    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                    "{%8, %9}, {%0, %1, %2, %3};"
                    : "+f"(acc[j][0]), "+f"(acc[j][1]), "+f"(acc[j][2]), "+f"(acc[j][3])
                    : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]));
            }
        }
        __syncthreads();
    }
    unsigned r = row0 + warp * 16 + lane / 4;
    for (unsigned j = 0; j < 8; ++j) {
        unsigned col = col0 + j * 8 + lane % 4 * 2;
        *(float2*)&c[r * n + col] = make_float2(acc[j][0], acc[j][1]);
        *(float2*)&c[(r + 8) * n + col] = make_float2(acc[j][2], acc[j][3]);
    }
}

extern "C" __global__ void __launch_bounds__(128)
matmul_mma(const unsigned short* a, const unsigned short* b, float* c, unsigned n, unsigned k) {
    matmul<true>(a, b, c, n, k);
}

// The same without cp.async.wait_group: reads what may not have arrived.
extern "C" __global__ void __launch_bounds__(128)
matmul_mma_no_wait(const unsigned short* a, const unsigned short* b, float* c, unsigned n, unsigned k) {
    matmul<false>(a, b, c, n, k);
}

// One warp: out = transpose of an 8x8 b16 matrix by ldmatrix.trans, then zero-filled partial cp.async.
extern "C" __global__ void transpose8(const unsigned short* x, unsigned short* y, unsigned* filled) {
    __shared__ __align__(16) unsigned short tile[8][8];
    __shared__ __align__(16) unsigned partial[4];
    unsigned lane = threadIdx.x;
    for (unsigned e = lane; e < 64; e += 32) tile[e / 8][e % 8] = x[e];
    if (lane == 0) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(partial)), "l"(x), "r"(6)
                     : "memory");
        asm volatile("cp.async.wait_all;" ::: "memory");
    }
    __syncwarp();
    unsigned r;
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(r)
                 : "r"(shared_address(&tile[lane % 8][0]))
                 : "memory");
    *(unsigned*)&y[lane / 4 * 8 + lane % 4 * 2] = r;
    if (lane < 4) filled[lane] = partial[lane];
}

// One warp, f16 operands: d[16,8] = a[16,8 or 16] * b, fragments straight from global memory.
extern "C" __global__ void fragments(const unsigned* a, const unsigned* b, float* d16, float* d8, float* d_tf32) {
    unsigned lane = threadIdx.x;
    float z[4] = {0, 0, 0, 0}, w[4] = {0, 0, 0, 0}, t[4] = {0, 0, 0, 0};
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(z[0]), "+f"(z[1]), "+f"(z[2]), "+f"(z[3])
                 : "r"(a[lane]), "r"(a[32 + lane]), "r"(a[64 + lane]), "r"(a[96 + lane]), "r"(b[lane]),
                   "r"(b[32 + lane]));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(w[0]), "+f"(w[1]), "+f"(w[2]), "+f"(w[3])
                 : "r"(a[lane]), "r"(a[32 + lane]), "r"(b[lane]));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(t[0]), "+f"(t[1]), "+f"(t[2]), "+f"(t[3])
                 : "r"(a[lane]), "r"(a[32 + lane]), "r"(a[64 + lane]), "r"(a[96 + lane]), "r"(b[lane]),
                   "r"(b[32 + lane]));
    for (int i = 0; i < 4; ++i) {
        unsigned e = (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2;
        d16[e] = z[i];
        d8[e] = w[i];
        d_tf32[e] = t[i];
    }
}
