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
// Twin      kernels-wgsl/matmul_naive.wgsl. Reference: src/ops/matmul/reference.rs


// A[m,k]
__device__ __forceinline__ float load_a(const void* a, u32 m, u32 k, const Params& params) {
    return load<DT_A>(a, LAYOUT == TN ? k * params.M + m : m * params.K + k);
}

// B[k,n]
__device__ __forceinline__ float load_b(const void* b, u32 k, u32 n, const Params& params) {
    return load<DT_B>(b, LAYOUT == NT ? n * params.K + k : k * params.N + n);
}

extern "C" __global__ void __launch_bounds__(256)
matmul_naive(const void* a, const void* b, void* out, Params params) {
    // [1] the elements this thread owns: a word of out
    u32 first = (block_number() * 256 + threadIdx.x) * per_word(DT_OUT);
    if (first >= params.M * params.N) return;
    for (u32 lane = 0; lane < per_word(DT_OUT); lane++) {
        // [2] a row of A times a column of B
        u32 m = (first + lane) / params.N;
        u32 n = (first + lane) % params.N;
        float sum = 0.0f;
        for (u32 k = 0; k < params.K; k++) {
            sum += load_a(a, m, k, params) * load_b(b, k, n, params);
        }
        float value = params.alpha * sum;
        if (ACCUMULATE) value += load<DT_OUT>(out, first + lane);
        // [3] write
        store<DT_OUT>(out, first + lane, value);
    }
}
