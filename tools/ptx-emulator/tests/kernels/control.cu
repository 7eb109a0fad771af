// Control flow: divergent loops, a switch, early exits, dynamic shared memory, calls, local arrays.

// Steps of the Collatz iteration from x: a different trip count in every lane.
extern "C" __global__ void collatz(const unsigned* x, unsigned* steps, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned v = x[i], count = 0;
    while (v != 1) {
        if (v & 1) v = 3 * v + 1;
        else v >>= 1;
        ++count;
    }
    steps[i] = count;
}

// Lanes that leave one loop early meet the others again before the shuffle.
extern "C" __global__ void reconverge(unsigned* out) {
    unsigned lane = threadIdx.x & 31, sum = 0;
    for (unsigned i = 0; i < 40; ++i) {
        if (i == lane) break;
        sum += i;
        if (sum & 1) continue;
        sum += 2;
    }
    out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, sum, 1);
}

extern "C" __global__ void switch_case(const int* op, float* x, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i];
    switch (op[i]) {
        case 0: v = v + 1.0f; break;
        case 1: v = v * 3.0f; break;
        case 2: v = v * v; break;
        case 3: v = -v; break;
        case 4: v = sqrtf(v); break;
        case 5: v = v - 7.0f; break;
        case 6: v = 1.0f / v; break;
        default: v = 0.0f;
    }
    x[i] = v;
}

// Reverses each block's slice through dynamic shared memory.
extern "C" __global__ void reverse_dynamic(const float* x, float* y) {
    extern __shared__ float tile[];
    unsigned base = blockIdx.x * blockDim.x;
    tile[threadIdx.x] = x[base + threadIdx.x];
    __syncthreads();
    y[base + threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

__device__ __noinline__ float horner(const float* coefficients, int n, float x) {
    float r = coefficients[n - 1];
    for (int i = n - 2; i >= 0; --i) r = r * x + coefficients[i];
    return r;
}

__device__ __noinline__ unsigned fibonacci(unsigned n) {
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

// A device function with a local array as argument, and a recursive one: divergent calls.
extern "C" __global__ void calls(const float* x, float* y, unsigned* f) {
    float local[8];
    for (int i = 0; i < 8; ++i) local[i] = x[threadIdx.x] + i;
    y[threadIdx.x] = horner(local, 1 + threadIdx.x % 8, 0.5f);
    f[threadIdx.x] = fibonacci(threadIdx.x % 11);
}

__device__ unsigned table[16] = {1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987};
__constant__ float scale[4] = {0.5f, -1.0f, 2.25f, 1e10f};

// Module-scope variables with initialisers.
extern "C" __global__ void tables(unsigned* a, float* b) {
    a[threadIdx.x] = table[threadIdx.x & 15];
    b[threadIdx.x] = scale[threadIdx.x & 3];
}
