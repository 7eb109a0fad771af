// AdamW whose moments are 8-bit codes in blocks of 256, one fused pass.
//
//   m = m_map[code] * m_absmax[block],  v = v_map[code] * v_absmax[block]       decode
//   g = grad * CLIP
//   m = beta1 m + (1 - beta1) g
//   v = beta2 v + (1 - beta2) g^2
//   lr = LEARNING_RATE lr_ratio
//   param = param (1 - lr weight_decay) - lr / BIAS_CORRECTION1 * m / (sqrt(v / BIAS_CORRECTION2) + eps)
//   absmax[block] = max |m|;  step = (m / absmax + 1) / 2 * 65535 + 1/2         quantize, and so v:
//   code = the last one whose first step is not above step                      nearest, to 1/32768
//
// Tensors   grad, param [count], f32; m, v [count] bytes; m_absmax, v_absmax [count / 256], f32;
//           state [16] (the step state), tables [4, 256]: m_map, v_map, first steps of both, f32
// Mapping   a thread owns four elements, a word of codes; 64 threads share a block of 256
// Launch    grid ceil(count / 1024) split over x and y, block 256; 6 KiB shared memory; the host checks
//           lengths and starts pieces at whole blocks
// Cost      16 bytes and about 30 FLOPs per element, 16 of them comparisons: bound by memory bandwidth
// Numerics  nothing is written where SKIP is set; maxima have no order: deterministic. The step is
//           bitsandbytes', one rounding per operation: hence __fmul_rn and __fadd_rn
// Twin      kernels-wgsl/adamw_8bit.wgsl. Reference: src/ops/adamw_8bit.rs. Paper: arXiv:2110.02861

struct Params {
    u32 count;
    u32 zero; // for the twin
    float beta1;
    float beta2;
    float eps;
    float weight_decay;
    float lr_ratio;
};

// A word of codes; the bytes after the last element are 0.
__device__ __forceinline__ u32 load_codes(const u8* codes, u32 first, u32 count) {
    if (first + 4 <= count) return reinterpret_cast<const u32*>(codes)[first / 4];
    u32 word = 0;
    for (u32 lane = 0; first + lane < count; lane++) word |= u32(codes[first + lane]) << (8 * lane);
    return word;
}

__device__ __forceinline__ void store_codes(u8* codes, u32 first, u32 count, u32 word) {
    if (first + 4 <= count) {
        reinterpret_cast<u32*>(codes)[first / 4] = word;
        return;
    }
    for (u32 lane = 0; first + lane < count; lane++) codes[first + lane] = u8(word >> (8 * lane));
}

// The code of `value`: of 256, in ascending order of their first steps, the last one that has begun.
__device__ __forceinline__ u32 code_of(float value, float inverse, const float* first_steps) {
    float unit = fminf(fmaxf(__fmul_rn(value, inverse), -1.0f), 1.0f);
    float step = __fadd_rn(__fmul_rn(__fadd_rn(unit, 1.0f) * 0.5f, 65535.0f), 0.5f);
    u32 code = 0;
#pragma unroll
    for (u32 bit = 128; bit > 0; bit /= 2) {
        if (first_steps[code + bit] <= step) code += bit;
    }
    return code;
}

extern "C" __global__ void __launch_bounds__(256)
adamw_8bit(const float* grad, const float* state, const float* tables, float* param, u8* m, u8* v,
           float* m_absmax, float* v_absmax, Params params) {
    __shared__ float table[1024];      // [4, 256]
    __shared__ float largest[2][256];  // [m and v, 4 blocks of 64 threads]
    if (state[SKIP] != 0.0f) return;
    // [1] the tables, and the four elements this thread owns
    u32 thread = threadIdx.x;
    for (u32 i = thread; i < 1024; i += 256) table[i] = tables[i];
    u32 first = (block_number() * 256 + thread) * 4;
    u32 block = first / 256;
    bool owns = first < params.count;
    __syncthreads();
    // [2] the moments
    float m_new[4] = {}, v_new[4] = {};
    float m_largest = 0.0f, v_largest = 0.0f;
    if (owns) {
        u32 m_word = load_codes(m, first, params.count), v_word = load_codes(v, first, params.count);
        float m_scale = m_absmax[block], v_scale = v_absmax[block];
#pragma unroll
        for (u32 lane = 0; lane < 4; lane++) {
            if (first + lane >= params.count) break;
            float g = grad[first + lane] * state[CLIP];
            float m_old = table[m_word >> (8 * lane) & 255] * m_scale;
            float v_old = table[256 + (v_word >> (8 * lane) & 255)] * v_scale;
            m_new[lane] = params.beta1 * m_old + (1.0f - params.beta1) * g;
            v_new[lane] = params.beta2 * v_old + (1.0f - params.beta2) * g * g;
            m_largest = fmaxf(m_largest, fabsf(m_new[lane]));
            v_largest = fmaxf(v_largest, v_new[lane]);
            // [3] decay and step
            float root = sqrtf(v_new[lane] / state[BIAS_CORRECTION2]) + params.eps;
            float lr = state[LEARNING_RATE] * params.lr_ratio;
            float step_size = lr / state[BIAS_CORRECTION1];
            float keep = 1.0f - lr * params.weight_decay;
            param[first + lane] = param[first + lane] * keep - step_size * m_new[lane] / root;
        }
    }
    // [4] the largest of each block, by halving among its 64 threads
    largest[0][thread] = m_largest;
    largest[1][thread] = v_largest;
    __syncthreads();
    for (u32 half = 32; half > 0; half /= 2) {
        if (thread % 64 < half) {
            largest[0][thread] = fmaxf(largest[0][thread], largest[0][thread + half]);
            largest[1][thread] = fmaxf(largest[1][thread], largest[1][thread + half]);
        }
        __syncthreads();
    }
    if (!owns) return;
    m_largest = largest[0][thread / 64 * 64];
    v_largest = largest[1][thread / 64 * 64];
    // [5] codes; those of a block of zeros are 0
    float m_inverse = __fdiv_rn(1.0f, m_largest), v_inverse = __fdiv_rn(1.0f, v_largest);
    u32 m_word = 0, v_word = 0;
#pragma unroll
    for (u32 lane = 0; lane < 4; lane++) {
        if (m_largest > 0.0f) m_word |= code_of(m_new[lane], m_inverse, table + 512) << (8 * lane);
        if (v_largest > 0.0f) v_word |= code_of(v_new[lane], v_inverse, table + 768) << (8 * lane);
    }
    store_codes(m, first, params.count, m_word);
    store_codes(v, first, params.count, v_word);
    if (thread % 64 == 0) {
        m_absmax[block] = m_largest;
        v_absmax[block] = v_largest;
    }
}
