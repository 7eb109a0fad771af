// GeGLU: the gated middle of Gemma's MLP, with GELU by its tanh formula.
//
//   u = sqrt(2 / pi) * (gate + 0.044715 gate^3)
//   s = (1 + tanh(u)) / 2 = 1 / (1 + e^(-2 u)), which cancels nowhere
//   fwd   out[i]   = gate[i] * s * up[i]
//   bwd   dgate[i] = dout[i] * up[i] * (s + gate[i] * s * (1 - s) * 2 u'),  u' = sqrt(2 / pi) * (1 + 0.134145 gate^2)
//         dup[i]   = dout[i] * gate[i] * s
//
// Tensors   gate, up, out, dout, dgate, dup [count]: f32 | bf16 | f16, arithmetic in f32
// Mapping   a thread owns one word of the outputs: 1 element of f32, 2 of a 16-bit type
// Launch    grid ceil(words / 256) split over x and y, block 256; the host checks count and shapes
// Cost      fwd 3, bwd 5 x count elements moved, about 20 FLOPs each: bound by memory bandwidth
// Numerics  -2 u is cut at 80 before e^, so that nothing overflows; deterministic; elementwise tolerance
// Versions  this one, geglu_wide
// Twin      kernels-wgsl/geglu.wgsl. Reference: src/ops/geglu.rs. Papers: arXiv:1606.08415, arXiv:2002.05202

struct Params {
    u32 count;
};

constexpr float TWO_ROOT = 1.5957691216057308f; // 2 sqrt(2 / pi)

__device__ __forceinline__ float half_tanh(float g) {
    float u2 = TWO_ROOT * (g + 0.044715f * g * g * g);
    return 1.0f / (1.0f + expf(fminf(-u2, 80.0f)));
}

extern "C" __global__ void __launch_bounds__(256)
geglu_fwd(const void* gate, const void* up, void* out, Params params) {
    // [1] the elements this thread owns: a word of the output, cut at the end
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_OUT);
    for (u32 lane = 0; lane < per_word(DT_OUT) && first + lane < params.count; lane++) {
        // [2] gate
        u32 i = first + lane;
        float g = load<DT_GATE>(gate, i);
        float value = g * half_tanh(g) * load<DT_UP>(up, i);
        // [3] write
        store<DT_OUT>(out, i, value);
    }
}

extern "C" __global__ void __launch_bounds__(256)
geglu_bwd(const void* dout, const void* gate, const void* up, void* dgate, void* dup, Params params) {
    // [1] the elements this thread owns: a word of both outputs, cut at the end
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_DGATE);
    for (u32 lane = 0; lane < per_word(DT_DGATE) && first + lane < params.count; lane++) {
        // [2] the derivatives
        u32 i = first + lane;
        float d = load<DT_DOUT>(dout, i);
        float g = load<DT_GATE>(gate, i);
        float s = half_tanh(g);
        float slope = s + g * s * (1.0f - s) * TWO_ROOT * (1.0f + 0.134145f * g * g);
        // [3] write
        store<DT_DGATE>(dgate, i, d * load<DT_UP>(up, i) * slope);
        store<DT_DUP>(dup, i, d * g * s);
    }
}
