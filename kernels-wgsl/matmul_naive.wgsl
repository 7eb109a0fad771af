// Matrix product, naive: one thread per output word, no staging.
//
//   out[m,n] = alpha * sum_k A[m,k] * B[k,n]     (+ out[m,n] with ACCUMULATE)
//
//   LAYOUT   NT: a [M, K], b [N, K]     NN: a [M, K], b [K, N]     TN: a [K, M], b [K, N]
//
// Tensors   a, b, out: f32 | bf16 | f16, each its own; sums in f32
// Mapping   a thread owns one word of out: 1 element of f32, 2 adjacent ones of a 16-bit type
// Launch    grid ceil(words / 256) split over x and y, block 256; any M, N, K; a 16-bit out has an even N
//           (the host checks)
// Cost      2 M N K FLOPs, and as many loads: every element of a is read N times, every one of b M times.
//           Bound by the caches: what the next rungs mend
// Numerics  one f32 sum per element in order of k: deterministic; reduction tolerance
// Versions  this one, matmul_tiled, matmul, matmul_mma, matmul_f32_mma, matmul_wgmma
// Twin      kernels-cuda/matmul_naive.cu. Reference: src/ops/matmul/reference.rs

@group(0) @binding(0) var<storage, read> a: array<u32>; // [M, K], or [K, M] when TN
@group(0) @binding(1) var<storage, read> b: array<u32>; // [K, N], or [N, K] when NT
@group(0) @binding(2) var<storage, read_write> out: array<u32>; // [M, N]
@group(1) @binding(0) var<uniform> params: Params;

// A[m,k]
fn load_a(m: u32, k: u32) -> f32 {
    let i = select(m * params.K + k, k * params.M + m, LAYOUT == TN);
    return unpack(a[word_of(i, DT_A)], i, DT_A);
}

// B[k,n]
fn load_b(k: u32, n: u32) -> f32 {
    let i = select(k * params.N + n, n * params.K + k, LAYOUT == NT);
    return unpack(b[word_of(i, DT_B)], i, DT_B);
}

@compute @workgroup_size(256)
fn matmul_naive(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the elements this thread owns: a word of out
    let first = (block_number(block, grid) * 256u + thread) * per_word(DT_OUT);
    if (first >= params.M * params.N) {
        return;
    }
    var value: array<f32, 2>;
    for (var lane = 0u; lane < per_word(DT_OUT); lane++) {
        // [2] a row of A times a column of B
        let m = (first + lane) / params.N;
        let n = (first + lane) % params.N;
        var sum = 0.0;
        for (var k = 0u; k < params.K; k++) {
            sum += load_a(m, k) * load_b(k, n);
        }
        value[lane] = params.alpha * sum;
        if (ACCUMULATE == 1u) {
            value[lane] += unpack(out[word_of(first, DT_OUT)], first + lane, DT_OUT);
        }
    }
    // [3] write
    out[word_of(first, DT_OUT)] = pack(value[0], value[1], DT_OUT);
}
