// Matrix product, tiled: 16 x 16 tiles staged in workgroup memory.
//
//   out[m,n] = alpha * sum_k A[m,k] * B[k,n]     (+ out[m,n] with ACCUMULATE)
//
//   LAYOUT   NT: a [M, K], b [N, K]     NN: a [M, K], b [K, N]     TN: a [K, M], b [K, N]
//
// Tensors   a, b, out: f32 | bf16 | f16, each its own; sums in f32
// Mapping   a block owns 16 rows x 16 words of out, a thread one word (BN = 16 elements of f32, 32 of a
//           16-bit type). 16 steps of k at a time, the block stages what it needs and all share it:
//
//                            b_tile [16, BN]
//                          +------------------+
//       a_tile [16, 16]    |                  |
//       +-------+          +------------------+
//       |       |   16 x   | out [16, BN]     |
//       +-------+          +------------------+
//
// Launch    grid (ceil(N / BN), ceil(M / 16)), block 256, 3.1 KiB workgroup memory; any M, N, K; a 16-bit
//           out has an even N (the host checks)
// Cost      2 M N K FLOPs; a is read N / BN times, b M / 16 times. Still two loads from workgroup memory
//           per multiply-add, which bounds it: what the next rung mends
// Numerics  one f32 sum per element in order of k: deterministic; reduction tolerance
// Versions  matmul_naive, this one, matmul, matmul_mma, matmul_f32_mma, matmul_wgmma
// Twin      kernels-cuda/matmul_tiled.cu. Reference: src/ops/matmul/reference.rs

const_assert TILE * TILE == 256u; // a thread for each element of a tile

@group(0) @binding(0) var<storage, read> a: array<u32>; // [M, K], or [K, M] when TN
@group(0) @binding(1) var<storage, read> b: array<u32>; // [K, N], or [N, K] when NT
@group(0) @binding(2) var<storage, read_write> out: array<u32>; // [M, N]
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> a_tile: array<f32, TILE * TILE>; // [TILE of m, TILE of k]
var<workgroup> b_tile: array<f32, TILE * (2u * TILE + 1u)>; // [TILE of k, BN + 1], the 1 against bank conflicts

// A[m,k], 0 outside.
fn load_a(m: u32, k: u32) -> f32 {
    if (m >= params.M || k >= params.K) {
        return 0.0;
    }
    let i = select(m * params.K + k, k * params.M + m, LAYOUT == TN);
    return unpack(a[word_of(i, DT_A)], i, DT_A);
}

// B[k,n], 0 outside.
fn load_b(k: u32, n: u32) -> f32 {
    if (n >= params.N || k >= params.K) {
        return 0.0;
    }
    let i = select(k * params.N + n, n * params.K + k, LAYOUT == NT);
    return unpack(b[word_of(i, DT_B)], i, DT_B);
}

@compute @workgroup_size(256)
fn matmul_tiled(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let bn = TILE * per_word(DT_OUT);
    let row = thread / TILE; // of the tile
    let column = thread % TILE * per_word(DT_OUT);
    let m = block.y * TILE + row;
    let n = block.x * bn + column;
    var low = 0.0;
    var high = 0.0;
    for (var k0 = 0u; k0 < params.K; k0 += TILE) {
        // [1] stage a tile of each operand
        a_tile[thread] = load_a(block.y * TILE + thread / TILE, k0 + thread % TILE);
        for (var i = thread; i < TILE * bn; i += 256u) {
            if (LAYOUT == NT) {
                b_tile[i % TILE * (bn + 1u) + i / TILE] = load_b(k0 + i % TILE, block.x * bn + i / TILE);
            } else {
                b_tile[i / bn * (bn + 1u) + i % bn] = load_b(k0 + i / bn, block.x * bn + i % bn);
            }
        }
        workgroupBarrier();
        // [2] 16 steps of k
        for (var k = 0u; k < TILE; k++) {
            let value = a_tile[row * TILE + k];
            low += value * b_tile[k * (bn + 1u) + column];
            high += value * b_tile[k * (bn + 1u) + column + per_word(DT_OUT) - 1u];
        }
        workgroupBarrier();
    }
    // [3] write
    if (m < params.M && n < params.N) {
        let i = m * params.N + n;
        low *= params.alpha;
        high *= params.alpha;
        if (ACCUMULATE == 1u) {
            let word = out[word_of(i, DT_OUT)];
            low += unpack(word, i, DT_OUT);
            high += unpack(word, i + 1u, DT_OUT);
        }
        out[word_of(i, DT_OUT)] = pack(low, high, DT_OUT);
    }
}
