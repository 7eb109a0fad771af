// Shared by every kernel: element types, conversions, block numbers, random bits.
//
// A buffer of floats is a `void*` whatever its dtype; element `i` of `x` is `load<DT_X>(x, i)` and is
// written by `store<DT_X>(x, i, value)`. `DT_X` is a constant, so the branches vanish. No system
// header is included: the compiler may come without any, so bf16 and f16 conversions are PTX here.
// A thread owns as many elements as its WGSL twin, where two 16-bit elements share a word: both run on
// the same grid.
// Twin: kernels-wgsl/common.wgsl

constexpr unsigned F32 = 0, BF16 = 1, F16 = 2;

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Elements that a thread owns: those of a 32-bit word.
__device__ constexpr u32 per_word(unsigned dtype) { return dtype == F32 ? 1 : 2; }

// Exact.
__device__ __forceinline__ float bf16_to_f32(u16 bits) { return __uint_as_float(u32(bits) << 16); }

// Round to nearest even; a NaN stays one. sm_80 has an instruction for it.
__device__ __forceinline__ u16 f32_to_bf16(float value) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// Exact.
__device__ __forceinline__ float f16_to_f32(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

// Round to nearest even.
__device__ __forceinline__ u16 f32_to_f16(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// Element `i` of a float buffer.
template <unsigned DT>
__device__ __forceinline__ float load(const void* x, u32 i) {
    if (DT == F32) return static_cast<const float*>(x)[i];
    u16 bits = static_cast<const u16*>(x)[i];
    return DT == BF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

// Writes element `i` of a float buffer.
template <unsigned DT>
__device__ __forceinline__ void store(void* x, u32 i, float value) {
    if (DT == F32) {
        static_cast<float*>(x)[i] = value;
    } else {
        static_cast<u16*>(x)[i] = DT == BF16 ? f32_to_bf16(value) : f32_to_f16(value);
    }
}

// Two elements in a word, each rounded to nearest even; for versions without a WGSL twin (sm_80), as what follows.
template <unsigned DT>
__device__ __forceinline__ u32 pack(float low, float high) {
    u32 word;
    if constexpr (DT == BF16) {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    } else {
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    }
    return word;
}

// Elements 8 i .. 8 i + 7 of a float buffer, 16 bytes at a time.
template <unsigned DT>
__device__ __forceinline__ void load_chunk(float (&values)[8], const void* x, u32 i) {
    if constexpr (DT == F32) {
        float4 low = static_cast<const float4*>(x)[2 * i], high = static_cast<const float4*>(x)[2 * i + 1];
        values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
        values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
    } else {
        uint4 four = static_cast<const uint4*>(x)[i];
        u32 words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (u32 j = 0; j < 8; j++) {
            u16 bits = words[j / 2] >> j % 2 * 16;
            values[j] = DT == BF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
        }
    }
}

// Writes them.
template <unsigned DT>
__device__ __forceinline__ void store_chunk(void* x, u32 i, const float (&values)[8]) {
    if constexpr (DT == F32) {
        static_cast<float4*>(x)[2 * i] = make_float4(values[0], values[1], values[2], values[3]);
        static_cast<float4*>(x)[2 * i + 1] = make_float4(values[4], values[5], values[6], values[7]);
    } else {
        static_cast<uint4*>(x)[i] = make_uint4(pack<DT>(values[0], values[1]), pack<DT>(values[2], values[3]),
                                               pack<DT>(values[4], values[5]), pack<DT>(values[6], values[7]));
    }
}

// `value` as the dtype can hold it.
template <unsigned DT>
__device__ __forceinline__ float round_to(float value) {
    if (DT == F32) return value;
    return DT == BF16 ? bf16_to_f32(f32_to_bf16(value)) : f16_to_f32(f32_to_f16(value));
}

// The number of this block, in a grid that the host split over x and y.
__device__ __forceinline__ u32 block_number() { return blockIdx.y * gridDim.x + blockIdx.x; }

// Random bits are a function of a key and a counter: Threefry-4x32 with 20 rounds, in 5 groups of 4 with a
// key injected after each. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
__device__ __forceinline__ u32 rotate(u32 word, u32 by) { return (word << by) | (word >> (32 - by)); }

// One round on (v.x, a), (v.z, b): even rounds pair x with y and z with w, odd ones x with w and z with y.
__device__ __forceinline__ uint4 mix_even(uint4 v, u32 r0, u32 r1) {
    u32 s0 = v.x + v.y, s1 = v.z + v.w;
    return {s0, rotate(v.y, r0) ^ s0, s1, rotate(v.w, r1) ^ s1};
}

__device__ __forceinline__ uint4 mix_odd(uint4 v, u32 r0, u32 r1) {
    u32 s0 = v.x + v.w, s1 = v.z + v.y;
    return {s0, rotate(v.y, r1) ^ s1, s1, rotate(v.w, r0) ^ s0};
}

// 128 random bits.
__device__ __forceinline__ uint4 threefry(uint4 key, uint4 counter) {
    u32 parity = 0x1bd11bdau ^ key.x ^ key.y ^ key.z ^ key.w;
    u32 schedule[5] = {key.x, key.y, key.z, key.w, parity};
    uint4 v = {counter.x + key.x, counter.y + key.y, counter.z + key.z, counter.w + key.w};
#pragma unroll
    for (u32 group = 1; group <= 5; group++) {
        if (group % 2 == 1) {
            v = mix_even(v, 10, 26);
            v = mix_odd(v, 11, 21);
            v = mix_even(v, 13, 27);
            v = mix_odd(v, 23, 5);
        } else {
            v = mix_even(v, 6, 20);
            v = mix_odd(v, 17, 11);
            v = mix_even(v, 25, 10);
            v = mix_odd(v, 18, 20);
        }
        v.x += schedule[group % 5];
        v.y += schedule[(group + 1) % 5];
        v.z += schedule[(group + 2) % 5];
        v.w += schedule[(group + 3) % 5] + group;
    }
    return v;
}
