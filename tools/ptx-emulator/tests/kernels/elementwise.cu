// Elementwise kernels: a guarded tail, a grid-stride loop, vector accesses, a struct of scalars.

struct SaxpyParams {
    unsigned n;
    float alpha;
};

// y[i] = alpha * x[i] + y[i]
extern "C" __global__ void saxpy(const float* __restrict__ x, float* __restrict__ y, SaxpyParams p) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.n) y[i] = p.alpha * x[i] + y[i];
}

// y = x * sigmoid(x), four values per thread, grid-stride.
extern "C" __global__ void silu_vec4(const float4* __restrict__ x, float4* __restrict__ y, unsigned n4) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n4; i += gridDim.x * blockDim.x) {
        float4 v = x[i];
        v.x = v.x / (1.0f + __expf(-v.x));
        v.y = v.y / (1.0f + __expf(-v.y));
        v.z = v.z / (1.0f + __expf(-v.z));
        v.w = v.w / (1.0f + __expf(-v.w));
        y[i] = v;
    }
}

struct AdamwParams {
    unsigned n;
    float lr, beta1, beta2, eps, weight_decay, correction1, correction2;
};

// One AdamW step: decoupled decay, bias correction.
extern "C" __global__ void adamw(float* w, const float* g, float* m, float* v, AdamwParams p) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.n) return;
    float gi = g[i];
    float mi = p.beta1 * m[i] + (1.0f - p.beta1) * gi;
    float vi = p.beta2 * v[i] + (1.0f - p.beta2) * gi * gi;
    m[i] = mi;
    v[i] = vi;
    float update = (mi / p.correction1) / (sqrtf(vi / p.correction2) + p.eps);
    w[i] = w[i] - p.lr * (update + p.weight_decay * w[i]);
}
