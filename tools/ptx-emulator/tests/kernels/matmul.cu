// c[M,N] = a[M,K] * b[K,N] in f32: 64x64 tiles, 16x16 threads, 4x4 values per thread.

#define BM 64
#define BN 64
#define BK 16

struct MatmulParams {
    unsigned m, n, k;
};

extern "C" __global__ void __launch_bounds__(256)
matmul_tiled(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c, MatmulParams p) {
    __shared__ float tile_a[BK][BM];
    __shared__ float tile_b[BK][BN];
    unsigned tx = threadIdx.x, ty = threadIdx.y, tid = ty * 16 + tx;
    unsigned row0 = blockIdx.y * BM, col0 = blockIdx.x * BN;
    float acc[4][4] = {};
    for (unsigned k0 = 0; k0 < p.k; k0 += BK) {
        for (unsigned e = tid; e < BM * BK; e += 256) {
            unsigned r = e / BK, kk = e % BK;
            tile_a[kk][r] = row0 + r < p.m && k0 + kk < p.k ? a[(row0 + r) * p.k + k0 + kk] : 0.0f;
        }
        for (unsigned e = tid; e < BK * BN; e += 256) {
            unsigned kk = e / BN, col = e % BN;
            tile_b[kk][col] = k0 + kk < p.k && col0 + col < p.n ? b[(k0 + kk) * p.n + col0 + col] : 0.0f;
        }
        __syncthreads();
        for (unsigned kk = 0; kk < BK; ++kk) {
            float ra[4], rb[4];
            for (int i = 0; i < 4; ++i) ra[i] = tile_a[kk][ty * 4 + i];
            for (int j = 0; j < 4; ++j) rb[j] = tile_b[kk][tx * 4 + j];
            for (int i = 0; i < 4; ++i)
                for (int j = 0; j < 4; ++j) acc[i][j] += ra[i] * rb[j];
        }
        __syncthreads();
    }
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
            unsigned r = row0 + ty * 4 + i, col = col0 + tx * 4 + j;
            if (r < p.m && col < p.n) c[r * p.n + col] = acc[i][j];
        }
}
