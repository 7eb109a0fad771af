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
//           y; block 256; 1 KiB workgroup memory. quantize: count is a multiple of 8 (the host checks)
// Cost      one pass: bound by memory bandwidth
// Numerics  bit-equal to bitsandbytes: one rounding per operation. The product and the sum of a nested
//           scale must not become one fused operation: `unfused` hides the product from the compiler
// Versions  this one, nf4_wide
// Twin      kernels-cuda/nf4.cu. Reference: src/ops/nf4/reference.rs. Paper: arXiv:2305.14314

struct Params {
    count: u32,
    blocksize: u32,
    nested_blocksize: u32,
    zero: u32, // 0, which the compiler cannot know
}

@group(0) @binding(0) var<storage, read> source: array<u32>; // [count]
@group(0) @binding(1) var<storage, read> thresholds: array<f32>; // [15]
@group(0) @binding(2) var<storage, read_write> new_codes: array<u32>; // [count / 2] bytes
@group(0) @binding(3) var<storage, read_write> absmax: array<f32>; // [blocks]

@group(0) @binding(0) var<storage, read> codes: array<u32>; // [count / 2] bytes
@group(0) @binding(1) var<storage, read> scales: array<u32>; // [blocks] bytes
@group(0) @binding(2) var<storage, read> tables: array<f32>; // [16 + ..]
@group(0) @binding(3) var<storage, read_write> w: array<u32>; // [count]

@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> largest: array<f32, 256>; // [32 blocks, 8]

@compute @workgroup_size(256)
fn nf4_quantize(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let word = block_number(block, grid) * 256u + thread;
    let first = word * 8u;
    // [1] this thread's 8 values, and the largest magnitude of the 8 threads that share a block
    var values: array<f32, 8>;
    var magnitude = 0.0;
    if (first < params.count) {
        for (var i = 0u; i < 8u; i++) {
            values[i] = unpack(source[word_of(first + i, DT_SOURCE)], first + i, DT_SOURCE);
            magnitude = max(magnitude, abs(values[i]));
        }
    }
    largest[thread] = magnitude;
    workgroupBarrier();
    for (var i = 0u; i < 8u; i++) {
        magnitude = max(magnitude, largest[thread / 8u * 8u + i]);
    }
    if (first >= params.count) {
        return;
    }
    // [2] the code is the number of thresholds below the scaled value; the inverse of a magnitude that
    // is no normal number stays finite, so that a block of zeros gets code 7, which is 0
    var inverse = 1e38;
    if (magnitude >= 1.17549435e-38) {
        inverse = 1.0 / magnitude;
    }
    var packed = 0u;
    for (var i = 0u; i < 8u; i++) {
        var code = 0u;
        for (var j = 0u; j < 15u; j++) {
            code += select(0u, 1u, values[i] * inverse > thresholds[j]);
        }
        packed |= code << (i / 2u * 8u + select(4u, 0u, (i & 1u) == 1u));
    }
    // [3] write
    new_codes[word] = packed;
    if (thread % 8u == 0u) {
        absmax[word / 8u] = magnitude;
    }
}

// `product`, which the compiler then cannot fuse into a sum.
fn unfused(product: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(product) ^ params.zero);
}

// The scale of a block.
fn scale_of(block: u32) -> f32 {
    if (NESTED == 0u) {
        return tables[16u + block];
    }
    let q = (scales[block / 4u] >> (block % 4u * 8u)) & 255u;
    return unfused(tables[16u + q] * tables[273u + block / params.nested_blocksize]) + tables[272];
}

@compute @workgroup_size(256)
fn nf4_dequantize(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the elements this thread owns: a word of w, cut at the end
    let first = (block_number(block, grid) * 256u + thread) * per_word(DT_W);
    var value: array<f32, 2>;
    for (var lane = 0u; lane < per_word(DT_W) && first + lane < params.count; lane++) {
        // [2] decode
        let i = first + lane;
        let byte = (codes[i / 8u] >> (i / 2u % 4u * 8u)) & 255u;
        let code = select(byte >> 4u, byte & 15u, (i & 1u) == 1u);
        value[lane] = tables[code] * scale_of(i / params.blocksize);
    }
    // [3] write
    if (first < params.count) {
        w[word_of(first, DT_W)] = pack(value[0], value[1], DT_W);
    }
}
