// Shared by every kernel: how elements are packed into words, how blocks are numbered, random bits.
//
// A buffer of floats is bound as `array<u32>` whatever its dtype. f32 takes one word per element;
// bf16 and f16 put two in a word, the even one in the low half. Element `i` of a buffer `x` is
//
//     unpack(x[word_of(i, DT_X)], i, DT_X)
//
// and a thread that writes owns whole words: `per_word(DT_X)` elements, put together by `pack`.
// `DT_X` is a constant, so the branches below vanish when the pipeline is compiled.
// Twin: kernels-cuda/common.cuh.

const F32: u32 = 0u;
const BF16: u32 = 1u;
const F16: u32 = 2u;

// Elements in a word.
fn per_word(dtype: u32) -> u32 {
    return select(2u, 1u, dtype == F32);
}

// The word that holds element `i`.
fn word_of(i: u32, dtype: u32) -> u32 {
    return select(i >> 1u, i, dtype == F32);
}

// Element `i`, given its word.
fn unpack(word: u32, i: u32, dtype: u32) -> f32 {
    if (dtype == F32) {
        return bitcast<f32>(word);
    }
    if (dtype == BF16) {
        return bitcast<f32>(select(word << 16u, word & 0xffff0000u, (i & 1u) == 1u));
    }
    let pair = unpack2x16float(word);
    return select(pair.x, pair.y, (i & 1u) == 1u);
}

// Round to nearest even; a NaN stays one.
fn bf16_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (bits >> 16u) | 0x40u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

// A word from its elements; for f32 only `low` counts.
fn pack(low: f32, high: f32, dtype: u32) -> u32 {
    if (dtype == F32) {
        return bitcast<u32>(low);
    }
    if (dtype == BF16) {
        return bf16_bits(low) | (bf16_bits(high) << 16u);
    }
    return pack2x16float(vec2<f32>(low, high));
}

// `value` as `dtype` can hold it.
fn round_to(value: f32, dtype: u32) -> f32 {
    return unpack(pack(value, 0.0, dtype), 0u, dtype);
}

// The number of this block, in a grid that the host split over x and y.
fn block_number(block: vec3<u32>, grid: vec3<u32>) -> u32 {
    return block.y * grid.x + block.x;
}

// Random bits are a function of a key and a counter: Threefry-4x32 with 20 rounds, in 5 groups of 4 with a
// key injected after each. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
fn rotate(word: u32, by: u32) -> u32 {
    return (word << by) | (word >> (32u - by));
}

// One round on (v.x, a), (v.z, b): even rounds pair x with y and z with w, odd ones x with w and z with y.
fn mix_even(v: vec4<u32>, r0: u32, r1: u32) -> vec4<u32> {
    let s = vec2<u32>(v.x + v.y, v.z + v.w);
    return vec4<u32>(s.x, rotate(v.y, r0) ^ s.x, s.y, rotate(v.w, r1) ^ s.y);
}

fn mix_odd(v: vec4<u32>, r0: u32, r1: u32) -> vec4<u32> {
    let s = vec2<u32>(v.x + v.w, v.z + v.y);
    return vec4<u32>(s.x, rotate(v.y, r1) ^ s.y, s.y, rotate(v.w, r0) ^ s.x);
}

// 128 random bits.
fn threefry(key: vec4<u32>, counter: vec4<u32>) -> vec4<u32> {
    var schedule = array<u32, 5>(key.x, key.y, key.z, key.w, 0u);
    schedule[4] = 0x1bd11bdau ^ key.x ^ key.y ^ key.z ^ key.w;
    var v = counter + key;
    for (var group = 1u; group <= 5u; group++) {
        if ((group & 1u) == 1u) {
            v = mix_even(v, 10u, 26u);
            v = mix_odd(v, 11u, 21u);
            v = mix_even(v, 13u, 27u);
            v = mix_odd(v, 23u, 5u);
        } else {
            v = mix_even(v, 6u, 20u);
            v = mix_odd(v, 17u, 11u);
            v = mix_even(v, 25u, 10u);
            v = mix_odd(v, 18u, 20u);
        }
        v += vec4<u32>(
            schedule[group % 5u],
            schedule[(group + 1u) % 5u],
            schedule[(group + 2u) % 5u],
            schedule[(group + 3u) % 5u] + group,
        );
    }
    return v;
}
