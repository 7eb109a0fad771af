// Product with an NF4 weight (QLoRA): the weight is decoded as its tile is staged.
//
//   NT   out[m,n] = sum_k x[m,k] * W[n,k]     W [N, K]     forward     y = x W^T
//   NN   out[m,n] = sum_k x[m,k] * W[k,n]     W [K, N]     backward    dx = dout W   (+ out with ACCUMULATE)
//
//   W[i] = levels[code[i]] * scale[i / blocksize], rounded to the dtype of x, i over the flattened weight
//   scale = absmax[block]                              without double quantization
//         = map[q[block]] * nested_absmax[block / nested_blocksize] + offset     with it (NESTED)
//
// Tensors   x [M, K], out [M, N]: f32 | bf16 | f16; codes [N K / 2] bytes, two codes each, the even
//           element in the high half; scales [blocks] bytes q (NESTED; else unused); tables f32:
//           levels [16], then absmax [blocks], or map [256], offset [1], nested_absmax [..]; sums in f32
// Mapping   as in matmul: a thread block owns a 64 x 64 tile of out, a thread 4 rows x 4 adjacent columns of it;
//           64 x 16 slabs of both operands are staged as f32, k first:
//
//                  BN = 64                    x_tile [BK, BM + 4], w_tile [BK, BN + 4]
//               +--------------+              each k step of a thread: 4 values of x, 4 of W,
//       BM = 64 | ty   4 x 4   |  16 x 16     16 multiply-adds in registers
//               |      at tx   |  threads
//               +--------------+
//
// Launch    grid (ceil(N / 64), ceil(M / 64)), block 256, 8.5 KiB workgroup memory; any M, N, K; a 16-bit
//           out has an even N (the host checks)
// Cost      2 M N K FLOPs, about as many integer operations to decode W M / 64 times; W is 0.5 byte per
//           element: bound by arithmetic, and by decoding where M is small
// Numerics  decoded weights are bit-equal to bitsandbytes (see nf4); one f32 sum per element in order of
//           k: deterministic; the naive rule
// Versions  this one, nf4_matmul_mma
// Twin      kernels-cuda/nf4_matmul.cu. Reference: src/ops/nf4/reference.rs. Paper: arXiv:2305.14314

const STRIDE: u32 = BM + 4u; // of a staged row
// 256 threads, each 4 rows and 4 columns.
const_assert BM == 64u && BN == 64u;

struct Params {
    M: u32,
    N: u32,
    K: u32,
    blocksize: u32,
    nested_blocksize: u32,
    zero: u32, // 0, which the compiler cannot know
}

@group(0) @binding(0) var<storage, read> x: array<u32>; // [M, K]
@group(0) @binding(1) var<storage, read> codes: array<u32>; // [N K / 2] bytes
@group(0) @binding(2) var<storage, read> scales: array<u32>; // [blocks] bytes
@group(0) @binding(3) var<storage, read> tables: array<f32>; // [16 + ..]
@group(0) @binding(4) var<storage, read_write> out: array<u32>; // [M, N]
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> x_tile: array<f32, BK * STRIDE>; // [BK, BM + 4]
var<workgroup> w_tile: array<f32, BK * STRIDE>; // [BK, BN + 4]

// x[m,k], 0 outside.
fn load_x(m: u32, k: u32) -> f32 {
    if (m >= params.M || k >= params.K) {
        return 0.0;
    }
    let i = m * params.K + k;
    return unpack(x[word_of(i, DT_X)], i, DT_X);
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

// The weight at (k, n) of the product, decoded and rounded; 0 outside.
fn load_w(k: u32, n: u32) -> f32 {
    if (n >= params.N || k >= params.K) {
        return 0.0;
    }
    let i = select(k * params.N + n, n * params.K + k, LAYOUT == NT);
    let byte = (codes[i / 8u] >> (i / 2u % 4u * 8u)) & 255u;
    let code = select(byte >> 4u, byte & 15u, (i & 1u) == 1u);
    return round_to(tables[code] * scale_of(i / params.blocksize), DT_X);
}

// Four adjacent elements of a staged row.
fn quad_of_w(i: u32) -> vec4<f32> {
    return vec4<f32>(w_tile[i], w_tile[i + 1u], w_tile[i + 2u], w_tile[i + 3u]);
}

// Writes sums at (row, column..column + 4), a word at a time.
fn write(row: u32, column: u32, sums: vec4<f32>) {
    for (var lane = 0u; lane < 4u; lane += per_word(DT_OUT)) {
        if (row < params.M && column + lane < params.N) {
            let i = row * params.N + column + lane;
            var low = sums[lane];
            var high = sums[lane + per_word(DT_OUT) - 1u];
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
fn nf4_matmul(
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
    for (var k0 = 0u; k0 < params.K; k0 += BK) {
        // [1] stage a slab of each operand, decoding W; neighbouring threads read neighbouring memory
        for (var i = thread; i < BM * BK; i += 256u) {
            x_tile[i % BK * STRIDE + i / BK] = load_x(tile_row + i / BK, k0 + i % BK);
            if (LAYOUT == NT) {
                w_tile[i % BK * STRIDE + i / BK] = load_w(k0 + i % BK, tile_column + i / BK);
            } else {
                w_tile[i / BN * STRIDE + i % BN] = load_w(k0 + i / BN, tile_column + i % BN);
            }
        }
        workgroupBarrier();
        // [2] 16 steps of k: the outer product of 4 values of x and 4 of W
        for (var k = 0u; k < BK; k++) {
            let w_quad = quad_of_w(k * STRIDE + column);
            let x_at = k * STRIDE + row;
            sum0 += x_tile[x_at] * w_quad;
            sum1 += x_tile[x_at + 1u] * w_quad;
            sum2 += x_tile[x_at + 2u] * w_quad;
            sum3 += x_tile[x_at + 3u] * w_quad;
        }
        workgroupBarrier();
    }
    // [3] write
    write(tile_row + row, tile_column + column, sum0);
    write(tile_row + row + 1u, tile_column + column, sum1);
    write(tile_row + row + 2u, tile_column + column, sum2);
    write(tile_row + row + 3u, tile_column + column, sum3);
}
