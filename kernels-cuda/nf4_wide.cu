// NF4 (QLoRA): decoding, 8 codes at a time.
//
//   w = levels[code] * scale, rounded once to the dtype of w
//   scale = absmax[block]                              without double quantization
//         = map[q[block]] * nested_absmax[block / nested_blocksize] + offset     with it
//
// Tensors   codes [count / 8] words of 8 codes, the even element in the high half of each byte; scales [blocks]
//           bytes q (NESTED; else unused); tables f32: levels [16], then absmax [blocks], or map [256], offset
//           [1], nested_absmax [..]; w [count] f32 | bf16 | f16
// Mapping   a thread owns 8 neighbours, which share a block, and so a scale
// Launch    grid ceil(count / 2048) split over x and y, block 256; 64 bytes of shared memory; count and
//           blocksize are multiples of 8 (the host checks)
// Cost      2.5 bytes per element in 16 bits: bound by memory bandwidth
// Numerics  as nf4_dequantize: bit-equal to bitsandbytes, one rounding per operation
// Versions  nf4, this one; not yet measured on a device
// Portable  kernels-cuda/nf4.cu. Reference: src/ops/nf4/reference.rs. Paper: arXiv:2305.14314

// The scale of a block.
__device__ __forceinline__ float scale_of(u32 block, const u8* scales, const float* tables,
                                          const Params& params) {
    if (NESTED == 0) return tables[16 + block];
    float product = __fmul_rn(tables[16 + scales[block]], tables[273 + block / params.nested_blocksize]);
    return __fadd_rn(product, tables[272]);
}

extern "C" __global__ void __launch_bounds__(256)
nf4_dequantize_wide(const u32* codes, const u8* scales, const float* tables, void* w, Params params) {
    __shared__ float levels[16]; // [16]
    // [1] the levels, a bank each
    if (threadIdx.x < 16) levels[threadIdx.x] = tables[threadIdx.x];
    __syncthreads();
    // [2] the word this thread owns
    u32 word = block_number() * 256 + threadIdx.x;
    if (word >= params.count / 8) return;
    u32 eight = codes[word];
    float scale = scale_of(word * 8 / params.blocksize, scales, tables, params);
    // [3] decode
    float values[8];
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        u32 code = eight >> (i / 2 * 8 + (i % 2 == 1 ? 0 : 4)) & 15;
        values[i] = __fmul_rn(levels[code], scale);
    }
    // [4] write
    store_chunk<DT_W>(w, word, values);
}
