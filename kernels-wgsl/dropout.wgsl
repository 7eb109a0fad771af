// Noise drawn from a counter: dropout, forward and backward, and NEFTune's noise on embeddings.
//
//   word   = word c % 4 of Threefry-4x32-20(key, counter)
//            key = (seed low, seed high, site, step), counter = (ordinals[t], positions[t], c / 4, 0)
//
//   dropout   y[t,c] = word >= p 2^32 ? x[t,c] / (1 - p) : 0     (+ y[t,c] if accumulate)
//             backward: the same kernel on dy
//   neftune   y[t,c] = x[t,c] + u alpha / sqrt(L[t] C), u = word / 2^31 - 1 uniform in [-1, 1),
//             L[t] = bounds[t].end - bounds[t].start; backward: dx = dy
//
// The noise is a function of where an element is, never of when it is computed.
//
// Tensors   x, y [rows, columns]: f32 | bf16 | f16, each its own (neftune: one); ordinals, positions
//           [rows] u32; bounds [rows, 2] u32; step_state [16] f32, of which the step is read
// Mapping   a thread owns 4 adjacent columns of a row, which share one draw of 4 words
// Launch    grid ceil(rows * ceil(columns / 4) / 256) split over x and y, block 256; 16-bit rows have an
//           even width (the host checks)
// Cost      one pass over x and y, about 30 integer operations per element: bound by memory bandwidth
// Numerics  one rounding per element; the same bits on every device; elementwise tolerance
// Twin      kernels-cuda/dropout.cu. Reference: src/ops/dropout.rs, neftune.rs, src/random.rs
// Paper     Jain et al., "NEFTune: noisy embeddings improve instruction finetuning", 2023

struct Params {
    rows: u32,
    columns: u32,
    seed_low: u32,
    seed_high: u32,
    site: u32,
    threshold: u32, // p 2^32
    scale: f32, // 1 / (1 - p); neftune: alpha / sqrt(C)
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> x: array<u32>; // [rows, columns]
@group(0) @binding(1) var<storage, read> ordinals: array<u32>; // [rows]
@group(0) @binding(2) var<storage, read> positions: array<u32>; // [rows]
@group(0) @binding(3) var<storage, read> step_state: array<f32>; // [16]
@group(0) @binding(4) var<storage, read_write> y: array<u32>; // [rows, columns]
@group(0) @binding(5) var<storage, read> bounds: array<u32>; // [rows, 2], neftune
@group(1) @binding(0) var<uniform> params: Params;

// The 4 adjacent columns of a row that a thread owns.
struct Quad {
    t: u32,
    column: u32, // the first of them
}

fn quad_of_thread(block: vec3<u32>, grid: vec3<u32>, thread: u32) -> Quad {
    let quads = (params.columns + 3u) / 4u; // of a row
    let number = block_number(block, grid) * 256u + thread;
    return Quad(number / quads, number % quads * 4u);
}

// The random words of a quad.
fn draw(quad: Quad) -> vec4<u32> {
    let key = vec4<u32>(params.seed_low, params.seed_high, params.site, u32(step_state[STEP]));
    return threefry(key, vec4<u32>(ordinals[quad.t], positions[quad.t], quad.column / 4u, 0u));
}

@compute @workgroup_size(256)
fn dropout(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the 4 columns this thread owns
    let quad = quad_of_thread(block, grid, thread);
    if (quad.t >= params.rows) {
        return;
    }
    // [2] their random words
    let words = draw(quad);
    // [3] keep or drop, and write a word at a time
    for (var lane = 0u; lane < 4u && quad.column + lane < params.columns; lane += per_word(DT_Y)) {
        let first = quad.t * params.columns + quad.column + lane;
        var value: array<f32, 2>;
        for (var j = 0u; j < per_word(DT_Y); j++) {
            let i = first + j;
            let scaled = unpack(x[word_of(i, DT_X)], i, DT_X) * params.scale;
            value[j] = select(0.0, scaled, words[lane + j] >= params.threshold);
            if (params.accumulate == 1u) {
                value[j] += unpack(y[word_of(i, DT_Y)], i, DT_Y);
            }
        }
        y[word_of(first, DT_Y)] = pack(value[0], value[1], DT_Y);
    }
}

@compute @workgroup_size(256)
fn neftune(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the 4 columns this thread owns
    let quad = quad_of_thread(block, grid, thread);
    if (quad.t >= params.rows) {
        return;
    }
    // [2] their random words
    let words = draw(quad);
    // [3] the largest noise of this example
    let magnitude = params.scale / sqrt(f32(bounds[2u * quad.t + 1u] - bounds[2u * quad.t]));
    // [4] add, and write a word at a time
    for (var lane = 0u; lane < 4u && quad.column + lane < params.columns; lane += per_word(DT_Y)) {
        let first = quad.t * params.columns + quad.column + lane;
        var value: array<f32, 2>;
        for (var j = 0u; j < per_word(DT_Y); j++) {
            let i = first + j;
            let unit = f32(words[lane + j] >> 8u) * 0x1p-23f - 1.0;
            value[j] = unpack(x[word_of(i, DT_X)], i, DT_X) + unit * magnitude;
        }
        y[word_of(first, DT_Y)] = pack(value[0], value[1], DT_Y);
    }
}
