// NF4 (QLoRA): quantizing to 4 bits, and decoding.
//
//   quantize     per block of 64:  absmax = max |w|,  code = number of thresholds below w * (1 / absmax)
//   dequantize   w = levels[code] * scale, rounded once to the dtype of w
//                scale = absmax[block]                              without double quantization
//                      = map[q[block]] * nested_absmax[block / nested_blocksize] + offset     with it
//
// Tensors   w [count] f32 | bf16 | f16; codes [count / 2] bytes, two codes each, the even element in the
//           high half; absmax [blocks] f32; scales [blocks] bytes q (NESTED; else unused);
//           tables f32: levels [16], then absmax [blocks], or map [256], offset [1], nested_absmax [..]
// Mapping   blocks run over the flattened weight and may cross rows.
//           quantize: a thread owns a word of 8 codes, 8 threads a block of 64
//           dequantize: a thread owns a word of w
// Launch    quantize: grid ceil(count / 2048); dequantize: grid ceil(words / 256); both split over x and
//           y; block 256; 1 KiB shared memory. quantize: count is a multiple of 8 (the host checks)
// Cost      one pass: bound by memory bandwidth
// Numerics  bit-equal to bitsandbytes: one rounding per operation. The product and the sum of a nested
//           scale must not become one fused operation: hence __fmul_rn and __fadd_rn
// Versions  this one, nf4_wide
// Twin      kernels-wgsl/nf4.wgsl. Reference: src/ops/nf4/reference.rs. Paper: arXiv:2305.14314

extern "C" __global__ void __launch_bounds__(256)
nf4_quantize(const void* source, const float* thresholds, u8* new_codes, float* absmax,
             Params params) {
    __shared__ float largest[256]; // [32 blocks, 8]
    u32 thread = threadIdx.x;
    u32 word = block_number() * 256 + thread;
    u32 first = word * 8;
    // [1] this thread's 8 values, and the largest magnitude of the 8 threads that share a block
    float values[8] = {};
    float magnitude = 0.0f;
    if (first < params.count) {
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            values[i] = load<DT_SOURCE>(source, first + i);
            magnitude = fmaxf(magnitude, fabsf(values[i]));
        }
    }
    largest[thread] = magnitude;
    __syncthreads();
    for (u32 i = 0; i < 8; i++) magnitude = fmaxf(magnitude, largest[thread / 8 * 8 + i]);
    if (first >= params.count) return;
    // [2] the code is the number of thresholds below the scaled value; the inverse of a magnitude that
    // is no normal number stays finite, so that a block of zeros gets code 7, which is 0
    float inverse = magnitude >= 1.17549435e-38f ? __fdiv_rn(1.0f, magnitude) : 1e38f;
    u32 packed = 0;
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        u32 code = 0;
        for (u32 j = 0; j < 15; j++) code += __fmul_rn(values[i], inverse) > thresholds[j] ? 1 : 0;
        packed |= code << (i / 2 * 8 + (i % 2 == 1 ? 0 : 4));
    }
    // [3] write
    reinterpret_cast<u32*>(new_codes)[word] = packed;
    if (thread % 8 == 0) absmax[word / 8] = magnitude;
}

// The scale of a block.
__device__ __forceinline__ float scale_of(u32 block, const u8* scales, const float* tables,
                                          const Params& params) {
    if (NESTED == 0) return tables[16 + block];
    float product = __fmul_rn(tables[16 + scales[block]], tables[273 + block / params.nested_blocksize]);
    return __fadd_rn(product, tables[272]);
}

extern "C" __global__ void __launch_bounds__(256)
nf4_dequantize(const u8* codes, const u8* scales, const float* tables, void* w, Params params) {
    // [1] the elements this thread owns: a word of w, cut at the end
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_W);
    for (u32 lane = 0; lane < per_word(DT_W) && first + lane < params.count; lane++) {
        // [2] decode
        u32 i = first + lane;
        u32 code = i % 2 == 1 ? codes[i / 2] & 15 : codes[i / 2] >> 4;
        float value = __fmul_rn(tables[code], scale_of(i / params.blocksize, scales, tables, params));
        // [3] write
        store<DT_W>(w, i, value);
    }
}
