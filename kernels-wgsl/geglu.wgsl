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
// Twin      kernels-cuda/geglu.cu. Reference: src/ops/geglu.rs. Papers: arXiv:1606.08415, arXiv:2002.05202

struct Params {
    count: u32,
}

@group(0) @binding(0) var<storage, read> gate: array<u32>; // [count]
@group(0) @binding(1) var<storage, read> up: array<u32>; // [count]
@group(0) @binding(2) var<storage, read_write> out: array<u32>; // [count]

@group(0) @binding(0) var<storage, read> dout: array<u32>; // [count]
@group(0) @binding(1) var<storage, read> bwd_gate: array<u32>; // [count]
@group(0) @binding(2) var<storage, read> bwd_up: array<u32>; // [count]
@group(0) @binding(3) var<storage, read_write> dgate: array<u32>; // [count]
@group(0) @binding(4) var<storage, read_write> dup: array<u32>; // [count]

@group(1) @binding(0) var<uniform> params: Params;

const TWO_ROOT: f32 = 1.5957691216057308; // 2 sqrt(2 / pi)

fn half_tanh(g: f32) -> f32 {
    let u2 = TWO_ROOT * (g + 0.044715 * g * g * g);
    return 1.0 / (1.0 + exp(min(-u2, 80.0)));
}

@compute @workgroup_size(256)
fn geglu_fwd(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the elements this thread owns: a word of the output, cut at the end
    let first = (block_number(block, grid) * 256u + thread) * per_word(DT_OUT);
    var value: array<f32, 2>;
    for (var lane = 0u; lane < per_word(DT_OUT) && first + lane < params.count; lane++) {
        // [2] gate
        let i = first + lane;
        let g = unpack(gate[word_of(i, DT_GATE)], i, DT_GATE);
        value[lane] = g * half_tanh(g) * unpack(up[word_of(i, DT_UP)], i, DT_UP);
    }
    // [3] write
    if (first < params.count) {
        out[word_of(first, DT_OUT)] = pack(value[0], value[1], DT_OUT);
    }
}

@compute @workgroup_size(256)
fn geglu_bwd(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the elements this thread owns: a word of both outputs, cut at the end
    let first = (block_number(block, grid) * 256u + thread) * per_word(DT_DGATE);
    var to_gate: array<f32, 2>;
    var to_up: array<f32, 2>;
    for (var lane = 0u; lane < per_word(DT_DGATE) && first + lane < params.count; lane++) {
        // [2] the derivatives
        let i = first + lane;
        let d = unpack(dout[word_of(i, DT_DOUT)], i, DT_DOUT);
        let g = unpack(bwd_gate[word_of(i, DT_GATE)], i, DT_GATE);
        let s = half_tanh(g);
        let slope = s + g * s * (1.0 - s) * TWO_ROOT * (1.0 + 0.134145 * g * g);
        to_gate[lane] = d * unpack(bwd_up[word_of(i, DT_UP)], i, DT_UP) * slope;
        to_up[lane] = d * g * s;
    }
    // [3] write
    if (first < params.count) {
        dgate[word_of(first, DT_DGATE)] = pack(to_gate[0], to_gate[1], DT_DGATE);
        dup[word_of(first, DT_DUP)] = pack(to_up[0], to_up[1], DT_DUP);
    }
}
