// SwiGLU: the gated middle of the MLP.
//
//   s = 1 / (1 + e^-gate)
//   fwd   out[i]   = gate[i] * s * up[i]
//   bwd   dgate[i] = dout[i] * up[i] * s * (1 + gate[i] * (1 - s))
//         dup[i]   = dout[i] * gate[i] * s
//
// Tensors   gate, up, out, dout, dgate, dup [count]: f32 | bf16 | f16, arithmetic in f32
// Mapping   a thread owns one word of the outputs: 1 element of f32, 2 of a 16-bit type
// Launch    grid ceil(words / 256) split over x and y, block 256; the host checks count and shapes
// Cost      fwd 3, bwd 5 x count elements moved, about 10 FLOPs each: bound by memory bandwidth
// Numerics  -gate is cut at 80 before e^, so that nothing overflows; deterministic; elementwise tolerance
// Versions  this one, swiglu_wide
// Twin      kernels-wgsl/swiglu.wgsl. Reference: src/ops/swiglu.rs. Paper: arXiv:2002.05202

struct Params {
    u32 count;
};

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(fminf(-x, 80.0f))); }

extern "C" __global__ void __launch_bounds__(256)
swiglu_fwd(const void* gate, const void* up, void* out, Params params) {
    // [1] the elements this thread owns: a word of the output, cut at the end
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_OUT);
    for (u32 lane = 0; lane < per_word(DT_OUT) && first + lane < params.count; lane++) {
        // [2] gate
        u32 i = first + lane;
        float g = load<DT_GATE>(gate, i);
        float value = g * sigmoid(g) * load<DT_UP>(up, i);
        // [3] write
        store<DT_OUT>(out, i, value);
    }
}

extern "C" __global__ void __launch_bounds__(256)
swiglu_bwd(const void* dout, const void* gate, const void* up, void* dgate, void* dup, Params params) {
    // [1] the elements this thread owns: a word of both outputs, cut at the end
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_DGATE);
    for (u32 lane = 0; lane < per_word(DT_DGATE) && first + lane < params.count; lane++) {
        // [2] the derivatives
        u32 i = first + lane;
        float d = load<DT_DOUT>(dout, i);
        float g = load<DT_GATE>(gate, i);
        float s = sigmoid(g);
        // [3] write
        store<DT_DGATE>(dgate, i, d * load<DT_UP>(up, i) * s * (1.0f + g * (1.0f - s)));
        store<DT_DUP>(dup, i, d * g * s);
    }
}
