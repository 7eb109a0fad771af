// GeGLU, 16 bytes at a time.
//
//   u = sqrt(2 / pi) * (gate + 0.044715 gate^3)
//   s = (1 + tanh(u)) / 2 = 1 / (1 + e^(-2 u)), which cancels nowhere
//   fwd   out[i]   = gate[i] * s * up[i]
//   bwd   dgate[i] = dout[i] * up[i] * (s + gate[i] * s * (1 - s) * 2 u'),  u' = sqrt(2 / pi) * (1 + 0.134145 gate^2)
//         dup[i]   = dout[i] * gate[i] * s
//
// Tensors   gate, up, out, dout, dgate, dup [count]: f32 | bf16 | f16, arithmetic in f32
// Mapping   a thread owns a chunk of 8 elements
// Launch    grid ceil(count / 2048) split over x and y, block 256; count is a multiple of 8 (the host checks)
// Cost      fwd 3, bwd 5 x count elements moved, about 20 FLOPs each: bound by memory bandwidth
// Numerics  as geglu
// Versions  geglu, this one; not yet measured on a device
// Portable  kernels-cuda/geglu.cu. Reference: src/ops/geglu.rs. Paper: arXiv:2002.05202

struct Params {
    u32 count;
};

constexpr float TWO_ROOT = 1.5957691216057308f; // 2 sqrt(2 / pi)

__device__ __forceinline__ float half_tanh(float g) {
    float u2 = TWO_ROOT * (g + 0.044715f * g * g * g);
    return 1.0f / (1.0f + expf(fminf(-u2, 80.0f)));
}

extern "C" __global__ void __launch_bounds__(256)
geglu_fwd_wide(const void* gate, const void* up, void* out, Params params) {
    // [1] the chunk this thread owns
    u32 chunk = block_number() * 256 + threadIdx.x;
    if (chunk >= params.count / 8) return;
    float g[8], u[8];
    load_chunk<DT_GATE>(g, gate, chunk);
    load_chunk<DT_UP>(u, up, chunk);
    // [2] gate
#pragma unroll
    for (u32 i = 0; i < 8; i++) u[i] *= g[i] * half_tanh(g[i]);
    // [3] write
    store_chunk<DT_OUT>(out, chunk, u);
}

extern "C" __global__ void __launch_bounds__(256)
geglu_bwd_wide(const void* dout, const void* gate, const void* up, void* dgate, void* dup, Params params) {
    // [1] the chunk this thread owns
    u32 chunk = block_number() * 256 + threadIdx.x;
    if (chunk >= params.count / 8) return;
    float d[8], g[8], u[8];
    load_chunk<DT_DOUT>(d, dout, chunk);
    load_chunk<DT_GATE>(g, gate, chunk);
    load_chunk<DT_UP>(u, up, chunk);
    // [2] the derivatives
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        float s = half_tanh(g[i]);
        u[i] = d[i] * u[i] * (s + g[i] * s * (1.0f - s) * TWO_ROOT * (1.0f + 0.134145f * g[i] * g[i]));
        d[i] = d[i] * g[i] * s;
    }
    // [3] write
    store_chunk<DT_DGATE>(dgate, chunk, u);
    store_chunk<DT_DUP>(dup, chunk, d);
}
