// Matrix product, register-blocked: tiles in workgroup memory, sums of several elements in a thread's registers.
//
//   out[m,n] = alpha * sum_k A[m,k] * B[k,n]     (+ out[m,n] with ACCUMULATE)
//
//   LAYOUT   A in memory    B in memory    used for
//   NT       a [M, K]       b [N, K]       forward      out = x w^T
//   NN       a [M, K]       b [K, N]       backward     dx = dout w
//   TN       a [K, M]       b [K, N]       backward     dw = dout^T x
//
// Tensors   a, b, out: f32 | bf16 | f16, each its own; sums in f32
// Mapping   a block owns a 64 x 64 tile of out; of it a thread owns 4 rows x 4 adjacent columns, so that
//           16-bit pairs are written as whole words. Of a and b, 64 x 16 slabs are staged as f32, k first:
//
//                  BN = 64                    a_tile [BK, BM + 4], b_tile [BK, BN + 4]
//               +--------------+              each k step of a thread: 4 values of a, 4 of b,
//       BM = 64 | ty   4 x 4   |  16 x 16     16 multiply-adds in registers
//               |      at tx   |  threads     (the 4 columns of padding spread the staging writes
//               +--------------+               over memory banks)
//
// Launch    grid (ceil(N / 64), ceil(M / 64), splits), block 256, 8.5 KiB workgroup memory; any M, N, K; a
//           16-bit out has an even N (the host checks)
// Splits    with few tiles and a long K, the blocks of z take k from z depth to (z + 1) depth and write to
//           out[z] of an f32 [splits, M, N], with alpha 1; sum_splits adds them. Else depth >= K
// Cost      2 M N K FLOPs; a is read N / 64 times, b M / 64 times: bound by arithmetic
// Numerics  one f32 sum per element (and split) in order of k: deterministic; reduction tolerance
// Versions  matmul_naive, matmul_tiled, this one, matmul_mma, matmul_f32_mma, matmul_wgmma
// Twin      kernels-cuda/matmul.cu. Reference: src/ops/matmul/reference.rs

const STRIDE: u32 = BM + 4u; // of a staged row
// 256 threads, each 4 rows and 4 columns.
const_assert BM == 64u && BN == 64u;

@group(0) @binding(0) var<storage, read> a: array<u32>; // [M, K], or [K, M] when TN
@group(0) @binding(1) var<storage, read> b: array<u32>; // [K, N], or [N, K] when NT
@group(0) @binding(2) var<storage, read_write> out: array<u32>; // [splits, M, N]
@group(1) @binding(0) var<uniform> params: SplitParams;

var<workgroup> a_tile: array<f32, BK * STRIDE>; // [BK, BM + 4]
var<workgroup> b_tile: array<f32, BK * STRIDE>; // [BK, BN + 4]

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

// Four adjacent elements of a staged row.
fn quad_of_b(i: u32) -> vec4<f32> {
    return vec4<f32>(b_tile[i], b_tile[i + 1u], b_tile[i + 2u], b_tile[i + 3u]);
}

// Writes sums at (row, column..column + 4) of a split, a word at a time.
fn write(split: u32, row: u32, column: u32, sums: vec4<f32>) {
    for (var lane = 0u; lane < 4u; lane += per_word(DT_OUT)) {
        if (row < params.M && column + lane < params.N) {
            let i = (split * params.M + row) * params.N + column + lane;
            var low = params.alpha * sums[lane];
            var high = params.alpha * sums[lane + per_word(DT_OUT) - 1u];
            if (ACCUMULATE == 1u) {
                let word = out[word_of(i, DT_OUT)];
                low += unpack(word, i, DT_OUT);
                high += unpack(word, i + 1u, DT_OUT);
            }
            out[word_of(i, DT_OUT)] = pack(low, high, DT_OUT);
        }
    }
}

@compute @workgroup_size(256)
fn matmul(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile_row = block.y * BM;
    let tile_column = block.x * BN;
    let row = thread / 16u * 4u; // of the tile
    let column = thread % 16u * 4u;
    var sum0 = vec4<f32>(); // row 0 of this thread, [4]
    var sum1 = vec4<f32>(); // row 1, [4]
    var sum2 = vec4<f32>(); // row 2, [4]
    var sum3 = vec4<f32>(); // row 3, [4]
    let k_end = min(params.K, (block.z + 1u) * params.depth);
    for (var k0 = block.z * params.depth; k0 < k_end; k0 += BK) {
        // [1] stage a slab of each operand; neighbouring threads read neighbouring memory
        for (var i = thread; i < BM * BK; i += 256u) {
            if (LAYOUT == TN) {
                a_tile[i / BM * STRIDE + i % BM] = load_a(tile_row + i % BM, k0 + i / BM);
            } else {
                a_tile[i % BK * STRIDE + i / BK] = load_a(tile_row + i / BK, k0 + i % BK);
            }
            if (LAYOUT == NT) {
                b_tile[i % BK * STRIDE + i / BK] = load_b(k0 + i % BK, tile_column + i / BK);
            } else {
                b_tile[i / BN * STRIDE + i % BN] = load_b(k0 + i / BN, tile_column + i % BN);
            }
        }
        workgroupBarrier();
        // [2] 16 steps of k: the outer product of 4 values of a and 4 of b
        for (var k = 0u; k < BK; k++) {
            let b_quad = quad_of_b(k * STRIDE + column);
            let a_at = k * STRIDE + row;
            sum0 += a_tile[a_at] * b_quad;
            sum1 += a_tile[a_at + 1u] * b_quad;
            sum2 += a_tile[a_at + 2u] * b_quad;
            sum3 += a_tile[a_at + 3u] * b_quad;
        }
        workgroupBarrier();
    }
    // [3] write
    write(block.z, tile_row + row, tile_column + column, sum0);
    write(block.z, tile_row + row + 1u, tile_column + column, sum1);
    write(block.z, tile_row + row + 2u, tile_column + column, sum2);
    write(block.z, tile_row + row + 3u, tile_column + column, sum3);
}
