// Rotary position embedding, half-rotated: columns i and i + half of a head are a point in the plane.
//
//   y[t,h,i]        = x[t,h,i] * cos - x[t,h,i+half] * sin      cos, sin at [positions[t], i]
//   y[t,h,i+half]   = x[t,h,i+half] * cos + x[t,h,i] * sin
//   y[t,h,c]        = x[t,h,c]                                  c >= 2 half, the columns that stand still
//   backward        the same with dy for x and direction -1, which turns back
//
// Tensors   x, y [T, H, 2 (half + still)]: f32 | bf16 | f16; positions u32 [T]; tables f32 [P, half]
// Mapping   a thread owns one word of the first half of what turns of a head, or of what stands still, and
//           its partner in the second
//
//             head   [ .. w .. | .. w .. | .. v .. | .. v .. ]      w, v: 1 column of f32, 2 of a 16-bit type
//                      first      second    first     second
//
// Launch    grid ceil(T * H * (half + still) / (256 * columns per word)) split over x and y, block 256;
//           half and still are even for 16-bit types and positions are below P (the host checks, the caller knows)
// Cost      2 passes over x, 3 FLOPs per element: bound by memory bandwidth
// Numerics  one rounding of an f32 result; deterministic; elementwise tolerance
// Twin      kernels-cuda/rope.cu. Reference: src/ops/rope.rs. Paper: arXiv:2104.09864

struct Params {
    tokens: u32,
    heads: u32,
    half: u32,
    still: u32,
    direction: f32,
}

@group(0) @binding(0) var<storage, read> x: array<u32>; // [T, H, 2 (half + still)]
@group(0) @binding(1) var<storage, read> positions: array<u32>; // [T]
@group(0) @binding(2) var<storage, read> cos_table: array<f32>; // [P, half]
@group(0) @binding(3) var<storage, read> sin_table: array<f32>; // [P, half]
@group(0) @binding(4) var<storage, read_write> y: array<u32>; // [T, H, 2 (half + still)]
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn rope(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the head and the columns this thread owns
    let step = per_word(DT_Y);
    let width = 2u * (params.half + params.still);
    let words = width / 2u / step;
    let number = block_number(block, grid) * 256u + thread;
    let head = number / words;
    if (head >= params.tokens * params.heads) {
        return;
    }
    let i = (number % words) * step;
    if (i >= params.half) {
        let first = head * width + params.half + i;
        let second = first + params.still;
        y[word_of(first, DT_Y)] = x[word_of(first, DT_X)];
        y[word_of(second, DT_Y)] = x[word_of(second, DT_X)];
        return;
    }
    let first = head * width + i;
    let second = first + params.half;
    // [2] turn
    let angle = positions[head / params.heads] * params.half + i;
    var y_first: array<f32, 2>;
    var y_second: array<f32, 2>;
    for (var lane = 0u; lane < step; lane++) {
        let c = cos_table[angle + lane];
        let s = sin_table[angle + lane] * params.direction;
        let a = unpack(x[word_of(first + lane, DT_X)], first + lane, DT_X);
        let b = unpack(x[word_of(second + lane, DT_X)], second + lane, DT_X);
        y_first[lane] = a * c - b * s;
        y_second[lane] = b * c + a * s;
    }
    // [3] write both
    y[word_of(first, DT_Y)] = pack(y_first[0], y_first[1], DT_Y);
    y[word_of(second, DT_Y)] = pack(y_second[0], y_second[1], DT_Y);
}
