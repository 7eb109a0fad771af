// One deliberate fault per kernel. The line that must be reported carries the word FAULT.

extern "C" __global__ void out_of_bounds(const float* x, float* y, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) y[i] = 2.0f * x[0];  // FAULT out_of_bounds: the last thread is one past the end
}

extern "C" __global__ void uninitialised(const float* x, float* y) {
    y[threadIdx.x] = x[threadIdx.x] + 1.0f;  // FAULT uninitialised: x was never written
}

extern "C" __global__ void uninitialised_shared(float* y) {
    __shared__ float tile[64];
    if (threadIdx.x < 32) tile[threadIdx.x] = 1.0f;
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];  // FAULT uninitialised_shared: the upper half
}

extern "C" __global__ void missing_barrier(const float* x, float* y) {
    __shared__ float tile[128];
    tile[threadIdx.x] = x[threadIdx.x];  // FAULT missing_barrier: no __syncthreads() before the reads
    y[threadIdx.x] = tile[127 - threadIdx.x];  // FAULT missing_barrier
}

extern "C" __global__ void missing_loop_barrier(const float* x, float* y) {
    __shared__ float tile[128];
    float sum = 0.0f;
    for (int i = 0; i < 4; ++i) {
        tile[threadIdx.x] = x[i * 128 + threadIdx.x];  // FAULT missing_loop_barrier: overwrites what others read
        __syncthreads();
        sum += tile[(threadIdx.x + 32) & 127];  // FAULT missing_loop_barrier
    }
    y[threadIdx.x] = sum;
}

extern "C" __global__ void write_write(float* y) {
    __shared__ unsigned tile[2];
    if (threadIdx.x % 32 == 0) tile[0] = threadIdx.x;  // FAULT write_write: two warps, one word
    __syncthreads();
    y[threadIdx.x] = tile[0];
}

extern "C" __global__ void missing_syncwarp(const float* x, float* y) {
    __shared__ float tile[32];
    tile[threadIdx.x] = x[threadIdx.x];  // FAULT missing_syncwarp: lanes of one warp need __syncwarp() too
    y[threadIdx.x] = tile[31 - threadIdx.x];  // FAULT missing_syncwarp
}

extern "C" __global__ void divergent_barrier(const float* x, float* y) {
    if (threadIdx.x < 48) {
        y[threadIdx.x] = x[threadIdx.x];
        __syncthreads();  // FAULT divergent_barrier: half a warp waits
        y[threadIdx.x] += x[47 - threadIdx.x];
    }
    y[64 + threadIdx.x] = 1.0f;
}

extern "C" __global__ void missing_async_wait(const float4* x, float4* y) {
    __shared__ float4 tile[32];
    unsigned dst = (unsigned)__cvta_generic_to_shared(&tile[threadIdx.x]);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(dst), "l"(x + threadIdx.x) : "memory");  // FAULT missing_async_wait
    asm volatile("cp.async.commit_group;" ::: "memory");
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];  // FAULT missing_async_wait: the copy may be in flight
}

extern "C" __global__ void missing_async_barrier(const float4* x, float4* y) {
    __shared__ float4 tile[64];
    unsigned dst = (unsigned)__cvta_generic_to_shared(&tile[threadIdx.x]);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(dst), "l"(x + threadIdx.x) : "memory");  // FAULT missing_async_barrier
    asm volatile("cp.async.wait_all;" ::: "memory");
    y[threadIdx.x] = tile[63 - threadIdx.x];  // FAULT missing_async_barrier: waited for its own copies only
}

extern "C" __global__ void misaligned(const float* x, float* y) {
    *(float4*)y = *(const float4*)(x + 1);  // FAULT misaligned: a vector load at 4 bytes
}

extern "C" __global__ void shared_overrun(float* y) {
    extern __shared__ float tile[];
    tile[threadIdx.x] = 1.0f;  // FAULT shared_overrun: launched with too few bytes
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}

extern "C" __global__ void absent_lane(unsigned* y) {
    if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xffffffffu, threadIdx.x, 0);  // FAULT absent_lane: half never comes
    y[threadIdx.x + 16] = 0;
}

extern "C" __global__ void blocks_overlap(float* y) {
    y[threadIdx.x] = blockIdx.x;  // FAULT blocks_overlap: two blocks write the same words
}

extern "C" __global__ void trapped(unsigned n) {
    if (threadIdx.x >= n) __trap();  // FAULT trapped
}
