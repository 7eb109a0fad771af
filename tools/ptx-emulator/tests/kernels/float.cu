// Floating point: the math library, conversions, bf16 and f16 through inline PTX.

// out[k * n + i]: one function each of x[i].
extern "C" __global__ void math(const float* x, float* out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i], p = fabsf(v) + 0.125f;
    float r[20] = {expf(v),        logf(p),        sinf(v),          cosf(v),       tanhf(v),
                   sqrtf(p),       rsqrtf(p),      1.0f / p,         powf(p, 1.7f), erff(v),
                   floorf(v),      rintf(v),       truncf(v),        log1pf(p),     __expf(v),
                   __logf(p),      __fdividef(v, p), exp2f(v),       copysignf(p, v), v / p};
#pragma unroll
    for (int k = 0; k < 20; ++k) out[k * n + i] = r[k];
}

// f64 arithmetic and conversions to and from integers.
extern "C" __global__ void wide(const float* x, double* out, long long* ints, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    double v = x[i];
    out[i] = v * v + 1.0 / (1.0 + v * v);
    out[n + i] = sqrt(fabs(v)) + (double)(unsigned)i;
    ints[i] = (long long)(v * 1e6);
    ints[n + i] = (int)x[i] + (long long)__float2uint_rn(fabsf(x[i])) * 1000000;
}

// Bits of bf16 and f16 roundings: out16[0..n] bf16 rn, [n..2n] f16 rn; packed = bf16x2 of (x, 2x); back = widened.
extern "C" __global__ void half_conversions(const float* x, unsigned short* out16, unsigned* packed, float* back,
                                            unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned short b, h;
    unsigned two;
    float y = x[i], f;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(b) : "f"(y));
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(y));
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(2.0f * y), "f"(y));
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    out16[i] = b;
    out16[n + i] = h;
    packed[i] = two;
    back[i] = __uint_as_float((unsigned)b << 16);
    back[n + i] = f;
    unsigned sum;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(two), "r"(two), "r"(two));
    packed[n + i] = sum;
    float approx;
    asm("{ .reg .f32 t; ex2.approx.ftz.f32 t, %1; rcp.approx.ftz.f32 %0, t; }" : "=f"(approx) : "f"(y));
    back[2 * n + i] = approx;
}
