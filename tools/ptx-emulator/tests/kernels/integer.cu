// Integer arithmetic: Threefry, wide products, divisions, bit fields, packed bytes.

__device__ void threefry_round(unsigned& x0, unsigned& x1, int r) {
    x0 += x1;
    x1 = (x1 << r) | (x1 >> (32 - r));
    x1 ^= x0;
}

// Threefry-2x32, 20 rounds; counter (i, 0), one key.
extern "C" __global__ void threefry(unsigned* out, unsigned n, unsigned key0, unsigned key1) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned ks[3] = {key0, key1, 0x1bd11bdau ^ key0 ^ key1};
    const int rotations[8] = {13, 15, 26, 6, 17, 29, 16, 24};
    unsigned x0 = i + ks[0], x1 = ks[1];
#pragma unroll
    for (int block = 0; block < 5; ++block) {
#pragma unroll
        for (int r = 0; r < 4; ++r) threefry_round(x0, x1, rotations[(block % 2) * 4 + r]);
        x0 += ks[(block + 1) % 3];
        x1 += ks[(block + 2) % 3] + block + 1;
    }
    out[2 * i] = x0;
    out[2 * i + 1] = x1;
}

// out[k * n + i] for k = 0..20: one integer operation each on (a[i], b[i]).
extern "C" __global__ void integer_ops(const int* a, const int* b, unsigned long long* out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int x = a[i], y = b[i];
    unsigned ux = x, uy = y;
    long long lx = (long long)x << 7 ^ y, ly = y | 1;
    unsigned long long r[20] = {
        (unsigned long long)(long long)(x / (y | 1)),
        (unsigned long long)(long long)(x % (y | 1)),
        ux / (uy | 1),
        ux % (uy | 1),
        (unsigned long long)((long long)x * y),
        (unsigned long long)ux * uy,
        (unsigned)__mulhi(x, y),
        __umulhi(ux, uy),
        (unsigned long long)(lx / ly),
        (unsigned long long)lx % (unsigned long long)ly,
        (unsigned)__clz(x),
        (unsigned)__popc(x),
        __brev(ux),
        (unsigned)__ffs(x),
        __byte_perm(ux, uy, 0x6240),
        __funnelshift_l(ux, uy, 11),
        (unsigned)(min(x, y) ^ max(ux, uy)),
        (unsigned long long)(x >> (y & 31)),
        (unsigned long long)(lx * ly),
        (unsigned)((ux & uy) ^ (~ux | 0x5a5a5a5a)),
    };
#pragma unroll
    for (int k = 0; k < 20; ++k) out[k * n + i] = r[k];
}

__constant__ float nf4[16] = {-1.0f, -0.6961928f, -0.52507305f, -0.39491749f, -0.28444138f, -0.18477343f,
                              -0.091050036f, 0.0f, 0.0795803f, 0.1609302f, 0.2461123f, 0.33791524f,
                              0.44070983f, 0.562617f, 0.72295684f, 1.0f};

// Decodes 16 four-bit codes per thread (high nibble first) and scales them per block of 64.
extern "C" __global__ void nf4_decode(const uint2* codes, const float* absmax, float4* out, unsigned n16) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n16) return;
    uint2 packed = codes[i];
    float s = absmax[i / 4];
#pragma unroll
    for (int w = 0; w < 2; ++w) {
        unsigned word = w ? packed.y : packed.x;
#pragma unroll
        for (int b = 0; b < 4; b += 2) {
            unsigned lo = word >> (8 * b) & 255, hi = word >> (8 * b + 8) & 255;
            out[i * 4 + w * 2 + b / 2] =
                make_float4(nf4[lo >> 4] * s, nf4[lo & 15] * s, nf4[hi >> 4] * s, nf4[hi & 15] * s);
        }
    }
}

// Single bytes and halves: signed and unsigned narrow accesses.
extern "C" __global__ void narrow(const signed char* a, const unsigned short* b, short* c, unsigned char* d) {
    int v = a[threadIdx.x] * 3 + b[threadIdx.x];
    c[threadIdx.x] = (short)v;
    d[threadIdx.x] = (unsigned char)(v >> 2);
}
