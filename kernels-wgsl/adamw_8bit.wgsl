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
// Launch    grid ceil(count / 1024) split over x and y, block 256; 6 KiB workgroup memory; the host
//           checks lengths and starts pieces at whole blocks
// Cost      16 bytes and about 30 FLOPs per element, 16 of them comparisons: bound by memory bandwidth
// Numerics  nothing is written where SKIP is set; maxima have no order: deterministic. The step is
//           bitsandbytes', one rounding per operation: `unfused` hides products from the compiler
// Twin      kernels-cuda/adamw_8bit.cu. Reference: src/ops/adamw_8bit.rs. Paper: arXiv:2110.02861

struct Params {
    count: u32,
    zero: u32, // 0, which the compiler cannot know
    beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
    lr_ratio: f32,
}

@group(0) @binding(0) var<storage, read> grad: array<f32>; // [count]
@group(0) @binding(1) var<storage, read> state: array<f32>; // [16]
@group(0) @binding(2) var<storage, read> tables: array<f32>; // [4, 256]
@group(0) @binding(3) var<storage, read_write> param: array<f32>; // [count]
@group(0) @binding(4) var<storage, read_write> m: array<u32>; // [count] bytes
@group(0) @binding(5) var<storage, read_write> v: array<u32>; // [count] bytes
@group(0) @binding(6) var<storage, read_write> m_absmax: array<f32>; // [count / 256]
@group(0) @binding(7) var<storage, read_write> v_absmax: array<f32>; // [count / 256]
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> table: array<f32, 1024>; // [4, 256]
var<workgroup> largest: array<vec2<f32>, 256>; // [4 blocks of 64 threads], of m and v

// `product`, which the compiler then cannot fuse into a sum.
fn unfused(product: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(product) ^ params.zero);
}

// The code of `value`: of 256, in ascending order of their first steps, the last one that has begun.
fn code_of(value: f32, inverse: f32, first_steps: u32) -> u32 {
    let unit = clamp(unfused(value * inverse), -1.0, 1.0);
    let step = unfused((unit + 1.0) * 0.5 * 65535.0) + 0.5;
    var code = 0u;
    for (var bit = 128u; bit > 0u; bit /= 2u) {
        if (table[first_steps + code + bit] <= step) {
            code += bit;
        }
    }
    return code;
}

@compute @workgroup_size(256)
fn adamw_8bit(
    @builtin(workgroup_id) block_id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    if (state[SKIP] != 0.0) {
        return;
    }
    // [1] the tables, and the four elements this thread owns
    for (var i = thread; i < 1024u; i += 256u) {
        table[i] = tables[i];
    }
    let first = (block_number(block_id, grid) * 256u + thread) * 4u;
    let block = first / 256u;
    let owns = first < params.count;
    workgroupBarrier();
    // [2] the moments
    var m_new: array<f32, 4>;
    var v_new: array<f32, 4>;
    var most = vec2<f32>(0.0, 0.0);
    if (owns) {
        let m_word = m[first / 4u];
        let v_word = v[first / 4u];
        let m_scale = m_absmax[block];
        let v_scale = v_absmax[block];
        for (var lane = 0u; lane < 4u && first + lane < params.count; lane++) {
            let i = first + lane;
            let g = grad[i] * state[CLIP];
            let m_old = table[(m_word >> (8u * lane)) & 255u] * m_scale;
            let v_old = table[256u + ((v_word >> (8u * lane)) & 255u)] * v_scale;
            m_new[lane] = params.beta1 * m_old + (1.0 - params.beta1) * g;
            v_new[lane] = params.beta2 * v_old + (1.0 - params.beta2) * g * g;
            most = max(most, vec2<f32>(abs(m_new[lane]), v_new[lane]));
            // [3] decay and step
            let root = sqrt(v_new[lane] / state[BIAS_CORRECTION2]) + params.eps;
            let lr = state[LEARNING_RATE] * params.lr_ratio;
            let step_size = lr / state[BIAS_CORRECTION1];
            let keep = 1.0 - lr * params.weight_decay;
            param[i] = param[i] * keep - step_size * m_new[lane] / root;
        }
    }
    // [4] the largest of each block, by halving among its 64 threads
    largest[thread] = most;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if (thread % 64u < half) {
            largest[thread] = max(largest[thread], largest[thread + half]);
        }
        workgroupBarrier();
    }
    if (!owns) {
        return;
    }
    most = largest[thread / 64u * 64u];
    // [5] codes; those of a block of zeros are 0
    let inverse = vec2<f32>(1.0, 1.0) / most;
    var m_word = 0u;
    var v_word = 0u;
    for (var lane = 0u; lane < 4u; lane++) {
        if (most.x > 0.0) {
            m_word |= code_of(m_new[lane], inverse.x, 512u) << (8u * lane);
        }
        if (most.y > 0.0) {
            v_word |= code_of(v_new[lane], inverse.y, 768u) << (8u * lane);
        }
    }
    m[first / 4u] = m_word;
    v[first / 4u] = v_word;
    if (thread % 64u == 0u) {
        m_absmax[block] = most.x;
        v_absmax[block] = most.y;
    }
}
