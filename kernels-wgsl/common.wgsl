// Shared by every kernel: how elements are packed into words, and how blocks are numbered.
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

// Slots of the step state: what changes between steps of equal shape (src/ops/step_state.rs).
const LEARNING_RATE: u32 = 0u;
const BIAS_CORRECTION1: u32 = 1u;
const BIAS_CORRECTION2: u32 = 2u;
const CLIP: u32 = 3u;
const INV_TOKENS: u32 = 4u;
const LOSS_SCALE: u32 = 5u;
const STEP: u32 = 6u;
const SKIP: u32 = 7u;
const GRAD_NORM: u32 = 8u;
